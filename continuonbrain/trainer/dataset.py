"""From recorded episodes to training samples: what a human did next is the answer to what the robot saw.

For a step driven by a human, the label is the path from there on, as curvature by distance, and the speed half
a second and one and a half seconds later. Near the car it is the path that the driver's commands ask for
(through the calibration and the actuation delay): what pushes the car now goes on pushing for a moment, and a
label of where it went would teach to go along. Further on it is where the car went, smoothed: there the commands
are full of answers to pushes that no camera can foresee, while the road taken is the road
(`benchmarks/bench_labels.py` measures both). Where the recording ends before a knot is reached, or somebody else
drives or another instruction is given by then, that knot has weight 0. On a robot without motion sensors the
commanded motion stands in for the measured one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration, MotionLog, fit_calibration
from continuonbrain.policy.codec import CURVATURE_BINS, CURVATURE_KNOTS_M, QUERIES, SPEED_KNOTS_S
from continuonbrain.rlds.reader import open_episode
from continuonbrain.robot.protocol import CONTROL_DT_S, FRAME_SHAPE
from continuonbrain.safety.reasons import NOBODY_DRIVES
from continuonbrain.trainer.look import Look, unwatched

HUMAN = "human"
"""Sources of labels start with this: "human_teleop_xr", "human_teleop"."""
_ACCELERATION, _DRAG = 3.0, 1.2
_MOVING_MPS = 0.1
_MAX_SPEED_MPS, _MAX_YAW_RATE_RPS = 10.0, 35.0
_HASHED_AT_ONCE = 512
_TAKEN_FROM_M = 0.7
"""From here on a label is the path taken, before it the path commanded."""
_SMOOTHING_M = 0.4
_PATH_STEP_M = 0.05
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class NoLabelsError(BrainError):
    """The episodes hold nothing to learn from."""


class Recording(Protocol):
    """Where the frames of a drive come from, in whatever format it was recorded. path: names it."""

    @property
    def path(self) -> Path: ...

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The frame of a step, RGB uint8 `[H, W, 3]`. Raises `EpisodeError`."""
        ...


class Moment(Protocol):
    """What a step says of driving; `rlds.step.Step` is one."""

    @property
    def command(self) -> tuple[float, float]: ...

    @property
    def speed_mps(self) -> float | None: ...

    @property
    def yaw_rate_rps(self) -> float | None: ...

    @property
    def source(self) -> str: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    @property
    def has_frame(self) -> bool: ...

    @property
    def instruction(self) -> str: ...

    @property
    def monotonic_ns(self) -> int: ...

    @property
    def frame_monotonic_ns(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Drive:
    """One episode as arrays over its steps, `[n]` unless said otherwise.

    speed_mps and yaw_rate_rps: measured; measured says whether they were, else they come from the commands.
    labelled: a human drove this step. run_end: index of the last step up to which nobody else drove and no other
    instruction was given. stamps: monotonic nanoseconds of the frames,
    by which the policy keeps what it computed of them.
    """

    episode: Recording
    steering: F64
    throttle: F64
    speed_mps: F64
    yaw_rate_rps: F64
    measured: bool
    labelled: NDArray[np.bool_]
    instructions: list[str]
    run_end: NDArray[np.int64]
    stamps: NDArray[np.int64]

    @property
    def motion(self) -> MotionLog:
        """For fitting the calibration."""
        return MotionLog(self.steering, self.throttle, self.speed_mps, self.yaw_rate_rps)


@dataclass(frozen=True, slots=True)
class Samples:
    """n supervised observations.

    frames `[n, 120, 160, 3]` uint8; speeds: measured m/s or None; curvature `[n, 8]`, speed_ahead `[n, 2]`,
    weights `[n, 10]` in {0, 1}; command: steering and throttle that the driver gave at the step, `[n, 2]`; previous:
    those of the step before (the "repeat the last action" baseline), `[n, 2]`; episode: its number, `[n]`; stamps:
    monotonic nanoseconds of the frame, 0 for one that no robot saw, `[n]`.
    """

    frames: NDArray[np.uint8]
    instructions: list[str]
    speeds: list[float | None]
    curvature: F32
    speed_ahead: F32
    weights: F32
    command: F32
    previous: F32
    episode: NDArray[np.int64]
    stamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.instructions)

    def select(self, rows: NDArray[np.int64]) -> Samples:
        """The samples at `rows`."""
        return Samples(
            self.frames[rows],
            [self.instructions[i] for i in rows],
            [self.speeds[i] for i in rows],
            self.curvature[rows],
            self.speed_ahead[rows],
            self.weights[rows],
            self.command[rows],
            self.previous[rows],
            self.episode[rows],
            self.stamps[rows],
        )

    def sha256(self, look: Look = unwatched) -> str:
        """Identity of what is asked and answered (an evaluation set's name in a verdict)."""
        digest = hashlib.sha256()
        for array in (self.frames, self.curvature, self.speed_ahead, self.weights, self.command):
            for start in range(0, len(array), _HASHED_AT_ONCE):
                look()
                digest.update(np.ascontiguousarray(array[start : start + _HASHED_AT_ONCE]).data)
        digest.update("\0".join(self.instructions).encode())
        digest.update(repr(self.speeds).encode())
        return digest.hexdigest()


def _commanded_speed(throttle: F64) -> F64:
    speed, out = 0.0, np.empty(len(throttle))
    # A recording without a speed rarely starts at rest: start from what the first command settles at.
    if len(throttle):
        speed = max(0.0, float(throttle[0]) * _ACCELERATION / _DRAG)
    for i, value in enumerate(throttle):
        out[i] = speed
        speed = min(3.0, max(0.0, speed + (_ACCELERATION * float(value) - _DRAG * speed) * CONTROL_DT_S))
    return out


def _is_driven(step: Moment) -> bool:
    """Whether a person drove it. Where the guard stands the robot still, whatever they ask for, nobody does: an
    emergency stop teaches no instruction."""
    return step.source.startswith(HUMAN) and not NOBODY_DRIVES.intersection(step.reasons)


def read_drive(path: Path, look: Look = unwatched) -> Drive:
    """One episode's steps (frames stay on disk). `EpisodeError` names what is damaged. look: at every step."""
    episode = open_episode(path)
    steps = []
    for step in episode:
        look()
        steps.append(step)
    return drive_of(episode, steps)


def drive_of(episode: Recording, steps: Sequence[Moment]) -> Drive:
    """The drive that these steps of a recording are, all of them in order."""
    command = np.array([s.command for s in steps], float).reshape(-1, 2)
    measured = bool(steps) and all(s.speed_mps is not None and s.yaw_rate_rps is not None for s in steps)
    if measured:
        # Beyond these no such car drives: a broken sensor must neither bend the road nor fill the memory.
        speed = np.array([s.speed_mps for s in steps], float).clip(0.0, _MAX_SPEED_MPS)
        yaw_rate = np.array([s.yaw_rate_rps for s in steps], float).clip(
            -_MAX_YAW_RATE_RPS, _MAX_YAW_RATE_RPS
        )
    else:
        speed, yaw_rate = _commanded_speed(command[:, 1]), np.zeros(len(steps))
    driven = [_is_driven(s) for s in steps]
    labelled = np.array([d and s.has_frame for d, s in zip(driven, steps, strict=True)], bool)
    return Drive(
        episode,
        command[:, 0],
        command[:, 1],
        speed,
        yaw_rate,
        measured,
        labelled,
        [s.instruction for s in steps],
        _run_ends([(d, s.instruction) for d, s in zip(driven, steps, strict=True)]),
        np.array([_seen_ns(s) for s in steps], np.int64),
    )


def _seen_ns(step: Moment) -> int:
    return step.monotonic_ns if step.frame_monotonic_ns is None else step.frame_monotonic_ns


def _run_ends(keys: Sequence[tuple[bool, str]]) -> NDArray[np.int64]:
    ends = np.arange(len(keys))
    for i in range(len(keys) - 2, -1, -1):
        if keys[i] == keys[i + 1]:
            ends[i] = ends[i + 1]
    return ends


def calibrate(drives: Sequence[Drive]) -> Calibration:
    """Fit the calibration from the drives that measured motion; nominal without any."""
    logs = [d.motion for d in drives if d.measured]
    return fit_calibration(logs) if logs else Calibration()


def _taken(speed: F64, yaw_rate: F64, along: F64) -> tuple[F64, F64]:
    """Distances (every 5 cm) and curvature of the path that the car took, smoothed over `_SMOOTHING_M`."""
    # What a gyro says of a standing car is its bias: all of it would fall on one spot of the path.
    turning = np.where(speed < _MOVING_MPS, 0.0, yaw_rate)
    heading = np.concatenate([[0.0], np.cumsum(turning[:-1] * CONTROL_DT_S)])
    distance = np.arange(along[0], along[-1], _PATH_STEP_M)
    if len(distance) < 3:
        return np.zeros(1), np.zeros(1)
    # A car that stands does not move along its path: keep distances strictly rising.
    rising = along + 1e-6 * np.arange(len(along))
    curvature = np.gradient(np.interp(distance, rising, heading), _PATH_STEP_M)
    reach = round(3 * _SMOOTHING_M / _PATH_STEP_M)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _PATH_STEP_M / _SMOOTHING_M) ** 2)
    smooth = np.convolve(np.pad(curvature, reach, mode="edge"), kernel / kernel.sum(), "valid")
    return distance, smooth.clip(CURVATURE_BINS.low, CURVATURE_BINS.high)


def _labels(drive: Drive, calibration: Calibration) -> tuple[F64, F64, F64]:
    """Curvature `[n, 8]`, speed `[n, 2]` and weights `[n, 10]` for every step of a drive."""
    n = len(drive.steering)
    along = np.concatenate([[0.0], np.cumsum(drive.speed_mps[:-1] * CONTROL_DT_S)])
    lag = round(calibration.delay_s / CONTROL_DT_S) if drive.measured else 0
    # What bends the path at tick k was commanded `lag` ticks before.
    commanded = drive.steering[np.maximum(np.arange(n) - lag, 0)]
    bend = np.array([calibration.curvature(float(s)) for s in commanded])
    # Each run by itself: what came after somebody else took over is no part of this driver's road.
    runs = [np.flatnonzero(drive.run_end == end) for end in np.unique(drive.run_end)]
    paths = [_taken(drive.speed_mps[r], drive.yaw_rate_rps[r], along[r]) for r in runs]
    curvature, speed, weights = np.zeros((n, 8)), np.zeros((n, 2)), np.zeros((n, QUERIES))
    for column, ahead in enumerate(CURVATURE_KNOTS_M):
        if drive.measured and ahead >= _TAKEN_FROM_M:
            for rows, (distance, taken) in zip(runs, paths, strict=True):
                curvature[rows, column] = np.interp(along[rows] + ahead, distance, taken)
        else:
            curvature[:, column] = np.interp(along + ahead, along, bend)
        weights[:, column] = along + ahead <= along[drive.run_end]
    weights[drive.speed_mps < _MOVING_MPS, 0] = 0.0  # wheels of a standing car say nothing about the road
    smooth = np.convolve(np.pad(drive.speed_mps, 2, mode="edge"), np.ones(5) / 5, "valid")
    for column, time_s in enumerate(SPEED_KNOTS_S):
        later = np.arange(n) + round(time_s / CONTROL_DT_S)
        speed[:, column] = smooth[np.minimum(later, n - 1)]
        weights[:, len(CURVATURE_KNOTS_M) + column] = later <= drive.run_end
    return curvature, speed, weights


def frame_at(episode: Recording, index: int) -> NDArray[np.uint8]:
    """Frame of a step as uint8 `[120, 160, 3]`, resized when the camera had another size."""
    frame = episode.frame(index)
    if frame.shape != FRAME_SHAPE:
        frame = np.asarray(
            Image.fromarray(frame).resize((FRAME_SHAPE[1], FRAME_SHAPE[0]), Image.Resampling.BILINEAR)
        )
    return frame


def build_samples(
    drives: Sequence[Drive],
    calibration: Calibration | Callable[[Drive], Calibration],
    *,
    stride: int = 3,
    max_samples: int | None = None,
    look: Look = unwatched,
    on_damage: Callable[[Drive, BrainError], None] | None = None,
) -> Samples:
    """Samples from every `stride`-th human-driven step; a larger stride when there would be more than
    `max_samples`. Raises `NoLabelsError` when no step was driven by a human. look: at every frame.

    calibration: of the robot; or of the robot as it was in each drive.

    on_damage is told of a drive whose frames cannot be read, which is then left out; without it the error is raised.
    """
    total = sum(int(d.labelled.sum()) for d in drives)
    if total == 0:
        raise NoLabelsError(
            f"none of the {len(drives)} episodes holds a step that a human drove (action.source human_teleop...)",
            remedy="record teleoperation, or import a tub: continuonbrain episodes import-tub PATH",
        )
    if max_samples is not None:
        stride = max(stride, -(-total // max_samples))
    parts: list[Samples] = []
    for number, drive in enumerate(drives):
        rows = np.flatnonzero(drive.labelled)[::stride]
        if len(rows):
            of_it = calibration(drive) if callable(calibration) else calibration
            curvature, speed, weights = _labels(drive, of_it)
            rows = rows[weights[rows].sum(1) > 0]
        frames: list[NDArray[np.uint8]] = []
        try:
            for i in rows:
                look()
                frames.append(frame_at(drive.episode, int(i)))
        except BrainError as error:
            if on_damage is None:
                raise
            on_damage(drive, error)
            continue
        if frames:
            command = np.stack([drive.steering, drive.throttle], 1)
            parts.append(
                Samples(
                    np.stack(frames),
                    [drive.instructions[i] for i in rows],
                    [float(drive.speed_mps[i]) if drive.measured else None for i in rows],
                    curvature[rows].astype(np.float32),
                    speed[rows].astype(np.float32),
                    weights[rows].astype(np.float32),
                    command[rows].astype(np.float32),
                    command[np.maximum(rows - 1, 0)].astype(np.float32),
                    np.full(len(rows), number),
                    drive.stamps[rows],
                )
            )
    if not parts:
        raise NoLabelsError(
            "the episodes are too short to say what came next", remedy="record longer episodes"
        )
    return join(parts)


def join(parts: Sequence[Samples]) -> Samples:
    """Concatenate samples."""
    first = parts[0]
    arrays = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in (
            "frames",
            "curvature",
            "speed_ahead",
            "weights",
            "command",
            "previous",
            "episode",
            "stamps",
        )
    }
    return replace(
        first,
        **arrays,
        instructions=[i for p in parts for i in p.instructions],
        speeds=[s for p in parts for s in p.speeds],
    )


_MIRRORED = {"left": "right", "right": "left"}


def mirrored_instruction(instruction: str) -> str:
    """The same instruction with "left" and "right" swapped."""
    return " ".join(_MIRRORED.get(word, word) for word in instruction.lower().split())


def mirrored(samples: Samples) -> Samples:
    """The same drives in a mirror: frames flipped, curvature and steering negated, "left" and "right" swapped.

    Valid for a forward-looking camera on the car's axis: the path is in the world, not in servo units. Whoever
    taught "keep left" has then also taught "keep right".
    """
    swapped = [mirrored_instruction(i) for i in samples.instructions]
    sign = np.array([-1.0, 1.0], np.float32)
    return replace(
        samples,
        frames=samples.frames[:, :, ::-1],  # a view: no copy
        instructions=swapped,
        curvature=-samples.curvature,
        command=samples.command * sign,
        previous=samples.previous * sign,
        stamps=np.zeros_like(samples.stamps),
    )


def sampling_weights(instructions: Sequence[str]) -> F64:
    """Probability of drawing each sample, `[n]`: rare instructions are drawn more often, by the inverse square
    root of how often they were taught."""
    names, inverse, counts = np.unique(np.array(instructions), return_inverse=True, return_counts=True)
    del names
    weight = counts[inverse].astype(float) ** -0.5
    out: F64 = weight / weight.sum()
    return out
