"""`continuonbrain adapters import` and `export`: signed bundles between brains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.episodes_common import print_json
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption

if TYPE_CHECKING:
    from continuonbrain.loops.adapter_import import Imported


def import_bundle(
    file: Annotated[Path, typer.Argument(help="A bundle that `adapters export` wrote.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Take a signed adapter of a trusted key as candidate. It drives only after a verdict of this brain."""
    from continuonbrain.loops.cloud_import import import_fitting

    brain = open_brain(root)
    print_imported(import_fitting(brain, file), brain.layout.root, as_json=as_json)


def print_imported(taken: Imported, root: Path, *, as_json: bool) -> None:
    """What was taken, and that it does not drive."""
    if as_json:
        print_json(
            {
                "kind": "adapter",
                "candidate": taken.version.version_id,
                "sha256": taken.sha256,
                "key": taken.key.name,
                "key_id": taken.key.key_id,
                "counter": taken.counter,
                "signatures_not_verified": list(taken.not_verified),
                "instead_of": taken.instead_of,
                "servo": taken.servo,
            }
        )
        return
    said = f"candidate {taken.version.version_id}, signed by {taken.key.name} (counter {taken.counter})"
    if taken.not_verified:
        said += f"; not verified: {', '.join(taken.not_verified)}"
    if taken.instead_of:
        said += f"\nit took the place of the candidate {taken.instead_of}, which was not promoted; its folder is kept"
    said += f"\nservo: {taken.servo}"
    said += (
        "\nit does not drive: it has no verdict of this brain. The sidecar of a running brain judges it as soon as the "
        f"robot may learn; now: continuonbrain train --root {root}"
    )
    Console(highlight=False).print(said, markup=False, soft_wrap=True)


def export(
    version: Annotated[str, typer.Argument(help="Adapter id, or: current, candidate, previous.")],
    out: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    key: Annotated[str, typer.Option("--key", help="The key to sign with: continuonbrain keys new NAME.")],
    counter: Annotated[
        int | None, typer.Option("--counter", min=1, help="Instead of the last one + 1; needed after a loss.")
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Write an adapter with its papers as one signed file for another brain with the same base."""
    from continuonbrain.loops.adapter_import import export_adapter

    done = export_adapter(open_brain(root), version, out, key_name=key, counter=counter)
    if as_json:
        print_json(
            {
                "path": str(done.path),
                "version": done.version_id,
                "bytes": done.bytes,
                "key_id": done.key_id,
                "counter": done.counter,
            }
        )
        return
    Console(highlight=False).print(
        f"{done.path}: {done.version_id}, {done.bytes:,} bytes, key {done.key_id[:16]}, counter {done.counter}\n"
        f"there: continuonbrain adapters import {done.path.name} --root ITS_ROOT",
        markup=False,
        soft_wrap=True,
    )
