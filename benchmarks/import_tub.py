"""How long does importing a large donkeycar tub take?

    python -m benchmarks.import_tub [--records 20000] [--json]

A tub of the second format is written (catalogs of 1,000 records, JPEG frames of a simulated drive), with what real tubs
have: deleted records, missing and torn images, several sessions. Then it is imported as the command does.

Keys:
  seconds        the import took (goal: 60 for 20,000 records)
  records        in the tub; steps: imported; left_out: deleted, missing or torn
  records_per_s
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.recorder import drive
from continuonbrain.rlds.tub import import_tub
from continuonbrain.rlds.writer import encode_jpeg

GOAL_S_PER_RECORD = 60 / 20_000
_A_CATALOG = 1000
_A_SESSION = 4000


def write_tub(folder: Path, records: int, *, quiet: bool) -> None:
    """A tub as donkeycar's `tub_v2` writes it."""
    (folder / "images").mkdir(parents=True)
    jpegs = [encode_jpeg(frame, quality=90) for frame in drive(400)]
    catalogs: dict[str, list[str]] = {}
    for index in track(range(records), "writing a tub", disable=quiet, transient=True):
        image = f"{index}_cam_image_array_.jpg"
        data = jpegs[index % len(jpegs)]
        if index % 997 == 5:
            data = data[: len(data) // 2]
        if index % 991 != 7:
            (folder / "images" / image).write_bytes(data)
        record = {
            "_index": index,
            "_session_id": f"26-11-26_{index // _A_SESSION}",
            "_timestamp_ms": 1_790_000_000_000 + 50 * index,
            "cam/image_array": image,
            "user/angle": (index % 200 - 100) / 100,
            "user/throttle": 0.3,
            "user/mode": "user",
        }
        catalogs.setdefault(f"catalog_{index // _A_CATALOG}.catalog", []).append(json.dumps(record))
    for name, lines in catalogs.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    deleted = list(range(100, records, 1000))
    inputs = ["cam/image_array", "user/angle", "user/throttle", "user/mode"]
    types = ["image_array", "float", "float", "str"]
    lines = [inputs, types, {}, {"created_at": 1_790_000_000.0, "sessions": {}}]
    last = {
        "paths": list(catalogs),
        "current_index": records,
        "max_len": _A_CATALOG,
        "deleted_indexes": deleted,
    }
    (folder / "manifest.json").write_text("\n".join(json.dumps(line) for line in [*lines, last]) + "\n")


def measure(records: int, *, quiet: bool) -> dict[str, Any]:
    """Write a tub and import it."""
    with tempfile.TemporaryDirectory() as name:
        tub = Path(name) / "tub"
        write_tub(tub, records, quiet=quiet)
        began = time.perf_counter()
        report = import_tub(tub, Path(name) / "episodes", instruction="drive", max_steps_per_episode=60)
        seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "records": report.records,
        "steps": report.steps,
        "left_out": report.deleted + report.missing_images + report.corrupt_images + report.bad_records,
        "episodes": len(report.episodes),
        "sessions": report.sessions,
        "records_per_s": round(report.records / seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.records, quiet=arguments.json)
    if arguments.json:
        print(json.dumps(found))
    else:
        Console(highlight=False).print(
            f"{found['records']} records became {found['steps']} steps in {found['episodes']} episodes: "
            f"{found['seconds']} s, {found['records_per_s']:.0f} records/s"
        )
    whole = found["steps"] + found["left_out"] == found["records"] == arguments.records
    return 0 if whole and found["seconds"] <= GOAL_S_PER_RECORD * arguments.records else 1


if __name__ == "__main__":
    sys.exit(main())
