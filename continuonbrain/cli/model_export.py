"""`continuonbrain model export`, `merge`, `export-app`: a base for the robot, with an adapter in it, or for an app."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.cli.root_option import JsonOption
from continuonbrain.model.serving.spec import DrivingSpec, LanguageSpec
from continuonbrain.policy.open_engine import BUNDLES, LANGUAGE_BUNDLES

_EXPORT_PROMPTS, _EXPORT_ROADS = 12, range(960_000, 960_008)
"""Prompts and roads (nobody else's) that an export is compared with torch on."""

_CONTEXT = 1024
"""Tokens of a conversation; what the phone apps of flutter_gemma ask for at least."""

_HEADS = {
    "adapter": "its reflex head is the adapter's",
    "base": "its reflex head is the old base's: the adapter has none",
    "": "it has no reflex head",
}
"""Of a merged base, by whose it is."""


class ExportPrecision(StrEnum):
    """How the graphs hold the base's weights."""

    FP32 = "fp32"
    INT8 = "int8"


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
