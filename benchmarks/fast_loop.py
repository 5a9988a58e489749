"""How punctual is the control loop while the robot learns and records, and how punctual is donkeycar's?

    python -m benchmarks.fast_loop [--hz 50] [--seconds 120] [--with-training] [--json]
                                   [--ordinary] [--without-donkeycar] [--rounds 1]

First our control process drives the simulated car for `seconds`: real processes, the policy deciding all the time, both
heads, the recorder writing. Then donkeycar's `Vehicle` runs as long with parts that do the same work, and its own
recorder (`donkeycar_vehicle.py`). With training, the trainer fine-tunes adapters in a third process all the while, in
rounds as on a robot, niceness and all. Ours runs as on a Pi: the loop's thread under SCHED_FIFO where the system lets
it (`scheduler` says what it got); --ordinary asks for none. With --rounds N both are measured N times in turn, so that
a core that the host of a virtual machine takes away for a while does not decide alone.

Keys:
  p50_us, p99_us, p999_us, max_us   how long after its deadline a tick begins; ours are absolute, so that no lateness is
                                    carried on. 99.9 % within a millisecond is the goal
  missed_ticks     periods without a command (goal 0)
  ticks, stages_us of each part of a tick, work_us of the whole, recorded_steps, dropped_steps
  training_steps   made meanwhile; 0 without training
  machine          p999_us, max_us: how late a thread of the highest priority was that only sleeps, at the same time, on
                   the worst core (`machine_stalls.py`); stolen_s: what the host of a virtual machine took. A tick
                   cannot be more punctual than that
  donkeycar        the same keys, where a deadline is one period after the beginning of the turn before, which is what
                   its loop aims at; drift_s: how far it fell behind `hz` in all
  times_better     its p999_us over ours (goal 10)
  rounds           with --rounds: the keys above, round by round. p50_us to p999_us above are then the medians of the
                   rounds, max_us the largest, missed_ticks and ticks the sums, times_better the median of the ratios
Takes twice `seconds` and half a minute, a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.machine_stalls import MachineStalls
from continuonbrain.config import load_preset
from continuonbrain.loops.drive_session import DriveSession
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.layout import BrainLayout, init_brain_root

_PRIORITY = 50
_TRAINED = "trained"
_COUNTS = (
    *("missed_ticks", "ticks", "chunks", "recorded_steps", "dropped_steps", "training_steps"),
    *("drift_s", "stolen_s"),
)


def new_root(folder: Path, hz: float, priority: int | None) -> BrainLayout:
    """A root with the shipped base that is driven at `hz`."""
    layout = init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    settings = json.loads(layout.config_path.read_text())
    settings["robot"] |= {"control_hz": hz, "realtime_priority": priority}
    layout.config_path.write_text(json.dumps(settings))
    return layout


def teach(folder: Path) -> BrainLayout:
    """A root with a lesson in it, for the trainer."""
    layout = new_root(folder, 20.0, None)
    limits = Limits.from_config(load_preset("sim-donkey").guards)
    record_expert(layout.episodes_dir, world("tape"), instructions=lessons(16), seed=30_000, limits=limits)
    return layout


def train_for_ever(root: Path) -> None:
    """What the child process of the trainer does: round after round, whatever the gates say, until it is ended."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.loops.mid import MidLoop, Status
    from continuonbrain.robot.host import SimulatedHost

    brain = open_brain(root)
    os.nice(brain.config.training.nice)
    done, last = 0, 0

    def count(status: Status) -> None:
        nonlocal done, last
        step = status.step if status.phase == "train" else 0
        done, last = done + max(0, step - last), step
        replace_file(root / _TRAINED, str(done).encode())  # whole, whenever somebody reads it

    while True:
        MidLoop(brain, host=SimulatedHost(), on_status=count).round(hold=True, again=True)


@contextlib.contextmanager
def training(root: Path | None) -> Iterator[None]:
    """The trainer at work inside; it is at its steps when this is entered."""
    if root is None:
        yield
        return
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fast_loop", "--train", str(root)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while steps_of(root) == 0:
            if child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the trainer does not train in {root}: see trainer/status.json there")
            time.sleep(0.2)
        yield
    finally:
        child.kill()
        child.wait()


def steps_of(root: Path) -> int:
    """Training steps that the child has made."""
    try:
        return int((root / _TRAINED).read_text() or 0)
    except FileNotFoundError:
        return 0


def ours(folder: Path, hz: float, seconds: float, priority: int | None, show: bool) -> dict[str, Any]:
    """Our control process."""
    layout = new_root(folder, hz, priority)
    with DriveSession(layout, seed=0) as session:
        for _ in track(range(round(seconds)), "our loop", console=Console(stderr=True), disable=not show):
            time.sleep(1.0)
        scheduler = session.status().get("realtime", {}).get("scheduler", "")
        report = session.stop()
    late = report.lateness_us
    return {
        "p50_us": late["p50"],
        "p99_us": late["p99"],
        "p999_us": late["p99.9"],
        "max_us": late["max"],
        "missed_ticks": report.missed_ticks,
        "ticks": report.ticks,
        "chunks": report.chunks,
        "scheduler": scheduler,
        "stages_us": report.stages_us,
        "work_us": report.work_us,
        "recorded_steps": report.recorded_steps,
        "dropped_steps": report.dropped_steps,
    }


def theirs(folder: Path, hz: float, seconds: float) -> dict[str, Any]:
    """donkeycar's."""
    command = [sys.executable, "-m", "benchmarks.donkeycar_vehicle", "--hz", str(hz)]
    # Our loop's products run on one thread. With more, threads of the nets wait for each other beside a trainer, which
    # is not the loop's doing.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--work", str(folder)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit(done.stderr.strip()[-1000:] or "donkeycar's loop ended")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def one_round(
    folder: Path, given: argparse.Namespace, out_of: str, trained: Callable[[], int]
) -> dict[str, Any]:
    """Both loops, one after the other, beside the same load."""
    show = not given.json
    priority = None if given.ordinary else _PRIORITY
    before = trained()
    with MachineStalls() as stalls:
        out = ours(folder / "ours", given.hz, given.seconds, priority, show)
    out["machine"] = stalls.figures
    if not given.without_donkeycar:
        if show:
            Console(stderr=True).print(f"donkeycar's loop, {given.seconds:g} s{out_of}")
        with MachineStalls() as stalls:
            out["donkeycar"] = theirs(folder / "tub", given.hz, given.seconds)
        out["donkeycar"]["machine"] = stalls.figures
        out["times_better"] = round(out["donkeycar"]["p999_us"] / max(out["p999_us"], 0.1), 1)
    return {**out, "training_steps": trained() - before}


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the rounds say together: medians of percentiles and ratios, largest maxima, sums of counts; everything else
    as in the last one."""
    out = dict(rounds[-1])
    for name in out:
        values = [one[name] for one in rounds]
        if name in ("p50_us", "p99_us", "p999_us", "times_better"):
            out[name] = round(statistics.median(values), 1)
        elif name == "max_us":
            out[name] = max(values)
        elif name in _COUNTS:
            out[name] = round(sum(values), 3)
        elif name in ("machine", "donkeycar"):
            out[name] = summary(values)
    return out


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    with tempfile.TemporaryDirectory(prefix="fast-loop-") as name:
        folder = Path(name)
        if not given.without_donkeycar:
            from benchmarks.donkeycar_vehicle import donkeycar_folder

            donkeycar_folder()
        root = teach(folder / "trainer").root if given.with_training else None
        with training(root):
            rounds = [
                one_round(
                    folder / str(index),
                    given,
                    f", round {index + 1} of {given.rounds}" if given.rounds > 1 else "",
                    lambda: 0 if root is None else steps_of(root),
                )
                for index in range(given.rounds)
            ]
    told = {"rounds": rounds} if given.rounds > 1 else {}
    return {"hz": given.hz, "seconds": given.seconds, **summary(rounds), **told}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hz", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--with-training", action="store_true", help="while the trainer works")
    parser.add_argument("--ordinary", action="store_true", help="without SCHED_FIFO")
    parser.add_argument("--without-donkeycar", action="store_true")
    parser.add_argument("--rounds", type=int, default=1, help="measure both so many times in turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train is not None:
        train_for_ever(given.train)
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
        return
    console = Console(highlight=False)
    rows = [("ours", figures)] + ([("donkeycar", figures["donkeycar"])] if "donkeycar" in figures else [])
    for name, row in rows:
        console.print(
            f"{name:10} late by p50 {row['p50_us']:.0f}, p99 {row['p99_us']:.0f}, p99.9 {row['p999_us']:.0f}, at most "
            f"{row['max_us']:.0f} us; {row['missed_ticks']} of {row['ticks']} ticks missed; the machine itself p99.9 "
            f"{row['machine'].get('p999_us', 0):.0f}, at most {row['machine'].get('max_us', 0):.0f} us"
        )
    console.print(f"{figures['scheduler']}; {figures['training_steps']} steps trained meanwhile")
    if "times_better" in figures:
        console.print(f"{figures['times_better']} times better at p99.9")


if __name__ == "__main__":
    main()
