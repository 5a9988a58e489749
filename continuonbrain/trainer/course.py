"""The closed loop of a verdict: an engine driven in the simulator, on tracks that no episode was made on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.watch import Watch
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import BASE, World
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.evidence import Closed, Laps, Slow
from continuonbrain.trainer.score import DriveScore, FollowScore, drive_score, follow_score

SLOW_DECISION_S = 0.75
"""What a decision of a real Gemma 3n may take on a Pi 5; a reflex head is judged at it."""
OnPart = Callable[[str, int, int], None]
"""What is being measured, ticks done, of how many."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where candidates are driven: the robot's world in the simulator, and tracks of each measure.

    follow_tracks, slow_follow_tracks: two and one for each instruction, each with tracks of its own."""

    world: World
    tracks: tuple[int, ...] = tuple(range(40_000, 40_008))
    follow_tracks: tuple[int, ...] = tuple(range(40_100, 40_100 + 2 * len(NAMES)))
    unshifted_tracks: tuple[int, ...] = tuple(range(40_200, 40_206))
    slow_tracks: tuple[int, ...] = tuple(range(40_300, 40_304))
    slow_follow_tracks: tuple[int, ...] = tuple(range(40_400, 40_400 + len(NAMES)))

    @property
    def sha256(self) -> str:
        """Name of the course: of its world and all its tracks."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CourseDriver:
    """Drives an engine, with the adapter that it has now, over a course. decision_time_s: imposed on decisions;
    watch_with: watches that count what the safety head would have stopped."""

    engine: Engine
    course: Course
    limits: Limits
    decision_time_s: float
    on_part: OnPart
    watch_with: Callable[[], Watch] | None = None

    def closed(self, label: str, calibration: Calibration) -> Closed:
        """Laps and instructions at the robot's own pace of deciding."""
        lap = self._laps(f"{label}: laps", self.course.tracks, calibration, watch_with=self.watch_with)
        follow = self._follow(f"{label}: instructions", self.course.follow_tracks, calibration)
        return Closed(
            lap.completion,
            lap.lateral_error_m,
            lap.guard_share,
            follow.following,
            follow.stop,
            follow.stop_model,
            completions=lap.completions,
            guard_shares=lap.guard_shares,
            head_shares=lap.head_shares,
            obeyed=follow.by_track,
            reasons=lap.reasons,
        )

    def slow(self, label: str, calibration: Calibration) -> Slow:
        """Laps and instructions with slow decisions."""
        pace, tracks = self._slow_pace(), self.course.slow_tracks
        lap = self._laps(f"{label}: slow decisions", tracks, calibration, decision_time_s=pace)
        part = f"{label}: slow instructions"
        follow = self._follow(part, self.course.slow_follow_tracks, calibration, decision_time_s=pace)
        return Slow(lap.completion, follow.following, lap.completions, follow.by_track)

    def slow_by_paths(self, label: str, calibration: Calibration) -> Laps:
        """Laps with slow decisions by the model's paths alone, without a reflex head."""
        lap = self._laps(
            f"{label}: paths alone",
            self.course.slow_tracks,
            calibration,
            decision_time_s=self._slow_pace(),
            reflex=False,
        )
        return Laps(lap.completion, lap.completions)

    def unshifted(self, label: str) -> Laps:
        """Laps on the roads that the base was made for. The calibration belongs to this robot's servo; what is
        tested here is the adapter's memory."""
        part, tracks = f"{label}: unshifted tracks", self.course.unshifted_tracks
        lap = self._laps(part, tracks, Calibration(), world=BASE)
        return Laps(lap.completion, lap.completions)

    def _slow_pace(self) -> float:
        return max(SLOW_DECISION_S, self.decision_time_s)

    def _laps(
        self,
        part: str,
        tracks: Sequence[int],
        calibration: Calibration,
        *,
        world: World | None = None,
        decision_time_s: float | None = None,
        reflex: bool = True,
        watch_with: Callable[[], Watch] | None = None,
    ) -> DriveScore:
        return drive_score(
            self.engine,
            world or self.course.world,
            tracks,
            calibration=calibration,
            limits=self.limits,
            decision_time_s=self.decision_time_s if decision_time_s is None else decision_time_s,
            reflex=reflex,
            watch_with=watch_with,
            on_tick=lambda done, total: self.on_part(part, done, total),
        )

    def _follow(
        self,
        part: str,
        tracks: Sequence[int],
        calibration: Calibration,
        *,
        decision_time_s: float | None = None,
    ) -> FollowScore:
        return follow_score(
            self.engine,
            self.course.world,
            tracks,
            calibration=calibration,
            limits=self.limits,
            decision_time_s=self.decision_time_s if decision_time_s is None else decision_time_s,
            own_tracks=len(tracks) % len(NAMES) == 0,
            on_tick=lambda done, total: self.on_part(part, done, total),
        )
