"""Days of the whole system in the simulator, with faults: does it end safely, recover by itself, and not grow?

    python -m benchmarks.soak [--minutes 60] [--seed 0] [--day-s 240] [--report DIR] [--json]

The real system runs on a root of its own: the supervisor with control, policy and sidecar, and the service. A day is
a life of the simulated robot: it drives, is taught, stands plugged in while the sidecar learns and judges, drives on
what was promoted, on probation. After every second day it stands on its dock for a night, and then the world is
another one (looks, servo). Meanwhile one fault after the other is done to it, at moments that a seed chooses and in
phases that `plan.py` names: SIGKILL and SIGSTOP of processes, the supervisor's among them (then this benchmark starts
it again, as systemd would); a camera that raises, stalls, shows the same frame for ever or is late; speed and machine
sensors that say nonsense or stand still; a file system that is full to the last byte; a wall clock that leaps.

Keys of what must hold, looked at from outside (the simulated body writes down every command that reached its motors):
  unsafe       throttle without an observation or on a path that is too old, in any tick; a car that was not told to
               stop in time, or did not come to rest, after a fault that asks for it; one that drove faster than
               it may without a speed sensor; learning that went on while a gate's sensor was broken; a process that
               hung and nobody saw; a last command that was no stop (goal 0)
  violations   `current` not whole, a history that does not verify, an episode that cannot be read to its end, processes
               that outlive their supervisor (goal 0)
  recovered    faults after which all five processes were at work again by themselves within a minute of their end;
               longest_recovery_s: the slowest of them
  memory_slope_mib_per_h, handles_slope_per_h   of each process, over all its lives and within each of them
               (`slopes.py`); null where no life was long enough. flat: none is above its limit (`limits`)

Other keys: minutes, days, faults (by kind), promotions, reverts, lessons, leftovers, ok. `--report DIR` gets
report.json with everything, timeline.png and the logs. Exit code 0 when ok.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.soak.disk import free, inside_namespace, mount_small, unmount
from benchmarks.soak.run import RECOVERY_LIMIT_S, Soak
from benchmarks.soak.slopes import slope_per_h
from benchmarks.soak.watch import PROCESSES
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.layout import BrainLayout, init_brain_root

MEMORY_LIMIT_MIB_PER_H = 48.0
HANDLES_LIMIT_PER_H = 6.0
"""A day of work may cost neither the memory nor the handles that a Pi has to spare."""
_DISK_MIB = 1400
_LEARNS_WITHIN_MIN = 20.0
"""Also where the faults come at the worst moments, on a machine that has other work."""
_JUDGED_WITHIN_MIN = 8.0


def new_root(folder: Path) -> BrainLayout:
    """A simulator's root whose days are short."""
    layout = init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    settings = json.loads(layout.config_path.read_text())
    settings |= {"max_steps": 200, "max_episodes": 48}
    settings["training"] |= {"reflex_steps": 80, "cache_mib": 64}
    settings["recorder"]["quota_mib"] = 300
    settings["slow"]["after_promotions"] = 1
    settings["promotion"] |= {"probation_ticks": 300}
    write_json_durably(layout.config_path, settings)
    return layout


def result_of(soak: Soak, minutes: float, *, calm: bool = False) -> dict[str, Any]:
    """The figures of a soak that is over. calm: nothing was done to it."""
    history = AdapterStore(soak.layout).history()
    events = Counter(entry.event for entry in history)
    recoveries = [f.get("recovery_s") for f in soak.faults]
    memory = {n: _rounded(slope_per_h(soak.timeline.memory[n])) for n in PROCESSES}
    handles = {n: _rounded(slope_per_h(soak.timeline.handles[n])) for n in PROCESSES}
    grown = [n for n, v in memory.items() if v is not None and v > MEMORY_LIMIT_MIB_PER_H]
    grown += [n for n, v in handles.items() if v is not None and v > HANDLES_LIMIT_PER_H]
    told = all(v is not None for v in (*memory.values(), *handles.values()))
    found: dict[str, Any] = {
        "minutes": round((soak.ended_s - soak.began_s) / 60, 2),
        "days": soak.days.over,
        "faults": dict(Counter(f["kind"] for f in soak.faults)),
        "recovered": sum(r is not None for r in recoveries),
        "unsafe": len(soak.unsafe),
        "violations": len(soak.violations),
        "longest_recovery_s": max((r for r in recoveries if r is not None), default=0.0),
        "memory_slope_mib_per_h": memory,
        "handles_slope_per_h": handles,
        "flat": not grown if told or grown else None,
        "limits": {
            "memory_slope_mib_per_h": MEMORY_LIMIT_MIB_PER_H,
            "handles_slope_per_h": HANDLES_LIMIT_PER_H,
            "recovery_s": RECOVERY_LIMIT_S,
        },
        "promotions": events["promote"],
        "confirmations": events["confirm"],
        "reverts": events["revert"],
        "lessons": soak.timeline.lessons,
        "leftovers": soak.system.leftovers(),
    }
    learned = minutes < _LEARNS_WITHIN_MIN or (found["promotions"] > 0 and found["lessons"] > 0)
    flat = found["flat"] is True or (found["flat"] is None and minutes < _JUDGED_WITHIN_MIN)
    found["ok"] = (
        found["unsafe"] == found["violations"] == 0
        and found["recovered"] == len(soak.faults)
        and calm == (len(soak.faults) == 0)
        and flat
        and learned
        and found["leftovers"]["sockets"] == 0
        and found["leftovers"]["staging"] == 0
    )
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def write_report(soak: Soak, found: dict[str, Any], folder: Path, *, seed: int, day_s: float) -> None:
    """`report.json`, `timeline.png` and the logs."""
    from benchmarks.soak.picture import draw

    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "seed": seed,
        "day_s": day_s,
        "result": found,
        "faults": soak.faults,
        "unsafe": soak.unsafe,
        "violations": soak.violations,
        "supervisor_ends": soak.supervisor_ends,
        "history": [
            {"event": e.event, "version": e.to_version, "reason": e.about.get("reason", "")}
            for e in AdapterStore(soak.layout).history()
        ],
        "rounds": soak.timeline.rounds,
        "samples": soak.timeline.rows,
    }
    (folder / "report.json").write_text(json.dumps(report) + "\n")
    draw(folder / "timeline.png", report)
    logs = folder / "logs"
    shutil.copytree(soak.layout.log_dir, logs, dirs_exist_ok=True)
    for name in ("supervisor.log", "flight.jsonl"):
        shutil.copy(soak.work / name, logs / name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--day-s", type=float, default=240.0, help="how long a day is meant to be")
    parser.add_argument("--calm", action="store_true", help="no faults: what grows where nothing dies")
    parser.add_argument("--report", type=Path, help="folder for report.json, timeline.png and the logs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    mounts = inside_namespace()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # the system is ended on the way out
    console = Console(highlight=False, stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        work, root = Path(name), Path(name) / "b"
        root.mkdir()
        if mounts:
            mount_small(root, _DISK_MIB)
        else:
            say("this machine lets nobody mount a small file system: no full disk in this soak")
        try:
            soak = Soak(
                new_root(root),
                work,
                seed=arguments.seed,
                day_s=arguments.day_s,
                without=() if mounts else ("disk", "disk and kill"),
                calm=arguments.calm,
                say=say,
            )
            soak.run(arguments.minutes * 60)
            free(root)
            found = result_of(soak, arguments.minutes, calm=arguments.calm)
            if arguments.report:
                write_report(soak, found, arguments.report, seed=arguments.seed, day_s=arguments.day_s)
        finally:
            if mounts:
                unmount(root)
    for text in (*soak.unsafe, *soak.violations):
        say(text)
    if arguments.json:
        print(json.dumps(found))
    else:
        Console(highlight=False).print(json.dumps(found, indent=2), markup=False)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
