"""How much memory does an export take, and how fast is it?

    python -m benchmarks.export [--gib 10] [--frames keep|half|none] [--dir DIR] [--json]

A brain root gets a memory of that size: `_DISTINCT` episodes of a simulated drive, 120 x 160, a minute each, recorded
by this project's own writer, and hard links to them under other names (so what is read comes mostly from the page
cache, for both programs). `continuonbrain cloud export` writes it into a zip file, in a process of its own; then
`zip -0 -r` does the same with the folder of the episodes, in the same run and on the same disk. As much disk as the
memory has must be free, once.

Keys:
  peak_rss_mib     the most memory that the process of the export had, VmHWM of /proc/self/status (goal 200)
  mb_per_s         10^6 bytes of the memory that were exported in a second, start of the program and syncing included
  zip_mb_per_s     the same of `zip -0`, which checks, hides, signs and syncs nothing; null where there is no zip
  verify_mb_per_s  10^6 bytes of the bundle that `cloud verify` checked in a second
  memory_bytes, bundle_bytes, episodes, steps
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from continuonbrain.cloud.check import check_bundle
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.metadata_seal import metadata_bytes
from continuonbrain.rlds.reader import read_metadata
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import METADATA_FILE, EpisodeWriter
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import world
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys

GOAL_RSS_MIB = 200.0
_DISTINCT = 6
_STEPS = 1200
_KEY = "benchmark"


def make_root(root: Path, size: int) -> tuple[BrainLayout, int]:
    """A root with a memory of at least so many bytes whose episodes may leave; and how many bytes."""
    layout = init_brain_root(root, "sim-donkey")
    layout.base_model_dir.rmdir()
    layout.base_model_dir.symlink_to(tiny_base_folder())
    settings = json.loads(layout.config_path.read_bytes())
    settings["cloud"]["opt_in"] = True
    layout.config_path.write_text(json.dumps(settings))
    PrivateKeys(layout).new(_KEY)
    originals = [_recorded(layout.episodes_dir, seed) for seed in range(_DISTINCT)]
    made = sum(_bytes_of(path) for path in originals)
    number = 0
    while made < size:
        made += _linked(originals[number % _DISTINCT], f"e{number:06d}")
        number += 1
    return layout, made


def _recorded(folder: Path, seed: int) -> Path:
    metadata = EpisodeMetadata(
        "trainer",
        "autonomous",
        "benchmark",
        (),
        Software(),
        episode_id=f"original-{seed}",
        share={"cloud": True},
    )
    writer = EpisodeWriter(folder, metadata=metadata)
    robot = SimRobot(world("none"), track_seed=seed, seed=seed)
    for tick in range(_STEPS):
        seen = robot.observe().frame
        command = robot.expert()
        writer.write(
            Step(
                command=command,
                source="autopilot",
                instruction="keep left",
                frame=seen,
                speed_mps=0.8,
                yaw_rate_rps=0.1,
                proposed=command,
                adapter_sha256="a" * 64,
                latency_ms=41.5,
                tick=tick,
                monotonic_ns=tick * 50_000_000,
            )
        )
        robot.act(*command)
    robot.close()
    return writer.close()


def _linked(original: Path, name: str) -> int:
    """The same steps and frames as another episode; its bytes."""
    path = original.with_name(name)
    for file in ("steps/000000.jsonl", "blobs/000000.tfrecord"):
        (path / file).parent.mkdir(parents=True)
        os.link(original / file, path / file)
    metadata = replace(read_metadata(original / METADATA_FILE), episode_id=name)
    (path / METADATA_FILE).write_bytes(metadata_bytes(metadata))
    return _bytes_of(path)


def _bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def export_here(root: Path, out: Path, frames: str) -> None:
    """In a process of its own: export, and print what it took."""
    from continuonbrain.cli.main import app

    app(
        ["cloud", "export", "--root", str(root), "--out", str(out), "--frames", frames, "--json"],
        standalone_mode=False,
    )
    status = Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)


def measure(gib: float, frames: str, folder: Path) -> dict[str, Any]:
    """All figures."""
    layout, memory = make_root(folder / "brain", round(gib * 2**30))
    out = folder / "out.zip"
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "benchmarks.export",
        "--only",
        str(layout.root),
        str(out),
        "--frames",
        frames,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    told = json.loads(done.stdout)
    rss_mib = int(done.stderr.split()[-1]) / 1024
    key = PrivateKeys(layout).public_path(_KEY)
    began = time.perf_counter()
    check_bundle(out, parse_public_key(key.read_bytes(), what=str(key)))
    verify_s = time.perf_counter() - began
    out.unlink()
    zip_s = None
    if (program := shutil.which("zip")) is not None:
        began = time.perf_counter()
        subprocess.run([program, "-0", "-r", "-q", str(out), "."], cwd=layout.episodes_dir, check=True)
        zip_s = time.perf_counter() - began
    return {
        "peak_rss_mib": round(rss_mib, 1),
        "mb_per_s": round(memory / seconds / 1e6, 1),
        "zip_mb_per_s": None if zip_s is None else round(memory / zip_s / 1e6, 1),
        "verify_mb_per_s": round(told["bytes"] / verify_s / 1e6, 1),
        "memory_bytes": memory,
        "bundle_bytes": told["bytes"],
        "episodes": told["episodes"],
        "steps": told["steps"],
        "seconds": round(seconds, 1),
        "goal_peak_rss_mib": GOAL_RSS_MIB,
        "met": rss_mib <= GOAL_RSS_MIB,
    }


def main() -> int:
    """The program. Exit code 1: the goal was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=10.0)
    parser.add_argument("--frames", choices=("keep", "half", "none"), default="keep")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        export_here(*options.only, options.frames)
        return 0
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        found = measure(options.gib, options.frames, Path(folder))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            Console(highlight=False).print(f"{name:18} {value}")
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
