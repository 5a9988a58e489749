"""`continuonbrain episodes prune`: forget what is over the limits of the config."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption

_NAMED = 5


def prune(
    root: RootOption = DEFAULT_ROOT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget episodes over max_episodes and recorder.quota_mib, oldest first, as the sidecar does at every round.

    Never those that an adapter's card names (recorder.keep), that were imported, or that are being recorded.
    """
    from continuonbrain.loops.memory import keep_within_limits
    from continuonbrain.storage.lock import ProcessLock

    brain = open_brain(root)
    with ProcessLock(brain.layout.trainer_lock_path, purpose=f"forget episodes of {brain.layout.root}"):
        gone = keep_within_limits(brain, really=not dry_run)
    if as_json:
        told = {"episodes": list(gone.episodes), "bytes": gone.bytes, "protected": gone.protected}
        typer.echo(json.dumps({**told, "over": gone.over, "dry_run": dry_run}, indent=2))
        return
    console = Console(highlight=False)
    verb = "would go" if dry_run else "gone"
    console.print(f"{len(gone.episodes)} episodes {verb}, {gone.bytes / 2**20:.1f} MiB")
    for name in gone.episodes[:_NAMED]:
        console.print(f"  {name}", markup=False, soft_wrap=True)
    if len(gone.episodes) > _NAMED:
        console.print(f"  and {len(gone.episodes) - _NAMED} more")
    if gone.over:
        console.print(f"[yellow]still too much[/yellow]: {gone.over}", soft_wrap=True)
