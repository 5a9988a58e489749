"""`continuonbrain study`: ways of learning compared on the simulator's shifts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from continuonbrain.cli.root_option import JsonOption

if TYPE_CHECKING:
    from continuonbrain.study.plan import Cell
    from continuonbrain.study.runner import Study


def study(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for lessons, results, table and picture; gone on with.")
    ] = Path("study"),
    parts: Annotated[
        str, typer.Option("--parts", help="What to run, by comma: steps, wall, episodes, depth.")
    ] = "steps,wall,episodes,depth",
    shifts: Annotated[str, typer.Option("--shifts", help="By comma.")] = "tape,pitch,dark",
    learners: Annotated[
        str | None, typer.Option("--learners", help="By comma; all without.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=20)] = 3,
    tracks: Annotated[int, typer.Option("--tracks", min=1, help="Held-out tracks of every score.")] = 24,
    base: Annotated[
        Path | None,
        typer.Option("--base", help="A driving base; the shipped one without.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Cells at once, one thread each.")] = 2,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A few minutes: one shift, hardly any steps, few tracks. Proves nothing."
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: table and picture of what is in OUT.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare LoRA in the shared layers with more of the model, and with a convolution policy (hours).

    Every result is kept at once in OUT/results.jsonl; the same command goes on where it was interrupted.
    """
    from continuonbrain.errors import BrainError
    from continuonbrain.model.base_identity import tiny_base_folder
    from continuonbrain.robot.sim.shifts import SHIFTS
    from continuonbrain.study.learners import LEARNERS
    from continuonbrain.study.plan import MAIN, PARTS, StudySettings, quick_settings
    from continuonbrain.study.report import draw, markdown
    from continuonbrain.study.runner import Study

    def chosen(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in names:
            if name not in known:
                raise BrainError(f"{option}: {name!r} is unknown", remedy=f"choose from {', '.join(known)}")
        return names

    wanted = chosen(parts, PARTS[1:], "--parts")
    who = MAIN if learners is None else chosen(learners, LEARNERS, "--learners")
    where = chosen(shifts, tuple(SHIFTS), "--shifts")
    if "wall" in wanted and "shared" not in who:
        raise BrainError(
            "--parts wall takes its time from the learner 'shared'", remedy="add it to --learners"
        )
    settings = StudySettings(shifts=where, learners=who, seeds=seeds, tracks=tracks)
    if quick:
        settings = quick_settings(settings)
    whole = Study(out, base or tiny_base_folder(), settings)
    console = Console(stderr=as_json, highlight=False)
    if not report:
        _run(whole, wanted, workers=workers, console=console)
    rows = whole.rows()
    if not rows:
        raise BrainError(f"{out} holds no results", remedy="run the study first, without --report")
    table = markdown(rows)
    (out / "study.md").write_text(table + "\n")
    draw(rows, out / "study.png")
    if as_json:
        typer.echo(
            json.dumps({"rows": rows, "table": str(out / "study.md"), "picture": str(out / "study.png")})
        )
        return
    console.print(table, soft_wrap=True, markup=False)
    console.print(f"written to {out / 'study.md'} and {out / 'study.png'}")


def _run(study: Study, parts: tuple[str, ...], *, workers: int, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks = {"": bar.add_task("getting ready", total=None)}

        def on_cell(cell: Cell, done: int, total: int, seconds: float) -> None:
            if cell.part not in tasks:
                tasks[cell.part] = bar.add_task(cell.part, total=total)
            bar.update(tasks[cell.part], completed=done, total=total)
            bar.update(tasks[""], visible=False)
            if not console.is_terminal:
                console.print(f"{cell.part} {done}/{total} {cell.key} {seconds:.0f} s")

        try:
            study.run(parts, workers=workers, on_cell=on_cell)
        except KeyboardInterrupt:
            console.print("put down: what is finished is kept, the same command goes on from there")
            raise
