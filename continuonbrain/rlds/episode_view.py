"""One way to read any memory of episodes, whoever wrote it and in whatever format.

A `Memory` is a list of episodes, an `EpisodeView` a list of steps, an `EpisodeStep` a mapping from flat keys to values
(`observation/image`, `action`, `language_instruction`). Nothing is decoded before it is asked for, and any step of any
episode can be asked for. `continuonbrain.rlds.memory.open_memory` opens one from a path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.rlds.feature_decode import Value
from continuonbrain.rlds.feature_spec import IMAGE, TENSOR, TEXT, FeatureSpec
from continuonbrain.rlds.step import Frame, Step


class LazyValues(Mapping[str, Value]):
    """A mapping that reads a value when it is asked for, each time anew."""

    def __init__(self, keys: Sequence[str], read: Callable[[str], Value]) -> None:
        self._keys = dict.fromkeys(keys)
        self._read = read

    def __getitem__(self, key: str) -> Value:
        if key not in self._keys:
            raise KeyError(key)
        return self._read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys  # Mapping's own would decode the value to find out


@dataclass(frozen=True)
class EpisodeStep:
    """One step of anybody's episode.

    Attributes:
        index: position in the episode.
        is_first, is_last, is_terminal: as RLDS means them; what is not stored follows from the position.
        values: flat key -> value, decoded when asked for; an `EpisodeError` names what cannot be.
        recorded: the step as this project's own type, where it is one.
    """

    index: int
    is_first: bool
    is_last: bool
    is_terminal: bool
    values: Mapping[str, Value] = field(compare=False)
    recorded: Step | None = None


class EpisodeView(ABC):
    """One readable episode.

    Attributes:
        episode_id: its name; unique within one memory where the writer's names are.
        source: the file or folder that holds it.
    """

    episode_id: str
    source: Path

    @abstractmethod
    def __len__(self) -> int:
        """Steps."""

    @abstractmethod
    def step(self, index: int) -> EpisodeStep:
        """Step `index`; negative counts from the end.

        Raises:
            IndexError: there is no such step.
            EpisodeError: it is torn, altered, or not what is declared.
        """

    @abstractmethod
    def frames(self, index: int) -> dict[str, Frame]:
        """Every camera's frame at step `index`: key -> [H, W, C], uint8 unless the writer stored deeper ones.

        Raises:
            As `step`.
        """

    @property
    @abstractmethod
    def signals(self) -> tuple[FeatureSpec, ...]:
        """What a step holds: keys, types and shapes, sorted by key."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Value]:
        """What is stored once for the episode: flat key -> value."""

    def __iter__(self) -> Iterator[EpisodeStep]:
        for index in range(len(self)):
            yield self.step(index)

    def place(self, index: int) -> int:
        """`index` counted from the beginning; IndexError when there is no such step."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self.source}: step {index} of {count}")
        return index % count


class Memory(ABC):
    """Episodes in an order that does not change while the memory is open.

    Attributes:
        path: what was opened.
        format: "memory" (a folder of episode folders or flat JSON), "folder", "flat-json", "step-records" or "tfds".
    """

    path: Path
    format: str

    def __init__(self, path: Path, form: str) -> None:
        self.path = path
        self.format = form
        self._last: tuple[int, EpisodeView] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Episodes."""

    @abstractmethod
    def _open(self, index: int) -> EpisodeView: ...

    def episode(self, index: int) -> EpisodeView:
        """Episode `index`; negative counts from the end. The last one asked for is kept open.

        Raises:
            IndexError: there is no such episode.
            EpisodeError: it cannot be read.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self.path}: episode {index} of {count}")
        index %= count
        if self._last is None or self._last[0] != index:
            self._last = index, self._open(index)
        return self._last[1]

    @property
    def episodes(self) -> Iterator[EpisodeView]:
        """Every episode in order."""
        for index in range(len(self)):
            yield self.episode(index)

    def step(self, episode: int, step: int) -> EpisodeStep:
        """One step of one episode. Raises: as `episode` and `EpisodeView.step`."""
        return self.episode(episode).step(step)

    def frames(self, episode: int, step: int) -> dict[str, Frame]:
        """Every camera's frame of one step. Raises: as `episode` and `EpisodeView.frames`."""
        return self.episode(episode).frames(step)


def described(key: str, value: Any) -> FeatureSpec:
    """What a value looks like, where no file declares it."""
    if isinstance(value, str | bytes) or value is None:
        return FeatureSpec(key, TEXT, "string")
    if isinstance(value, list):
        return FeatureSpec(key, TEXT, "string", lists=(len(value),))
    array = np.asarray(value)
    is_image = array.dtype == np.uint8 and array.ndim == 3
    return FeatureSpec(key, IMAGE if is_image else TENSOR, str(array.dtype), shape=tuple(array.shape))
