"""What a power cut leaves of recordings and promotions on a real ext4: emulated, but with a real arm64 kernel.

    sudo python deploy/arm64/powercut.py [--images 60] [--control-images 20] [--seconds 12] [--seed 0] [--json]

A machine records episodes and promotes adapters on a disk whose writes and flushes are logged. It says on its console
what is acknowledged; how long the log was then is noted. Then it is killed. From the log the disk is rebuilt as it may
be after power cuts at random writes: what came before the last flush is there; each later write is there, torn at a
sector or gone, in any order. A second machine mounts each image (the kernel replays ext4's journal), recovers as a
start of the brain does, and asks the project's readers for all that was acknowledged.

The control is the same with fsync and fdatasync doing nothing. It has to lose something, otherwise none of this could
have found anything; exit status 1 when it does not, as when the other one does.

Keys:
  images, violations                  power cuts; those of them that broke a promise (goal 0)
  control_images, control_violations  the same without fsync (has to be > 0)
  recorder, promotion                 each: images, violations, control_violations, acknowledged (in all)
  kernel, emulated, cpu               what ran
  writes, flushes                     in the log
  seconds                             of the whole
  ok                                  no violation, and the control has some of each kind
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from debian_root import TOOLS, WORK, locked, require, run
from machine import CPU, MACHINE_EMULATION, Machine, built, disk, logged_disk
from write_log import FLUSH, Told, Write, crash_image, need_at, parse

DISK_BYTES = 64 << 20
_PATIENCE_S = 2400.0
"""For one machine, on a busy computer."""
_PROMOTIONS = 8
"""There are at least so many, however slow the machine is."""
_PIECE = 1 << 16
_OURS = ("SYNCED", "CLOSED", "PROMOTING", "PROMOTED")
_HERE = Path(__file__).parent
KINDS = ("recorder", "promotion")


@dataclass(frozen=True)
class Run:
    """What a machine wrote and told until it was killed."""

    mode: str
    disk: bytes
    log: bytes
    writes: list[Write]
    told: list[Told]


def lines_of(
    machine: subprocess.Popen[bytes],
    log: Path | None,
    enough: Callable[[Sequence[Told], float], bool] = lambda _told, _seconds: False,
) -> list[Told]:
    """The console's lines until the machine turns off, or until there are enough of them, and then it is killed.

    enough: gets the lines and the seconds since the first one of our own.
    """
    assert machine.stdout is not None
    console, told, rest = machine.stdout.fileno(), list[Told](), b""
    deadline, begun = time.monotonic() + _PATIENCE_S, 0.0
    while time.monotonic() < deadline:
        if begun and enough(told, time.monotonic() - begun):
            break
        if not select.select([console], [], [], 0.2)[0]:
            continue
        data = os.read(console, 1 << 16)
        if not data:
            break
        # After the read: all that the lines speak of is in the log by now.
        size = 0 if log is None else log.stat().st_size
        *whole, rest = (rest + data).split(b"\n")
        told += [Told(size, line.decode(errors="replace").strip()) for line in whole]
        if not begun and any(t.line.startswith((*_OURS, "CHECKED")) for t in told):
            begun = time.monotonic()
    machine.kill()
    machine.wait()
    failed = [t.line for t in told if t.line.startswith(("FAILED", "Traceback"))]
    if failed or not begun:
        text = "\n".join(t.line for t in told[-40:])
        raise SystemExit(f"the emulated machine did not do its work:\n{text}")
    return told


def worked(machine: Machine, folder: Path, mode: str, seconds: float) -> Run:
    """Run the recorder and promotions for `seconds` (longer if few were made), with or without fsync, and kill the
    machine."""

    def enough(told: Sequence[Told], passed: float) -> bool:
        done = [t.line.partition(" ")[0] for t in told]
        return passed > seconds and done.count("PROMOTED") >= _PROMOTIONS and done.count("CLOSED") > 0

    image, log = folder / "data.img", folder / "data.log"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    log.write_bytes(b"")
    run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image])
    before = image.read_bytes()
    process = machine.start(f"todo=work mode={mode}", *logged_disk("data", image, log))
    told = [t for t in lines_of(process, log, enough) if t.line.startswith(_OURS)]
    data = log.read_bytes()
    return Run(mode, before, data, parse(data), told)


def write_sparse(path: Path, number: int, image: bytes | bytearray) -> None:
    """Put an image at its place in a file of many; zeros take no room."""
    with path.open("r+b") as file:
        for at in range(0, len(image), _PIECE):
            piece = image[at : at + _PIECE]
            if piece.count(0) != len(piece):
                file.seek(number * len(image) + at)
                file.write(piece)


def cuts(ran: Run, count: int, chance: random.Random) -> list[int]:
    """At which writes the power goes: any after the first line that was told."""
    first = next((i for i, w in enumerate(ran.writes, 1) if w.end > ran.told[0].log_bytes), None)
    if first is None:
        raise SystemExit("nothing was written after the first acknowledgement: give it more --seconds")
    return [chance.randint(first, len(ran.writes)) for _ in range(count)]


def examined(
    machine: Machine, folder: Path, ran: Run, count: int, chance: random.Random
) -> list[dict[str, Any]]:
    """Rebuild `count` disks and have the project's readers look at each. One object for each image."""
    disks, needs_file = folder / "images", folder / "needs"
    disks.unlink(missing_ok=True)
    with disks.open("wb") as file:
        file.truncate(count * DISK_BYTES)
    needs = []
    for number, cut in enumerate(cuts(ran, count, chance)):
        write_sparse(disks, number, crash_image(ran.disk, ran.log, ran.writes, cut, chance))
        needs.append(asdict(need_at(ran.told, ran.writes[cut - 1].end)))
    text = json.dumps({"size": DISK_BYTES, "images": needs}).encode()
    needs_file.write_bytes(text + bytes(-len(text) % 4096))
    process = machine.start(
        "todo=check",
        *disk("data", f"driver=file,filename={disks},node-name=data"),
        *disk("needs", f"driver=file,filename={needs_file},node-name=needs,read-only=on"),
    )
    told = lines_of(process, None)
    found = [json.loads(t.line.removeprefix("CHECKED ")) for t in told if t.line.startswith("CHECKED ")]
    if ran.mode == "nosync" and not all(entry["mounted"] for entry in found):
        # The journal keeps its own order; what cannot be mounted here would be this program's fault and show nothing.
        raise SystemExit(f"an image of the control cannot be mounted: {found}")
    if [entry["image"] for entry in found] != list(range(count)):
        raise SystemExit(f"{len(found)} of {count} images were looked at:\n{told[-1].line}")
    return found


def violations(found: Sequence[dict[str, Any]], *kinds: str) -> int:
    """Images that broke a promise of one of the kinds."""
    return sum(any(entry[kind] for kind in kinds) for entry in found)


def report(ran: Run, found: list[dict[str, Any]], control: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys, without those of the machine."""
    told: dict[str, Any] = {
        "images": len(found), "violations": violations(found, *KINDS),
        "control_images": len(control), "control_violations": violations(control, *KINDS),
    }  # fmt: skip
    need = need_at(ran.told, len(ran.log))
    acknowledged = {"recorder": sum({**need.synced, **need.closed}.values()), "promotion": need.promoted}
    for kind in KINDS:
        told[kind] = {
            "images": len(found), "violations": violations(found, kind),
            "control_violations": violations(control, kind), "acknowledged": acknowledged[kind],
        }  # fmt: skip
    told |= {"writes": len(ran.writes), "flushes": sum(bool(w.flags & FLUSH) for w in ran.writes)}
    told["ok"] = told["violations"] == 0 and all(told[kind]["control_violations"] > 0 for kind in KINDS)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=at_least_one, default=60, help="power cuts (%(default)s)")
    parser.add_argument("--control-images", type=at_least_one, default=20, help="without fsync (%(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of work before the cuts (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="where the machine is made and kept (%(default)s)"
    )
    asked = parser.parse_args()
    require(TOOLS, MACHINE_EMULATION)
    started = time.monotonic()

    def say(text: str) -> None:
        if not asked.json:
            print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    def say_wrong(entry: dict[str, Any]) -> None:
        for kind in KINDS:
            for wrong in entry[kind][:3]:
                say(f"image {entry['image']}, {kind}: {wrong}")

    def side(machine: Machine, folder: Path, mode: str, images: int) -> tuple[Run, list[dict[str, Any]]]:
        folder.mkdir()
        chance = random.Random(f"{asked.seed} {mode}")
        ran = worked(machine, folder, mode, asked.seconds)
        say(f"{mode}: {len(ran.told)} lines, {len(ran.writes)} writes and flushes, {len(ran.log) >> 20} MiB")
        found = examined(machine, folder, ran, images, chance)
        say(f"{mode}: {violations(found, *KINDS)} of {images} images broke a promise")
        return ran, found

    with locked(asked.work), tempfile.TemporaryDirectory(dir=asked.work, prefix="cut-") as name:
        programs = [_HERE / f"powercut_{part}.py" for part in ("work", "check", "marks")]
        machine = built(asked.work, _HERE / "powercut_init", programs)
        say(f"kernel {machine.release}, {CPU}, emulated")
        with ThreadPoolExecutor() as both:
            real = both.submit(side, machine, Path(name, "sync"), "sync", asked.images)
            other = both.submit(side, machine, Path(name, "nosync"), "nosync", asked.control_images)
            (ran, found), (_, control) = real.result(), other.result()
        for entry in found:
            say_wrong(entry)
        say("of the control, for example:")
        say_wrong(max(control, key=lambda entry: sum(bool(entry[kind]) for kind in KINDS)))
    told = report(ran, found, control)
    told |= {
        "kernel": machine.release,
        "cpu": CPU,
        "emulated": True,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(told, indent=None if asked.json else 2))
    return 0 if told["ok"] else 1


def at_least_one(text: str) -> int:
    """An option's number. Raises ValueError, which argparse tells."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
