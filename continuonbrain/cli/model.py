"""`continuonbrain model`: rebuild the tiny base and show what a base is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from continuonbrain.cli.root_option import JsonOption
from continuonbrain.errors import BrainError
from continuonbrain.model.serving.spec import DrivingSpec, LanguageSpec
from continuonbrain.policy.open_engine import BUNDLES, LANGUAGE_BUNDLES
from continuonbrain.rlds.summary import sparkline

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Base models.")
_EXPORT_PROMPTS, _EXPORT_ROADS = 12, range(960_000, 960_008)
"""Prompts and roads (nobody else's) that an export is compared with torch on."""


_CONTEXT = 1024
_HEADS = {
    "adapter": "its reflex head is the adapter's",
    "base": "its reflex head is the old base's: the adapter has none",
    "": "it has no reflex head",
}
"""Tokens of a conversation; what the phone apps of flutter_gemma ask for at least."""


class ExportPrecision(StrEnum):
    """How the graphs hold the base's weights."""

    FP32 = "fp32"
    INT8 = "int8"


@app.command("build-tiny")
def build_tiny_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the base into.")],
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    chunks: Annotated[
        int | None,
        typer.Option("--chunks", min=1, help="Chunks of 512 states for the whole model.", show_default=False),
    ] = None,
    trunk_chunks: Annotated[
        int | None,
        typer.Option("--trunk-chunks", min=1, help="... for the image trunk.", show_default=False),
    ] = None,
    reflex_chunks: Annotated[
        int | None,
        typer.Option("--reflex-chunks", min=1, help="... for the reflex head.", show_default=False),
    ] = None,
    shared_layers: Annotated[
        int, typer.Option("--shared-layers", min=1, max=6, help="KV-shared layers, of 8 (for studies).")
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """Train the tiny driving base from the simulator (seeded; under an hour on two cores) and score it."""
    from continuonbrain.trainer.build_tiny import Recipe, build_tiny

    default = Recipe()
    recipe = Recipe(
        seed=seed,
        chunks=chunks or default.chunks,
        trunk_chunks=trunk_chunks or default.trunk_chunks,
        shared_layers=shared_layers,
        reflex=replace(default.reflex, chunks=reflex_chunks or default.reflex.chunks),
    )
    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        card = build_tiny(out, recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    _print_card(console, out, card)


@app.command("build-reflex")
def build_reflex_command(
    base: Annotated[Path, typer.Argument(help="A driving base's folder; its reflex head is replaced.")],
    as_json: JsonOption = False,
) -> None:
    """Train a driving base's reflex head from the simulator (seeded; some minutes) and score it."""
    from continuonbrain.trainer.build_reflex import ReflexRecipe, build_reflex

    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        section = build_reflex(base, ReflexRecipe(), report)
    if as_json:
        typer.echo(json.dumps(section))
        return
    _print_card(console, base, section)


@app.command("build-safety")
def build_safety_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the head and its card into.")],
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, help="Parts of some 7,000 states each.", show_default=False),
    ] = None,
    scores_only: Annotated[
        bool, typer.Option("--scores-only", help="Score the head that is there; train nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the safety head from the simulator (seeded; some twenty minutes on two cores) and score it."""
    from continuonbrain.trainer.build_safety import SafetyRecipe, build_safety, score_again

    recipe = SafetyRecipe(seed=seed, parts=parts or SafetyRecipe().parts)
    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        card = score_again(out, report) if scores_only else build_safety(out, recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    table = Table(
        "world", "AUROC", "as bought", "false alarms at 95 %", "calibration error", title=f"safety head {out}"
    )
    for name, found in card["scores"].items():
        known, bought = found["calibrated"], found["as_bought"]
        table.add_row(
            name,
            f"{known['auroc']:.3f}",
            f"{bought['auroc']:.3f}",
            f"{known['false_alarms_at_95']:.3f}",
            f"{known['calibration_error']:.3f}",
        )
    console.print(table)


@app.command("build-world")
def build_world_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the head and its card into.")],
    safety: Annotated[
        Path | None,
        typer.Option(
            "--safety",
            help="Folder of the safety head whose grids it reads. Default: the shipped one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, help="Parts of some 2,900 states each.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a world head from the simulator (seeded; some half an hour on two busy cores) and score it."""
    from continuonbrain.storage.layout import shipped_safety_head
    from continuonbrain.trainer.build_world import WorldRecipe, build_world

    recipe = WorldRecipe(seed=seed, parts=parts or WorldRecipe().parts)
    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        card = build_world(out, safety or shipped_safety_head(), recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    table = Table(
        "world", "AUROC", "as bought", "grid error", "if unchanged", "if moved", title=f"world head {out}"
    )
    for name, found in card["scores"].items():
        known = found["calibrated"]
        table.add_row(
            name,
            f"{known['auroc']:.3f}",
            f"{found['as_bought']['auroc']:.3f}",
            f"{known['feature_error']:.4f}",
            f"{known['feature_error_unchanged']:.4f}",
            f"{known['feature_error_moved']:.4f}",
        )
    console.print(table)


@app.command("export")
def export_command(
    base: Annotated[Path, typer.Argument(help="A driving base's folder, or one of a Hugging Face Gemma 3n.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write the bundle into; it must not exist. Without: BASE/serving/PRECISION, "
            "BASE/language/PRECISION for words, where the engines look.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        ExportPrecision, typer.Option("--precision", help="int8: weight matrices by output channel.")
    ] = ExportPrecision.INT8,
    rank: Annotated[int, typer.Option("--rank", min=1, max=256, help="Highest rank of an adapter.")] = 16,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            min=8,
            max=32_768,
            help="Export what answers in words, for conversations of so many tokens "
            f"({_CONTEXT} where the base does not drive).",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a base to LiteRT graphs that take adapters as inputs, and compare them with torch (x86-64, a minute).

    Needs an environment of its own: pip install -c constraints-export.txt -e '.\\[train,export]'.
    """
    from continuonbrain.model.base_identity import is_driving_base

    drives = is_driving_base(base)
    console = Console(stderr=True, highlight=False)
    with console.status("loading the converter") as status:
        if drives and context is None:
            spec: DrivingSpec | LanguageSpec = _export_driving(
                base, out or base / BUNDLES / precision.value, precision, rank, status.update
            )
        else:
            from continuonbrain.model.serving.export_language import export_language

            spec = export_language(
                base,
                out or base / LANGUAGE_BUNDLES / precision.value,
                precision=precision.value,
                rank=rank,
                context=context or _CONTEXT,
                on_stage=status.update,
            )
    if as_json:
        typer.echo(spec.model_dump_json())
        return
    check = spec.check
    where = out or base / (BUNDLES if isinstance(spec, DrivingSpec) else LANGUAGE_BUNDLES) / precision.value
    megabytes = (where / spec.graph_file).stat().st_size / 1e6
    Console(highlight=False).print(
        f"{where}: {spec.what}, {spec.precision}, {megabytes:.1f} MB, "
        f"LoRA up to rank {spec.lora.rank} on {len(spec.lora.sites)} modules\n"
        f"beside torch, {check.prompts} prompts without and with adapters: logits differ by at most "
        f"{check.max_logit_diff:.2g}, the same token is likeliest in {check.agreement:.1%}",
        soft_wrap=True,
    )


@app.command("merge")
def merge_command(
    base: Annotated[Path, typer.Argument(help="A driving base's folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the merged base into; it must not exist.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="The PEFT folder of an adapter of this base.")],
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into a base's weights: another base, compared with base and adapter by torch.

    Then: `model export OUT` for its graphs, `cloud pack-base OUT` for a robot.
    """
    from continuonbrain.model.merge import merge_adapter

    made = merge_adapter(base, adapter, out)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "path": str(made.path),
                    "base_sha256": made.base_sha256,
                    "grown_from": {"base_sha256": made.grown_from, "adapter_sha256": made.adapter_sha256},
                    "modules": made.modules,
                    "max_logit_diff": made.max_logit_diff,
                    "moved": made.moved,
                    "reflex": made.reflex,
                }
            )
        )
        return
    Console(highlight=False).print(
        f"{made.path}: base {made.base_sha256[:16]}, {made.modules} modules merged\n"
        f"beside base and adapter logits differ by at most {made.max_logit_diff:.2g}; the adapter moves them by "
        f"{made.moved:.2g}\n{_HEADS[made.reflex]}\nits graphs: continuonbrain model export {made.path}",
        markup=False,
        soft_wrap=True,
    )


@app.command("export-app")
def export_app_command(
    base: Annotated[Path, typer.Argument(help="A Hugging Face Gemma 3n folder.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="File to write; it must not exist. Without: BASE/plain.litertlm, or BASE/merged.litertlm with an "
            "adapter, which the manifest then names.",
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", help="A PEFT folder to merge into the weights.", show_default=False),
    ] = None,
    precision: Annotated[ExportPrecision, typer.Option("--precision")] = ExportPrecision.INT8,
    context: Annotated[int, typer.Option("--context", min=1, max=32_768)] = _CONTEXT,
    as_json: JsonOption = False,
) -> None:
    """Export a bundle for flutter_gemma (.litertlm), plain or with an adapter merged, compared with torch (x86-64).

    Needs an environment of its own: pip install -c constraints-export.txt -e '.\\[train,export]'.
    """
    from continuonbrain.model.serving.export_app import export_app
    from continuonbrain.storage.manifest import APP_BUNDLES

    name = APP_BUNDLES["plain_bundle" if adapter is None else "merged_bundle"]
    console = Console(stderr=True, highlight=False)
    with console.status("loading the converter") as status:
        made = export_app(
            base,
            out or base / name,
            adapter=adapter,
            precision=precision.value,
            context=context,
            on_stage=status.update,
        )
    check = made.check
    if as_json:
        typer.echo(
            json.dumps({"path": str(made.path), "megabytes": made.megabytes, "check": check.model_dump()})
        )
        return
    Console(highlight=False).print(
        f"{made.path}: {precision.value}, {made.megabytes:.1f} MB, {context} tokens\n"
        f"beside torch, {check.prompts} tokens of a conversation: logits differ by at most "
        f"{check.max_logit_diff:.2g}, the same token is likeliest in {check.agreement:.1%}",
        soft_wrap=True,
    )


def _export_driving(
    base: Path, out: Path, precision: ExportPrecision, rank: int, on_stage: Callable[[str], None]
) -> DrivingSpec:
    from continuonbrain.model.base_identity import base_sha256
    from continuonbrain.model.serving.export import export_bundle
    from continuonbrain.policy.litert_engine import prompt_spec
    from continuonbrain.policy.prompt import PromptLayout
    from continuonbrain.trainer.states import StateSource

    base_sha256(base)  # names a missing file before half a minute of imports
    layout = PromptLayout.from_folder(base)
    states = StateSource(_EXPORT_ROADS, seed=0, chunk=_EXPORT_PROMPTS).draw()
    samples = list(zip(layout.ids(states.phrases, states.speeds), states.frames, strict=True))
    return export_bundle(
        base,
        out,
        prompt_spec(layout),
        samples,
        precision=precision.value,
        rank=rank,
        on_stage=on_stage,
    )


@contextmanager
def _reporting(console: Console) -> Iterator[Callable[[str, int, int, float], None]]:
    """A bar for every stage, or a line for every tenth where nobody watches."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}
        told: dict[str, int] = {}

        def report(stage: str, step: int, total: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, note="")
            bar.update(tasks[stage], completed=step, note=f"loss {loss:.4f}")
            tenth = 10 * step // total
            if not console.is_terminal and tenth > told.get(stage, -1):  # a log file shows no bar
                told[stage] = tenth
                console.print(f"{stage} {step}/{total} loss {loss:.4f}")

        yield report


@app.command("show")
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="A base folder; the shipped tiny base without.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a base's identity and card."""
    from continuonbrain.model.base_identity import (
        base_sha256,
        check_base_files,
        checkpoint_sha256,
        is_driving_base,
        tiny_base_folder,
    )

    where = folder or tiny_base_folder()
    if not where.is_dir():
        raise BrainError(
            f"{where}: no such folder", remedy="give the folder of a base, or none for the shipped one"
        )
    # A folder without a config.json is no base of any kind: the driving ones' words say what it may be.
    sha256 = checkpoint_sha256(where) if (where / "config.json").is_file() else base_sha256(where)
    if is_driving_base(where):
        check_base_files(where)
    card = json.loads((where / "card.json").read_text()) if (where / "card.json").exists() else {}
    if as_json:
        typer.echo(json.dumps({"folder": str(where), "sha256": sha256, "card": card}))
        return
    console = Console(highlight=False)
    console.print(f"sha256 {sha256}", soft_wrap=True)
    if not is_driving_base(where):
        console.print(
            "it was not built to drive; it may answer in words: continuonbrain chat --base", soft_wrap=True
        )
    _print_card(console, where, card)


def _print_card(console: Console, folder: Path, card: dict[str, Any]) -> None:
    table = Table("", "", title=str(folder), title_justify="left", show_header=False)
    _add_rows(table, "", card)
    console.print(table)


def _add_rows(table: Table, group: str, values: dict[str, Any]) -> None:
    for key, value in values.items():
        name = f"{group}: {key.replace('_', ' ')}" if group else key
        if key.endswith("loss_curve") and value:
            numbers = [float(x) for x in value]
            table.add_row(name, f"{sparkline(numbers)}  {numbers[0]:.3g} to {numbers[-1]:.3g}")
        elif isinstance(value, dict):
            table.add_section()
            _add_rows(table, name, value)
            table.add_section()
        else:
            table.add_row(name, Text(_told(value)))


def _told(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
