"""Copies of what a robot cannot learn again: settings, adapters with their history, the safety head's calibration.

A backup is a folder `<number>/` that is laid out as the brain root is, without base models (shipped or imported,
gigabytes) and without episodes, and `contents.json` with the sha256 of every file. Private keys are never in it, nor
which base drives. It is made beside its place, synced, read back, and only then renamed; the oldest go afterwards.

What was learned on an imported base lies in it below `model/bases/SLOT/`. It is of no use without that base, and comes
back once the base was imported again (`restore_of_base`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.storage.adapter_version import VERSION_ID
from continuonbrain.storage.base_slot_rule import SLOT
from continuonbrain.storage.durable import new_directory_durably, remove_staging_leftovers, sync_directory
from continuonbrain.storage.layout import BrainLayout

CONTENTS_FILE = "contents.json"
_FORMAT = "continuonbrain.backup.1"
_PIECE = 1 << 20
_OF_A_BASE = re.compile(rf"model/bases/({SLOT.pattern})/")
_LINK = re.compile(rf"-> versions/{VERSION_ID.pattern}")
"""The only links there are: `current` and `previous`. Any other could lead what is restored somewhere else."""


class BackupError(BrainError):
    """A backup cannot be made, read or restored."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup: its folder, how many files, and their bytes."""

    path: Path
    files: int
    bytes: int


def back_up(layout: BrainLayout, folder: Path, *, versions: Mapping[str, set[str]], keep: int) -> Backup:
    """Copy a root's adapters and settings to a new backup in `folder`. For whoever holds the trainer's lock.

    Args:
        layout: of the base that config.json names, whichever drives.
        versions: ids of the adapters that are copied, by the slot of their base, "" for that of config.json; a history
            names more, which are then gone.
        keep: so many backups stay, the newest; at least one.

    Raises:
        BackupError: the folder cannot be written, or what was copied reads back as something else. The backups of
            before are still there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_staging_leftovers(folder)
        place = folder / f"{max([0, *map(_number, backups(folder))]) + 1:06d}"
        with new_directory_durably(place) as new:
            told: dict[str, str] = {}
            for source, name in _sources(layout, versions):
                target = new / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.is_symlink():
                    os.symlink(os.readlink(source), target)
                    told[name] = f"-> {os.readlink(source)}"
                else:
                    told[name] = _copied(source, target)
            contents = {"format": _FORMAT, "files": told}
            (new / CONTENTS_FILE).write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n")
            if problems := check_backup(new):
                raise BackupError(
                    f"a backup in {folder} reads back as something else: {problems[0]}",
                    remedy="check the disk that slow.backup_dir is on",
                )
        for old in backups(folder)[: -max(1, keep)]:
            shutil.rmtree(old)
        sync_directory(folder)
    except OSError as error:
        raise BackupError(
            f"no backup in {folder}: {error.strerror or error} ({error.filename})",
            remedy="free some space there, or name another folder in slow.backup_dir",
        ) from error
    return Backup(place, len(told), sum(p.stat().st_size for p in place.rglob("*") if p.is_file()))


def backup_folder(layout: BrainLayout, named: str) -> Path:
    """Where a root's backups lie: below the root, or in a folder of this root's own on another disk, which several
    robots may share. Raises BackupError for a folder whose content is itself backed up, or is somebody else's."""
    folder = layout.root / named
    if Path(named).is_absolute():
        folder = (
            Path(named) / f"{layout.root.name}-{hashlib.sha256(str(layout.root).encode()).hexdigest()[:8]}"
        )
    for taken in (
        layout.episodes_dir,
        layout.adapters_dir,
        layout.safety_dir,
        layout.trainer_dir,
        layout.run_dir,
    ):
        if folder.resolve() == layout.root or folder.resolve().is_relative_to(taken.resolve()):
            raise BackupError(
                f"slow.backup_dir = {named!r} lies in {taken}",
                remedy="name a folder of its own in config.json",
            )
    return folder


def backups(folder: Path) -> list[Path]:
    """The backups in a folder, oldest first."""
    found = folder.glob("[0-9]*") if folder.is_dir() else []
    return sorted((p for p in found if _number(p) and _is_ours(p)), key=_number)


def check_backup(path: Path) -> list[str]:
    """What is wrong with a backup, in words; [] when it is whole."""
    try:
        contents = json.loads((path / CONTENTS_FILE).read_bytes())
        told = dict(contents["files"])
        if contents["format"] != _FORMAT:
            return [f"{path / CONTENTS_FILE}: format is {contents['format']!r}, not {_FORMAT}"]
        if not told:
            return [f"{path / CONTENTS_FILE} names no file"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{path / CONTENTS_FILE} cannot be read: {error!r}"]
    problems = []
    for name, said in sorted(told.items()):
        if not _is_inside(name):
            problems.append(f"{name} leads out of the backup")
            continue
        if str(said).startswith("->") and not _LINK.fullmatch(str(said)):
            problems.append(f"{name} is a link to {str(said)[3:60]}, which no backup holds")
            continue
        there = path / name
        try:
            found = f"-> {os.readlink(there)}" if there.is_symlink() else _sha256(there)
        except OSError as error:
            found = error.strerror or str(error)
        if found != said:
            problems.append(f"{name}: {found[:16]}, {str(said)[:16]} when it was made")
    return problems


def restore(path: Path, root: Path) -> int:
    """Put a backup into a root that has no adapters and no settings yet; how many files. What was learned on imported
    bases stays in it (`slots_in`).

    Raises:
        BackupError: the backup is not whole, or something of it is there already; nothing was changed.
    """
    return _restored(path, root, [name for name in _named(path) if _slot_of(name) is None])


def slots_in(path: Path) -> list[str]:
    """The imported bases of which a backup holds what was learned on them. Raises BackupError when it is not whole."""
    return sorted({slot for name in _named(path) if (slot := _slot_of(name)) is not None})


def restore_of_base(path: Path, layout: BrainLayout, slot: str) -> int:
    """Put what was learned on an imported base beside that base, which is there again; how many files.

    Raises:
        BackupError: as `restore`; or the base is not there, or the backup has nothing of it.
    """
    wanted = [name for name in _named(path) if _slot_of(name) == slot]
    if not wanted:
        raise BackupError(
            f"{path} holds nothing of base {slot!r}", remedy="continuonbrain backup list names others"
        )
    if not layout.slot_dir(slot).is_dir():
        raise BackupError(
            f"base {slot} is not in {layout.root}", remedy="first: continuonbrain cloud import ITS_BUNDLE"
        )
    return _restored(path, layout.root, wanted)


def _named(path: Path) -> list[str]:
    if problems := check_backup(path):
        raise BackupError(f"{path} is not whole: {problems[0]}", remedy="restore another one")
    return sorted(json.loads((path / CONTENTS_FILE).read_bytes())["files"])


def _slot_of(name: str) -> str | None:
    found = _OF_A_BASE.match(name)
    return None if found is None else found[1]


def _restored(path: Path, root: Path, told: list[str]) -> int:
    there = sorted(name for name in told if os.path.lexists(root / name))
    if there:
        raise BackupError(
            f"{root} has {there[0]} already", remedy="restore into a new root, or move that one away first"
        )
    try:
        for name in told:
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path / name, target, follow_symlinks=False)
        os.sync()
    except OSError as error:
        raise BackupError(
            f"{error.filename} cannot be written: {error.strerror}",
            remedy="free some space, and restore again",
        ) from error
    return len(told)


def _sources(layout: BrainLayout, versions: Mapping[str, set[str]]) -> list[tuple[Path, str]]:
    """Files and links with their names in a root of the standard layout."""
    standard = BrainLayout(Path("/"))
    wanted: list[tuple[Path, Path]] = [
        (layout.config_path, standard.config_path),
        (layout.manifest_path, standard.manifest_path),
        (layout.reservoir_path, standard.reservoir_path),
        (layout.slow_path, standard.slow_path),
        *_below(layout.safety_dir, standard.safety_dir),
    ]
    for slot, ids in versions.items():
        mine, theirs = (one.on_slot(slot) if slot else one for one in (layout, standard))
        wanted += [
            (mine.history_path, theirs.history_path),
            (mine.history_head_path, theirs.history_head_path),
            (mine.current, theirs.current),
            (mine.previous, theirs.previous),
            *_below(mine.driving_dir, theirs.driving_dir),
        ]
        for version_id in sorted(ids):
            wanted += _below(mine.versions_dir / version_id, theirs.versions_dir / version_id)
    return [(p, str(name.relative_to("/"))) for p, name in wanted if p.is_symlink() or p.is_file()]


def _below(mine: Path, theirs: Path) -> list[tuple[Path, Path]]:
    return [(p, theirs / p.relative_to(mine)) for p in sorted(mine.rglob("*")) if p.is_file()]


def _is_ours(path: Path) -> bool:
    """Of this format: anything else is nobody's to delete."""
    try:
        return bool(json.loads((path / CONTENTS_FILE).read_bytes())["format"] == _FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _copied(source: Path, target: Path) -> str:
    shutil.copy2(source, target)
    return _sha256(source)  # of the original: what was copied must read back as that


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _is_inside(name: object) -> bool:
    return (
        isinstance(name, str)
        and not name.startswith("/")
        and ".." not in Path(name).parts
        and "\0" not in name
    )


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0
