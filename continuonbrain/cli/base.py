"""`continuonbrain base`: the bases that came back from a bigger machine; which one drives, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cli.episodes_common import print_json
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.storage.base_slots import BaseSlot, BaseSlots

if TYPE_CHECKING:
    from continuonbrain.loops.base_change import BaseChange

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Bases that came back from a bigger machine."
)
_CONFIGURED = "of config.json"


@app.command("list")
def list_bases(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List the bases, and which of them drives."""
    from continuonbrain.loops.base_probation import base_progress

    # Whichever base it names: a damaged one is listed, too.
    brain = open_brain(root, slot="")
    slots = BaseSlots(brain.layout)
    state = slots.state()
    rows: list[dict[str, Any]] = [{"slot": "", "base": str(brain.layout.base_model_dir)}]
    rows += [_row(brain, slot) for slot in slots.list()]
    for row in rows:
        row["drives"] = row["slot"] == state.current
        row["taken_back"] = row["slot"] in state.taken_back
    progress = base_progress(brain)
    if as_json:
        print_json({"bases": rows, "probation": progress, "events": [dict(e) for e in state.events]})
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("base", "", "verdict", "grown from", "key"):
        table.add_column(column)
    for row in rows:
        here = "drives" if row["drives"] else "before" if row["slot"] == state.previous else ""
        if row["drives"] and state.terms is not None:
            here = f"on probation: {progress['ticks']} of {progress['of_ticks']} ticks"
        table.add_row(
            *(Text(str(t)) for t in (row["slot"] or _CONFIGURED, here, row.get("verdict", ""))),
            *(Text(str(t)) for t in (str(row.get("grown_from", ""))[:16], row.get("key", ""))),
        )
    console = Console(highlight=False)
    console.print(table)
    if len(rows) == 1:
        console.print("none came back yet: continuonbrain cloud import FILE")


@app.command()
def verdict(
    slot: Annotated[str, typer.Argument(help="A base: see `base list`.")],
    root: RootOption = DEFAULT_ROOT,
    simulate_host: Annotated[
        bool,
        typer.Option(
            "--simulate-host", help="Take the readings of an idle, cool, charged robot (none runs here)."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge a base beside what drives now: on the simulator's course, and on recordings where there are enough.

    Ends with 1 when it did not pass.
    """
    from continuonbrain.cli.train import bars, parked_host
    from continuonbrain.cli.verdict_table import verdict_table
    from continuonbrain.loops.base_judging import judge_slot
    from continuonbrain.loops.mid import MidLoop

    brain = open_brain(root)
    console = Console(highlight=False)
    with parked_host(brain, insist=simulate_host) as host:
        if as_json:
            told = judge_slot(MidLoop(brain, host=host), slot)
            print_json(told)
        else:
            with bars(console) as show:
                told = judge_slot(MidLoop(brain, host=host, on_status=show), slot)
            console.print(verdict_table(told))
            if told["passed"]:
                console.print(
                    f"it may drive: continuonbrain base switch {slot} --root {brain.layout.root}",
                    soft_wrap=True,
                )
    if not told["passed"]:
        raise typer.Exit(1)


@app.command()
def switch(
    slot: Annotated[str, typer.Argument(help="A base: see `base list`.")],
    again: Annotated[
        bool, typer.Option("--again", help="Although it was taken back once while on probation.")
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", min=0.0, help="Seconds to wait for a learning that is under way.")
    ] = 0.0,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Let a base drive that has passed its verdict. It is watched, and taken back if it drives worse."""
    from continuonbrain.loops.base_change import switch_base

    _print(switch_base(open_brain(root), slot, again=again, wait_s=wait), as_json=as_json)


@app.command()
def confirm(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """End the probation of the base: it stays."""
    from continuonbrain.loops.base_change import confirm_base

    _print(confirm_base(open_brain(root, slot="")), as_json=as_json)


@app.command()
def rollback(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Go back to the base that drove before, with the adapter that it had. A second one undoes the first."""
    from continuonbrain.loops.base_change import roll_back_base

    _print(roll_back_base(open_brain(root, slot="")), as_json=as_json)


def _row(brain: BrainRoot, slot: BaseSlot) -> dict[str, Any]:
    from continuonbrain.errors import BrainError
    from continuonbrain.storage.adapters import AdapterStore

    try:
        told = slot.verdict()
        verdict = "none" if told is None else "passed" if told.get("passed") is True else "not passed"
        adapter = AdapterStore(brain.on(slot.slot).layout).current_id() or ""
    except BrainError as error:
        verdict, adapter = error.message, ""
    grown, imported = slot.about.get("grown_from"), slot.about.get("imported")
    return {
        "slot": slot.slot,
        "base": str(slot.base),
        "base_sha256": slot.base_sha256,
        "adapter": adapter,
        "verdict": verdict,
        "grown_from": grown.get("base_sha256", "") if isinstance(grown, dict) else "",
        "merged_adapter_sha256": grown.get("adapter_sha256", "") if isinstance(grown, dict) else "",
        "key": imported.get("key_name", "") if isinstance(imported, dict) else "",
    }


def _print(change: BaseChange, *, as_json: bool) -> None:
    if as_json:
        print_json({"slot": change.slot, "event": change.event, "running": change.running})
        return
    # It may have seen it before it was told, and be starting already.
    then = (
        "" if change.event == "confirm" else "; a brain that runs starts anew with it, else the next one does"
    )
    Console(highlight=False).print(change.detail + then, markup=False, soft_wrap=True)
