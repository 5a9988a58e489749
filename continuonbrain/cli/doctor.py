"""`continuonbrain doctor`: is this machine fit, is the brain root sound, and may the robot train now?

Exit code 1 means that a needed check failed. Closed gates are not a failure: a driving robot has them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from continuonbrain.cli.doctor_check import Check
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption, on_this_root
from continuonbrain.errors import BrainError, belongs_to_another, installing

if TYPE_CHECKING:
    from continuonbrain.trainer.gates import GateReport

_WITHOUT_A_ROBOT = ("disk", "budget", "owner")
"""Gates that say something also where no robot runs."""
_MIN_DISK_MIB = 512
_PYTHON_FROM, _PYTHON_BELOW = (3, 11), (3, 14)
_TRAINING_MODULES = ("torch", "transformers", "peft")


def doctor(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Check this machine and a brain root, and show which gates are open."""
    checks = [check_python(), *(check_module(name) for name in _TRAINING_MODULES)]
    checks += [check_root_writable(root), check_disk(root)]
    config_check, report = check_brain(root)
    checks.append(config_check)
    from continuonbrain.cli.doctor_brain import brain_checks
    from continuonbrain.cli.doctor_car import check_car
    from continuonbrain.cli.doctor_pi import pi_checks
    from continuonbrain.cli.doctor_slow import check_slow

    if config_check.ok:
        checks += [*brain_checks(root), *check_slow(root), *check_car(root)]
    asked = {check.name for check in checks}  # the bus of a car is the one that its config names
    checks += [check for check in pi_checks(root) if check.name not in asked]
    given = None if root == DEFAULT_ROOT else root
    checks = [replace(check, remedy=on_this_root(check.remedy, given)) for check in checks]
    healthy = all(check.ok for check in checks if check.needed)

    if as_json:
        document = {
            "root": str(root),
            "healthy": healthy,
            "checks": [asdict(check) for check in checks],
            "gates": None if report is None else report.as_dict(),
        }
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print(root, checks, report)
    if not healthy:
        raise typer.Exit(1)


def check_python() -> Check:
    """This interpreter is one that the package supports."""
    return Check(
        "python",
        _PYTHON_FROM <= sys.version_info[:2] < _PYTHON_BELOW,
        f"{platform.python_version()} on {platform.machine()}",
        "use Python 3.11, 3.12 or 3.13",
    )


def check_module(name: str) -> Check:
    """A module of the `train` extra is there. Looks it up without importing it: torch takes seconds."""
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a half-removed package
        found = False
    try:
        value = importlib.metadata.version(name) if found else "not installed"
    except importlib.metadata.PackageNotFoundError:
        value = "installed, version unknown"
    remedy = f"{installing('train')} (to train, and to run the torch engine)"
    return Check(name, found, value, remedy, needed=False)


def check_root_writable(root: Path) -> Check:
    """A file can be written below the root. Tried, not guessed from mode bits: a disk may be read-only."""
    remedy = f"create it with: continuonbrain init --root {root}, or make it writable for this user"
    if not root.is_dir():
        return Check("root", False, f"{root} is not a folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"doctor")
    except OSError as error:
        if isinstance(error, PermissionError) and (another := belongs_to_another(root)) is not None:
            return Check("root", False, another.message, another.remedy)
        return Check("root", False, f"{root}: {error.strerror or error}", remedy)
    return Check("root", True, f"{root} is writable")


def check_disk(root: Path) -> Check:
    """Space for a night of episodes."""
    remedy = f"free at least {_MIN_DISK_MIB} MiB; old episodes are in rlds/episodes"
    try:
        # A root that is yet to be created will lie on its nearest parent's disk.
        there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
        free_mib = shutil.disk_usage(there).free // 2**20
    except OSError as error:
        return Check("disk", False, f"{root}: {error.strerror or error}", remedy)
    return Check("disk", free_mib >= _MIN_DISK_MIB, f"{free_mib} MiB free", remedy)


def check_brain(root: Path) -> tuple[Check, GateReport | None]:
    """The config is valid, and it is known which base drives; then, what the gates say now."""
    # Imported here: a broken settings library must not keep the other checks from being shown.
    from continuonbrain.brain_root import open_brain
    from continuonbrain.loops.owner import owner_gate
    from continuonbrain.loops.spending import Spending
    from continuonbrain.robot.host import HOST_FILE_NAME, host_for
    from continuonbrain.storage.base_slots import BaseSlotError
    from continuonbrain.trainer.budget import Budget
    from continuonbrain.trainer.build_gates import gates_from_config
    from continuonbrain.trainer.gates import GateReport

    try:
        brain = open_brain(root)
        gates = gates_from_config(brain.config)
    except BrainError as error:
        what = "base slot" if isinstance(error, BaseSlotError) else "config"
        return Check(what, False, error.message, error.remedy), None
    host = host_for(
        brain.config.robot.kind,
        host_file=brain.layout.run_dir / HOST_FILE_NAME,
        disk_path=brain.layout.root,
    )
    report = gates.poll(host)
    training = brain.config.training
    limits = Budget(training.daily_energy_wh, training.daily_write_mib, training.watts)
    spending = Spending(brain.layout.spent_path, limits)
    told = spending.look(working=False), owner_gate(brain.layout)
    report = GateReport(report.open and all(t.open for t in told), (*report.states, *told))
    return Check("config", True, f"{brain.layout.config_path} is valid"), report


def _print(root: Path, checks: list[Check], report: GateReport | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from continuonbrain.trainer.gate_rules import shown

    console = Console()
    table = Table(title=Text(f"brain root {root}"), title_justify="left")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")  # a path cut short is no path
    for check in checks:
        mark = ("ok", "green") if check.ok else ("FAILED", "bold red") if check.needed else ("none", "yellow")
        table.add_row(check.name, Text(*mark), Text(check.value), Text("" if check.ok else check.remedy))
    console.print(table)
    if report is None:
        console.print("gates: not shown, the config has to be mended first")
        return
    silent = all(state.value is None for state in report.states if state.name not in _WITHOUT_A_ROBOT)
    gates = Table("gate", "", "value", "reason", title="may the robot train now?", title_justify="left")
    for state in report.states:
        if silent and state.value is None and state.name not in _WITHOUT_A_ROBOT:
            continue  # one sentence for all of them
        mark = ("open", "green") if state.open else ("closed", "yellow")
        value = "" if state.value is None else shown(state.value)
        gates.add_row(state.name, Text(*mark), value, Text(state.reason))
    if gates.row_count:
        console.print(gates)
    if silent:
        console.print(
            "no robot is running on this root, so nothing tells its other gates: start it with `continuonbrain run "
            f"--root {root}`; a parked simulated robot also trains with `continuonbrain train --root {root}`, "
            "recordings of any other on a machine where no robot runs with --simulate-host",
            soft_wrap=True,
            markup=False,
        )
        return
    battery = next((state for state in report.states if state.name == "battery"), None)
    if battery is not None and not battery.open and battery.value is None:
        console.print(
            'a battery whose charge nothing tells (a power bank): set "battery": "none" in config.json; no battery at '
            'all: "power": "mains"',
            soft_wrap=True,
            markup=False,
        )
    console.print("training may start" if report.open else "training waits until every gate is open")
    console.print("(one look: a sensor that is stuck shows over time only, to the trainer)", style="dim")
