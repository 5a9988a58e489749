"""What a robot's episodes hold for its safety head: where people really drove, and where they stepped in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.errors import BrainError
from continuonbrain.policy.safety_head import HORIZON_S, SafetyHead
from continuonbrain.policy.watch import HeadCalibration
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.step import SAFETY_BY, SAFETY_LOGIT, SOURCE_AUTOPILOT
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.safety.reasons import Reason
from continuonbrain.trainer.dataset import Drive
from continuonbrain.trainer.look import Look, unwatched
from continuonbrain.trainer.safety_calibration import (
    MIN_INTERVENTIONS,
    MIN_VIEWS,
    Heard,
    driven_ways,
    fit_mount,
    fit_probability,
)

_MOST_VIEWS = 240
_MOST_EPISODES = 128
_TICKS = round(HORIZON_S / CONTROL_DT_S)


def views(drives: Sequence[Drive], look: Look = unwatched) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames `[n, 120, 160, 3]` of steps that a person drove, and the ways that they then took `[n, POINTS, 2]`: evenly
    from all drives that measured motion."""
    places = [
        (drive, i)
        for drive in drives
        if drive.measured
        for i in range(0, len(drive.stamps) - _TICKS, 5)
        if drive.labelled[i : i + _TICKS].all() and _unbroken(drive.stamps[i : i + _TICKS])
    ]
    picked = [places[i] for i in np.linspace(0, len(places) - 1, _MOST_VIEWS).astype(int)] if places else []
    if len(places) <= _MOST_VIEWS:
        picked = places
    frames, ways = [], []
    for drive, i in picked:
        look()
        try:
            frames.append(drive.episode.frame(i))
        except BrainError:  # a damaged picture is the doctor's business
            continue
        rows = slice(i, i + _TICKS)
        ways.append(driven_ways(drive.speed_mps[None, rows], drive.yaw_rate_rps[None, rows])[0])
    if not frames:
        return np.zeros((0, 120, 160, 3), np.uint8), np.zeros((0, 10, 2), np.float32)
    return np.stack(frames), np.stack(ways)


def _unbroken(stamps: NDArray[np.int64]) -> bool:
    """Ticks follow each other at about the control rate."""
    gaps = np.diff(stamps) / 1e9
    return bool(((gaps > 0.2 * CONTROL_DT_S) & (gaps < 3 * CONTROL_DT_S)).all())


def heard(episodes: Sequence[Path], head_sha256: str, look: Look = unwatched) -> list[Heard]:
    """What the head said while the policy drove, and when a person took over or stopped the car. Episodes that cannot
    be read, or were recorded without this head, tell nothing; nor do steps in which it held the car."""
    out = []
    for path in episodes:
        times, logits, interventions = [], [], []
        by_policy = stopped = False
        try:
            for step in open_episode(path):
                look()
                time_s = step.monotonic_ns / 1e9
                stop = Reason.EMERGENCY_STOP in step.reasons
                policy = step.source == SOURCE_AUTOPILOT
                if (by_policy and not policy) or (policy and stop and not stopped):
                    interventions.append(time_s)
                by_policy, stopped = policy, stop
                ours = step.extra.get(SAFETY_BY) == head_sha256[:8]
                logit = _number(step.extra.get(SAFETY_LOGIT)) if ours else None
                held = Reason.SAFETY_HEAD_BLOCK in step.reasons
                if policy and not stop and not held and logit is not None:
                    times.append(time_s)
                    logits.append(logit)
        except BrainError:
            continue
        if times:
            out.append(Heard(np.array(times), np.array(logits), np.array(interventions)))
    return out


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and np.isfinite(value) else None


def fit_head(
    head: SafetyHead,
    drives: Sequence[Drive],
    episodes_dir: Path,
    before: HeadCalibration,
    look: Look = unwatched,
) -> tuple[HeadCalibration, dict[str, float | int]]:
    """The head's calibration from this robot's episodes, and the figures that it rests on. Where they say nothing, it
    stays as it was `before`."""
    mount = fit_mount(head, *views(drives, look))
    finished = list_episodes(episodes_dir, finished_only=True)
    slope, offset, interventions = fit_probability(heard(finished[-_MOST_EPISODES:], head.sha256, look))
    if interventions < MIN_INTERVENTIONS:
        slope, offset = before.slope, before.offset
    told = HeadCalibration(
        mount_yaw_rad=mount.yaw_rad if mount.views >= MIN_VIEWS else before.mount_yaw_rad,
        slope=slope,
        offset=offset,
        head_sha256=head.sha256,
    )
    return told, {
        "mount_yaw_deg": round(float(np.degrees(told.mount_yaw_rad)), 2),
        "views": mount.views,
        "slope": round(slope, 3),
        "offset": round(offset, 3),
        "interventions": interventions,
    }
