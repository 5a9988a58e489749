"""`continuonbrain doctor`: is this machine fit, is the brain root sound, and may the robot train now?

Exit code 1 means that a needed check failed. Closed gates are not a failure: a driving robot has them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption, on_this_root
from continuonbrain.errors import BrainError, belongs_to_another, installing

if TYPE_CHECKING:
    from continuonbrain.storage.adapters import AdapterVersion
    from continuonbrain.trainer.gates import GateReport

_WITHOUT_A_ROBOT = ("disk", "budget", "owner")
"""Gates that say something also where no robot runs."""
_MIN_DISK_MIB = 512
_PYTHON_FROM, _PYTHON_BELOW = (3, 11), (3, 14)
_WORKING = ("read", "cache", "train", "reflex", "judge")
_TRAINING_MODULES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. A check that is not `needed` informs, it does not fail."""

    name: str
    ok: bool
    value: str
    remedy: str = ""
    needed: bool = True


def doctor(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Check this machine and a brain root, and show which gates are open."""
    checks = [check_python(), *(check_module(name) for name in _TRAINING_MODULES)]
    checks += [check_root_writable(root), check_disk(root)]
    config_check, report = check_brain(root)
    checks.append(config_check)
    if config_check.ok:
        base = check_base(root)
        checks += [base, *([check_engine(root)] if base.ok else [])]
        if has_base(root):  # one that cannot drive may talk
            checks += [check_words(root), check_adapter(root)]
        checks += [check_safety_head(root), *check_world_head(root), check_history(root), check_trainer(root)]
    from continuonbrain.cli.doctor_car import check_car
    from continuonbrain.cli.doctor_pi import pi_checks
    from continuonbrain.cli.doctor_slow import check_slow

    checks += [*check_slow(root), *check_car(root)] if config_check.ok else []
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


def check_base(root: Path) -> Check:
    """The base model is there, and the simulated robot's shift is one that exists."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import base_sha256, check_base_files
    from continuonbrain.robot.sim.shifts import world

    brain = open_brain(root)
    folder = brain.layout.base_model_dir
    try:
        if brain.config.robot.kind == "sim-donkey":
            world(brain.config.robot.shift)
        sha256 = base_sha256(folder)
        check_base_files(folder)
    except BrainError as error:
        return Check("base model", False, error.message, error.remedy)
    return Check("base model", True, f"{folder} {sha256[:12]}")


def has_base(root: Path) -> bool:
    """Whether there is a base at all, of whatever kind."""
    from continuonbrain.brain_root import open_brain

    return (open_brain(root).layout.base_model_dir / "config.json").is_file()


def check_engine(root: Path) -> Check:
    """What decides, and whether its bundle is whole and of this base."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import base_sha256
    from continuonbrain.model.serving.spec import KNOWN_FILE, DrivingSpec
    from continuonbrain.policy.open_engine import BUNDLES, engine_name

    brain = open_brain(root)
    folder, policy = brain.layout.base_model_dir, brain.config.policy
    if engine_name(folder, policy) == "torch":
        there = importlib.util.find_spec("torch") is not None
        return Check("engine", there, "torch", f"{installing('train')}, or export a bundle")
    bundle = folder / BUNDLES / policy.precision
    try:
        spec = DrivingSpec.read(bundle)
    except BrainError as error:
        return Check("engine", False, error.message, error.remedy)
    if not (bundle / KNOWN_FILE).is_file():
        return Check("engine", False, f"{bundle / KNOWN_FILE} is missing", "copy the folder whole")
    if spec.base_sha256 != base_sha256(folder):
        return Check(
            "engine", False, f"{bundle} is of another base", "export it again: continuonbrain model export"
        )
    if importlib.util.find_spec("ai_edge_litert") is None:
        return Check("engine", False, "LiteRT is not installed", installing("litert"))
    return Check("engine", True, f"litert, {policy.precision}, adapters up to rank {spec.lora.rank}")


def check_history(root: Path) -> Check:
    """The history's hash chain holds from the first entry to the last."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.storage.adapters import AdapterStore

    layout = open_brain(root).layout
    store = AdapterStore(layout)
    remedy = (
        f"restore {layout.history_path} and {layout.history_head_path.name} beside it from a copy; both moved away, a "
        "new history begins and what drives stays"
    )
    try:
        check = store.verify_history()
        if not check.ok:
            told = f"{layout.history_path} {check.problem}; {check.entries} entries before it are sound"
            return Check("history", False, told, remedy)
        state, names = store.standing(), store.current_id()
    except BrainError as error:
        return Check("history", False, error.message, error.remedy or remedy)
    if names != state.version_id:
        told = f"current names {names or 'nothing'}, the history ends with {state.version_id or 'the base'}"
        again = f"the next start puts it right: continuonbrain run --root {root}"
        return Check("history", False, told, again)
    on = f", {state.version_id} is on probation" if state.kind == "probation" else ""
    return Check("history", True, f"{check.entries} entries, the chain holds{on}")


def check_adapter(root: Path) -> Check:
    """The adapter in use is whole, and of this base."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import checkpoint_sha256
    from continuonbrain.model.serving.adapter_inputs import BASE_PREFIX
    from continuonbrain.storage.adapters import AdapterStore

    layout = open_brain(root).layout
    back = f"continuonbrain adapters rollback --root {root}"
    try:
        store = AdapterStore(layout)
        current = store.current()
        store.previous()  # links that name nothing, or something else, are told
        candidate = store.candidate()
        if candidate is not None and (told := _damage(candidate)):
            return Check(
                "adapter",
                False,
                f"the candidate: {told}",
                f"train another one: continuonbrain train --root {root}",
            )
        if current is None:
            return Check("adapter", True, "none: the base drives alone")
        if not current.compute_sha256().startswith(current.sha8):
            return Check("adapter", False, f"{current.path} is damaged", back)
        current.card()
        current.verdict()
        named = json.loads((current.path / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except BrainError as error:
        return Check("adapter", False, error.message, error.remedy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check("adapter", False, f"{layout.current} cannot be read: {error!r}", back)
    try:
        base = checkpoint_sha256(layout.base_model_dir)
    except BrainError as error:
        return Check("adapter", False, error.message, error.remedy)
    if named != BASE_PREFIX + base:
        return Check("adapter", False, f"{current.version_id} was trained on another base", back)
    return Check("adapter", True, f"{current.version_id} is whole and of this base")


def _damage(version: AdapterVersion) -> str:
    from continuonbrain.storage.adapters import AdapterError

    try:
        version.whole_sha256()
    except AdapterError as error:
        return error.message
    return ""


def check_safety_head(root: Path) -> Check:
    """The safety head is whole, and the manifest has its thresholds; or no head is wanted."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.policy.open_watch import open_watches

    brain = open_brain(root)
    layout = brain.layout
    if not brain.config.heads.safety.enabled:
        remedy = "set heads.safety.enabled to true in config.json"
        return Check("safety head", False, "none watches: heads.safety.enabled is off", remedy, needed=False)
    try:
        watch = open_watches(layout.safety_dir, layout.manifest_path)()
    except BrainError as error:
        return Check("safety head", False, error.message, error.remedy)
    limits, told = watch.caution.thresholds, watch.calibration
    value = f"slows from {limits.warn:g}, stops from {limits.block:g}"
    wanted = brain.config.heads.safety
    if (wanted.warn_threshold, wanted.block_threshold) != (limits.warn, limits.block):
        value += f" (config.json says {wanted.warn_threshold:g} and {wanted.block_threshold:g}: from the next start on)"
    if told.mount_yaw_rad:
        value += f"; the camera looks {math.degrees(told.mount_yaw_rad):+.0f} degrees aside"
    return Check("safety head", True, value)


def check_words(root: Path) -> Check:
    """Whether the base answers in words (`continuonbrain chat`). Informs only."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.serving.spec import KNOWN_FILE, BundleError, LanguageSpec
    from continuonbrain.policy.open_engine import LANGUAGE_BUNDLES, engine_name

    brain = open_brain(root)
    folder, policy = brain.layout.base_model_dir, brain.config.policy
    try:
        from continuonbrain.policy.chat import ChatPrompt

        ChatPrompt(folder)
        engine = engine_name(folder, policy, LANGUAGE_BUNDLES)
        if engine == "litert":
            bundle = folder / LANGUAGE_BUNDLES / policy.precision
            LanguageSpec.read(bundle)
            if not (bundle / KNOWN_FILE).is_file():
                raise BundleError(f"{bundle / KNOWN_FILE} is missing", remedy="copy the folder whole")
    except (BrainError, ImportError) as error:
        told = error.message if isinstance(error, BrainError) else f"{error}"
        remedy = error.remedy if isinstance(error, BundleError) else "none is needed to drive"
        return Check("words", False, told, remedy, needed=False)
    return Check("words", True, engine, needed=False)


def check_world_head(root: Path) -> list[Check]:
    """Where it is enabled: whether its edge build is whole, and of this root's safety head."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.policy.open_world import open_vetoes

    brain = open_brain(root)
    if not brain.config.heads.world.enabled:
        return []
    layout = brain.layout
    try:
        head = open_vetoes(layout.world_dir, layout.safety_dir, layout.manifest_path)().head
    except BrainError as error:
        return [Check("world head", False, error.message, error.remedy)]
    return [Check("world head", True, f"{layout.world_dir} {head.sha256[:12]}")]


def check_trainer(root: Path) -> Check:
    """Whether somebody trains on this root now, by what the trainer says itself. Informs only."""
    import psutil

    from continuonbrain.brain_root import open_brain

    try:
        status = json.loads(open_brain(root).layout.status_path.read_bytes())
        pid, phase = int(status["pid"]), str(status["phase"])
        step, steps = int(status["step"]), int(status["steps"])
        detail = str(status.get("detail") or "")
    except (OSError, ValueError, KeyError, TypeError):
        return Check("trainer", True, "has not run yet", needed=False)
    if phase in _WORKING and psutil.pid_exists(pid):
        paused = f"; {detail}" if detail.startswith("paused") else ""
        return Check("trainer", True, f"at work, pid {pid}: {phase} {step} of {steps}{paused}", needed=False)
    # What the trainer saw: some faults (a sensor that is stuck) show in many looks only, and this is one.
    why = f": {detail}" if detail and phase in ("gates", "waiting") else ""
    return Check("trainer", True, f"not at work; last: {phase}{why}", needed=False)


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
