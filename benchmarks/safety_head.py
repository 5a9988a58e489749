"""Does the safety head know what leads off the road, and does a car that it watches leave the road less often?

    python -m benchmarks.safety_head [--json] [--tracks 24] [--states 2500] [--tub PATH]

Counterfactual states are on tracks that the head was not taught, in the base's own world and under every named shift of
the simulator, none of which it was taught. "As bought": nominal calibration, a camera believed to look ahead.
"Calibrated": the servo's calibration, and the camera's mounting fitted from 4 driven episodes.

Closed loop: the shipped base, without any adapter, on the same tracks with and without the head, in worlds that the
base does not know (a new look, another camera, darkness, a servo that is off) and under pushes. Speed is the mean while
on the road, standing included.

Keys:
  auroc_held_out          in the base's own world (goal 0.95)
  auroc_worst_shift       of the calibrated robot's, with worst_shift its name (goal 0.88)
  auroc_worst_as_bought   the same before any calibration
  calibration_error       mean distance of probability and frequency in the base's own world
  tracks, off_track_without, off_track_with   cars that left the road, over all perturbed worlds
  speed_loss              1 - mean speed with / without the head, over perturbed worlds; speed_loss_own_world: where
                          nothing is wrong
  look_ms                 median of one look at one frame on one thread
  tub                     with --tub, a donkeycar tub of a real car (speed is not recorded there; three are assumed): by
                          speed, the share of frames on which holding the command that the driver gave would be stopped,
                          and of holding it 0.8 of full steering further left and right
Takes some fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits

from continuonbrain.config import PolicyConfig
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.lookahead import way_of_command
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import FRAME_SHAPE, SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.tracker import ACCELERATION, DRAG, Odometry
from continuonbrain.policy.watch import Watch
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tub import import_tub
from continuonbrain.robot.sim.shifts import BASE, SHIFTS, World
from continuonbrain.safety.caution import BLOCK_THRESHOLD
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import shipped_safety_head
from continuonbrain.trainer.rollout import RolloutResult, rollout
from continuonbrain.trainer.safety_scores import score_safety_head

FIRST_TRACK = 71_000
PERTURBED: dict[str, World] = {
    **{name: SHIFTS[name] for name in ("tape", "dark", "pitch", "reverse", "narrow", "yaw")},
    "pushes": replace(BASE, disturbance=1.2),
}
LIMITS = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)


def drive(head: SafetyHead | None, engine: Any, world: World, tracks: int) -> RolloutResult:
    """A lap of each track under "drive"."""
    seeds = range(FIRST_TRACK, FIRST_TRACK + tracks)
    return rollout(
        engine,
        world,
        seeds,
        ["drive"] * tracks,
        calibration=Calibration(),
        limits=LIMITS,
        seed=11,
        reflex=False,
        watch_with=None if head is None else lambda: Watch(head),
    )


def closed_loop(head: SafetyHead, tracks: int, on_part: Any) -> dict[str, dict[str, float]]:
    """By world: cars off the road and mean speeds, without and with the head."""
    engine = open_engine(tiny_base_folder(), PolicyConfig())
    engine.use_adapter(None)
    out: dict[str, dict[str, float]] = {}
    for name, world in {"none": BASE, **PERTURBED}.items():
        without = drive(None, engine, world, tracks)
        on_part(f"{name}: without the head")
        watched = drive(head, engine, world, tracks)
        on_part(f"{name}: with the head")
        out[name] = {
            "off_track_without": int(without.left_road.sum()),
            "off_track_with": int(watched.left_road.sum()),
            "speed_without": round(float(without.mean_speed_mps.mean()), 3),
            "speed_with": round(float(watched.mean_speed_mps.mean()), 3),
            "completion_without": round(float(without.completion.mean()), 3),
            "completion_with": round(float(watched.completion.mean()), 3),
            "held": round(float(watched.reasons.get("safety_head_block", np.zeros(1)).mean()), 3),
        }
    return out


def look_ms(head: SafetyHead) -> float:
    """Median time of one look."""
    frame = np.random.default_rng(0).integers(0, 256, (1, *FRAME_SHAPE), np.uint8)
    times = []
    for _ in range(200):
        started = time.perf_counter()
        head.grids(frame)
        times.append(time.perf_counter() - started)
    return round(median(times) * 1000, 3)


def real_frames(head: SafetyHead, tub: Path) -> dict[str, dict[str, float]]:
    """What the head says of a real car's frames: every eighth of a tub."""
    frames, steering = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in import_tub(tub, Path(folder)).episodes:
            episode = open_episode(Path(folder) / Path(name).name)
            for i in range(0, len(episode), 8):
                frames.append(episode.frame(i))
                steering.append(episode.step(i).command[0])
    grids = np.concatenate([head.grids(np.stack(frames[i : i + 64])) for i in range(0, len(frames), 64)])
    out: dict[str, dict[str, float]] = {}
    for speed in (0.5, 1.0, 1.5):
        odometry = Odometry(Calibration(), speed_mps=speed)
        throttle = DRAG * speed / ACCELERATION
        found = {}
        for what, more in (("as_driven", 0.0), ("further_left", 0.8), ("further_right", -0.8)):
            ways = []
            for command in steering:
                held = max(-1.0, min(1.0, command + more))
                odometry.curvature = odometry.calibration.curvature(held)
                ways.append(way_of_command((held, throttle), odometry, Response(), odometry.calibration))
            logits = head.logits(grids, np.array(ways, np.float32), np.full(len(ways), speed, np.float32))
            found[what] = round(float((1 / (1 + np.exp(-logits)) >= BLOCK_THRESHOLD).mean()), 4)
        out[f"{speed}_mps"] = found
    return out


def measure(head: SafetyHead, tracks: int, states: int, on_part: Any) -> dict[str, Any]:
    """All figures."""
    scores = score_safety_head(head.data, states=states, report=lambda part, *_: on_part(part))
    shifts = [name for name in scores if name != "none"]
    worst = min(shifts, key=lambda name: scores[name]["calibrated"]["auroc"])
    loop = closed_loop(head, tracks, on_part)
    perturbed = [loop[name] for name in PERTURBED]

    def loss(worlds: list[dict[str, float]]) -> float:
        return round(1 - sum(w["speed_with"] for w in worlds) / sum(w["speed_without"] for w in worlds), 4)

    return {
        "auroc_held_out": scores["none"]["calibrated"]["auroc"],
        "auroc_worst_shift": scores[worst]["calibrated"]["auroc"],
        "worst_shift": worst,
        "auroc_worst_as_bought": min(scores[name]["as_bought"]["auroc"] for name in shifts),
        "calibration_error": scores["none"]["calibrated"]["calibration_error"],
        "tracks": tracks * len(PERTURBED),
        "off_track_without": int(sum(w["off_track_without"] for w in perturbed)),
        "off_track_with": int(sum(w["off_track_with"] for w in perturbed)),
        "speed_loss": loss(perturbed),
        "speed_loss_own_world": loss([loop["none"]]),
        "look_ms": look_ms(head),
        "scores": scores,
        "closed_loop": loop,
    }


def main() -> int:
    """Command line; exit 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tracks", type=int, default=24, help="tracks of each perturbed world (default 24)")
    parser.add_argument("--states", type=int, default=2500, help="counterfactual states of each world")
    parser.add_argument("--tub", type=Path, help="a donkeycar tub of a real car")
    parser.add_argument("--head", type=Path, default=shipped_safety_head() / SAFETY_HEAD_FILE)
    given = parser.parse_args()
    console = Console(stderr=True)
    with threadpool_limits(1, user_api="blas"), Progress(console=console) as bar:
        task = bar.add_task("safety head", total=len(SHIFTS) + 2 * (1 + len(PERTURBED)))

        def on_part(part: str) -> None:
            bar.update(task, advance=1, description=part)

        head = SafetyHead.from_file(given.head)
        found = measure(head, given.tracks, given.states, on_part)
        if given.tub is not None:
            found["tub"] = real_frames(head, given.tub)
    if given.json:
        print(json.dumps(found))
    else:
        _print(Console(), found)
    good = (
        found["auroc_held_out"] >= 0.95
        and found["auroc_worst_shift"] >= 0.88
        and found["off_track_with"] < found["off_track_without"]
    )
    return 0 if good else 1


def _print(console: Console, found: dict[str, Any]) -> None:
    table = Table("world", "AUROC", "as bought", "error of p", "false stops", title="counterfactual states")
    for name, score in found["scores"].items():
        known = score["calibrated"]
        table.add_row(
            name,
            f"{known['auroc']:.3f}",
            f"{score['as_bought']['auroc']:.3f}",
            f"{known['calibration_error']:.3f}",
            f"{known['false_blocks']:.3f}",
        )
    console.print(table)
    table = Table(
        "world",
        "off the road without",
        "with",
        "speed without",
        "with",
        "held",
        title="closed loop, base alone",
    )
    for name, world in found["closed_loop"].items():
        table.add_row(
            name,
            str(world["off_track_without"]),
            str(world["off_track_with"]),
            f"{world['speed_without']:.2f} m/s",
            f"{world['speed_with']:.2f} m/s",
            f"{world['held']:.0%}",
        )
    console.print(table)
    console.print(
        f"{found['off_track_without']} of {found['tracks']} off the road without the head, "
        f"{found['off_track_with']} with it, at {found['speed_loss']:.1%} of the speed "
        f"({found['speed_loss_own_world']:.1%} where nothing is wrong); a look takes {found['look_ms']} ms"
    )
    for speed, shares in found.get("tub", {}).items():
        said = ", ".join(f"{what.replace('_', ' ')} {share:.1%}" for what, share in shares.items())
        console.print(f"a real car's frames at {speed.replace('_', ' ')}: stopped {said}")


if __name__ == "__main__":
    sys.exit(main())
