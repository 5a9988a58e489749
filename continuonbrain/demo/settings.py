"""What one performance of the demo is made of."""

from __future__ import annotations

from dataclasses import dataclass

DECISION_TIME_S = 0.75
"""What a Pi 5 may take for a decision of a real Gemma 3n; the demo also drives at this."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """tracks: held-out tracks; follow_tracks: each instruction is tried on so many; episodes: lessons, of
    episode_steps ticks each (many short ones show more roads, light and beginnings than few long ones);
    max_steps: of training; decision_time_s: imposed on every decision of the whole story (0: as fast as this
    machine)."""

    shift: str = "tape"
    seed: int = 0
    tracks: int = 12
    follow_tracks: int = 4
    episodes: int = 40
    episode_steps: int = 150
    live_s: float = 6.0
    max_steps: int = 400
    decision_time_s: float = 0.0

    @classmethod
    def quick(cls, shift: str, seed: int, decision_time_s: float = 0.0) -> DemoSettings:
        """A third of the tracks and fewer steps: for a first look and for tests."""
        return cls(
            shift, seed, tracks=4, follow_tracks=1, live_s=4.0, max_steps=200, decision_time_s=decision_time_s
        )

    @property
    def lap_seeds(self) -> list[int]:
        """Tracks that no episode, no base state and no verdict was made on."""
        return [50_000 + 1000 * self.seed + i for i in range(self.tracks)]

    @property
    def follow_seeds(self) -> list[int]:
        return [50_500 + 1000 * self.seed + i for i in range(self.follow_tracks)]

    @property
    def teach_seed(self) -> int:
        return 60_000 + 1000 * self.seed
