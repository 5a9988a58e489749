"""Does every faulty sensor close its gate? Each sensor with each fault, through the real hosts, on a fake machine.

    python -m benchmarks.gates [--json]

A folder plays `/sys` and `/proc` of a Raspberry Pi, a `host.json` the control process; `LinuxHost` and `FileHost` read
them and `GateSet.poll` judges, with the limits, windows and dwell times of a robot, in simulated time. First the
healthy machine must open every gate, for an hour and through values at rest (load 0.00, a disk nobody writes to, a
full battery on its charger): without that nothing that is closed proves anything. Then each case breaks one sensor,
while its gate was open and (all but stuck, which needs a past) from the first look on:

  missing       its file, or its entry in host.json, is gone
  stale         its reading comes through a file that is written without renewing it
  stuck         its value stands still, and so does whatever of its source has to move; its time is renewed
  out of range  a value that is physically impossible
  raising       a folder where the file should be, an input/output error of the disk, a host.json that is no JSON
  slow          a FIFO that nobody writes to; a disk and a reader that hang

Keys:
  cases        cases tried
  open         of them, those in which the gate was open when it had to be closed (goal 0)
  not_reopened of those that broke an open gate, those whose gate stayed closed after the repair (goal 0)
  control      polls of the healthy machine, and how many of them were closed (goal 0)
  list         every case: sensor, fault, since, closed, after_s (from the fault to the closed gate), reason
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.fake_pi import ANSWER_S, PERCENT_ONLY, SENSORS, SLOW_ANSWER_S, FakePi, Sensor
from continuonbrain.trainer.build_gates import StuckWindows, build_gates
from continuonbrain.trainer.gates import GateReport, GateSet

FAULTS = ("missing", "stale", "stuck", "out of range", "raising", "slow")
_MAX_AGE_S = 5.0
_KEEPS_CLOSED = 5


@dataclass(frozen=True, slots=True)
class Case:
    """One sensor with one fault. reopened: None where the gate was never open before."""

    sensor: str
    fault: str
    since: str
    closed: bool
    after_s: float | None
    reason: str
    reopened: bool | None


def gates_of_a_robot(*, docked: bool = True, windows: StuckWindows | None = None) -> GateSet:
    """A Pi's, with everything asked for, at the limits that `build_gates` has by default."""
    return build_gates(
        max_load=1.5,
        docked=docked,
        stuck=windows,
        require_throttled=True,
        require_pressure=True,
        poll_timeout_s=2 * ANSWER_S,
    )


def poll(gates: GateSet, pi: FakePi) -> GateReport:
    return gates.poll(pi, clock=lambda: pi.now_s)


def is_open(report: GateReport, sensor: Sensor) -> bool:
    state = report.state(sensor.gate)
    assert state is not None
    return state.open


def opens(gates: GateSet, pi: FakePi, sensor: Sensor | None) -> bool:
    """Whether the gate (None: all of them) opens within two minutes of health."""
    for _ in range(120):
        report = poll(gates, pi)
        if report.open if sensor is None else is_open(report, sensor):
            return True
        pi.move(1.0)
    return False


def tried(
    folder: Path, sensor: Sensor, fault: str, *, while_open: bool, windows: StuckWindows | None = None
) -> Case:
    """Break one sensor and look."""
    answer_s = SLOW_ANSWER_S if fault == "slow" else ANSWER_S
    pi, gates = (
        FakePi(folder, sensor, answer_s=answer_s),
        gates_of_a_robot(docked=sensor.name != PERCENT_ONLY, windows=windows),
    )
    since = "while open" if while_open else "from the start"
    if while_open and not opens(gates, pi, None):
        closed = "; ".join(f"{s.name}: {s.reason}" for s in poll(gates, pi).closed)
        return Case(sensor.name, fault, since, False, None, f"never open before: {closed}", False)
    pi.break_it(fault)
    broken_s = pi.now_s
    # When it has to be closed: at once, or when it can be known.
    allowed_s = {"stale": _MAX_AGE_S + 1.0, "stuck": 1.2 * sensor.window_s + 1.0}.get(fault, 0.0)
    step_s = min(allowed_s / 25, 60.0) or 1.0
    if fault == "stale" and not while_open:
        pi.move(0.0)
        pi.read()  # the last time that it is renewed
        pi.move(allowed_s)
    report = poll(gates, pi)
    while is_open(report, sensor) and pi.now_s - broken_s < allowed_s:
        pi.move(step_s)
        report = poll(gates, pi)
    closed, after_s = not is_open(report, sensor), pi.now_s - broken_s
    state = report.state(sensor.gate)
    assert state is not None
    for _ in range(_KEEPS_CLOSED):  # and it stays so
        pi.move(max(step_s, 10.0))
        closed = closed and not is_open(poll(gates, pi), sensor)
    pi.mend()
    reopened = opens(gates, pi, sensor) if while_open else None
    return Case(
        sensor.name, fault, since, closed, round(after_s, 1) if closed else None, state.reason, reopened
    )


def control(folder: Path, *, full: bool, hours: float) -> tuple[int, list[str]]:
    """Polls of a healthy machine once it is open, and what was closed in them."""
    pi, gates = FakePi(folder, None, full=full), gates_of_a_robot()
    polls, closed = 0, []
    if not opens(gates, pi, None):
        closed += [f"{s.name}: {s.reason}" for s in poll(gates, pi).closed]
    until_s = pi.now_s + hours * 3600.0
    while pi.now_s < until_s and not closed:
        pi.move(10.0)
        closed += [f"{s.name}: {s.reason}" for s in poll(gates, pi).closed]
        polls += 1
    return polls, closed


def run(
    sensors: Sequence[Sensor] = SENSORS,
    faults: Sequence[str] = FAULTS,
    *,
    hours: float = 1.0,
    windows: StuckWindows | None = None,
) -> dict[str, Any]:
    """The control and every case. See the module's keys. windows: of the stuck detector; None for the defaults."""
    folder = Path(tempfile.mkdtemp(prefix="gates-"))
    try:
        polls, closed = 0, []
        for full in (False, True):
            more, found = control(folder / f"control-{full}", full=full, hours=hours)
            polls, closed = polls + more, closed + found
        if closed:
            return {"cases": 0, "open": 0, "not_reopened": 0, "control": _control(polls, closed), "list": []}
        cases = [
            tried(folder / f"{s.name}-{fault}-{while_open}", s, fault, while_open=while_open, windows=windows)
            for s in sensors
            for fault in faults
            for while_open in (True, False)
            if while_open or fault != "stuck"
        ]
    finally:
        shutil.rmtree(folder)
    return {
        "cases": len(cases),
        "open": sum(not case.closed for case in cases),
        "not_reopened": sum(case.reopened is False for case in cases),
        "control": _control(polls, closed),
        "list": [asdict(case) for case in cases],
    }


def _control(polls: int, closed: list[str]) -> dict[str, Any]:
    return {"polls": polls, "closed": len(closed), "reasons": closed}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gates", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the keys and every case as JSON")
    parser.add_argument("--all", action="store_true", help="show every case, not only what went wrong")
    arguments = parser.parse_args()
    result = run()
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        _print(result, every=arguments.all)
    good = not (result["open"] or result["not_reopened"] or result["control"]["closed"]) and result["cases"]
    sys.exit(0 if good else 1)


def _print(result: dict[str, Any], *, every: bool) -> None:
    console = Console(highlight=False)
    table = Table("sensor", "fault", "broken", "gate", "after", "reason")
    wrong = [case for case in result["list"] if not case["closed"] or case["reopened"] is False]
    for case in result["list"] if every else wrong:
        after = case["after_s"] if case["after_s"] is not None else inf
        gate = "closed" if case["closed"] else "OPEN"
        if case["reopened"] is False:
            gate += ", stays"
        table.add_row(case["sensor"], case["fault"], case["since"], gate, f"{after:.0f} s", case["reason"])
    if table.row_count:
        console.print(table)
    told = result["control"]
    console.print(
        f"healthy machine: {told['polls']} polls, {told['closed']} closed {'; '.join(told['reasons'])}"
    )
    console.print(f"{result['cases']} cases, {result['open']} open, {result['not_reopened']} not reopened")


if __name__ == "__main__":
    main()
