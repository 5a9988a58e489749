"""What an episode looks like in a few lines: counts, ranges and one line of blocks for each signal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from continuonbrain.rlds.measures import BLOCKS as _BLOCKS
from continuonbrain.rlds.measures import bars
from continuonbrain.rlds.reader import Episode
from continuonbrain.rlds.statistics import dropped_before

_HOLE = " "


def mean_of(values: Sequence[float]) -> float:
    """The mean of finite numbers, of which there is one at least: finite, however large their sum is."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        mean = 2 * math.fsum(value / 2 / len(values) for value in values)
        return min(max(mean, min(values)), max(values))


def sparkline(values: Sequence[float | None], *, width: int = 36) -> str:
    """`values` as at most `width` blocks from their minimum to their maximum; None leaves a hole.

    Each block is the mean of its share of the values. A constant signal is drawn in the middle.
    """
    count = len(values)
    width = min(width, count)
    means: list[float | None] = []
    for cell in range(width):
        share = [v for v in values[cell * count // width : (cell + 1) * count // width] if v is not None]
        means.append(mean_of(share) if share else None)
    present = [mean for mean in means if mean is not None]
    if not present:
        return _HOLE * width
    low, high = min(present), max(present)
    if not math.isfinite(high - low):  # from -1e308 to 1e308: half of it has the same shape
        means = [None if mean is None else mean / 2 for mean in means]
        low, high = low / 2, high / 2
    span = high - low
    last = len(_BLOCKS) - 1
    return "".join(
        _HOLE if mean is None else _BLOCKS[round((mean - low) / span * last) if span else last // 2]
        for mean in means
    )


@dataclass(frozen=True)
class Signal:
    """One signal over the episode; `measured` is the share of steps that have it."""

    name: str
    measured: float
    minimum: float | None
    mean: float | None
    maximum: float | None
    line: str


@dataclass(frozen=True)
class EpisodeSummary:
    """What `continuonbrain episodes show` prints.

    Attributes:
        step_ms: median time between two steps, None for fewer than two.
        clamped: steps whose command is not what the policy proposed.
        torn: why the episode ends early, "" when it is whole.
    """

    episode_id: str
    path: str
    format: str
    environment_id: str
    steps: int
    frames: int
    duration_s: float
    step_ms: float | None
    terminal: bool
    instructions: dict[str, int]
    sources: dict[str, int]
    reasons: dict[str, int]
    adapters: dict[str, int]
    clamped: int
    dropped: int
    torn: str
    signals: tuple[Signal, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


def _signal(name: str, values: Sequence[float | None]) -> Signal:
    present = [value for value in values if value is not None]
    return Signal(
        name=name,
        measured=len(present) / len(values) if values else 0.0,
        minimum=min(present, default=None),
        mean=mean_of(present) if present else None,
        maximum=max(present, default=None),
        line=sparkline(values),
    )


def _events(name: str, counts: Sequence[float], *, width: int = 36) -> Signal:
    """What happens now and then: bars count from zero, and where nothing happened there is none."""
    cells = min(width, len(counts))
    edges = [cell * len(counts) // cells for cell in range(cells + 1)] if cells else []
    return Signal(
        name=name,
        measured=1.0 if counts else 0.0,
        minimum=min(counts, default=None),
        mean=mean_of(counts) if counts else None,
        maximum=max(counts, default=None),
        line=bars([sum(counts[start:end]) for start, end in pairwise(edges)]),
    )


def summarise(episode: Episode) -> EpisodeSummary:
    """Read every step of `episode` (no frames) and sum it up.

    Raises:
        EpisodeError: a step cannot be read.
    """
    steps = list(episode)
    times = [step.monotonic_ns for step in steps]
    gaps = sorted(after - before for before, after in pairwise(times))
    recording = episode.metadata.provenance.get("recording")
    dropped = recording.get("dropped", 0) if isinstance(recording, dict) else 0
    return EpisodeSummary(
        episode_id=episode.episode_id,
        path=str(episode.path),
        format=episode.format,
        environment_id=episode.metadata.environment_id,
        steps=len(steps),
        frames=sum(step.has_frame for step in steps),
        duration_s=(times[-1] - times[0]) / 1e9 if times else 0.0,
        step_ms=gaps[len(gaps) // 2] / 1e6 if gaps else None,
        terminal=bool(steps) and steps[-1].is_terminal,
        instructions=dict(Counter(step.instruction for step in steps)),
        sources=dict(Counter(step.source for step in steps)),
        reasons=dict(Counter(code for step in steps for code in step.reasons)),
        adapters=dict(Counter(step.adapter_sha256[:8] or "none" for step in steps)),
        clamped=sum(step.clamped for step in steps),
        dropped=dropped,
        torn=episode.torn,
        signals=(
            _signal("steering", [step.command[0] for step in steps]),
            _signal("throttle", [step.command[1] for step in steps]),
            _signal("speed m/s", [step.speed_mps for step in steps]),
            _signal("yaw rate rad/s", [step.yaw_rate_rps for step in steps]),
            _signal("path age ms", [step.latency_ms for step in steps]),
            _signal("safety score", [step.safety_score for step in steps]),
            _signal("surprise", [step.surprise for step in steps]),
            _events("guard came in", [float(step.clamped or bool(step.reasons)) for step in steps]),
            _events("steps dropped", [float(dropped_before(step)) for step in steps]),
        ),
    )
