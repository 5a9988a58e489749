"""Import of donkeycar tubs: recordings of real cars become episodes.

What a tub is, `tub_records.py` says; where a drive ends and what becomes of its pictures, `tub_drives.py`. Positive
steering turns right there and left here: it is negated, and the provenance says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import is_regular
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.step import SOURCE_HUMAN, Step
from continuonbrain.rlds.tub_drives import drives_of, load_jpeg, sessions_of, with_times
from continuonbrain.rlds.tub_earlier import earlier_imports
from continuonbrain.rlds.tub_records import (
    RECORD_V1,
    TUB_SOURCE,
    TubRecord,
    TubReport,
    not_a_tub,
    raw_v1,
    raw_v2,
    read_tub_record,
    visible,
)
from continuonbrain.rlds.writer import EpisodeWriter

Progress = Callable[[int, int], None]


def import_tub(
    tub_dir: Path,
    episodes_dir: Path,
    *,
    instruction: str = "drive",
    max_steps_per_episode: int = 500,
    progress: Progress | None = None,
    throttle_bounds: tuple[float, float] = (-1.0, 1.0),
) -> TubReport:
    """Turn a donkeycar tub into episodes.

    Importing the same tub again adds nothing: the episodes' names come from its content. An import that fails
    or is interrupted removes the episodes that it wrote; what one that was killed left is imported anew, whoever
    closed it since.

    Args:
        tub_dir: the folder with `manifest.json` (v2) or `record_*.json` (v1).
        episodes_dir: the memory that the episodes go into.
        instruction: what the driver was doing; a tub does not say.
        max_steps_per_episode: longer drives are split.
        progress: called with (records done, records in all).
        throttle_bounds: what the robot's guard allows, in [-1, 1]; the report counts what was driven beyond it.

    Raises:
        EpisodeError: not a tub, or no record in it can be used.
        OSError: the memory cannot be written.
    """
    if max_steps_per_episode < 2:
        raise EpisodeError(
            f"at least 2 is needed, not {max_steps_per_episode}", field="max_steps_per_episode"
        )
    started = time.monotonic()
    tub = Path(tub_dir)
    is_v2 = is_regular(tub / "manifest.json") or bool(visible(tub.glob("catalog_*.catalog")))
    if not is_v2 and not any(RECORD_V1.fullmatch(path.name) for path in tub.glob("record_*.json")):
        raise not_a_tub(tub)
    report = TubReport(tub=str(tub), version=2 if is_v2 else 1)
    digest = hashlib.sha256(json.dumps([instruction, max_steps_per_episode]).encode())
    records: list[TubRecord] = []
    for index, text, images in (raw_v2 if is_v2 else raw_v1)(tub, report):
        digest.update(b"%d:%s" % (index, text))
        record = read_tub_record(index, text, images, report)
        if record is None:
            report.bad_records += 1
        elif not is_regular(record.image):
            report.missing_images += 1  # known before the drive is split: many missing in a row are a hole
        else:
            records.append(record)
    if not records and report.missing_images:
        raise EpisodeError(
            f"all {report.missing_images} images are missing",
            file=tub,
            remedy="copy the whole tub, its images folder included",
        )
    if not records:
        raise EpisodeError(
            f"none of {report.records} records can be used ({report.deleted} are deleted, "
            f"{report.bad_records} lack a finite user/angle, user/throttle or an image name)"
            + "".join(f"; {note}" for note in report.notes[:3]),
            file=tub,
            remedy="check that the tub was recorded with a camera and user/angle, user/throttle",
        )

    slug = re.sub(r"[^A-Za-z0-9]+", "-", tub.resolve().name).strip("-")[:40] or "tub"
    prefix = f"{slug if slug.startswith('tub') else f'tub-{slug}'}-{digest.hexdigest()[:8]}"
    sessions = sessions_of(records)
    report.sessions = len(sessions)
    drives = [
        (number, drive)
        for number, session in enumerate(sessions)
        for drive in drives_of(with_times(session, report), max_steps_per_episode)
    ]
    earlier = earlier_imports(episodes_dir, prefix, tub.resolve().name, {record.index for record in records})
    names = _free_names(prefix, episodes_dir, len(drives))
    written: list[Path] = []
    done = 0
    try:
        for number, (session_number, drive) in enumerate(drives):
            target = episodes_dir / f"{prefix}-{number:04d}"
            is_replaced = earlier.clear(target)
            new = [record for record in drive if record.index not in earlier.held]
            report.already_imported += len(drive) - len(new)
            # Images that an earlier import found missing or corrupt and that are whole now: its episode is whole and
            # may be a lesson by now, so what it lacks comes beside it.
            parts = [drive] if len(new) == len(drive) else list(drives_of(new, max_steps_per_episode))
            for part in parts:
                episode_id = target.name
                if target in written or earlier.is_taken(target):
                    episode_id = next(names)
                before = len(written)
                _import_drive(
                    part,
                    episodes_dir,
                    metadata=_metadata(episode_id, tub, session_number, part, report),
                    instruction=instruction,
                    report=report,
                    written=written,
                    progress=None if progress is None else _shifted(progress, done, len(records)),
                )
                report.replaced += is_replaced and len(written) > before
            done += len(drive)
            if progress is not None:
                progress(done, len(records))
        for name in sorted(
            earlier.left
        ):  # of a drive that begins elsewhere now: its records stand in new episodes
            report.replaced += earlier.clear(episodes_dir / name)
    except BaseException:
        for path in written:
            shutil.rmtree(path, ignore_errors=True)
        raise
    report.episodes = [str(path) for path in written]
    if report.replaced:
        report.notes.append(
            f"{report.replaced} episodes of an earlier import were unfinished or damaged: imported again"
        )
    if earlier.foreign:
        report.notes.append(
            "left alone, since nothing says that an import of this tub wrote them, or since the tub has no longer "
            f"all their pictures: {_few(earlier.foreign)}"
        )
    low, high = throttle_bounds
    report.with_image = len(records)
    report.beyond_bounds = sum(not low <= record.command[1] <= high for record in records)
    report.fastest = max(record.command[1] for record in records)
    if not report.steps and not report.already_imported:
        raise EpisodeError(
            f"no image can be used: {report.missing_images} are missing, {report.corrupt_images} corrupt",
            file=tub,
            remedy="copy the whole tub again, its images folder included",
        )
    report.wall_s = round(time.monotonic() - started, 3)
    return report


def _shifted(progress: Progress, done: int, total: int) -> Progress:
    return lambda inside, _: progress(done + inside, total)


def _free_names(prefix: str, episodes_dir: Path, start: int) -> Iterator[str]:
    """Names for episodes that have no drive's number."""
    for number in count(start):
        if not os.path.lexists(episodes_dir / f"{prefix}-{number:04d}"):
            yield f"{prefix}-{number:04d}"


def _few(names: Collection[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def _metadata(
    episode_id: str, tub: Path, session_number: int, drive: list[TubRecord], report: TubReport
) -> EpisodeMetadata:
    first = drive[0]
    return EpisodeMetadata(
        xr_mode="trainer",
        control_role="human_teleop" if first.source == SOURCE_HUMAN else "autonomous",
        environment_id=f"donkeycar-tub/{tub.resolve().name}",
        tags=("donkeycar", "tub", "imported"),
        software=Software(continuonbrain_os="tub import"),
        episode_id=episode_id,
        robot_model="donkeycar",
        start_time_unix_ms=first.time_ms if first.time_ms is not None and first.time_ms > 10**12 else None,
        provenance={
            "source": TUB_SOURCE,
            "tub": tub.resolve().name,
            "tub_version": report.version,
            "session_id": first.session,
            "session_number": session_number,
            "first_index": first.index,
            "last_index": drive[-1].index,
            "steering": "negated: donkeycar's +1 is full right, here +1 is full left",
            "timestamps": report.timestamps,
            "median_spacing_ms": report.median_spacing_ms,
            "speeds": "not recorded by the tub",
        },
    )


def _import_drive(
    drive: list[TubRecord],
    episodes_dir: Path,
    *,
    metadata: EpisodeMetadata,
    instruction: str,
    report: TubReport,
    written: list[Path],
    progress: Progress | None,
) -> None:
    writer: EpisodeWriter | None = None
    try:
        for number, record in enumerate(drive):
            if progress is not None and number % 50 == 0:
                progress(number, len(drive))
            jpeg = load_jpeg(record.image, report)
            if jpeg is None:
                continue
            if writer is None:  # only now: a drive without a single usable image makes no episode
                writer = EpisodeWriter(episodes_dir, metadata=metadata, closed_by="import")
                written.append(writer.path)
            writer.write(
                Step(
                    command=record.command,
                    source=record.source,
                    instruction=instruction,
                    proposed=record.proposed,
                    tick=record.index,
                    monotonic_ns=round(record.time_s * 1e9),
                    wall_time_ms=record.time_ms or 0,
                    extra={"tub_index": str(record.index)},
                    frame_jpeg=jpeg,
                )
            )
            report.steps += 1
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.abandon()
