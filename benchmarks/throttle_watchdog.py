"""How long does a car go on when its control process stands as a whole, or is killed? Real processes, a model's chip.

    python -m benchmarks.throttle_watchdog [--rounds 10] [--json]

A process drives a car at 20 Hz, with its watchdog process, over a bus that is a model of the PWM chip in this process.
Then it is stopped (SIGSTOP), or keeps the interpreter in a C call, or is killed (SIGKILL), at a moment that nobody
chose. Measured at the chip: from there until the throttle's pulse is stopped_us or off. `killed_group` is the same as
`killed`, with all that is in its process group. `donkey.watchdog_s` is 0.3 s, so that 0.6 s is what is promised.

Keys:
  stopped_ms, interpreter_ms, killed_ms, killed_group_ms   median, and `worst` of each
  went_on            rounds of the first two in which commands drove again afterwards, of how many (`of`)
  beat_us, beat_p99_us   what telling the watchdog process costs a command
  rss_mib            of the watchdog process, with the model's bus

Takes a minute for ten rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.driven_car import LIMIT_S, DrivingProcess, ModelBus


def measure(rounds: int) -> dict[str, Any]:
    """See the module."""
    stays: dict[str, list[float]] = {"stopped": [], "interpreter": [], "killed": [], "killed_group": []}
    went_on = 0
    with tempfile.TemporaryDirectory() as folder:
        bus = ModelBus(Path(folder))
        with DrivingProcess(bus) as car:
            beats, rss_mib = _beats(car), _rss_mib(car.watchdog)
            for _ in range(rounds):
                for way in ("stopped", "interpreter"):
                    began_s = _stand(car, way)
                    stays[way].append(bus.wait_for(rest=True, since_s=began_s) - began_s)
                    car.process.send_signal(signal.SIGCONT)
                    with suppress(TimeoutError):
                        bus.wait_for(rest=False, since_s=time.monotonic(), patience_s=5)
                        went_on += 1
        for _ in range(rounds):
            for way in ("killed", "killed_group"):
                with DrivingProcess(bus) as car:
                    began_s = _stand(car, way)
                    stays[way].append(bus.wait_for(rest=True, since_s=began_s) - began_s)
        bus.close()
    result: dict[str, Any] = {"rounds": rounds, "limit_ms": 1e3 * LIMIT_S}
    for way, seconds in stays.items():
        result[f"{way}_ms"] = round(1e3 * float(np.median(seconds)), 1)
        result[f"{way}_worst_ms"] = round(1e3 * max(seconds), 1)
    return result | {
        "went_on": went_on,
        "of": 2 * rounds,
        "beat_us": round(1e6 * float(np.median(beats)), 1),
        "beat_p99_us": round(1e6 * float(np.quantile(beats, 0.99)), 1),
        "rss_mib": rss_mib,
    }


def _stand(car: DrivingProcess, way: str) -> float:
    """When it stood, or was gone."""
    car.drive()
    time.sleep(random.uniform(0.2, 0.4))
    if way == "interpreter":
        car.ask("hold")
        return float(car.answer())
    began_s = time.monotonic()
    if way == "stopped":
        car.process.send_signal(signal.SIGSTOP)
    elif way == "killed":
        car.process.kill()
    else:
        os.killpg(car.process.pid, signal.SIGKILL)
    return began_s


def _beats(car: DrivingProcess) -> list[float]:
    car.drive()
    car.ask("beats")
    took: list[float] = json.loads(car.answer())
    return took


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise ValueError(f"/proc/{pid}/status has no VmRSS")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throttle_watchdog",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="machine readable")
    given = parser.parse_args()
    result = measure(given.rounds)
    if given.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:22} {value:g}")


if __name__ == "__main__":
    main()
