"""`continuonbrain cloud import` and `cloud pack-base`: what comes back from a bigger machine, and making it there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.adapters_exchange import print_imported
from continuonbrain.cli.episodes_common import disk_errors, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.cloud.check import is_memory
from continuonbrain.errors import BrainError


def import_bundle(
    file: Annotated[Path, typer.Argument(help="A signed adapter, or a signed base.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Take a signed adapter as candidate, or a signed base as a slot of its own. Neither drives by this."""
    from continuonbrain.loops.adapter_import import Imported
    from continuonbrain.loops.cloud_import import import_bundle as take

    brain = open_brain(root)
    with disk_errors(file), progress_bar("importing MiB", hidden=as_json) as bar:
        if is_memory(file):
            raise BrainError(
                f"{file} is a robot's memory: there is no adapter or base in it to take",
                remedy="train on it: continuonbrain cloud train BUNDLE; what comes of that is packed, and imported",
            )
        taken = take(brain, file, progress=lambda done, total: bar(done >> 20, total >> 20))
    if isinstance(taken, Imported):
        print_imported(taken, brain.layout.root, as_json=as_json)
        return
    if as_json:
        print_json(
            {
                "kind": "base",
                "slot": taken.slot,
                "base_sha256": taken.base_sha256,
                "grown_from": {
                    "base_sha256": taken.grown_from.base_sha256,
                    "adapter_sha256": taken.grown_from.adapter_sha256,
                },
                "key": taken.key.name,
                "key_id": taken.key.key_id,
                "counter": taken.counter,
                "bytes": taken.bytes,
                "signatures_not_verified": list(taken.not_verified),
            }
        )
        return
    said = f"base {taken.slot}, signed by {taken.key.name} (counter {taken.counter}), {taken.bytes:,} bytes"
    if taken.not_verified:
        said += f"; not verified: {', '.join(taken.not_verified)}"
    said += (
        f"\ngrown from base {taken.grown_from.base_sha256[:16]} with adapter {taken.grown_from.adapter_sha256[:16]}"
        f"\nit does not drive: continuonbrain base verdict {taken.slot} --root {brain.layout.root}, then base switch"
    )
    Console(highlight=False).print(said, markup=False, soft_wrap=True)


def pack_base(
    folder: Annotated[Path, typer.Argument(help="A merged base: `model merge`, then `model export`.")],
    key: Annotated[str, typer.Option("--key", help="The key to sign with: continuonbrain keys new NAME.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; it must not exist.")],
    base: Annotated[
        str | None, typer.Option("--grown-from", help="sha256 of the base it grew from; else its card says.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", help="sha256 of the adapter that was merged; else its card says."),
    ] = None,
    counter: Annotated[
        int | None, typer.Option("--counter", min=1, help="Instead of the last one + 1; needed after a loss.")
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Write a base with its graphs as one signed file for a robot. --root: where the key is."""
    from continuonbrain.loops.base_pack import pack_base as pack
    from continuonbrain.storage.signing import GrownFrom

    if (base is None) != (adapter is None):
        raise BrainError(
            "--grown-from and --adapter belong together",
            remedy="give both, or neither for what the card says",
        )
    grown = None if base is None or adapter is None else GrownFrom(base, adapter)
    with disk_errors(out):
        done = pack(open_brain(root), folder, out, key_name=key, grown_from=grown, counter=counter)
    if as_json:
        print_json(
            {
                "path": str(done.path),
                "bytes": done.bytes,
                "base_sha256": done.base_sha256,
                "grown_from": {
                    "base_sha256": done.grown_from.base_sha256,
                    "adapter_sha256": done.grown_from.adapter_sha256,
                },
                "graphs": list(done.precisions),
                "key_id": done.key_id,
                "counter": done.counter,
            }
        )
        return
    graphs = ", ".join(done.precisions) or "none: it is served by torch"
    Console(highlight=False).print(
        f"{done.path}: base {done.base_sha256[:16]}, {done.bytes:,} bytes, graphs: {graphs}; key {done.key_id[:16]}, "
        f"counter {done.counter}\nthere: continuonbrain cloud import {done.path.name} --root ITS_ROOT",
        markup=False,
        soft_wrap=True,
    )
