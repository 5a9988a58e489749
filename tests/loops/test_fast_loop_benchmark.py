"""The benchmark of the control loop gives what it names."""

from __future__ import annotations

import json
import subprocess
import sys


def test_it_measures_our_loop_and_the_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fast_loop", "--seconds", "3", "--without-donkeycar", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    # The loop ticks while the policy is still coming up; how long that takes is the machine's business.
    assert told["ticks"] >= 100
    assert 0 < told["p50_us"] <= told["p99_us"] <= told["p999_us"] <= told["max_us"]
    assert told["missed_ticks"] >= 0
    assert told["recorded_steps"] > 50
    assert told["scheduler"] in ("fifo 50", "nice -10", "ordinary")
    assert told["machine"]["max_us"] > 0
    assert told["training_steps"] == 0
    assert "donkeycar" not in told
