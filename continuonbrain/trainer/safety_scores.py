"""How good a safety head is, on counterfactual states of roads that it was not taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.safety_head import SafetyHead
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.safety.caution import BLOCK_THRESHOLD, WARN_THRESHOLD
from continuonbrain.trainer.counterfactual import Counterfactuals, draw
from continuonbrain.trainer.safety_calibration import fit_mount, teleop_views

Report = Callable[[str, int, int, float], None]
TRACKS = range(9300, 9324)
_STATES = 2500
_BATCH = 256
_BINS = 10


@dataclass(frozen=True, slots=True)
class SafetyScore:
    """auroc: chance that a state which leads off the road scores above one that does not. false_alarms_at_95: share of
    harmless states above the score that 95 % of the harmful ones reach. brier: mean squared error of the probability;
    calibration_error: mean distance of probability and frequency over ten bins of equal width (expected calibration
    error). blocked: share of harmful states at or above the block threshold, false_blocks, false_warnings: of harmless
    ones at or above the two thresholds."""

    states: int
    left_road: float
    auroc: float
    false_alarms_at_95: float
    brier: float
    calibration_error: float
    blocked: float
    false_blocks: float
    false_warnings: float


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted as half; NaN when one class is empty."""
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if ones == 0 or zeros == 0:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def probabilities(
    head: SafetyHead, states: Counterfactuals, mount_yaw_rad: float = 0.0
) -> NDArray[np.float64]:
    """P(leaves the road within the horizon) of each state."""
    out = []
    for i in range(0, len(states), _BATCH):
        rows = slice(i, i + _BATCH)
        logits = head.logits(
            head.grids(states.frames[rows]),
            states.ways[rows],
            states.speeds_mps[rows],
            mount_yaw_rad=mount_yaw_rad,
        )
        out.append(1 / (1 + np.exp(-logits.astype(float))))
    return np.concatenate(out)


def score(found: NDArray[np.float64], left: NDArray[np.bool_]) -> SafetyScore:
    """All figures of probabilities against what happened."""
    reached = float(np.quantile(found[left], 0.05)) if left.any() else float("nan")
    bins = np.minimum((found * _BINS).astype(int), _BINS - 1)
    error = sum(
        abs(float(found[bins == b].mean()) - float(left[bins == b].mean())) * float((bins == b).mean())
        for b in range(_BINS)
        if (bins == b).any()
    )

    def share(of: NDArray[np.bool_], above: float) -> float:
        return round(float((found[of] >= above).mean()), 4) if of.any() else float("nan")

    return SafetyScore(
        states=len(left),
        left_road=round(float(left.mean()), 4),
        auroc=round(auroc(found, left), 4),
        false_alarms_at_95=share(~left, reached),
        brier=round(float(((found - left) ** 2).mean()), 4),
        calibration_error=round(error, 4),
        blocked=share(left, BLOCK_THRESHOLD),
        false_blocks=share(~left, BLOCK_THRESHOLD),
        false_warnings=share(~left, WARN_THRESHOLD),
    )


def score_safety_head(
    data: bytes,
    *,
    tracks: Sequence[int] = TRACKS,
    states: int = _STATES,
    seed: int = 3,
    shifts: Sequence[str] = tuple(SHIFTS),
    report: Report = lambda *_: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by shift ("none" is the base's own world), each for a robot "as_bought" (nominal calibration, camera
    believed to look ahead, its answer to the steering known from the last second) and "calibrated" (the servo, and the
    camera's mounting from 4 driven episodes)."""
    head = SafetyHead(data)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for i, name in enumerate(shifts):
        world = SHIFTS[name]
        roads = TrackSet(tracks, world)
        mount = fit_mount(head, *teleop_views(world, seed=seed)).yaw_rad
        found = {}
        for kind, calibration, yaw, warm_up in (
            ("as_bought", Calibration(), 0.0, True),
            ("calibrated", None, mount, False),
        ):
            drawn = draw(roads, states, seed=seed, calibration=calibration, warm_up=warm_up)
            found[kind] = asdict(score(probabilities(head, drawn, yaw), drawn.left_road))
        found["calibrated"]["mount_yaw_deg"] = round(float(np.degrees(mount)), 2)
        out[name] = found
        report(f"score {name}", i + 1, len(shifts), found["calibrated"]["auroc"])
    return out
