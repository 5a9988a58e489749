"""An episode as what its pictures need: numbers over time, runs of who drove and what was said, and where the guard
came in. Pure: made from steps, a few dozen bytes a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.statistics import dropped_before
from continuonbrain.rlds.step import Step

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """Steps `first` to `last` (inclusive) that have the same `text`."""

    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Story:
    """An episode over its n steps.

    Attributes:
        seconds: since the first step, `[n]`, never falling.
        timed: False when the episode has no times: `seconds` then counts steps.
        sent, proposed: (steering, throttle), `[n, 2]`; NaN where nothing was proposed.
        speed: m/s, `[n]`; NaN where it was not measured.
        reasons: of each code, the steps that carry it.
        flagged: where the guard changed the command or gave a reason, bool `[n]`.
        stopped: where one of the reasons stops the robot, bool `[n]`.
        dropped: (step, how many were dropped before it).
    """

    seconds: F64
    timed: bool
    sent: F64
    proposed: F64
    speed: F64
    sources: list[Run]
    instructions: list[Run]
    reasons: dict[str, NDArray[np.int64]]
    flagged: NDArray[np.bool_]
    stopped: NDArray[np.bool_]
    dropped: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def duration_s(self) -> float:
        """From the first to the last step; 0 without times."""
        return float(self.seconds[-1]) if len(self) and self.timed else 0.0

    def named(self, runs: list[Run]) -> list[tuple[str, int]]:
        """The texts of runs and how many steps they cover, the longest first."""
        steps: dict[str, int] = {}
        for run in runs:
            steps[run.text] = steps.get(run.text, 0) + run.last - run.first + 1
        return sorted(steps.items(), key=lambda item: (-item[1], item[0]))

    def at(self, runs: list[Run], index: int) -> str:
        """The text of a step."""
        return next((run.text for run in runs if run.first <= index <= run.last), "")


def tell(steps: Iterable[Step], *, stops: frozenset[str] = frozenset()) -> Story:
    """The story of an episode's steps.

    Args:
        stops: reason codes after which the robot stands (`safety.reasons.STOPS`; this room does not know them).
    """
    times: list[int] = []
    numbers: list[tuple[float, ...]] = []
    flagged: list[bool] = []
    stopped: list[bool] = []
    reasons: dict[str, list[int]] = {}
    sources: list[Run] = []
    instructions: list[Run] = []
    dropped: list[tuple[int, int]] = []
    nothing = (np.nan, np.nan)
    for index, step in enumerate(steps):
        times.append(step.monotonic_ns)
        speed = np.nan if step.speed_mps is None else step.speed_mps
        numbers.append((*step.command, *(step.proposed or nothing), speed))
        flagged.append(step.clamped or bool(step.reasons))
        stopped.append(any(code in stops for code in step.reasons))
        for code in set(step.reasons):
            reasons.setdefault(code, []).append(index)
        _extend(sources, index, step.source or "(none)")
        _extend(instructions, index, step.instruction or "(none)")
        if count := dropped_before(step):
            dropped.append((index, count))
    table = np.array(numbers, np.float64).reshape(-1, 5)
    stamps = np.maximum.accumulate(np.array(times, np.int64)) if times else np.zeros(0, np.int64)
    timed = bool(len(stamps)) and bool(stamps[-1] > stamps[0])
    seconds = (
        (stamps.astype(np.float64) - float(stamps[0])) / 1e9
        if timed
        else np.arange(len(times), dtype=np.float64)
    )
    return Story(
        seconds=seconds,
        timed=timed,
        sent=table[:, :2],
        proposed=table[:, 2:4],
        speed=table[:, 4],
        sources=sources,
        instructions=instructions,
        reasons={
            code: np.array(found, np.int64)
            for code, found in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
        },
        flagged=np.array(flagged, np.bool_),
        stopped=np.array(stopped, np.bool_),
        dropped=dropped,
    )


def _extend(runs: list[Run], index: int, text: str) -> None:
    if runs and runs[-1].text == text:
        runs[-1] = Run(runs[-1].first, index, text)
    else:
        runs.append(Run(index, index, text))


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` steps, evenly spaced, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next((power * m for m in (1, 2, 5) if power * m >= rough * 0.999), power * 10)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]
