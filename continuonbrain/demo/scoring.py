"""How well the demo's robot drives: laps, instructions, the pace of a Pi, and the roads that the base was made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from continuonbrain.demo.narrator import Narrator
from continuonbrain.demo.settings import DECISION_TIME_S, DemoSettings
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import BASE, World
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.score import drive_score, follow_score


class Scoring:
    """Drives one engine on held-out tracks. pictures: the trajectory of each scoring, by its key."""

    def __init__(
        self, engine: Engine, world: World, limits: Limits, settings: DemoSettings, narrator: Narrator
    ) -> None:
        self._engine, self._world, self._limits = engine, world, limits
        self._settings, self._narrator = settings, narrator
        self.pictures: dict[str, Any] = {}

    def score(self, calibration: Calibration, key: str) -> dict[str, Any]:
        """Laps and instructions on the held-out tracks of the shifted world; the first laps' trajectory is kept."""
        lap = drive_score(
            self._engine,
            self._world,
            self._settings.lap_seeds,
            calibration=calibration,
            limits=self._limits,
            decision_time_s=self._settings.decision_time_s,
            on_tick=self._ticks(f"{self._settings.tracks} held-out tracks, one lap each"),
        )
        follow = follow_score(
            self._engine,
            self._world,
            self._settings.follow_seeds,
            calibration=calibration,
            limits=self._limits,
            decision_time_s=self._settings.decision_time_s,
            on_tick=self._ticks(f"{len(NAMES)} instructions on {self._settings.follow_tracks} tracks"),
        )
        self.pictures[key] = lap.trajectory
        return {
            "completion": round(lap.completion, 4),
            "tracks": lap.tracks,
            "laps": lap.laps,
            "lateral_error_m": round(lap.lateral_error_m, 4),
            "guard_share": round(lap.guard_share, 4),
            "following": round(follow.following, 4),
            "stop": follow.stop,
            "stop_by_model_alone": follow.stop_model,
            "following_by_instruction": follow.by_instruction,
        }

    def late(self, calibration: Calibration, *, world: World | None = None, reflex: bool = True) -> float:
        """Mean share of a lap where every decision takes as long as on a Pi. world: None is the shifted one."""
        world = world or self._world
        score = drive_score(
            self._engine,
            world,
            self._settings.lap_seeds,
            calibration=calibration,
            limits=self._limits,
            decision_time_s=DECISION_TIME_S,
            reflex=reflex,
            on_tick=self._ticks(
                f"{'unshifted tracks' if world is BASE else 'the same'}, {DECISION_TIME_S} s a decision"
                + ("" if reflex else ", by paths alone")
            ),
        )
        return round(score.completion, 4)

    def unshifted(self, who: str) -> float:
        """Mean share of a lap on the roads that the base was made for."""
        score = drive_score(
            self._engine,
            BASE,
            [s + 700 for s in self._settings.lap_seeds],
            calibration=Calibration(),
            limits=self._limits,
            decision_time_s=self._settings.decision_time_s,
            on_tick=self._ticks(f"unshifted tracks ({who})"),
        )
        return round(score.completion, 4)

    def _ticks(self, title: str) -> Callable[[int, int], None]:
        return lambda done, total: self._narrator.progress(title, done, total)
