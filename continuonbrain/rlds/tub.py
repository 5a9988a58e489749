"""Import of donkeycar tubs: recordings of real cars become episodes.

Formats (donkeycar, `parts/datastore_v2.py`, `parts/tub_v2.py` and the older `parts/datastore.py`):

* v2: `manifest.json` (five lines of JSON: inputs, types, metadata, manifest metadata, and an object with
  `paths` and `deleted_indexes`), `catalog_N.catalog` (one JSON record a line) and `images/`;
* v1: `record_N.json` with the image beside it.

A record's `user/angle` is -1 for full left and +1 for full right (`parts/actuator.py`: LEFT_ANGLE = -1,
RIGHT_ANGLE = 1). Here positive steering turns left, so the angle is negated, and the provenance says so.

JPEG bytes of the right size are taken as they are: decoding them only proves that they are whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from continuonbrain.rlds.checked import Action, parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import is_regular, open_regular, read_limited
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.reader import MAX_FRAME_BYTES, MAX_FRAME_PIXELS, is_being_recorded, open_episode
from continuonbrain.rlds.step import SOURCE_AUTOPILOT, SOURCE_HUMAN, Step
from continuonbrain.rlds.writer import EpisodeWriter

FRAME_WIDTH, FRAME_HEIGHT = 160, 120
ASSUMED_STEP_S = 0.05  # donkeycar's default DRIVE_LOOP_HZ is 20
PLAUSIBLE_STEP_S = (0.02, 0.2)  # 5 to 50 Hz: outside, the timestamps are not the camera's
MAX_GAP_S = 0.5  # a longer hole ends an episode: what follows is not the consequence of what was before
MAX_MANIFEST_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 16  # a record is ten numbers and names; a longer line is none
MAX_RECORDS = 1 << 20
_JPEG_QUALITY = 95  # only for images that must be resized: they were compressed once already
_RECORD_V1 = re.compile(r"record_(\d{1,10})\.json")

Progress = Callable[[int, int], None]


@dataclass
class TubReport:
    """What an import did; every record of the tub is in exactly one of the counts `steps` to `bad_records`,
    or belongs to an episode that was `already_imported`.

    Attributes:
        tub, version: the folder, and 1 or 2.
        episodes: the new episodes' folders.
        records: found in the tub, deleted ones included.
        steps: imported.
        deleted: marked as deleted in the tub.
        missing_images, corrupt_images, bad_records: skipped; `bad_records` are not JSON or lack a finite
            action.
        already_imported: steps of episodes that an earlier import of the same tub wrote.
        resized: images that were not 160x120 RGB JPEG and were converted.
        clipped: actions outside [-1, 1] that were clipped.
        sessions: drives found (`_session_id`).
        median_spacing_ms: of the tub's timestamps, None where it has none.
        timestamps: "tub" when they are plausible, "assumed 50 ms" otherwise.
        notes: anything else that a person should know.
        wall_s: seconds that the import took.
    """

    tub: str
    version: int
    episodes: list[str] = field(default_factory=list)
    records: int = 0
    steps: int = 0
    deleted: int = 0
    missing_images: int = 0
    corrupt_images: int = 0
    bad_records: int = 0
    already_imported: int = 0
    resized: int = 0
    clipped: int = 0
    sessions: int = 0
    median_spacing_ms: float | None = None
    timestamps: str = "tub"
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


@dataclass(frozen=True)
class _Record:
    index: int
    session: str
    time_ms: int | None
    image: Path
    command: Action
    proposed: Action | None
    source: str
    time_s: float = 0.0


# ------------------------------------------------------------------------------------------ the tub's files


def _not_a_tub(tub: Path) -> EpisodeError:
    if tub.is_file() and tub.name.endswith((".tar.gz", ".tgz", ".tar", ".zip")):
        return EpisodeError(
            "this is an archive, not a folder", file=tub, remedy="unpack it first, then give the folder"
        )
    if not tub.is_dir():
        return EpisodeError(
            "there is no such folder", file=tub, remedy="give the folder that holds manifest.json"
        )
    inner = sorted(child.parent for child in tub.glob("*/manifest.json"))
    return EpisodeError(
        "this is not a donkeycar tub: neither manifest.json nor catalog_*.catalog nor record_*.json is in it",
        file=tub,
        remedy=f"did you mean {inner[0]}?" if inner else "give the folder that holds manifest.json",
    )


def _visible(paths: Iterator[Path]) -> list[Path]:
    """Without hidden files: macOS leaves a `._name` beside each file in an archive."""
    return [path for path in paths if not path.name.startswith(".")]


def _number_in(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _read_manifest(tub: Path, report: TubReport) -> tuple[list[Path], set[int]]:
    """The catalogs in order and the deleted indexes."""
    present = sorted(_visible(tub.glob("catalog_*.catalog")), key=_number_in)
    entry: dict[str, Any] = {}
    try:
        for line in read_limited(tub / "manifest.json", MAX_MANIFEST_BYTES).splitlines():
            value = parse_json(line) if line.strip() else None
            if isinstance(value, dict) and isinstance(value.get("paths"), list):
                entry = value
    except (OSError, EpisodeError) as error:
        report.notes.append(f"manifest.json cannot be read ({error}): all catalogs taken, nothing deleted")
    if not entry:
        if not report.notes:
            report.notes.append("manifest.json names no catalogs: all of them taken, nothing deleted")
        return present, set()
    listed = list(dict.fromkeys(tub / Path(str(name)).name for name in entry["paths"]))
    for path in listed:
        if not is_regular(path):
            report.notes.append(f"{path.name} is named by manifest.json but missing")
    unlisted = [path.name for path in present if path not in listed]
    if unlisted:
        report.notes.append(f"not named by manifest.json and left out: {', '.join(unlisted)}")
    deleted = entry.get("deleted_indexes")
    numbers = {item for item in deleted if isinstance(item, int)} if isinstance(deleted, list) else set()
    return [path for path in listed if is_regular(path)], numbers


def _raw_v2(tub: Path, report: TubReport) -> Iterator[tuple[int, bytes, Path]]:
    catalogs, deleted = _read_manifest(tub, report)
    position = 0
    for catalog in catalogs:
        for line in _lines(catalog, report):
            report.records += 1
            if report.records > MAX_RECORDS:
                raise EpisodeError(f"more than {MAX_RECORDS} records", file=catalog, remedy="split the tub")
            match = re.search(rb'"_index": *(\d{1,10})\b', line)
            index = int(match.group(1)) if match else position
            position = index + 1
            if index in deleted:
                report.deleted += 1
            else:
                yield index, line, tub / "images"


def _lines(catalog: Path, report: TubReport) -> Iterator[bytes]:
    """The lines that are not empty; a line that is too long is cut, so that it is counted as a bad record."""
    try:
        with open_regular(catalog) as file:
            while line := file.readline(MAX_RECORD_BYTES + 1):
                if len(line) > MAX_RECORD_BYTES:
                    while (rest := file.readline(MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
                        pass
                if line.strip():
                    yield line.rstrip(b"\r\n")
    except OSError as error:
        report.notes.append(f"{catalog.name} cannot be read: {error.strerror}")


def _raw_v1(tub: Path, report: TubReport) -> Iterator[tuple[int, bytes, Path]]:
    for path in sorted(_visible(tub.glob("record_*.json")), key=_number_in):
        match = _RECORD_V1.fullmatch(path.name)
        if match:
            report.records += 1
            try:
                text = read_limited(path, MAX_RECORD_BYTES)
            except (EpisodeError, OSError):
                text = b""  # no record: counted as a bad one
            yield int(match.group(1)), text, tub


# ---------------------------------------------------------------------------------------------- records


def _axis(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _clipped(action: Action, report: TubReport) -> Action:
    inside = (min(1.0, max(-1.0, action[0])), min(1.0, max(-1.0, action[1])))
    report.clipped += inside != action
    return inside


def _action(record: dict[str, Any], who_steers: str, who_drives: str, report: TubReport) -> Action | None:
    angle, throttle = _axis(record.get(f"{who_steers}/angle")), _axis(record.get(f"{who_drives}/throttle"))
    if angle is None or throttle is None:
        return None
    return _clipped((-angle + 0.0, throttle), report)  # donkeycar: positive is right; here: left. No -0.0.


# donkeycar's user/mode: who gave the angle and the throttle that were sent to the car.
_DRIVERS = {"user": ("user", "user"), "local_angle": ("pilot", "user"), "local": ("pilot", "pilot")}


def _drivers(data: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Where the angle and the throttle that were sent stand, and whether the autopilot steered.

    A mode of which nothing is known counts as the autopilot's, as in donkeycar itself: what no person drove must not
    become a lesson.
    """
    mode = str(data.get("user/mode", "user"))
    if mode in _DRIVERS:
        steers, drives = _DRIVERS[mode]
        return steers, drives, steers == "pilot"
    where = "user" if data.get("pilot/angle") is None else "pilot"
    return where, where, True


def _record(index: int, text: bytes, images: Path, report: TubReport) -> _Record | None:
    try:
        data = parse_json(text)
    except EpisodeError:
        return None
    if not isinstance(data, dict):
        return None
    name = data.get("cam/image_array")
    steers, drives, by_pilot = _drivers(data)
    command = _action(data, steers, drives, report)
    if command is None or not isinstance(name, str):
        return None
    stamp = data.get("_timestamp_ms", data.get("milliseconds"))
    if isinstance(stamp, bool) or not isinstance(stamp, int) or not 0 <= stamp < 1 << 43:
        stamp = None
    session = data.get("_session_id")
    return _Record(
        index=index,
        session="" if session is None else str(session)[:200].encode(errors="replace").decode(),
        time_ms=stamp,
        image=images / Path(name).name,
        command=command,
        proposed=command if by_pilot and drives == "pilot" else None,
        source=SOURCE_AUTOPILOT if by_pilot else SOURCE_HUMAN,
    )


def _sessions(records: list[_Record]) -> list[list[_Record]]:
    """Runs of one `_session_id`, in the tub's order."""
    runs: list[list[_Record]] = []
    for record in records:
        if not runs or runs[-1][-1].session != record.session:
            runs.append([])
        runs[-1].append(record)
    return runs


def _with_times(session: list[_Record], report: TubReport) -> list[_Record]:
    """Seconds since the session's start: the tub's own when plausible, 50 ms an index otherwise."""
    stamps = [record.time_ms for record in session]
    known = [stamp for stamp in stamps if stamp is not None]
    gaps = [(b - a) / 1000 for a, b in pairwise(known)]
    median = statistics.median(gaps) if gaps else None
    if median is not None:
        report.median_spacing_ms = median * 1000
    plausible = (
        median is not None
        and len(known) == len(stamps)
        and PLAUSIBLE_STEP_S[0] <= median <= PLAUSIBLE_STEP_S[1]
        and min(gaps) > 0
    )
    if plausible:
        return [replace(record, time_s=((record.time_ms or 0) - known[0]) / 1000) for record in session]
    report.timestamps = "assumed 50 ms"
    # By index and not by position: a record that is missing or deleted left a hole in time as well.
    first = session[0].index
    return [replace(record, time_s=(record.index - first) * ASSUMED_STEP_S) for record in session]


def _episodes(session: list[_Record], max_steps: int) -> Iterator[list[_Record]]:
    current: list[_Record] = []
    for record in session:
        if current:
            gap = record.time_s - current[-1].time_s
            if len(current) >= max_steps or not 0 < gap <= MAX_GAP_S:
                yield current
                current = []
        current.append(record)
    if current:
        yield current


# ----------------------------------------------------------------------------------------------- images


def _load_jpeg(path: Path, report: TubReport) -> bytes | None:
    """A whole 160x120 RGB JPEG; None (and counted) when the image is missing or corrupt."""
    try:
        data = read_limited(path, MAX_FRAME_BYTES)
    except OSError:
        report.missing_images += 1
        return None
    except EpisodeError:
        report.corrupt_images += 1
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise ValueError("too large")
            image.load()
            if (
                image.format == "JPEG"
                and image.mode == "RGB"
                and image.size == (FRAME_WIDTH, FRAME_HEIGHT)
                and data.startswith(b"\xff\xd8")
            ):
                return data
            converted = image.convert("RGB").resize((FRAME_WIDTH, FRAME_HEIGHT), Image.Resampling.BOX)
    except Exception:  # Pillow's decoders raise many types on broken files; all mean the same here
        report.corrupt_images += 1
        return None
    out = io.BytesIO()
    converted.save(out, "JPEG", quality=_JPEG_QUALITY)
    report.resized += 1
    return out.getvalue()


# ----------------------------------------------------------------------------------------------- import


def import_tub(
    tub_dir: Path,
    episodes_dir: Path,
    *,
    instruction: str = "drive",
    max_steps_per_episode: int = 500,
    progress: Progress | None = None,
) -> TubReport:
    """Turn a donkeycar tub into episodes.

    Importing the same tub again adds nothing: the episodes' names come from its content. An import that fails
    or is interrupted removes the episodes that it wrote.

    Args:
        tub_dir: the folder with `manifest.json` (v2) or `record_*.json` (v1).
        episodes_dir: the memory that the episodes go into.
        instruction: what the driver was doing; a tub does not say.
        max_steps_per_episode: longer drives are split.
        progress: called with (records done, records in all).

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
    is_v2 = is_regular(tub / "manifest.json") or bool(_visible(tub.glob("catalog_*.catalog")))
    if not is_v2 and not any(_RECORD_V1.fullmatch(path.name) for path in tub.glob("record_*.json")):
        raise _not_a_tub(tub)
    report = TubReport(tub=str(tub), version=2 if is_v2 else 1)
    digest = hashlib.sha256(json.dumps([instruction, max_steps_per_episode]).encode())
    records: list[_Record] = []
    for index, text, images in (_raw_v2 if is_v2 else _raw_v1)(tub, report):
        digest.update(b"%d:%s" % (index, text))
        record = _record(index, text, images, report)
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
            f"{report.bad_records} lack a finite user/angle, user/throttle or an image name)",
            file=tub,
            remedy="check that the tub was recorded with a camera and user/angle, user/throttle",
        )

    slug = re.sub(r"[^A-Za-z0-9]+", "-", tub.resolve().name).strip("-")[:40] or "tub"
    prefix = f"{slug if slug.startswith('tub') else f'tub-{slug}'}-{digest.hexdigest()[:8]}"
    sessions = _sessions(records)
    report.sessions = len(sessions)
    drives = [
        (number, drive)
        for number, session in enumerate(sessions)
        for drive in _episodes(_with_times(session, report), max_steps_per_episode)
    ]
    written: list[Path] = []
    done = 0
    try:
        for number, (session_number, drive) in enumerate(drives):
            episode_id = f"{prefix}-{number:04d}"
            target = episodes_dir / episode_id
            if (earlier := _imported_before(target)) is not None:
                report.already_imported += earlier
            else:
                metadata = _metadata(episode_id, tub, session_number, drive, report)
                _import_drive(
                    drive,
                    episodes_dir,
                    metadata=metadata,
                    instruction=instruction,
                    report=report,
                    written=written,
                    progress=None if progress is None else _shifted(progress, done, len(records)),
                )
            done += len(drive)
            if progress is not None:
                progress(done, len(records))
    except BaseException:
        for path in written:
            shutil.rmtree(path, ignore_errors=True)
        raise
    report.episodes = [str(path) for path in written]
    report.steps = report.records - (
        report.deleted
        + report.bad_records
        + report.missing_images
        + report.corrupt_images
        + report.already_imported
    )
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


def _imported_before(target: Path) -> int | None:
    """Steps of a whole episode that an earlier import left, None when it must be written."""
    if not target.exists():
        return None
    if is_being_recorded(target):
        raise EpisodeError(
            "another import is writing this episode now", file=target, remedy="wait until it is done"
        )
    try:
        return len(open_episode(target))
    except EpisodeError:
        shutil.rmtree(target)  # half of an import that was killed: its name says that it is ours
        return None


def _metadata(
    episode_id: str, tub: Path, session_number: int, drive: list[_Record], report: TubReport
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
            "source": "donkeycar tub",
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
    drive: list[_Record],
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
            jpeg = _load_jpeg(record.image, report)
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
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.abandon()
