"""Statistics of a whole memory, in one pass and without keeping a step.

`MemoryStatistics` is fed and asked, and touches no disk; `gather` walks the episodes for it. Only step lines are
read (their CRC too), never a frame: what a frame's bytes are worth, the doctor says.

What training would leave out follows the rule of `trainer/dataset.py`: it learns from every step of a finished and
whole episode that has a frame and whose source starts with "human", unless a person has marked the episode as bad.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.marking import driver_of, instruction_of, is_bad
from continuonbrain.rlds.measures import Histogram, Quantiles, Tally
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import Episode, is_being_recorded, open_episode
from continuonbrain.rlds.step import Step

WHOLE: Final = "whole"
RECORDING: Final = "recording"
UNFINISHED: Final = "unfinished"
DAMAGED: Final = "damaged"

BINS: Final = 25
"""Of the histograms of actions: an odd number, so that one bin holds zero in its middle."""
_HUMAN: Final = "human"
_LATE: Final = 1.5
"""An interval longer than the median times this is a late step."""
_LISTED: Final = 100
"""Episodes that are not whole are named up to this number."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EpisodeFacts:
    """What is known of an episode besides its steps.

    Attributes:
        state: "whole", "recording" (a writer lives), "unfinished" (a crash cut it) or "damaged".
        problem: why it is not whole, "" when it is.
        bytes: of all its files.
        dropped: steps that the recorder says it could not keep.
    """

    path: str
    state: str
    problem: str
    bytes: int
    dropped: int


class MemoryStatistics:
    """What a memory holds. For each episode: `begin()`, `step()` for every step in order, `end()`."""

    def __init__(self) -> None:
        self.episodes = 0
        self.steps = 0
        self.frames = 0
        self.seconds = 0.0
        self.bytes = 0
        self.terminal = 0
        self.states = Tally()
        self.not_whole: list[dict[str, str]] = []
        self.sources = Tally()
        self.instructions = Tally()
        self.adapters = Tally()
        self.environments = Tally()
        self.environment_episodes = Tally()
        self.driver_episodes = Tally()
        self.label_episodes = Tally()
        self.marked_bad = 0
        self.length_s = Quantiles()
        self.steering = Histogram(-1.0, 1.0, BINS)
        self.throttle = Histogram(-1.0, 1.0, BINS)
        self.speed = Quantiles()
        self.interval_ms = Quantiles()
        self.backwards = 0
        self.latency_ms = Quantiles()
        self.safety_score = Quantiles()
        self.surprise = Quantiles()
        self.intervened = 0
        self.clamped = 0
        self.reasons = Tally()
        self.proposed = 0
        self.dropped_marked = 0
        self.dropped_recorded = 0
        self.learned_from = 0
        self.left_out = Tally()
        self._environment = ""
        self._before: Step | None = None
        self._first_ns = 0
        self._taught = 0
        self._bad = False
        self._others = Tally()

    def begin(self, environment_id: str, *, driver: str = "", label: str = "", bad: bool = False) -> None:
        """An episode starts; its steps follow. driver, label, bad: as `marking` reads them."""
        self.driver_episodes.add(driver or "(unknown)")
        self.label_episodes.add(label or "(none)")
        self.marked_bad += bad
        self._bad = bad
        self.episodes += 1
        self._environment = environment_id or "(none)"
        self.environment_episodes.add(self._environment)
        self._before = None
        self._taught = 0
        self._others = Tally()

    def step(self, step: Step) -> None:
        """Count the next step of the episode."""
        self.steps += 1
        self.frames += step.has_frame
        self.sources.add(step.source or "(none)")
        self.instructions.add(step.instruction or "(none)")
        self.adapters.add(step.adapter_sha256[:8] or "(none)")
        self.environments.add(self._environment)
        self.steering.add(step.command[0])
        self.throttle.add(step.command[1])
        if step.speed_mps is not None:
            self.speed.add(step.speed_mps)
        if step.latency_ms is not None:
            self.latency_ms.add(step.latency_ms)
        if step.safety_score is not None:
            self.safety_score.add(step.safety_score)
        if step.surprise is not None:
            self.surprise.add(step.surprise)
        self.proposed += step.proposed is not None
        self.clamped += step.clamped
        self.intervened += step.clamped or bool(step.reasons)
        for reason in step.reasons:
            self.reasons.add(reason)
        dropped = dropped_before(step)
        self.dropped_marked += dropped
        if self._before is None:
            self._first_ns = step.monotonic_ns
        elif not dropped:  # a gap that dropped steps explain is no jitter
            gap = step.monotonic_ns - self._before.monotonic_ns
            if gap < 0:
                self.backwards += 1
            else:
                self.interval_ms.add(gap / 1e6)
        self._before = step
        if not step.source.startswith(_HUMAN):
            self._others.add("no human drove")
        elif not step.has_frame:
            self._others.add("no frame")
        else:
            self._taught += 1

    def end(self, facts: EpisodeFacts) -> None:
        """The episode is over: all of its steps that can be read were counted."""
        last = self._before
        seconds = 0.0 if last is None else max(0.0, (last.monotonic_ns - self._first_ns) / 1e9)
        self.seconds += seconds
        self.length_s.add(seconds)
        self.bytes += facts.bytes
        self.dropped_recorded += facts.dropped
        self.terminal += last is not None and last.is_terminal
        self.states.add(facts.state)
        if facts.state != WHOLE:
            if len(self.not_whole) < _LISTED:
                self.not_whole.append({"path": facts.path, "state": facts.state, "problem": facts.problem})
            self.left_out.add(f"episode {facts.state}", self._taught)
        elif self._bad:
            self.left_out.add("episode marked as bad", self._taught)
        else:
            self.learned_from += self._taught
        for why, count in self._others.ranked():
            self.left_out.add(why, count)

    @property
    def late(self) -> int:
        """Intervals longer than one and a half medians."""
        middle = self.interval_ms.at(0.5)
        return 0 if middle is None else self.interval_ms.above(_LATE * middle)

    def reasons_per_1000(self) -> dict[str, float]:
        """Interventions by reason code, per 1,000 steps; the most frequent first."""
        return {name: 1000 * count / self.steps for name, count in self.reasons.ranked()}

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {
            "episodes": self.episodes,
            "steps": self.steps,
            "frames": self.frames,
            "hours": self.seconds / 3600,
            "bytes": self.bytes,
            "terminal_episodes": self.terminal,
            "states": self.states.to_json(),
            "not_whole": self.not_whole,
            "episode_seconds": self.length_s.to_json(),
            "steps_by_source": self.sources.to_json(),
            "steps_by_instruction": self.instructions.to_json(),
            "steps_by_adapter": self.adapters.to_json(),
            "steps_by_environment": self.environments.to_json(),
            "episodes_by_environment": self.environment_episodes.to_json(),
            "episodes_by_driver": self.driver_episodes.to_json(),
            "episodes_by_label": self.label_episodes.to_json(),
            "episodes_marked_bad": self.marked_bad,
            "steering": self.steering.to_json(),
            "throttle": self.throttle.to_json(),
            "speed_mps": self.speed.to_json(),
            "interval_ms": {**self.interval_ms.to_json(), "late": self.late, "backwards": self.backwards},
            "latency_ms": self.latency_ms.to_json(),
            "safety_score": self.safety_score.to_json(),
            "surprise": self.surprise.to_json(),
            "proposed_steps": self.proposed,
            "intervened_steps": self.intervened,
            "clamped_steps": self.clamped,
            "reasons": self.reasons.to_json(),
            "reasons_per_1000_steps": self.reasons_per_1000(),
            "dropped_steps": {"marked": self.dropped_marked, "recorded": self.dropped_recorded},
            "training": {
                "learns_from_steps": self.learned_from,
                "left_out_steps": {why: count for why, count in self.left_out.ranked() if count},
            },
        }


def dropped_before(step: Step) -> int:
    """Steps that were dropped between the one before and this one; 0 for a text that is no number."""
    return step.dropped_before


# ------------------------------------------------------------------------------------------ from the disk


def gather(paths: Sequence[Path], *, progress: Progress | None = None) -> MemoryStatistics:
    """Read every step line of the episodes, one episode in memory at a time.

    An episode that is torn, altered or unfinished is counted up to the step where it ends, and named in `not_whole`.

    Args:
        paths: folders and flat JSON episodes.
        progress: called with (episodes done, episodes in all).
    """
    statistics = MemoryStatistics()
    for done, path in enumerate(paths):
        if progress is not None:
            progress(done, len(paths))
        _count(statistics, path)
    if progress is not None:
        progress(len(paths), len(paths))
    return statistics


def _count(statistics: MemoryStatistics, path: Path) -> None:
    problem, episode = "", None
    try:
        episode = open_episode(path)
    except EpisodeError as error:
        problem = error.message
        try:
            episode = open_episode(path, strict=False)
        except EpisodeError as worse:
            problem = worse.message
    if episode is None:
        statistics.begin("(unreadable)")
    else:
        found = episode.metadata
        statistics.begin(
            found.environment_id, driver=driver_of(found), label=instruction_of(found), bad=is_bad(found)
        )
    if episode is not None:
        try:
            for step in episode:
                statistics.step(step)
        except EpisodeError as error:
            problem = problem or error.message
    state = _state(episode)
    statistics.end(
        EpisodeFacts(
            path=str(path),
            state=_word(path, state, problem),
            problem=problem,
            bytes=bytes_of(path),
            dropped=0 if state is None else max(0, state.dropped),
        )
    )


def _state(episode: Episode | None) -> RecordingState | None:
    return None if episode is None else RecordingState.of(episode.metadata)


def _word(path: Path, state: RecordingState | None, problem: str) -> str:
    if state is not None and state.state == "open":
        return RECORDING if is_being_recorded(path) else UNFINISHED
    return DAMAGED if problem else WHOLE


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder and those below it; what cannot be read counts nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        with os.scandir(path) as entries:
            return sum(
                bytes_of(Path(entry)) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
                for entry in entries
                if not entry.is_symlink()
            )
    except OSError:
        return 0
