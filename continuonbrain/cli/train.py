"""`continuonbrain train`: one round of the sidecar, now: gates, training, verdict, promotion."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from continuonbrain import config as settings
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.cli.verdict_table import imitation_table, verdict_table
from continuonbrain.loops.mid import MidLoop, Outcome, Status, end_on_signals
from continuonbrain.loops.owner import OWNER
from continuonbrain.robot.host import MACHINE_READINGS, Host, LinuxHost, MixedHost, SimulatedHost
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.lock import LockHeldError, ProcessLock

_TITLES = {
    "read": "reading episodes",
    "cache": "frozen layers",
    "reflex": "reflex head",
    "train": "LoRA steps",
    "judge": "judging",
    "check": "checking",
}


def train(
    root: RootOption = DEFAULT_ROOT,
    hold: Annotated[bool, typer.Option("--hold", help="Judge, but do not promote.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Train even when no episode is new.")] = False,
    simulate_host: Annotated[
        bool,
        typer.Option(
            "--simulate-host", help="Take the readings of an idle, cool, charged robot (no robot runs here)."
        ),
    ] = False,
    min_episodes: Annotated[
        int | None, typer.Option("--min-episodes", min=1, help="Instead of min_episodes in config.json.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train on the recorded episodes if the gates allow it, judge the adapter, promote it if it passes.

    Ends with 1 when it was not trained (closed gates, too few episodes) or not promoted because the verdict is no.
    """
    brain = open_brain(root)
    if min_episodes is not None:
        brain = replace(brain, config=brain.config.with_overrides({"min_episodes": min_episodes}))
    flags = [f for f, on in (("--hold", hold), ("--again", again), ("--simulate-host", simulate_host)) if on]
    flags += [] if min_episodes is None else ["--min-episodes", str(min_episodes)]
    command = shlex.join(["continuonbrain", "train", "--root", str(brain.layout.root), *flags])
    with parked_host(brain, insist=simulate_host) as host:
        if as_json:
            mid = MidLoop(brain, host=host)
            outcome = interruptible(mid, command, lambda: mid.round(hold=hold, again=again))
            typer.echo(json.dumps(asdict(outcome)))
        else:
            outcome = _train_on_terminal(brain, host, command, hold=hold, again=again)
    if outcome.said_no:
        raise typer.Exit(1)


Done = TypeVar("Done")


def interruptible(mid: MidLoop, again_here: str, work: Callable[[], Done]) -> Done:
    """Work that Ctrl-C and SIGTERM end so that the next goes on from there. again_here: what to type for that."""
    end_on_signals([mid], lambda number: 128 + number)
    try:
        return work()
    except SystemExit:
        if not mid.layout.training_state_path.exists():
            typer.echo(
                f"stopped ({mid.status.phase}) with nothing to go on from; to start over: {again_here}",
                err=True,
            )
        else:
            # The counter of any other phase is not the training's: its last step is on disk when it is judged.
            where = f" at step {mid.status.step}" if mid.status.phase == "train" else f" ({mid.status.phase})"
            typer.echo(f"put down{where}; to go on from there: {again_here}", err=True)
        raise


@contextmanager
def parked_host(brain: BrainRoot, *, insist: bool) -> Iterator[Host | None]:
    """Readings of an idle, cool, charged robot where none runs; None where the real ones must be read.

    A simulated robot that nobody runs is parked by definition. The brain's lock is held meanwhile, so that none
    can start to drive under readings that say it stands. insist: also for hardware (--simulate-host); raises
    `LockHeldError` when a robot runs here.
    """
    lock = ProcessLock(brain.layout.brain_lock_path, purpose="train with the readings of a parked robot")
    if not insist and brain.config.robot.kind != "sim-donkey":
        yield None
        return
    try:
        lock.acquire()
    except LockHeldError:
        if insist:
            raise
        yield None
        return
    try:
        host = SimulatedHost()
        host.set(battery_fraction=1.0, cpu_temp_c=45.0, idle_s=3600.0, teleop_active=0.0)
        # This machine's memory and disk are not invented.
        yield MixedHost(host, LinuxHost(disk_path=brain.layout.root, names=MACHINE_READINGS))
    finally:
        lock.release()


def _train_on_terminal(
    brain: BrainRoot, host: Host | None, command: str, *, hold: bool, again: bool
) -> Outcome:
    console = Console(highlight=False)
    lacking = [n for n in brain.config.lora_layers if n in settings.LORA_TARGETS_NOT_IN_SHARED_LAYERS]
    if lacking:
        console.print(f"lora_layers: {', '.join(lacking)} left out: Gemma 3n's KV-shared layers have none")
    with bars(console) as show:
        mid = MidLoop(brain, host=host, on_status=show)
        outcome = interruptible(mid, command, lambda: mid.round(hold=hold, again=again))
    _print(console, outcome, brain.layout, simulated=host is not None)
    return outcome


@contextmanager
def bars(console: Console) -> Iterator[Callable[[Status], None]]:
    """A progress bar for each phase of the trainer, and the episodes that it leaves out, as `on_status`. Where nobody
    looks at a terminal (a log, ssh, cron) one line a phase."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}
        named: set[str] = set()

        def show(status: Status) -> None:
            for words in status.left_out:
                if words not in named:  # before the long work, while there is time to stop it
                    named.add(words)
                    bar.console.print(f"[yellow]not learned from:[/yellow] {escape(words)}", soft_wrap=True)
            title = _TITLES.get(status.phase)
            if title is None or not status.steps:
                return
            if status.phase not in tasks:
                _stop(bar, tasks.values())
                if not console.is_terminal:
                    console.print(f"{title} ({status.steps})")
                tasks[status.phase] = bar.add_task(title, total=status.steps, note="")
            note = f"loss {status.loss:.3f}" if status.loss is not None else status.detail
            bar.update(tasks[status.phase], completed=status.step, total=status.steps, note=note)

        yield show
        _stop(bar, tasks.values())


def _stop(bar: Progress, tasks: Collection[TaskID]) -> None:
    """Stop the clocks, and say of a bar that did not get to its end that it will not."""
    for task in bar.tasks:
        if task.id in tasks and task.stop_time is None:
            bar.stop_task(task.id)
            if not task.finished and "ended early" not in task.fields["note"]:
                bar.update(task.id, note=f"{task.fields['note']} ended early".strip())


def trained_text(training: dict[str, Any]) -> str:
    """The figures of a job in words."""
    steps, seconds = training.get("steps"), training.get("train_s")
    ended = training.get("ended")
    why = {"wall time": "max_wall_time_s of config.json", "steps": "max_steps of config.json"}.get(
        str(ended), ended
    )
    text = f"{steps} LoRA steps in {seconds} s, ended by {why}"
    if training.get("resumed_at"):
        text += f", gone on with at step {training['resumed_at']}"
    if training.get("anew"):
        text += f", from the base on all lessons ({training['anew']})"
    if training.get("reflex_steps"):
        text += f"; {training['reflex_steps']} steps of the reflex head in {training['reflex_s']} s"
    return (
        text
        + f"; {training.get('recalled', 0)} of {training.get('samples')} samples had been kept while driving"
    )


def summary(outcome: Outcome) -> str:
    """What came of a round, in one sentence: learned from what, the verdict, and whether it drives now."""
    verdict = outcome.verdict or {}
    if outcome.training or verdict:
        episodes, held = outcome.training.get("episodes"), outcome.training.get("held_out")
        words = ["nothing was trained, the candidate was judged"]
        if episodes is not None:
            kept = outcome.training.get("for_exams")
            unseen = f", {kept} kept unseen for the exams of consolidations" if kept else ""
            words = [f"learned from {episodes} episodes ({held} more held out to judge it{unseen})"]
        if outcome.left_out:
            words[0] += f", {len(outcome.left_out)} left out"
        words.append(f"the verdict is {'yes' if verdict.get('passed') else 'no'}")
    elif outcome.phase in ("promoted", "judged"):  # of an earlier round
        words = ["nothing was trained: the candidate of an earlier round has passed"]
    else:
        words = ["nothing was learned"]
    did = {
        "promoted": f"promoted: {outcome.detail}",
        "judged": outcome.detail.removeprefix("passed; "),
        "refused": f"not promoted, what drove before goes on: {outcome.detail}",
        "gates": f"gates are closed: {outcome.detail}",
    }
    return "; ".join([*words, did.get(outcome.phase, outcome.detail)])


def gates_advice(gates: dict[str, Any], layout: BrainLayout, *, simulated: bool) -> str:
    """What a person does about gates that are closed. gates: as an outcome has them; simulated: readings of a parked
    robot are taken already."""
    states = gates.get("gates")
    closed = {name for name, s in states.items() if not s["open"]} if isinstance(states, dict) else set()
    words = []
    if OWNER in closed:
        words.append(
            f"end the pause: Start under Learn in the dashboard, or remove {layout.owner_pause_path}"
        )
    if "budget" in closed:
        words.append("wait for tomorrow, or raise training.daily_energy_wh or daily_write_mib in config.json")
    if closed - {OWNER, "budget"} or not words:
        rest = "wait until the robot is idle, cool and charged"
        if simulated:
            rest = (
                "what this computer itself lacks stands beside each gate (continuonbrain doctor shows them)"
            )
        words.append(rest if simulated else f"{rest}; where no robot runs: --simulate-host")
    return "; then ".join(words)


def _print(console: Console, outcome: Outcome, layout: BrainLayout, *, simulated: bool) -> None:
    root = str(layout.root)
    if outcome.gates:
        table = Table(title="gates", title_justify="left", show_header=False)
        states = outcome.gates.get("gates", {})
        for name, state in states.items() if isinstance(states, dict) else ():
            light = "[green]open[/green]" if state["open"] else "[red]closed[/red]"
            table.add_row(name, light, state["reason"])
        console.print(table)
    if outcome.training:
        console.print(f"trained: {trained_text(outcome.training)}")
    if outcome.verdict:
        console.print(verdict_table(outcome.verdict))
        console.print(imitation_table(outcome.verdict))
    colour = {"promoted": "green", "judged": "green", "refused": "red"}.get(outcome.phase, "yellow")
    console.print(f"[{colour}]{escape(summary(outcome))}[/{colour}]", soft_wrap=True)
    advice = {
        "waiting": "teach something new; to learn from the same episodes once more (the same are held out; the result "
        f"changes with config.json and with what drives now): continuonbrain train --root {root} --again"
        if outcome.nothing_new
        else f"more episodes: continuonbrain run --root {root} teaches a simulated robot, continuonbrain episodes "
        f"import-tub TUB --root {root} brings recordings; or fewer are enough: --min-episodes",
        "gates": gates_advice(outcome.gates or {}, layout, simulated=simulated),
        "refused": f"see it whole: continuonbrain adapters show candidate --root {root}",
        "judged": "let the robot drive on until that is over; by hand: continuonbrain adapters confirm or rollback "
        f"--root {root}"
        if outcome.held
        else f"promote it: continuonbrain train --root {root} (without --hold; nothing is trained again)",
        "promoted": f"see it: continuonbrain adapters show --root {root}",
    }
    console.print(
        f"next: {advice.get(outcome.phase, f'continuonbrain doctor --root {root}')}", soft_wrap=True
    )
