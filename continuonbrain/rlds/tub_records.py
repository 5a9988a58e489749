"""The files of a donkeycar tub and the records in them.

Formats (donkeycar, `parts/datastore_v2.py`, `parts/tub_v2.py` and the older `parts/datastore.py`):

* v2: `manifest.json` (five lines of JSON: inputs, types, metadata, manifest metadata, and an object with
  `paths` and `deleted_indexes`), `catalog_N.catalog` (one JSON record a line) and `images/`;
* v1: `record_N.json` with the image beside it.

A record's `user/angle` is -1 for full left and +1 for full right (`parts/actuator.py`: LEFT_ANGLE = -1,
RIGHT_ANGLE = 1). Here positive steering turns left, so the angle is negated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from continuonbrain.rlds.checked import Action, parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import is_regular, open_regular, read_limited
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.step import SOURCE_AUTOPILOT, SOURCE_HUMAN

TUB_SOURCE = "donkeycar tub"
"""`provenance.source` of every episode that an import wrote, those that a recovery closed included."""
MAX_MANIFEST_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 16  # a record is ten numbers and names; a longer line is none
MAX_RECORDS = 1 << 20
RECORD_V1 = re.compile(r"record_(\d{1,10})\.json")


@dataclass
class TubReport:
    """What an import did; every record of the tub is in exactly one of the counts `steps` to `bad_records`,
    or is `already_imported`.

    Attributes:
        tub, version: the folder, and 1 or 2.
        episodes: the new episodes' folders.
        records: found in the tub, deleted ones included.
        steps: imported.
        deleted: marked as deleted in the tub.
        missing_images, corrupt_images, bad_records: skipped; `bad_records` are not JSON or lack a finite
            action.
        already_imported: records that whole episodes of an earlier import of the same tub hold.
        replaced: episodes that an earlier import left half written or that were damaged since, written anew.
        resized: images that were not 160x120 RGB JPEG and were converted.
        clipped: actions outside [-1, 1] that were clipped.
        with_image, beyond_bounds: records that have an image, and those of them whose throttle is outside of what the
            robot's guard allows.
        fastest: the largest throttle of the records that have an image, in [-1, 1].
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
    replaced: int = 0
    resized: int = 0
    clipped: int = 0
    with_image: int = 0
    beyond_bounds: int = 0
    fastest: float = 0.0
    sessions: int = 0
    median_spacing_ms: float | None = None
    timestamps: str = "tub"
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


@dataclass(frozen=True)
class TubRecord:
    """One usable record.

    Attributes:
        index: its number in the tub.
        session: `_session_id` as text, "" where there is none.
        time_ms: the tub's own wall clock; None when absent or impossible.
        image: the picture's file.
        command, proposed: (steering, throttle) in [-1, 1], positive steering to the left.
        source: who drove.
        time_s: seconds since the session's start, as `tub_drives.with_times` puts it there.
    """

    index: int
    session: str
    time_ms: int | None
    image: Path
    command: Action
    proposed: Action | None
    source: str
    time_s: float = 0.0


def is_imported(metadata: EpisodeMetadata) -> bool:
    """Whether an import of a tub wrote the episode, whoever closed it."""
    return metadata.provenance.get("source") == TUB_SOURCE


def not_a_tub(tub: Path) -> EpisodeError:
    """The error for a path that is no tub, with the remedy that fits what is there."""
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


def visible(paths: Iterator[Path]) -> list[Path]:
    """Without hidden files: macOS leaves a `._name` beside each file in an archive."""
    return [path for path in paths if not path.name.startswith(".")]


def _number_in(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _read_manifest(tub: Path, report: TubReport) -> tuple[list[Path], set[int]]:
    """The catalogs in order and the deleted indexes."""
    present = sorted(visible(tub.glob("catalog_*.catalog")), key=_number_in)
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


def raw_v2(tub: Path, report: TubReport) -> Iterator[tuple[int, bytes, Path]]:
    """(index, JSON text, folder of images) of each record of a v2 tub that is not deleted; counts into `report`.

    Raises:
        EpisodeError: more than `MAX_RECORDS` records.
    """
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


def raw_v1(tub: Path, report: TubReport) -> Iterator[tuple[int, bytes, Path]]:
    """As `raw_v2`, of a v1 tub; the text of a record that cannot be read is empty."""
    for path in sorted(visible(tub.glob("record_*.json")), key=_number_in):
        match = RECORD_V1.fullmatch(path.name)
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


def read_tub_record(index: int, text: bytes, images: Path, report: TubReport) -> TubRecord | None:
    """The record in `text`; None when it is not JSON or lacks a finite action or the name of a picture."""
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
    return TubRecord(
        index=index,
        session="" if session is None else str(session)[:200].encode(errors="replace").decode(),
        time_ms=stamp,
        image=images / Path(name).name,
        command=command,
        proposed=command if by_pilot and drives == "pilot" else None,
        source=SOURCE_AUTOPILOT if by_pilot else SOURCE_HUMAN,
    )
