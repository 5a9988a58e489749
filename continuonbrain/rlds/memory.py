"""`open_memory`: any memory of episodes, by looking at the path.

What is opened: an episode's folder, a folder of episodes (folders and flat JSON), a flat JSON episode, a TFDS version
folder (or a folder with one version in it), a per-step TFRecord or a folder of them.

Episodes of this project and of its ecosystem have, besides their own type (`EpisodeStep.recorded`), the same flat keys
that `export_tfds` writes, so that what reads one reads the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from continuonbrain.rlds.episode_view import EpisodeStep, EpisodeView, LazyValues, Memory, described
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.feature_decode import Value
from continuonbrain.rlds.feature_spec import FEATURES_FILE, FeatureSpec
from continuonbrain.rlds.files import is_regular
from continuonbrain.rlds.foreign_steps import StepRecordMemory
from continuonbrain.rlds.foreign_tfds import INFO_FILE, TfdsMemory
from continuonbrain.rlds.reader import Episode, list_episodes, open_episode
from continuonbrain.rlds.step import Frame, Step
from continuonbrain.rlds.step_arrays import command_array, measured_array, proposed_array, state_array
from continuonbrain.rlds.writer import METADATA_FILE

_LEVELS = 3  # <name>/<config>/<version>
FRAME_KEY: Final = "observation/image"

_OF_STEP: Final[Mapping[str, Callable[[Step], Any]]] = {
    "adapter_sha256": lambda step: step.adapter_sha256,
    "discount": lambda step: np.float32(1),
    "has_proposed_action": lambda step: np.bool_(step.proposed is not None),
    "is_first": lambda step: np.bool_(step.is_first),
    "is_last": lambda step: np.bool_(step.is_last),
    "is_terminal": lambda step: np.bool_(step.is_terminal),
    "language_instruction": lambda step: step.instruction,
    "monotonic_ns": lambda step: np.int64(step.monotonic_ns),
    "observation/state_measured": lambda step: measured_array([step])[0],
    "reward": lambda step: np.float32(0),
    "safety_violations": lambda step: ",".join(step.reasons),
    "source": lambda step: step.source,
}

_FLOATS: Final = {
    "action": command_array,
    "observation/state": state_array,
    "proposed_action": proposed_array,
}


class RecordedEpisode(EpisodeView):
    """One of this project's or its ecosystem's episodes; `episode` is the reader's own object."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.episode_id = episode.episode_id
        self.source = episode.path

    def __len__(self) -> int:
        return len(self.episode)

    def step(self, index: int) -> EpisodeStep:
        """As `EpisodeView.step`."""
        index = self.place(index)
        step = self.episode.step(index)
        keys = [*_OF_STEP, *_FLOATS] + ([FRAME_KEY] if step.frame_ref is not None else [])

        def value(key: str) -> Value:
            if key == FRAME_KEY:
                return self.episode.frame(index)
            if key in _FLOATS:
                return np.asarray(_FLOATS[key]([step], file=self.source, first=index)[0])
            found = _OF_STEP[key](step)
            return found if isinstance(found, str) else np.asarray(found)

        return EpisodeStep(
            index,
            index == 0,
            step.is_last,
            step.is_terminal,
            values=LazyValues(sorted(keys), value),
            recorded=step,
        )

    def frames(self, index: int) -> dict[str, Frame]:
        """As `EpisodeView.frames`: at most one, the front camera's."""
        index = self.place(index)
        return {} if self.episode.step(index).frame_ref is None else {FRAME_KEY: self.episode.frame(index)}

    @property
    def signals(self) -> tuple[FeatureSpec, ...]:
        """As the first step holds them."""
        if not len(self):
            return ()
        values = self.step(0).values
        return tuple(described(key, values[key]) for key in values)

    @property
    def metadata(self) -> Mapping[str, Value]:
        """As `export_tfds` writes them."""
        metadata = self.episode.metadata
        return {
            "episode_metadata/episode_id": self.episode_id,
            "episode_metadata/environment_id": metadata.environment_id,
            "episode_metadata/metadata_json": json.dumps(metadata.to_json()),
        }


class RecordedMemory(Memory):
    """Episode folders and flat JSON episodes; each is opened, and checked, when it is asked for."""

    def __init__(self, path: Path, paths: Sequence[Path], *, form: str = "memory") -> None:
        super().__init__(path, form)
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def _open(self, index: int) -> RecordedEpisode:
        return RecordedEpisode(open_episode(self.paths[index]))


def open_memory(path: Path) -> Memory:
    """Open whatever memory of episodes lies at `path`.

    Args:
        path: a folder or a file; see the module.

    Raises:
        EpisodeError: there is nothing, or nothing that is known, or what is there is damaged; the remedy says what
            to give instead.
    """
    path = Path(path)
    try:
        if is_regular(path):
            return _open_file(path)
        if path.is_dir():
            return _open_folder(path)
    except (OSError, ValueError) as error:
        raise EpisodeError(f"cannot be read: {error}", file=path) from error
    raise EpisodeError("there is nothing to open", file=path, remedy="give a folder of episodes, or a file")


def _open_file(path: Path) -> Memory:
    if path.suffix == ".json":
        if path.name in (FEATURES_FILE, INFO_FILE):
            return _open_folder(path.parent)
        if path.name == METADATA_FILE and (path.parent / "steps").is_dir():
            return _open_folder(path.parent)
        memory = RecordedMemory(path, [path], form="flat-json")
        memory.episode(0)
        return memory
    if ".tfrecord" in path.name:
        if (path.parent / INFO_FILE).exists():
            raise EpisodeError(
                "this is one shard of a TFDS dataset", file=path, remedy=f"give its folder: {path.parent}"
            )
        return StepRecordMemory(path, [path])
    raise EpisodeError(
        "neither a flat JSON episode (.json) nor a TFRecord (.tfrecord)",
        file=path,
        remedy="give an episode's folder, a .json, a .tfrecord or the version folder of a TFDS dataset",
    )


def _open_folder(path: Path) -> Memory:
    if (path / INFO_FILE).exists() or (path / FEATURES_FILE).exists():
        return TfdsMemory(path)
    if (path / METADATA_FILE).exists():
        memory = RecordedMemory(path, [path], form="folder")
        memory.episode(0)
        return memory
    names = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
    recorded = list_episodes(path) + [
        child for child in names if child.suffix == ".json" and is_regular(child)
    ]
    if recorded:
        return RecordedMemory(path, sorted(recorded))
    records = [child for child in names if ".tfrecord" in child.name and is_regular(child)]
    if records:
        return StepRecordMemory(path, records)
    versions: list[Path] = []
    for level in range(1, _LEVELS + 1):
        versions += sorted(file.parent for file in path.glob("/".join(["*"] * level + [INFO_FILE])))
    if len(versions) == 1:
        return TfdsMemory(versions[0])
    if versions:
        shown = ", ".join(str(version.relative_to(path)) for version in versions[:8])
        raise EpisodeError(
            f"{len(versions)} datasets are in this folder", file=path, remedy=f"give one of them: {shown}"
        )
    raise EpisodeError(
        "no episodes are in this folder: neither metadata.json, dataset_info.json, *.json nor *.tfrecord",
        file=path,
        remedy="give an episode's folder, a folder of them, or the version folder of a TFDS dataset",
    )
