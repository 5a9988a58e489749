"""`continuonbrain cloud`: bundles that leave the robot, by choice, on whatever a person carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cli import cloud_train
from continuonbrain.cli.cloud_import import import_bundle, pack_base
from continuonbrain.cli.episodes_common import counted, disk_errors, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.cloud.check import USUAL_NAME, check_bundle
from continuonbrain.cloud.export import Exported, export_bundle
from continuonbrain.cloud.faces import face_finder
from continuonbrain.cloud.manifest import Blurred
from continuonbrain.cloud.plan import Plan, what_leaves
from continuonbrain.cloud.preview import preview
from continuonbrain.cloud.privacy import faces_blurred, privacy_with
from continuonbrain.cloud.refusals import key_for, refuse_nothing, refuse_without_opt_in
from continuonbrain.cloud.survey import survey
from continuonbrain.errors import BrainError
from continuonbrain.storage.public_key import parse_public_key

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Bundles for a bigger machine, where you have opted in."
)

app.command("import")(import_bundle)
app.command("pack-base")(pack_base)
app.command("train")(cloud_train.train)
app.command("fit")(cloud_train.fit)
app.command("pack")(cloud_train.pack)

_NAMED = 5
_LARGEST_KEY_FILE = 64 << 10


class FrameChoice(StrEnum):
    """What becomes of the pictures."""

    KEEP = "keep"
    NONE = "none"
    HALF = "half"


@app.callback()
def _cloud() -> None:
    """Bundles for a bigger machine, where you have opted in. Nothing is sent: a file is written, and you carry it."""


@app.command()
def export(
    root: RootOption = DEFAULT_ROOT,
    out: Annotated[
        Path, typer.Option("--out", help="NAME.zip for one file; any other name, or a stick, for a folder.")
    ] = Path(f"{USUAL_NAME}.zip"),
    frames: Annotated[
        FrameChoice, typer.Option("--frames", help="Pictures as they are, at half the size, or none.")
    ] = FrameChoice.KEEP,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            help="Only episodes recorded since then, UTC.",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The key to sign with, where there are several.")
    ] = None,
    blur_faces: Annotated[
        bool,
        typer.Option("--blur-faces", help="Blur the faces that are found (extra `blur`); some are missed."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would leave.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a signed bundle of the episodes that may leave, and of the adapters that drive.

    Begun again after it was killed, it goes on. The same memory gives the same bytes.
    """
    brain = open_brain(root)
    refuse_without_opt_in(brain)
    if blur_faces and frames is FrameChoice.NONE:
        raise BrainError("--blur-faces with --frames none: no picture leaves", remedy="give one of the two")
    faces = face_finder() if blur_faces else None
    with disk_errors(brain.layout.episodes_dir):
        plan = what_leaves(
            survey(brain.layout.episodes_dir),
            share_unmarked=brain.config.cloud.share_unmarked,
            frames=frames.value,
            since_unix_ms=None if since is None else round(since.replace(tzinfo=UTC).timestamp() * 1000),
        )
    key_name = key_for(brain, key)
    if dry_run:
        privacy = privacy_with("" if faces is None else faces_blurred(faces.told))
        _print_preview(brain, plan, privacy, as_json=as_json)
        refuse_nothing(plan, brain.layout)
        return
    target, as_zip = _target(out)
    with disk_errors(target), progress_bar("exporting steps", hidden=as_json) as progress:
        done = export_bundle(
            brain, plan, target, as_zip=as_zip, key_name=key_name, faces=faces, progress=progress
        )
    _print_done(done, plan, brain, as_json=as_json)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="What `cloud export` wrote: a zip file, or a folder.")],
    key: Annotated[Path, typer.Option("--key", help="The .pub file of whoever signed it.")],
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a bundle against the signature. Nothing is unpacked; needs no brain root."""
    with open(key, "rb") as opened:
        public = parse_public_key(opened.read(_LARGEST_KEY_FILE), what=str(key))
    with disk_errors(bundle):
        found = check_bundle(bundle, public)
    contents = found.contents
    if as_json:
        print_json(
            {
                "path": str(bundle),
                "key": public.name,
                "key_id": public.key_id,
                "counter": found.counter,
                "robot": contents.robot,
                "base_sha256": contents.base_sha256,
                "episodes": contents.episodes,
                "steps": contents.steps,
                "bytes": found.bytes,
                "frames": contents.frames,
                "faces": contents.faces,
                "faces_blurred": None if contents.blurred is None else asdict(contents.blurred),
                "datasets": contents.datasets,
                "adapters": contents.adapters,
            }
        )
        return
    Console(highlight=False).print(
        f"whole, and signed by {public.name} (counter {found.counter})\n"
        f"{counted(contents.episodes, 'episode')}, {counted(contents.steps, 'step')} of {contents.robot}, "
        f"{found.bytes:,} bytes{_faces(contents.blurred)}",
        markup=False,
        soft_wrap=True,
    )


def _faces(blurred: Blurred | None) -> str:
    """A line more, where faces were looked for."""
    if blurred is None:
        return ""
    found = f"{counted(blurred.faces, 'face')} found and blurred, in {blurred.in_pictures}"
    return f"\n{found} of {counted(blurred.of_pictures, 'picture')}; some may have been missed"


def _target(out: Path) -> tuple[Path, bool]:
    """The bundle's own path, and whether it is a zip file."""
    if out.is_dir():
        return out.absolute() / USUAL_NAME, False
    return out.absolute(), out.suffix.lower() == ".zip"


def _print_preview(brain: BrainRoot, plan: Plan, privacy: Mapping[str, Any], *, as_json: bool) -> None:
    parts = preview(brain, plan)
    if as_json:
        value: dict[str, Any] = {
            "dry_run": True,
            "read_whole": False,
            "episodes": len(plan.going),
            "steps": plan.steps,
            "names": [c.name for c in plan.going],
            "members": [{"what": p.what, "count": p.count, "bytes": p.bytes} for p in parts],
            "bytes": sum(p.bytes or 0 for p in parts),
            "stays": [{"episode": s.name, "reason": s.reason} for s in plan.stays],
            "privacy": dict(privacy),
        }
        print_json(value)
        return
    console = Console(highlight=False)
    table = Table("what would leave", Column("how many", justify="right"), Column("bytes", justify="right"))
    for part in parts:
        table.add_row(Text(part.what), str(part.count), "small" if part.bytes is None else f"{part.bytes:,}")
    table.add_row("in all", "", f"{sum(p.bytes or 0 for p in parts):,}", style="bold")
    console.print(table)
    for name in [c.name for c in plan.going[:_NAMED]]:
        console.print(f"  {name}", markup=False, soft_wrap=True)
    if len(plan.going) > _NAMED:
        console.print(f"  and {counted(len(plan.going) - _NAMED, 'more episode')}")
    _print_stays(console, plan)
    console.print("changed before it leaves:")
    for field, how in privacy["coarsened"].items():
        console.print(f"  {field}: {how}", markup=False, soft_wrap=True)
    console.print("leaves as it is:")
    for what in privacy["kept"]:
        console.print(f"  {what}", markup=False, soft_wrap=True)
    console.print("never leaves:")
    for what in privacy["dropped"]:
        console.print(f"  {what}", markup=False, soft_wrap=True)
    console.print(
        "Metadata and first frames were looked at, no more: the export leaves out, and names, what it finds damaged or "
        "altered behind them.",
        soft_wrap=True,
    )
    console.print("nothing was written")


def _print_stays(console: Console, plan: Plan) -> None:
    for reason, count in plan.reasons():
        console.print(f"{counted(count, 'episode')} left at home: {reason}", markup=False, soft_wrap=True)


def _print_done(done: Exported, plan: Plan, brain: BrainRoot, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "path": str(done.path),
                "bytes": done.bytes,
                "episodes": done.episodes,
                "steps": done.steps,
                "robot": done.robot,
                "key_id": done.key_id,
                "resumed_members": done.resumed,
                "faces_blurred": None if done.blurred is None else asdict(done.blurred),
                "left_out": [{"episode": s.name, "reason": s.reason} for s in done.left_out],
                "stays": [{"episode": s.name, "reason": s.reason} for s in plan.stays],
            }
        )
        return
    console = Console(highlight=False)
    console.print(
        f"{counted(done.episodes, 'episode')}, {counted(done.steps, 'step')}, {done.bytes:,} bytes -> {done.path}"
        f"{_faces(done.blurred)}",
        markup=False,
        soft_wrap=True,
    )
    for item in done.left_out[:_NAMED]:
        console.print(Text(f"left out: {item.name}: {item.reason}", style="yellow"), soft_wrap=True)
    _print_stays(console, plan)
    console.print(
        f"there: continuonbrain cloud verify {done.path.name} --key KEY.pub   (yours lies in "
        f"{brain.layout.public_keys_dir})",
        markup=False,
        soft_wrap=True,
    )
