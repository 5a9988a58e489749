"""`continuonbrain cloud train` and `cloud fit`: the machine that trains, and the shape that a robot takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from continuonbrain.cli.episodes_common import counted, disk_errors, print_json
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.errors import installing

if TYPE_CHECKING:
    from continuonbrain.cloud_train.recipe import Recipe
    from continuonbrain.config.brain import BrainConfig

_LARGEST_KEY_FILE = 64 << 10


class LayerChoice(StrEnum):
    """Where an adapter lies."""

    TOP = "top"
    ALL = "all"


class PrecisionChoice(StrEnum):
    """Of products in a step."""

    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"


class ElsewhereChoice(StrEnum):
    """What becomes of modules that a robot does not adapt."""

    REFUSE = "refuse"
    DROP = "drop"


_Elsewhere = Annotated[
    ElsewhereChoice,
    typer.Option("--elsewhere", help="Modules that the robot does not adapt: refuse them, or drop them."),
]


def train(
    bundles: Annotated[list[Path], typer.Argument(help="What robots exported: zip files or folders.")],
    base: Annotated[Path, typer.Option("--base", help="The robots' base, the same folder as on them.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to train into; one that was begun is gone on with.")
    ],
    key: Annotated[
        list[Path], typer.Option("--key", help="The .pub file of whoever exported; may be repeated.")
    ],
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=1024, help="Processes on this machine.")
    ] = 1,
    rank: Annotated[int | None, typer.Option("--rank", min=1, max=256, help="Default: the robots'.")] = None,
    layers: Annotated[
        LayerChoice, typer.Option("--layers", help="The KV-shared layers, as on the robot, or all.")
    ] = LayerChoice.TOP,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Default: the robots' max_steps.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Samples of one pass over all workers together.")
    ] = None,
    accumulate: Annotated[int, typer.Option("--accumulate", min=1, help="Passes that make one step.")] = 1,
    mixed_precision: Annotated[
        PrecisionChoice, typer.Option("--mixed-precision", help="fp16: on GPUs, untested.")
    ] = PrecisionChoice.NO,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the robots'.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Settings of the robot that it is for, where robots do not train alike."
        ),
    ] = None,
    robot: Annotated[
        str | None, typer.Option("--robot", help="Of several robots the one whose calibration travels.")
    ] = None,
    reflex_steps: Annotated[
        int | None, typer.Option("--reflex-steps", min=0, help="Default: the robots'; 0: no reflex head.")
    ] = None,
    elsewhere: _Elsewhere = ElsewhereChoice.REFUSE,
    cpu: Annotated[bool, typer.Option("--cpu", help="Even where there is a GPU.")] = False,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="FSDP: spread the frozen weights over the workers.")
    ] = False,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps.")] = 50,
    eval_every: Annotated[int, typer.Option("--eval-every", min=1, help="Steps.")] = 50,
    cache_mib: Annotated[
        int, typer.Option("--cache-mib", min=0, help="Of each worker, for what the frozen layers compute.")
    ] = 2048,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Train without bundles that are refused, and name them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter from bundles, as the robot does, on more than a robot has. Begun again, it goes on."""
    from continuonbrain.cloud_train.recipe import recipe_of
    from continuonbrain.cloud_train.train import Asked
    from continuonbrain.cloud_train.train import train as run
    from continuonbrain.storage.public_key import parse_public_key

    keys = []
    for file in key:
        with disk_errors(file), open(file, "rb") as opened:
            keys.append(parse_public_key(opened.read(_LARGEST_KEY_FILE), what=str(file)))

    def recipe(settings: BrainConfig, measured: bool) -> Recipe:
        return recipe_of(
            settings,
            rank=rank,
            layers=layers.value,
            steps=steps,
            batch=batch,
            accumulate=accumulate,
            mixed_precision=mixed_precision.value,
            seed=seed,
            reflex_steps=reflex_steps,
            mirror=measured,
        )

    asked = Asked(
        bundles=tuple(bundles),
        keys=tuple(keys),
        base=base,
        out=out,
        recipe=recipe,
        config=config,
        workers=workers,
        robot=robot,
        elsewhere=elsewhere.value,
        cpu=cpu,
        sharded=sharded,
        save_every=save_every,
        eval_every=eval_every,
        cache_mib=cache_mib,
        skip_refused=skip_refused,
    )
    said = Console(stderr=True, highlight=False)
    with disk_errors(out):
        done = run(asked, lambda words: said.print(words, markup=False, soft_wrap=True))
    if as_json:
        print_json({"out": str(out), **done})
        return
    _print_trained(out, done)


def fit(
    folder: Annotated[Path, typer.Argument(help="What `cloud train` wrote, or an adapter's folder (PEFT).")],
    for_: Annotated[Path, typer.Option("--for", help="The robot: its brain root, or its config.json.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write the adapter into; without: only the error is told."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="The robot's base, where --for is a config.json.")
    ] = None,
    elsewhere: _Elsewhere = ElsewhereChoice.REFUSE,
    as_json: JsonOption = False,
) -> None:
    """Bring an adapter into a robot's shape: the nearest of its rank, on the layers that it adapts."""
    from continuonbrain.cloud_train.fit_folder import fit_folder

    with disk_errors(folder):
        told = fit_folder(folder, for_, out=out, base=base, elsewhere=elsewhere.value)
    if as_json:
        print_json(told)
        return
    _print_fit(told)
    beside = ", ".join(told["with"]) or "nothing else: a robot that has a reflex head refuses it without"
    if told["calibration"]:
        beside += f"\ncalibration: {told['calibration']}; the robot drives it with its own"
    Console(highlight=False).print(f"with {beside}", markup=False, soft_wrap=True)
    if out is not None:
        Console(highlight=False).print(f"written: {out}", markup=False, soft_wrap=True)


def pack(
    folder: Annotated[Path, typer.Argument(help="What `cloud train` or `cloud fit --out` wrote.")],
    out: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    key: Annotated[str, typer.Option("--key", help="The key to sign with: continuonbrain keys new NAME.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Sign an adapter with a key of this machine: one file, for `continuonbrain cloud import` on the robot."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.cloud_train.pack import pack as run

    with disk_errors(out):
        done = run(folder, out, open_brain(root), key_name=key)
    if as_json:
        print_json(
            {"path": str(done.path), "bytes": done.bytes, "key_id": done.key_id, "counter": done.counter}
        )
        return
    Console(highlight=False).print(
        f"{done.path}: {done.bytes:,} bytes, key {done.key_id[:16]}, counter {done.counter}\n"
        f"on the robot: continuonbrain cloud import {done.path.name} --root ITS_ROOT",
        markup=False,
        soft_wrap=True,
    )


def _print_trained(out: Path, done: dict[str, Any]) -> None:
    console = Console(highlight=False)
    own = done.get("samples_of_bundles")  # an earlier release did not say
    of_them = (
        "" if own is None else f", {own} of them the bundles', the others mirrored or what the base knows"
    )
    console.print(
        f"{counted(done['steps'], 'step')} ({done['ended']}) on {counted(done['samples'], 'sample')}{of_them}\n"
        f"{counted(len(done['robots']), 'robot')}, "
        f"{counted(len(done['held_out']), 'episode')} held out, "
        f"{len(done['duplicates'])} came twice",
        markup=False,
        soft_wrap=True,
    )
    for words in [*done.get("refused", []), *done["left_out"]][:5]:
        console.print(f"left out: {words}", style="yellow", markup=False, soft_wrap=True)
    _print_fit(done["fit"])
    if not done["tensorboard"]:
        console.print(f"no TensorBoard files: {installing('cloud')}", markup=False, soft_wrap=True)
    if done["adapter"]:
        console.print(f"adapter: {out / done['adapter']}", markup=False, soft_wrap=True)


def _print_fit(told: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if told["how"] == "refused":
        words = f"not in the robot's shape: {told['why']}\n  {told['remedy']}"
    elif told["how"] == "as it is":
        words = f"of the robot's shape: rank {told['rank']}"
    else:
        words = (
            f"rank {told['rank_before']} -> {told['rank']}, {len(told['dropped'])} modules dropped, "
            f"relative error {told['relative_error']:.4f} (Frobenius)"
        )
    console.print(words, markup=False, soft_wrap=True)
