"""What an engine is: frames, instructions and speeds in, numbers of action chunks out.

`torch_engine.TorchEngine` is the reference. An engine is bound to one base; adapters come and go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from continuonbrain.errors import BrainError
from continuonbrain.policy.reflex import Reflex


class AdapterError(BrainError):
    """An adapter is damaged, or not made for this base. The adapter in use stays."""


@contextmanager
def refusing(adapter: Path) -> Iterator[None]:
    """What reading an adapter raises, as `AdapterError`."""
    try:
        yield
    except AdapterError:
        raise
    except BrainError as error:
        raise AdapterError(error.message, remedy=error.remedy) from error
    except OSError as error:
        raise AdapterError(f"adapter {adapter} cannot be read: {error}", remedy="train again") from error


def must_be_finite(adapter: Path, answer: NDArray[np.float32]) -> None:
    """`AdapterError` when an adapter answers with numbers that are none: of finite factors products may not be."""
    if not np.isfinite(answer).all():
        raise AdapterError(
            f"adapter {adapter} answers with numbers that are not finite", remedy="train again"
        )


class Decisions(NamedTuple):
    """curvature `[B, 8]` in 1/m at the chunk's distances; speed `[B, 2]` in m/s at its times."""

    curvature: NDArray[np.float32]
    speed: NDArray[np.float32]


Arrays = dict[str, NDArray[Any]]


class Engine(Protocol):
    """A policy that can be asked and re-adapted."""

    @property
    def base_sha256(self) -> str:
        """Identity of the base."""

    @property
    def adapter_sha256(self) -> str:
        """Identity of the adapter in use, "" for the base alone."""

    @property
    def reflex(self) -> Reflex | None:
        """The reflex head that belongs to the adapter in use (to the base, without one); None when it has none."""

    def decide(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> Decisions:
        """Answer B observations in one pass; frames `[B, 120, 160, 3]`."""

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        """Switch to the adapter in a PEFT folder, or to the base alone. `AdapterError` leaves all as it was."""


class ShowingEngine(Engine, Protocol):
    """An engine whose frozen pass is the trainer's, and can be kept for it."""

    def decide_and_show(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> tuple[Decisions, NDArray[np.int64], Arrays]:
        """`decide`, and what the frozen layers made of it: the prompts' tokens `[B, T]`, and the streams by the names
        of `Streams.tensors`."""
