"""`python -m continuonbrain.cloud.outbox --root ROOT`: what the docked slow loop runs where the owner has opted in.

One bundle of the episodes that were in none before, or were labelled anew since, goes into `ROOT/outbox/`, as
`memory-000001.zip` and so on. As long as `cloud.outbox_bundles` of them wait there, none is made; whoever takes one
away makes room. None holds more than `cloud.outbox_mib` of the memory; the next one takes the rest. Nothing is deleted
here, but for what a killed run began.

On stdout comes one line of JSON: {"outcome": "done" or "nothing", "detail", "path", "episodes", "bytes"}, exit code
0. What a person must put right is one line on stderr, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cloud.errors import ExportRefused, NothingToExport
from continuonbrain.cloud.export import Exported, export_bundle, journal_of
from continuonbrain.cloud.ledger import Ledger
from continuonbrain.cloud.plan import NO_ROOM, SENT, TOO_LARGE, Candidate, Plan, what_leaves
from continuonbrain.cloud.refusals import key_for, refuse_without_opt_in
from continuonbrain.cloud.sinks import remove_growing
from continuonbrain.cloud.survey import content_of, survey
from continuonbrain.errors import BrainError, told_from
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import open_episode
from continuonbrain.storage.pseudonyms import Pseudonyms, pseudonyms_of

_BUNDLE = re.compile(r"memory-(\d{6,})\.zip")
_FREE_BYTES = 256 << 20
"""What stays free of the disk, for the recorder."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done; path: of the bundle, "" without one; episodes: that are in it."""

    outcome: Literal["done", "nothing"]
    detail: str
    path: str = ""
    episodes: int = 0
    bytes: int = 0


def fill_outbox(brain: BrainRoot) -> Outcome:
    """Make one bundle, if there is anything for one and a place.

    Raises:
        ExportRefused: no opt-in, no key, the disk is nearly full. Other `BrainError`s and OSError: as `export_bundle`.
    """
    refuse_without_opt_in(brain)
    settings, layout = brain.config.cloud, brain.layout
    folder = layout.outbox_dir
    ledger = Ledger(layout)
    found = survey(layout.episodes_dir)
    waiting = bundles(folder)
    for path in waiting:
        _settle(brain, path, found)
    if len(waiting) >= settings.outbox_bundles:
        return Outcome("nothing", f"{len(waiting)} bundles wait in {folder}: take them away for the next")
    number = max([ledger.deliveries(), *(_number(p) for p in waiting)]) + 1
    out = folder / f"memory-{number:06d}.zip"
    plan = what_leaves(
        found,
        share_unmarked=settings.share_unmarked,
        frames=settings.frames,
        sent=_sent(brain, found, ledger),
        most_bytes=settings.outbox_mib << 20,
    )
    if not plan.going:
        return Outcome("nothing", _why_nothing(plan))
    key_name = key_for(brain, None)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_begun(folder, but=out)
    free = shutil.disk_usage(folder).free
    if free < plan.bytes + _FREE_BYTES:
        raise ExportRefused(
            f"{folder} has {free >> 20} MiB free; {(plan.bytes + _FREE_BYTES) >> 20} are needed",
            remedy="take bundles away, or lower cloud.outbox_mib",
        )

    def note(exported: Exported) -> None:
        ledger.note_delivery(exported.path.name, exported.contents)

    try:
        made = export_bundle(brain, plan, out, as_zip=True, key_name=key_name, delivered=note)
    except NothingToExport as nothing:
        return Outcome("nothing", nothing.message)
    detail = f"{made.episodes} {'episode' if made.episodes == 1 else 'episodes'} in {made.path.name}"
    if made.left_out:
        detail += f"; {len(made.left_out)} cannot be read"
    rest = dict(plan.reasons()).get(NO_ROOM, 0)
    if rest:
        detail += f"; {rest} wait for the next"
    return Outcome("done", detail, str(made.path), made.episodes, made.bytes)


def _sent(brain: BrainRoot, found: Sequence[Candidate], ledger: Ledger) -> set[str]:
    """The episodes that are in a bundle as they are now. One that was labelled anew is not: whoever trains on bundles
    learns the words of the last that holds it."""
    delivered = ledger.delivered()
    names = pseudonyms_of(brain.layout)
    episodes = brain.layout.episodes_dir
    return {
        c.name
        for c in found
        if (content := delivered.get(c.name)) is not None
        and not (content and _is_new(episodes / c.name, content, names))
    }


def _is_new(path: Path, content: str, names: Pseudonyms) -> bool:
    """Whether an episode's steps are others than they were, and whole: of one that is damaged since, those who have the
    bundle have it better."""
    try:
        if content_of(path, names) == content:
            return False
        for _ in open_episode(path):
            pass
    except (EpisodeError, OSError):
        return False
    return True


def bundles(folder: Path) -> list[Path]:
    """The bundles that wait, oldest first."""
    return sorted(p for p in folder.glob("memory-*.zip") if _BUNDLE.fullmatch(p.name))


def _number(path: Path) -> int:
    found = _BUNDLE.fullmatch(path.name)
    return int(found.group(1)) if found else 0


def _settle(brain: BrainRoot, path: Path, found: Sequence[Candidate]) -> None:
    """A bundle that still has its journal was made by a run that was killed before it noted it."""
    journal = journal_of(path)
    if journal.read() and journal.done:
        contents = journal.contents_of(found, pseudonyms_of(brain.layout))
        Ledger(brain.layout).note_delivery(path.name, contents)
        journal.remove()


def _why_nothing(plan: Plan) -> str:
    reasons = dict(plan.reasons())
    if TOO_LARGE in reasons:
        return f"{reasons[TOO_LARGE]} episodes are larger than cloud.outbox_mib"
    if SENT in reasons:
        return f"nothing is new: {reasons[SENT]} episodes were in earlier bundles"
    return "; ".join(f"{count} episodes: {why}" for why, count in plan.reasons()[:2]) or "there is no episode"


def _remove_begun(folder: Path, *, but: Path) -> None:
    """What killed runs left that nobody goes on with."""
    for file in [*folder.glob("memory-*.zip.part"), *folder.glob("memory-*.zip.journal")]:
        if not file.name.startswith(f"{but.name}."):
            remove_growing(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m continuonbrain.cloud.outbox", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(asdict(fill_outbox(open_brain(options.root)))))
    except BrainError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        print(" ".join(str(told_from(error) or error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
