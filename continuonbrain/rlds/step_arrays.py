"""The numbers of steps as the arrays that datasets hold: float32, where a step's own numbers are float64.

Every export and every view takes them from here. A finite number that float32 cannot hold would become an infinity
there, and one infinity in a batch is enough to ruin a training run: it is refused, with its step and its field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.step import Step

_NONE = (0.0, 0.0)


def command_array(steps: Sequence[Step], *, file: Path, first: int = 0) -> NDArray[np.float32]:
    """[N, 2]: steering and throttle as sent, each in [-1, 1].

    Args:
        steps: N of them.
        file: the episode, for the error.
        first: index of `steps[0]` in the episode, for the error.

    Raises:
        EpisodeError: a number is too large for float32.
    """
    fields = ("action.command[0]", "action.command[1]")
    return _float32([step.command for step in steps], fields, file, first)


def proposed_array(steps: Sequence[Step], *, file: Path, first: int = 0) -> NDArray[np.float32]:
    """[N, 2]: steering and throttle as proposed, 0 where nothing was. Args and Raises: as `command_array`."""
    fields = ("action.proposed[0]", "action.proposed[1]")
    return _float32([step.proposed or _NONE for step in steps], fields, file, first)


def state_array(steps: Sequence[Step], *, file: Path, first: int = 0) -> NDArray[np.float32]:
    """[N, 2]: speed in m/s and yaw rate in rad/s (counter-clockwise), 0 where not measured.

    Args and Raises: as `command_array`.
    """
    fields = ("observation.robot_state.speed_mps", "observation.robot_state.yaw_rate_rps")
    return _float32(
        [(step.speed_mps or 0.0, step.yaw_rate_rps or 0.0) for step in steps], fields, file, first
    )


def measured_array(steps: Sequence[Step]) -> NDArray[np.bool_]:
    """[N, 2]: whether speed and yaw rate were measured."""
    pairs = [(step.speed_mps is not None, step.yaw_rate_rps is not None) for step in steps]
    return np.array(pairs, np.bool_).reshape(-1, 2)


def _float32(
    rows: Sequence[tuple[float, float]], fields: tuple[str, str], file: Path, first: int
) -> NDArray[np.float32]:
    wide = np.array(rows, np.float64).reshape(-1, 2)
    with np.errstate(over="ignore"):  # what does not fit is refused in the next lines
        narrow = wide.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(narrow))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise EpisodeError(
            f"{float(wide[row, column])!r} is a number too large for 32 bits",
            file=file,
            step=first + row,
            field=fields[column],
            remedy=f"leave this episode out; what it holds: continuonbrain episodes show {file}",
        )
    return narrow
