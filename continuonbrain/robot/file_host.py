"""Readings through a small JSON file (`run/host.json`): one process writes, any process reads.

Times are CLOCK_MONOTONIC, which all processes of one boot share; the file carries the boot id, because after a reboot
that clock starts again and an old file could look fresh.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.robot.readings import READING_NAMES, HostReadings, Reading
from continuonbrain.storage.durable import replace_file

HOST_FILE_NAME = "host.json"
"""Name of the file in the brain's `run` folder through which the control process tells what it knows."""

HOST_FILE_SCHEMA = 2
_MAX_HOST_FILE_BYTES = 64 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FileHost:
    """Readings through a small JSON file (`run/host.json`): one process writes, any process reads.

    Readings keep the time at which the writer took them, so the file goes stale when the writer dies.
    """

    def __init__(self, path: Path, *, boot_id: str | None = None) -> None:
        self._path = path
        self._boot_id = _read_boot_id() if boot_id is None else boot_id

    @property
    def path(self) -> Path:
        return self._path

    def write(self, readings: HostReadings) -> None:
        """Replace the file so that a reader sees the old one whole or the new one whole.

        Meant for about once a second. Raises `BrainError` naming the file when it cannot be written.
        """
        body: dict[str, object] = {}
        for name in READING_NAMES:
            reading: Reading = getattr(readings, name)
            if reading.value is not None and not isfinite(reading.value):
                # JSON has no NaN; a value that is no number is a missing value.
                reading = replace(reading, value=None, error=f"read {reading.value}")
            body[name] = {
                "value": reading.value,
                "monotonic_s": reading.monotonic_s,
                "source": reading.source,
                "error": reading.error,
                "absent": reading.absent,
                "pulse": reading.pulse if reading.pulse is not None and isfinite(reading.pulse) else None,
            }
        document = {"schema": HOST_FILE_SCHEMA, "boot_id": self._boot_id, "readings": body}
        _replace_file(self._path, json.dumps(document, allow_nan=False).encode())

    def read(self) -> HostReadings:
        """Read the file. Raises nothing: a file that is absent or makes no sense is missing readings."""
        source = str(self._path)
        try:
            data = _read_regular_file(self._path, _MAX_HOST_FILE_BYTES + 1)
            if len(data) > _MAX_HOST_FILE_BYTES:
                raise ValueError(f"larger than {_MAX_HOST_FILE_BYTES} bytes")
            document = json.loads(data)
            if not isinstance(document, dict) or document.get("schema") != HOST_FILE_SCHEMA:
                raise ValueError(f"schema is not {HOST_FILE_SCHEMA}")
            if document.get("boot_id") != self._boot_id:
                raise ValueError("was written before the last boot")
            body = document.get("readings")
            if not isinstance(body, dict):
                raise ValueError("readings is not an object")
            readings = {name: _reading_from_json(body.get(name), source) for name in READING_NAMES}
            return HostReadings(**readings)
        except FileNotFoundError:
            return HostReadings.all_missing(source, "no such file: the control process has not written it")
        except Exception as error:  # also RecursionError from hostile nesting
            return HostReadings.all_missing(source, f"{type(error).__name__}: {error}")


def _reading_from_json(raw: object, source: str) -> Reading:
    if not isinstance(raw, Mapping):
        return Reading.missing(source, "not in the file")
    value, taken_s = _json_number(raw.get("value")), _json_number(raw.get("monotonic_s"))
    error = raw.get("error")
    text = error if isinstance(error, str) else None
    if value is None and text is None:
        text = f"value is {raw.get('value')!r}"
    # Only a clear "there is no such sensor" is one: anything else is a sensor that talks nonsense.
    absent = "value" in raw and raw["value"] is None and raw.get("absent") is True
    pulse = _json_number(raw.get("pulse"))
    return Reading(value, taken_s, f"{raw.get('source', '?')} via {source}", text, absent, pulse)


def _json_number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    try:
        number = float(raw)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _read_regular_file(path: Path, limit: int) -> bytes:
    # O_NONBLOCK: opening a FIFO would otherwise wait for its writer, and with it the gates and `doctor`.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is not a regular file")
        return file.read(limit)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _replace_file(path: Path, data: bytes) -> None:
    """Not durable on purpose: a reading is worthless after a power cut. A torn file reads as missing sensors,
    which close the gates."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise BrainError(
            f"{path}: host readings cannot be written: {error.strerror or error}",
            remedy=f"make {path.parent} writable for this user",
        ) from error
