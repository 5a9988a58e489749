"""What slow decisions cost, and what the reflex head gives back: completion by decision time, with and without it.

    python -m benchmarks.latency [--tracks 12] [--times 0.3 0.75 1.5] [--shifts none tape trim pitch reverse] [--json]

For each shift an adapter and its reflex head are taught as on a robot (16 lessons, the trainer itself); the base alone
drives its own world. Then the simulator imposes the decision time, on tracks that nobody was taught on: each path is
that old when it can be followed. Once the paths of the model are tracked by odometry alone, once the reflex head lays
them again between. "drift" is the base's own world with odometry that is wrong by 10 % and by 20 % (standard deviation
over cars, of speed and of yaw rate) instead of 3 %.

Keys: tracks; pairs_won, pairs_lost: cars (of the same track) that came further with the reflex head, or less far; rows,
each with world, decision_time_s, tracking and reflex (completion: mean share of a lap), tracking_laps, reflex_laps,
tracking_error_m, reflex_error_m (mean distance from the lane), won and lost. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bad_candidates import taught_root
from continuonbrain.brain_root import BrainRoot
from continuonbrain.config import load_preset
from continuonbrain.loops.mid import MidLoop
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.robot.sim.shifts import SHIFTS, World, world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.trainer.score import drive_score

TRACKS = range(71_000, 71_999)
DRIFTS = (0.10, 0.20)
_FURTHER = 0.02
"""Of a lap: less is no difference between two cars."""


def learned(brain: BrainRoot, engine: Engine) -> Calibration:
    """Teach the engine what the root's lessons say; the calibration that goes with it."""
    MidLoop(brain, host=SimulatedHost()).round(hold=True)
    version = AdapterStore(brain.layout).candidate()
    assert version is not None, "the trainer made no candidate"
    engine.use_adapter(version.path)
    return Calibration.from_file(version.path / "calibration.json")


def measure(
    engine: Engine, where: World, name: str, calibration: Calibration, times: list[float], tracks: int
) -> list[dict[str, Any]]:
    """A row for each decision time."""
    limits = Limits.from_config(load_preset("sim-donkey").guards)
    rows = []
    for time_s in times:
        tracking, reflex = (
            drive_score(
                engine,
                where,
                list(TRACKS[:tracks]),
                calibration=calibration,
                limits=limits,
                decision_time_s=time_s,
                reflex=with_reflex,
            )
            for with_reflex in (False, True)
        )
        gained = [b - a for a, b in zip(tracking.completions, reflex.completions, strict=True)]
        rows.append(
            {
                "world": name,
                "decision_time_s": time_s,
                "tracking": round(tracking.completion, 3),
                "reflex": round(reflex.completion, 3),
                "tracking_laps": tracking.laps,
                "reflex_laps": reflex.laps,
                "tracking_error_m": round(tracking.lateral_error_m, 3),
                "reflex_error_m": round(reflex.lateral_error_m, 3),
                "won": sum(g > _FURTHER for g in gained),
                "lost": sum(g < -_FURTHER for g in gained),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=12)
    parser.add_argument("--times", type=float, nargs="+", default=[0.3, 0.75, 1.5])
    parser.add_argument(
        "--shifts", nargs="*", default=["none", "tape", "trim", "pitch", "reverse"], choices=sorted(SHIFTS)
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    policy = load_preset("sim-donkey").policy
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        for shift in given.shifts:
            console.print(f"{shift}: teaching and driving" if shift != "none" else "the base's own world")
            if shift != "none":
                engine = open_engine(tiny_base_folder(), policy)
                calibration = learned(taught_root(Path(name) / shift, shift, steps=300), engine)
                rows += measure(engine, world(shift), shift, calibration, given.times, given.tracks)
                continue
            engine = open_engine(tiny_base_folder(), policy)
            rows += measure(engine, world("none"), "none", Calibration(), given.times, given.tracks)
            for drift in DRIFTS:
                drifting = replace(world("none"), odometry_error=drift)
                rows += measure(
                    engine, drifting, f"drift {drift:.0%}", Calibration(), given.times, given.tracks
                )
    if given.json:
        won, lost = (sum(row[key] for row in rows) for key in ("won", "lost"))
        print(json.dumps({"rows": rows, "tracks": given.tracks, "pairs_won": won, "pairs_lost": lost}))
        return
    table = Table("world", "decision", "tracking alone", "with the reflex head", "cars further / less far")
    for row in rows:
        table.add_row(
            row["world"],
            f"{row['decision_time_s']:g} s",
            f"{row['tracking']:.0%}, {row['tracking_error_m'] * 100:.1f} cm",
            f"{row['reflex']:.0%}, {row['reflex_error_m'] * 100:.1f} cm",
            f"{row['won']} / {row['lost']}",
        )
    Console(highlight=False, width=100).print(table)
    print(f"completion of a lap and distance from the lane, means of {given.tracks} cars", file=sys.stdout)


if __name__ == "__main__":
    main()
