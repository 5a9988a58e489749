"""How well a world head foresees, on states of roads that it was not taught, beside what needs no head.

"unchanged": the grid stays as it was seen. "moved": it is moved to where the car's motion, its path and the tracker's
law take it; what was not seen continues as the edge of what was. Both are given the one factor on their logits that
suits them best on the very states that are scored, so that nothing is won by being less sure alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.safety_head import POINTS, SafetyHead, along_ways
from continuonbrain.policy.world_head import WorldHead, bounded, moved_grids
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.trainer.foresight import Foresights, foresee_states
from continuonbrain.trainer.safety_calibration import fit_mount, teleop_views
from continuonbrain.trainer.safety_scores import TRACKS, auroc

Report = Callable[[str, int, int, float], None]
SCORED_STATES = 1500
_FACTORS = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)


def feature_error(logits: NDArray[np.float32], off: NDArray[np.bool_]) -> float:
    """Mean squared error of the grid's probabilities."""
    return float(((1 / (1 + np.exp(-logits.astype(np.float64))) - off) ** 2).mean())


def best_scaled(logits: NDArray[np.float32], off: NDArray[np.bool_]) -> float:
    """The error with the factor that suits these states best."""
    return min(feature_error(np.float32(k) * logits, off) for k in _FACTORS)


def score_states(head: WorldHead, states: Foresights) -> dict[str, float]:
    """All figures of one set of states. `auroc_read`: of the largest logit of the grid that was seen along the way,
    which needs no world head."""
    later, risk = head.foresee(states.grids, states.plans, states.motions, states.chunks)
    seen = bounded(states.grids)
    moved = moved_grids(seen, states.plans[:, POINTS - 1])
    read = along_ways(seen, states.plans[..., :2]).max(1)
    p = 1 / (1 + np.exp(-risk.astype(np.float64)))
    off, left = states.later_off, states.left_road
    return {
        "states": len(states),
        "left_road": round(float(left.mean()), 4),
        "feature_error": round(feature_error(later, off), 5),
        "feature_error_unchanged": round(best_scaled(seen, off), 5),
        "feature_error_moved": round(best_scaled(moved, off), 5),
        "wrong_points": round(float(((later > 0) != off).mean()), 5),
        "wrong_points_unchanged": round(float(((seen > 0) != off).mean()), 5),
        "wrong_points_moved": round(float(((moved > 0) != off).mean()), 5),
        "auroc": round(auroc(risk, left), 4),
        "auroc_read": round(auroc(read, left), 4),
        "brier": round(float(((p - left) ** 2).mean()), 4),
    }


def score_world_head(
    data: bytes,
    safety: SafetyHead,
    *,
    tracks: Sequence[int] = TRACKS,
    states: int = SCORED_STATES,
    seed: int = 3,
    shifts: Sequence[str] = tuple(SHIFTS),
    report: Report = lambda *_: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by shift, as `safety_scores.score_safety_head` has them: "as_bought" and "calibrated"."""
    head = WorldHead(data)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for i, name in enumerate(shifts):
        world = SHIFTS[name]
        roads = TrackSet(tracks, world)
        mount = fit_mount(safety, *teleop_views(world, seed=seed)).yaw_rad
        kinds: tuple[tuple[str, dict[str, Any]], ...] = (
            ("as_bought", {"calibration": Calibration(), "warm_up": True}),
            ("calibrated", {"mount_yaw_rad": mount}),
        )
        out[name] = {
            kind: score_states(head, foresee_states(safety, roads, states, seed=seed, **told))
            for kind, told in kinds
        }
        report(f"score {name}", i + 1, len(shifts), out[name]["calibrated"]["auroc"])
    return out
