"""What the shadow of the policy costs a control tick while a person drives.

    python -m benchmarks.shadow [--ticks 4000] [--json]

Keys, for each number of ticks from one decision to the next (`every_2`: ten a second, `every_20`: one): us_mean,
us_p50, us_p99 of a tick's computing time in `loops/shadow.py`, all of it after the command was sent. A tick with a
decision lays a path; the others only follow it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time

import numpy as np

from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.shadow import Shadow
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.pilot import Pilot
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.safety.guards import Limits


def measure(ticks: int, every: int) -> dict[str, float]:
    """Drive straight on with a path that sways, so that tracker and guard have work."""
    pilot = Pilot(calibration=Calibration(), limits=Limits())
    shadow = Shadow(pilot)
    spent = np.zeros(ticks)
    gc.disable()
    try:
        for tick in range(ticks):
            now = 100.0 + tick * CONTROL_DT_S
            pilot.observe(now_s=now, speed_mps=1.0, yaw_rate_rps=0.0)
            sent = pilot.teleoperate((0.0, 0.4), now_s=now, age_s=0.0).guarded
            bend = 0.5 * math.sin(tick / 20)
            chunk = ActionChunk((bend,) * 8, (1.0, 1.0), now)
            answers = [Answer(chunk, pilot.tracker.calibration)] if tick % every == 0 else []
            began = time.thread_time()
            shadow.surprise(answers, sent, now_s=now)
            spent[tick] = (time.thread_time() - began) * 1e6
            if tick % 200 == 0:
                gc.collect(1)
    finally:
        gc.enable()
    assert shadow.faults == 0
    p50, p99 = np.percentile(spent, [50, 99])
    return {
        "us_mean": round(float(spent.mean()), 1),
        "us_p50": round(float(p50), 1),
        "us_p99": round(float(p99), 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {f"every_{every}": measure(given.ticks, every) for every in (2, 20)}
    if given.json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        print(
            f"a decision {name.replace('_', ' ')} ticks: " + ", ".join(f"{k} {v}" for k, v in figures.items())
        )


if __name__ == "__main__":
    main()
