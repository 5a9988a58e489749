"""The log of a run as TensorBoard reads it (extra `cloud`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any


def has_board() -> bool:
    """Whether its files can be written here."""
    return find_spec("tensorboard") is not None


class Board:
    """Numbers by step. Nothing is written where TensorBoard is not installed, and `written` says so.

    Steps of an earlier, killed run that are done again take the place of what was written of them.
    """

    def __init__(self, folder: Path, *, from_step: int) -> None:
        self._writer: Any = None
        if has_board():
            from torch.utils.tensorboard import SummaryWriter

            # What stands there of the steps that are now to come counts no more: also of a run that was begun anew.
            self._writer = SummaryWriter(str(folder), purge_step=from_step + 1)

    @property
    def written(self) -> bool:
        """Whether there are files."""
        return self._writer is not None

    def add(self, step: int, **numbers: float) -> None:
        """Write numbers down; `a__b` stands as `a/b`."""
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name.replace("__", "/"), value, step)

    def close(self) -> None:
        """Everything is on the disk."""
        if self._writer is not None:
            self._writer.close()
