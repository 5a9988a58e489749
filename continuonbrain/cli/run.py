"""`continuonbrain run`: a simulated robot lives: it is taught, learns when parked, swaps, drives; until Ctrl-C.

In a terminal a live view; otherwise a line a second, with --json one JSON object a second. The dashboard's address is
told once it answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cli.dashboard import Dashboard
from continuonbrain.cli.init import shipped_base_model
from continuonbrain.cli.probation_words import in_words
from continuonbrain.cli.root_option import DEFAULT_ROOT, RootOption, on_this_root
from continuonbrain.configs import PRESET_NAMES
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_plan import service_plan, standard_plans
from continuonbrain.loops.promotion import refresh_manifest
from continuonbrain.loops.supervisor import RunSummary, Supervisor
from continuonbrain.model.base_identity import base_sha256, is_driving_base
from continuonbrain.robot.sim.shifts import world
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.lock import ProcessLock

_LOCK_NAME = "run.lock"
_POLL_S = 0.1
_VIEW_EVERY_S = 0.25
_LINE_EVERY_S = 1.0
_WORDS = 200


def run(
    root: RootOption = DEFAULT_ROOT,
    preset: Annotated[
        str, typer.Option("--preset", help=f"For a root that does not exist yet: {', '.join(PRESET_NAMES)}.")
    ] = "sim-donkey",
    shift: Annotated[
        str | None,
        typer.Option(
            "--shift", help="How the simulated robot differs: tape, pitch, dark, trim, reverse, ..."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Stop after so long instead of at Ctrl-C.")
    ] = None,
    decision_time: Annotated[
        float | None,
        typer.Option(
            "--decision-time",
            min=0.0,
            max=10.0,
            help="Seconds that a decision takes at least: 0.75 is a Pi 5.",
        ),
    ] = None,
    track: Annotated[int | None, typer.Option("--track", help="Seed of the track to drive on.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of noise and lessons.")] = 0,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="The dashboard's (default: 8080, or another where that is taken).",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            help="Show the dashboard on this address of the LAN (0.0.0.0: all), behind a pairing code.",
        ),
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Serve the dashboard and apps meanwhile.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a second instead of a view.")
    ] = False,
) -> None:
    """Drive, record, and learn when idle, until Ctrl-C."""
    if shift is not None:
        world(shift)  # an unknown name is refused before anything is made or started
    brain = _in_world(_brain(root, preset), shift)
    if told := nothing_new(brain):
        typer.echo(told, err=True)
    plans = standard_plans(
        brain.layout,
        kind=brain.config.robot.kind,
        shift=shift,
        track=track,
        seed=seed,
        decision_time_s=decision_time,
    )
    shown = Dashboard.of(brain.layout, port=port, listen=listen) if dashboard else None
    if shown is not None:
        plans = (*plans, service_plan(brain.layout, port=shown.port, listen=listen))
    stopping = _stop_on_signals()
    until = None if seconds is None else time.monotonic() + seconds

    console = Console(highlight=False)

    def over() -> bool:
        # A screen shows it all the time.
        if shown is not None and (as_json or not console.is_terminal) and (told := shown.news()):
            typer.echo(told, err=True)
        return stopping() or (until is not None and time.monotonic() >= until)

    brain.layout.run_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        refresh_manifest(brain)
    with (
        ProcessLock(brain.layout.run_dir / _LOCK_NAME, purpose=f"run the robot of {brain.layout.root}"),
        Supervisor(brain, plans) as supervisor,
    ):
        if as_json:
            found = [] if shown is None else shown.addresses
            where = {"dashboard": found[0] if found else None, "dashboard_addresses": found}
            _repeat(
                supervisor,
                over,
                _LINE_EVERY_S,
                lambda shot: typer.echo(json.dumps({**shot, **where})),
            )
        elif console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                _repeat(
                    supervisor,
                    over,
                    _VIEW_EVERY_S,
                    lambda shot: live.update(view(shot, brain.layout, shown), refresh=True),
                )
        else:
            _repeat(supervisor, over, _LINE_EVERY_S, lambda shot: typer.echo(line(shot)))
        summary = supervisor.stop()
    if as_json:
        typer.echo(json.dumps({"summary": asdict(summary)}))
    else:
        console.print(on_this_root(summary_line(summary), brain.layout.root), markup=False, soft_wrap=True)


def _brain(root: Any, preset: str) -> BrainRoot:
    layout = BrainLayout(root)
    if not layout.config_path.exists():
        init_brain_root(layout.root, preset, base_model=shipped_base_model())
        typer.echo(f"there was no brain in {layout.root}: made one from the preset {preset}", err=True)
    brain = open_brain(layout.root)
    if brain.config.robot.kind != "sim-donkey":
        raise BrainError(
            f"{brain.layout.config_path}: robot.kind = {brain.config.robot.kind!r}: `run` is a simulated robot's life",
            remedy="a car is driven by its services: sudo continuonbrain install, then continuonbrain calibrate",
        )
    base = brain.layout.base_model_dir
    if not base.is_dir() or not any(base.iterdir()):
        raise BrainError(
            f"there is no base model in {base}",
            remedy=f"build the tiny one: continuonbrain model build-tiny {base}",
        )
    if not is_driving_base(base) and any(base.glob("*.safetensors")):
        base_sha256(base)  # it only talks: told before three processes find it out
    return brain


def nothing_new(brain: BrainRoot) -> str:
    """What to expect of a simulated world that is the one that the shipped base was made on; "" of any other."""
    if brain.config.robot.kind != "sim-donkey" or brain.config.robot.shift != "none":
        return ""
    return (
        "robot.shift is 'none', the world that the shipped base was made on: there is hardly anything to gain, and a "
        "candidate without a gain is refused; for a world where there is: --shift tape, pitch or dark"
    )


def _in_world(brain: BrainRoot, shift: str | None) -> BrainRoot:
    """The brain with `shift` as its robot's world, also in config.json: the trainer judges on the road that is
    driven, now and in every later command."""
    if shift is None or shift == brain.config.robot.shift:
        return brain
    if brain.config.robot.kind != "sim-donkey":
        raise BrainError(
            f"--shift {shift}: only a simulated robot's world can be changed, "
            f"robot.kind is {brain.config.robot.kind!r} ({brain.layout.config_path})",
            remedy="leave --shift out, or use a root of the preset sim-donkey",
        )
    settings = json.loads(brain.layout.config_path.read_bytes())
    settings["robot"]["shift"] = shift
    write_json_durably(brain.layout.config_path, settings)
    typer.echo(f"robot.shift is {shift!r} from now on ({brain.layout.config_path})", err=True)
    return open_brain(brain.layout.root)


def _stop_on_signals() -> Callable[[], bool]:
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _frame: received.append(n))
    return lambda: bool(received)


def _repeat(
    supervisor: Supervisor, over: Callable[[], bool], every_s: float, show: Callable[[dict[str, Any]], None]
) -> None:
    shown_s = 0.0
    while not over():
        supervisor.poll()
        if time.monotonic() - shown_s >= every_s:
            shown_s = time.monotonic()
            try:
                show(supervisor.snapshot())
                sys.stdout.flush()
            except BrokenPipeError:  # whoever read us has gone: end in good order
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return
        time.sleep(_POLL_S)


def line(shot: dict[str, Any]) -> str:
    """A snapshot as one line of text."""
    control, training = shot["control"], shot["training"]
    trouble = _trouble(shot)
    if not control:
        return f"{shot['uptime_s']:7.1f} s  starting" + (f"  {trouble}" if trouble else "")
    reasons = ",".join(control.get("reasons") or []) or "-"
    adapter = _adapter(control.get("adapter_sha256"))
    gates = "open" if shot["gates"].get("open") else "closed"
    return (
        f"{shot['uptime_s']:7.1f} s  {control.get('mode', '?')} {control.get('instruction', '')!r}  "
        f"{_number(control.get('speed_mps'))} m/s  lane {_number(control.get('lane_error_m'))} m  guard {reasons}  "
        f"missed {control.get('missed_ticks', 0)}/{control.get('tick', 0)}  {adapter}{_probation(shot)}  "
        f"gates {gates}  {_training_text(training)}" + (f"  trouble: {trouble}" if trouble else "")
    )


def _probation(shot: dict[str, Any]) -> str:
    """How far the adapter's probation is, " (64/400)"; "" when none is on one."""
    told = shot.get("probation") or {}
    if told.get("state") != "probation":
        return ""
    parts = [f"{told['ticks']}/{told['of_ticks']} ticks"] if told.get("of_ticks") else []
    if told.get("of_minutes"):
        parts.append(f"{told['minutes']:.1f}/{told['of_minutes']:g} min")
    return f" (probation {' '.join(parts)})"


def _trouble(shot: dict[str, Any]) -> str:
    """What keeps the robot from its work: a full disk, its own fault, a process that is not up, and its words."""
    control = shot["control"]
    words = [str(w) for w in (shot.get("trouble"), control.get("fault")) if w]
    for name, process in shot["processes"].items():
        said, restarts = str(process["last_words"])[:_WORDS], process["restarts"]
        if not process["running"]:
            words.append(f"{name} is being restarted: {said}")
        elif name == "control" and not control and (restarts or said):
            words.append(f"{name}{f', {restarts} restarts' if restarts else ''}: {said}")
    return "; ".join(words)


def view(shot: dict[str, Any], layout: BrainLayout, dashboard: Dashboard | None = None) -> Group:
    """A snapshot as a screen."""
    parts: list[Any] = [Panel(_robot_table(shot), title=f"robot in {layout.root}", title_align="left")]
    parts.append(Panel(_learning_table(shot), title="learning", title_align="left"))
    happened = Text("\n".join(f"{e['at_s']:7.1f} s  {e['text']}" for e in shot["events"]) or "nothing yet")
    parts.append(Panel(happened, title="events", title_align="left"))
    if dashboard is not None:
        parts.append(Text(dashboard.in_words()))
    parts.append(Text(f"{shot['uptime_s']:.0f} s; Ctrl-C stops the robot and everything else", style="dim"))
    return Group(*parts)


def _robot_table(shot: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    control, trouble = shot["control"], _trouble(shot)
    if not control:
        table.add_row(Text("the control process is starting"))
        if trouble:
            table.add_row(Text(trouble, style="red"))
        return table
    proposed, sent = control.get("proposed"), control.get("guarded")
    reasons = ", ".join(control.get("reasons") or []) or "none"
    missed = int(control.get("missed_ticks") or 0)
    policy = control.get("policy") or {}
    trouble = trouble or policy.get("refusal") or policy.get("problem") or ""
    taught = control.get("taught") or [0, 0]
    mode = str(control.get("mode", "?"))
    if mode == "teach" and taught[1]:
        mode += f" ({taught[0]} of {taught[1]} steps)"
    rows: list[tuple[str | Text, ...]] = [
        ("mode", Text(mode, style="bold"), "instruction", Text(repr(control.get("instruction", "")))),
        (
            "speed",
            f"{_number(control.get('speed_mps'))} m/s",
            "off its lane",
            f"{_number(control.get('lane_error_m'))} m",
        ),
        ("proposed", _pair(proposed), "sent", _pair(sent)),
        (
            "guard",
            Text(reasons, style="yellow" if control.get("stopped") else ""),
            "laps, off the road",
            _laps(control),
        ),
        (
            "ticks",
            str(control.get("tick", 0)),
            "missed",
            Text(str(missed), style="red" if missed else "green"),
        ),
        (
            "decision",
            f"{_number(control.get('decision_ms'), 0)} ms, path {_number(control.get('latency_ms'), 0)} ms old",
            "adapter",
            _adapter(control.get("adapter_sha256")),
        ),
    ]
    for row in rows:
        table.add_row(*[Text(cell) if isinstance(cell, str) else cell for cell in row])
    if trouble:
        table.add_row(Text("trouble"), Text(str(trouble), style="red"))
    return table


def _learning_table(shot: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    training = shot["training"]
    table.add_row(Text("training"), Text(_training_text(training)))
    verdict = training.get("verdict")
    if isinstance(verdict, dict):
        passed = bool(verdict.get("passed"))
        words = f"{'passed' if passed else 'refused'}: {verdict.get('reason', '')}"
        table.add_row(Text("verdict"), Text(words, style="green" if passed else "red"))
    probation = shot.get("probation") or {}
    if probation.get("state") == "probation":
        table.add_row(Text("adapter"), Text(in_words(probation), style="yellow"))
    for name, gate in (shot["gates"].get("gates") or {}).items():
        mark = Text("open  " if gate["open"] else "closed", style="green" if gate["open"] else "yellow")
        table.add_row(Text(f"gate {name}"), Text.assemble(mark, " ", str(gate["reason"])))
    for name, process in shot["processes"].items():
        if process["restarts"] or not process["running"]:
            state = "running again" if process["running"] else "dead"
            words = f"{state}, {process['restarts']} restarts; {process['last_words']}"
            table.add_row(Text(name), Text(words, style="red"))
    return table


def _training_text(training: dict[str, Any]) -> str:
    phase = str(training.get("phase") or "the sidecar is starting")
    words = [phase]
    if training.get("steps"):
        words.append(f"{training.get('step', 0)}/{training['steps']}")
    if isinstance(training.get("loss"), int | float):
        words.append(f"loss {training['loss']:.3f}")
    if training.get("detail"):
        words.append(f"({training['detail']})")
    return " ".join(words)


def _number(value: Any, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"


def _pair(value: Any) -> str:
    if not isinstance(value, list) or len(value) != 2:
        return "nothing"
    return f"steering {_number(value[0])}, throttle {_number(value[1])}"


def _laps(control: dict[str, Any]) -> str:
    return f"{_number(control.get('laps'))}, {control.get('off_road', 0)} times"


def _adapter(sha256: Any) -> str:
    if sha256 is None:
        return "-"
    return str(sha256)[:12] or "none (base alone)"


def summary_line(summary: RunSummary) -> str:
    """The last line of a run."""
    report, status = summary.report, summary.status
    words = [f"stopped after {summary.seconds:.0f} s"]
    if report is not None:
        words.append(f"{report.ticks} control ticks, {report.missed_ticks} missed")
        words.append(
            f"{report.recorded_steps} steps of its own driving recorded in {len(report.episodes)} episodes"
        )
    taught = status.get("taught") or [0, 0]
    if taught[1]:
        words.append(f"newest lessons: {taught[0]} of {taught[1]} ticks driven by the simulated teacher")
    words.append(f"{_number(status.get('laps'))} laps, {status.get('off_road', 0)} times off the road")
    words.append(f"{summary.swaps} adapter swaps")
    restarts = ", ".join(f"{name} {count}" for name, count in summary.restarts.items() if count)
    words.append(f"restarts: {restarts or 'none'}")
    if summary.put_down:
        words.append(
            "the learning was put down unfinished: the next run, or `continuonbrain train`, goes on with it"
        )
    words += summary.troubles
    return "; ".join(words)
