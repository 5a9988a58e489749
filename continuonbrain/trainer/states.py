"""Independent driving states from the simulator, with the ideal answer to each: what the tiny base learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.codec import CURVATURE_KNOTS_M, QUERIES, SPEED_KNOTS_S
from continuonbrain.robot.sim.camera import Cameras
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_curvature, ideal_speed
from continuonbrain.robot.sim.instructions import BY_NAME, NAMES
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.look import Look, unwatched

_SHARES = (0.2, 0.12, 0.12, 0.14, 0.14, 0.1, 0.1, 0.08)
_UNKNOWN_SPEED = 0.1
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class States:
    """A batch. frames `[n, 120, 160, 3]` uint8; phrases: instruction texts; speeds: measured m/s, None for a
    robot that does not measure; curvature `[n, 8]` 1/m; speed_ahead `[n, 2]` m/s; geometry `[n, 26]`: the ideal
    curvatures for left, middle and right of the road, offset and heading (what the image trunk warms up on); track:
    number of the track, `[n]`."""

    frames: NDArray[np.uint8]
    phrases: list[str]
    speeds: list[float | None]
    curvature: F32
    speed_ahead: F32
    geometry: F32
    track: NDArray[np.int64]


REPLAY_SOURCE = "continuonbrain/DonkeyTrack simulator"
"""Stands in the card of a base whose states can be drawn again here."""
_REPLAY_TRACKS = range(300_000, 300_024)
_FROZEN_TRACKS = range(310_000, 310_024)
_FROZEN_STATES = 256
_CHUNK = 128


def replay_samples(count: int, *, seed: int, look: Look = unwatched) -> Samples:
    """Base-family states with ideal answers as training samples: what the tiny base must not forget.

    Drawn anew from the simulator (a millisecond each) rather than stored, on tracks of their own.
    """
    return _drawn(count, StateSource(_REPLAY_TRACKS, seed=seed, chunk=_CHUNK), look, own_episodes=False)


def frozen_samples(base_sha256: str, *, look: Look = unwatched) -> Samples:
    """The states on which a verdict asks what was forgotten: the same for every candidate of a base, none of them on a
    track of the replay that is trained with. `episode` is the number of the track."""
    source = StateSource(_FROZEN_TRACKS, seed=int(base_sha256[:8], 16), chunk=_CHUNK)
    return _drawn(_FROZEN_STATES, source, look, own_episodes=True)


def _drawn(count: int, source: StateSource, look: Look, *, own_episodes: bool) -> Samples:
    chunks = []
    for _ in range(-(-count // _CHUNK)):
        look()
        chunks.append(source.draw())
    frames = np.concatenate([c.frames for c in chunks])[:count]
    tracks = np.concatenate([c.track for c in chunks])[:count]
    nothing = np.zeros((count, 2), np.float32)
    return Samples(
        frames=frames,
        instructions=[p for c in chunks for p in c.phrases][:count],
        speeds=[v for c in chunks for v in c.speeds][:count],
        curvature=np.concatenate([c.curvature for c in chunks])[:count],
        speed_ahead=np.concatenate([c.speed_ahead for c in chunks])[:count],
        weights=np.ones((count, QUERIES), np.float32),
        command=nothing,
        previous=nothing,
        episode=tracks.astype(np.int64) if own_episodes else np.full(count, -1),
        stamps=np.zeros(count, np.int64),
    )


class StateSource:
    """Endless seeded states on tracks of the base family."""

    def __init__(self, track_seeds: Sequence[int], *, seed: int, chunk: int = 512) -> None:
        self._tracks = TrackSet(track_seeds, BASE)
        self._rng = np.random.default_rng(seed)
        self._chunk = chunk
        self._cameras = Cameras(BASE, chunk, self._rng, bank=128)

    def draw(self, *, all_lanes: bool = False) -> States:
        """One chunk of states. all_lanes also fills `geometry` (three times the label work)."""
        n, rng = self._chunk, self._rng
        self._cameras.redraw(n, rng)
        fleet = Fleet(
            self._tracks,
            rng.integers(len(self._tracks), size=n),
            seed=int(rng.integers(1 << 31)),
            cameras=self._cameras,
        )
        names = [NAMES[i] for i in rng.choice(len(NAMES), size=n, p=_SHARES)]
        lateral = np.array([BY_NAME[k].lateral for k in names])
        cruise = np.array([BY_NAME[k].speed_mps for k in names])
        half = self._tracks.half_m[fleet.track]
        near = rng.random(n) < 0.5
        fleet.place(
            lateral_m=np.where(
                near, lateral * half + rng.normal(0, 0.07, n), rng.uniform(-1.0, 1.0, n) * half
            ),
            heading_error=np.where(near, rng.normal(0, 0.12, n), rng.normal(0, 0.3, n)).clip(-0.8, 0.8),
            speed_mps=np.where(
                rng.random(n) < 0.5, cruise + rng.normal(0, 0.1, n), rng.uniform(0, 1.7, n)
            ).clip(0, 1.9),
            instruction=names,
        )
        curvature = ideal_curvature(fleet, CURVATURE_KNOTS_M)
        geometry = np.zeros((n, 26))
        if all_lanes:
            for column, lane in enumerate(("keep left", "drive", "keep right")):
                fleet.instruct([lane] * n)
                geometry[:, 8 * column : 8 * column + 8] = ideal_curvature(fleet, CURVATURE_KNOTS_M)
            tangent = self._tracks.tangent[fleet.track, fleet.index]
            turned = fleet.heading - np.arctan2(tangent[:, 1], tangent[:, 0])
            geometry[:, 24] = fleet.lateral_m / half
            geometry[:, 25] = 2 * np.sin(turned)
        measured, _ = fleet.measured()
        phrases = [BY_NAME[k].phrasings[rng.integers(len(BY_NAME[k].phrasings))] for k in names]
        speeds = [None if rng.random() < _UNKNOWN_SPEED else float(v) for v in measured]
        ahead = ideal_speed(cruise, fleet.speed, SPEED_KNOTS_S)
        as32 = np.float32
        return States(
            fleet.render(),
            phrases,
            speeds,
            curvature.astype(as32),
            ahead.astype(as32),
            geometry.astype(as32),
            np.asarray(fleet.track, np.int64),
        )

    def stream(self, chunks: int, *, all_lanes: bool = False) -> Iterator[States]:
        """`chunks` draws, the next one prepared on a thread while the caller works; deterministic."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self.draw, all_lanes=all_lanes)
            for i in range(chunks):
                current = following.result()
                if i + 1 < chunks:
                    following = pool.submit(self.draw, all_lanes=all_lanes)
                yield current
