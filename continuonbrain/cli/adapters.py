"""`continuonbrain adapters`: list, show, promote and roll back what the robot has learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.adapters_exchange import export, import_bundle
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.cli.verdict_table import imitation_table, verdict_table
from continuonbrain.errors import BrainError
from continuonbrain.storage.adapters import VERDICT_FILE, AdapterError, AdapterStore, AdapterVersion

_TOLD_FIRST = {
    "episodes",
    "held_out",
    "left_out",
    "calibration",
    "training.wall_s",
    "training.steps",
    "training.samples",
    "training.ended",
    "training.peak_rss_mib",
    "safety_head",
    "imported",
}
"""Keys and groups of a card that are shown unless all of it is asked for."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What the robot has learned.")
app.command("import")(import_bundle)
app.command()(export)


@app.command("list")
def list_adapters(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List all adapters, oldest first, and which of them drives."""
    from continuonbrain.cli.probation_words import fate, in_words, told_of

    brain = open_brain(root)
    store = AdapterStore(brain.layout)
    check, entries = store.verify_history(), store.history()
    slots, problems = _slots(store)
    rows = [{**_row(version, slots), "fate": fate(entries, version)} for version in store.list()]
    probation = told_of(brain) if check.ok else {}
    if as_json:
        history = {"entries": check.entries, "problem": check.problem}
        damaged = [error.message for error in problems]
        _print_json({"adapters": rows, "probation": probation, "history": history, "damaged": damaged})
        return
    console = Console()
    if not rows and not problems:
        console.print("no adapters yet: the base model drives alone")
    if rows:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("adapter", "slot", "verdict"):
            table.add_column(column, no_wrap=True)
        for column in ("what came of it", "trained on", "size"):
            table.add_column(column)
        for row in rows:
            came = row["fate"]
            if probation.get("state") == "probation" and row["id"] == probation["version_id"]:
                came = in_words(probation)
            table.add_row(
                row["id"],
                row["slot"],
                row["verdict"],
                came,
                row["trained_on"],
                f"{row['bytes'] / 1e6:.1f} MB",
            )
        console.print(table)
    wrong = [f"{error.message}\n  try: {error.remedy}" for error in problems]
    for words in (*wrong, *(words for row in rows for words in row["damaged"])):
        console.print(words, style="red", highlight=False, soft_wrap=True, markup=False)
    if not check.ok:
        console.print(
            f"[red]history.jsonl {check.problem}[/red] ({check.entries} entries before it are sound); what to do says "
            f"`continuonbrain doctor --root {brain.layout.root}`",
            soft_wrap=True,
            highlight=False,
        )


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="Adapter id, or: current, candidate, previous.")] = "current",
    full: Annotated[
        bool, typer.Option("--full", help="The whole card, and what each check of the verdict asks.")
    ] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Show an adapter's card and verdict, and whether its bytes are still the ones that were staged."""
    from continuonbrain.cli.probation_words import fate, in_words, told_of

    brain = open_brain(root)
    store = AdapterStore(brain.layout)
    found = store.find(version)
    sha256 = found.compute_sha256()
    probation = told_of(brain) if store.verify_history().ok else {}
    drives = probation.get("state") == "probation" and probation["version_id"] == found.version_id
    came = fate(store.history(), found)
    whole = sha256.startswith(found.sha8)
    card, verdict = found.card(), found.verdict()
    if as_json:
        _print_json(
            {
                "id": found.version_id,
                "path": str(found.path),
                "sha256": sha256,
                "whole": whole,
                "fate": came,
                "probation": probation if drives else {},
                "card": card,
                "verdict": verdict,
            }
        )
        return
    console = Console()
    console.print(f"adapter {found.version_id}  {found.path}", highlight=False, soft_wrap=True)
    console.print(
        f"sha256 {sha256}" if whole else f"[red]damaged: its bytes hash to {sha256}[/red]",
        highlight=False,
        soft_wrap=True,
    )
    if came or drives:
        console.print(in_words(probation) if drives else came, highlight=False, soft_wrap=True, markup=False)
    if card is None:
        console.print("no card")
    else:
        try:
            console.print(_card_table(card, full=full))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            console.print(_strange(f"card of {found.version_id}", error), soft_wrap=True, markup=False)
    if verdict is None:
        console.print("no verdict")
    else:
        try:
            console.print(verdict_table(verdict, full=full))
            console.print(imitation_table(verdict))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            console.print(_strange(f"verdict of {found.version_id}", error), soft_wrap=True, markup=False)
    if not full:
        console.print(
            f"the whole card, and what each check asks: continuonbrain adapters show {version} --full "
            f"--root {brain.layout.root}",
            style="dim",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="Adapter id; the candidate when left out.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Although it was taken back while on probation.")
    ] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Promote the candidate on the verdict beside it, as the sidecar does: on probation, until it has driven as long as
    promotion.probation_ticks and probation_minutes say. Exit 1: the running brain did not follow."""
    from continuonbrain.cli.probation_words import in_words, told_of
    from continuonbrain.loops.promotion import promote_candidate

    brain = open_brain(root)
    told = promote_candidate(brain, version_id=version, again=again)
    if as_json:
        _print_json({"to": told.version_id, "noticed": told.noticed, "detail": told.detail})
    else:
        console = Console(highlight=False)
        console.print(told.detail, markup=False, soft_wrap=True)
        if (probation := told_of(brain)).get("state") == "probation":
            console.print(
                f"{in_words(probation)}; it is confirmed or taken back by itself, `continuonbrain adapters list --root "
                f"{brain.layout.root}` says how far it is",
                markup=False,
                soft_wrap=True,
            )
    if told.running and not told.noticed:
        raise typer.Exit(1)


@app.command()
def confirm(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Confirm the adapter that is on probation, whatever it has driven so far."""
    from continuonbrain.loops.probation import confirm_by_hand

    told = confirm_by_hand(open_brain(root))
    if as_json:
        _print_json({"confirmed": told.version_id, "sha256": told.sha256, "detail": told.detail})
    else:
        Console(highlight=False).print(told.detail, markup=False, soft_wrap=True)


@app.command()
def rollback(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Go back to the adapter that drove before. Once more returns, unless it was on probation. Exit 1: the running
    brain did not follow."""
    from continuonbrain.loops.promotion import roll_back

    brain = open_brain(root)
    store = AdapterStore(brain.layout)
    left = store.current_id()
    told = roll_back(brain)
    now, last = store.current(), store.last_change()
    lost = "" if last is None else str(last.about.get("instead_of") or "")
    if as_json:
        _print_json(
            {
                "from": left,
                "to": now and now.version_id,
                "instead_of": lost,
                "noticed": told.noticed,
                "detail": told.detail,
            }
        )
    else:
        Console(highlight=False).print(
            f"rolled back from {left or _name(None)} to {_name(now)}"
            + (f", because {lost}, which drove before, is damaged or gone" if lost else "")
            + f"; {told.detail}",
            markup=False,
            soft_wrap=True,
        )
    if told.running and not told.noticed:  # on disk it is done, but another adapter still drives
        raise typer.Exit(1)


@app.command()
def convert(
    adapter: Annotated[Path, typer.Argument(help="A PEFT folder, for example model/adapters/current.")],
    out: Annotated[Path, typer.Argument(help="File to write (.safetensors); it must not exist.")],
    bundle: Annotated[
        Path, typer.Option("--bundle", help="The bundle that will take it: BASE/serving/fp32.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Write an adapter as the one file that a serving bundle takes. The bundle stays as it is, nothing is exported."""
    from continuonbrain.model.serving.adapter_inputs import adapter_inputs, write_inputs
    from continuonbrain.model.serving.spec import read_bundle

    if out.exists():
        raise BrainError(f"{out} exists already", remedy="remove it, or choose another name")
    spec = read_bundle(bundle)
    inputs = adapter_inputs(adapter, spec.lora, base_sha256=spec.base_sha256)
    write_inputs(out, inputs, spec.lora, base_sha256=spec.base_sha256)
    used = sum(bool(v.any()) for v in inputs.values()) // 2
    told = {"path": str(out), "rank": spec.lora.rank, "modules": used, "bytes": out.stat().st_size}
    if as_json:
        _print_json(told)
        return
    Console(highlight=False).print(
        f"{out}: {told['bytes']:,} bytes, rank {spec.lora.rank}, {used} of {len(spec.lora.sites)} modules",
        soft_wrap=True,
    )


def _slots(store: AdapterStore) -> tuple[dict[str, str], list[BrainError]]:
    """The slot of each version that stands in one, and what is wrong with slots."""
    slots: dict[str, str] = {}
    problems: list[BrainError] = []
    for name, read in (
        ("previous", store.previous),
        ("candidate", store.candidate),
        ("current", store.current),
    ):
        try:
            version = read()
        except AdapterError as error:
            problems.append(error)
            continue
        if version is not None:
            slots[version.version_id] = name
    return slots, problems


def _row(version: AdapterVersion, slots: Mapping[str, str]) -> dict[str, Any]:
    damaged: list[str] = []
    verdict, card = (_paper(read, damaged) for read in (version.verdict, version.card))
    said = "none" if verdict is None else "passed" if verdict.get("passed") is True else "failed"
    return {
        "id": version.version_id,
        "slot": slots.get(version.version_id, ""),
        "verdict": "damaged" if any(VERDICT_FILE in words for words in damaged) else said,
        "damaged": damaged,
        "trained_on": _episodes_in_words(card or {}),
        "bytes": sum(path.stat().st_size for path in version.path.iterdir() if path.is_file()),
    }


def _paper(read: Callable[[], dict[str, Any] | None], damaged: list[str]) -> dict[str, Any] | None:
    """A card or verdict; of one that is damaged it is told, and the list goes on."""
    try:
        return read()
    except AdapterError as error:
        damaged.append(f"{error.message} ({error.remedy})")
        return None


def _episodes_in_words(card: Mapping[str, Any]) -> str:
    episodes = card.get("episodes")
    if isinstance(episodes, list):
        return f"{len(episodes)} episodes"
    return f"{episodes} episodes" if isinstance(episodes, int) else ""


def _card_table(card: Mapping[str, Any], *, full: bool) -> Table:
    from continuonbrain.rlds.summary import sparkline  # numpy: not for listing commands

    table = Table(title="card", title_justify="left", show_header=False, box=SIMPLE)
    losses = [float(x) for x in card.get("losses", [])]
    for key, value in _flatten({k: v for k, v in card.items() if k != "losses"}):
        if full or key.split(".")[0] in _TOLD_FIRST or key in _TOLD_FIRST:
            table.add_row(Text(key), Text(value))
    if losses:
        table.add_row("loss by step", f"{sparkline(losses)}  {losses[0]:.3g} to {losses[-1]:.3g}")
    return table


def _strange(what: str, error: Exception) -> str:
    return f"the {what} is not of this program's making ({error}); --json shows it as it is"


def _flatten(paper: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in paper.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and len(value) > 8:
            yield f"{prefix}{key}", f"{len(value)} values: {value[0]} ... {value[-1]}"
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(str(v) for v in value) or "none"
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:.4g}"
        else:
            yield f"{prefix}{key}", str(value)


def _name(version: AdapterVersion | None) -> str:
    return "the base model alone" if version is None else version.version_id


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
