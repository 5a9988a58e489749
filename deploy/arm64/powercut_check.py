"""In the emulated machine: what is left after power cuts, by the kernel's journal and the project's own readers.

    python powercut_check.py DISK NEEDS

DISK holds one file system after the other; NEEDS (a device or file, JSON, zeros behind it) says how large each is and
what was acknowledged before its power cut. One line on the console for each: `CHECKED {"image", "mounted",
"recorder", "promotion"}`, the last two a list of what is wrong, empty when nothing is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from powercut_marks import FRAMES, adapter_files

from benchmarks.small_verdict import judged
from continuonbrain.errors import BrainError
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.writer import encode_jpeg
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion, adapter_sha256
from continuonbrain.storage.layout import BrainLayout

MOUNT = Path("/mnt")
BASE_SHA256 = "ba5e" * 16
JPEGS = [encode_jpeg(frame, quality=90) for frame in FRAMES]


def wrong_with_episodes(episodes: Path, need: dict[str, Any]) -> Iterator[str]:
    """What the recorder acknowledged must be there, and every episode opens after the recovery."""
    for done in recover_unfinished(episodes):
        if done.problem:
            yield f"{done.path.name} is not recovered: {done.problem}"
    steps: dict[str, int] = {}
    for path in list_episodes(episodes):
        try:
            episode = open_episode(path)
            steps[path.name] = 0
            for index, step in enumerate(episode):
                if step.tick != index or episode.frame_jpeg(index) != JPEGS[index % len(JPEGS)]:
                    yield f"{path.name}: step {index} is not what was recorded"
                steps[path.name] += 1
            state = RecordingState.of(episode.metadata)
            if path.name in need["closed"] and (state is None or state.closed_by != "recorder"):
                yield f"{path.name} was closed and is not"
            yield from (f"{path.name}: {found}" for found in examine(path) if found.severity == ERROR)
        except (BrainError, OSError) as error:
            yield f"{path.name} cannot be read: {error}"
    for kind in ("synced", "closed"):
        for name, count in need[kind].items():
            if steps.get(name, 0) < count:
                yield f"{name}: {count} steps were {kind}, {steps.get(name, 0)} are there"


def wrong_with_adapter(version: AdapterVersion | None, need: dict[str, Any]) -> Iterator[str]:
    """`current` is the last one that was promoted, or one that was about to be; whole."""
    number = 0 if version is None else int(version.version_id.partition("-")[0])
    if not need["promoted"] <= number <= need["begun"]:
        yield f"adapter {number} drives, {need['promoted']} was promoted ({need['begun']} begun)"
    if version is not None and version.compute_sha256() != adapter_sha256(adapter_files(number)):
        yield f"adapter {number} is not whole"


def wrong_with_store(root: Path, need: dict[str, Any]) -> Iterator[str]:
    """The store recovers, its history verifies, and it can promote again."""
    store = AdapterStore(BrainLayout(root))
    yield from wrong_with_adapter(store.current(), need)  # as a reader finds it before anybody recovers
    store.recover()
    yield from wrong_with_adapter(store.current(), need)
    history = store.verify_history()
    if not history.ok:
        yield f"history: {history}"
    if len(store.history()) < need["promoted"]:
        yield f"history: {len(store.history())} changes, {need['promoted']} were made"
    version = store.stage(adapter_files(9999))
    store.promote(version.version_id, judged(version, BASE_SHA256), base_sha256=BASE_SHA256)
    if store.current_id() != version.version_id or not store.verify_history().ok:
        yield "the next promotion does not drive"


def all_of(wrong: Iterator[str]) -> list[str]:
    """What is wrong; an error that no reader should raise is wrong, too."""
    found = []
    try:
        for one in wrong:
            found.append(one)
    except Exception as error:  # it is told, by its type, and fails the check
        found.append(f"{type(error).__name__}: {error}")
    return found


def checked(disk: str, number: int, size: int, need: dict[str, Any]) -> dict[str, Any]:
    """Mount one (the kernel replays its journal), look, unmount."""
    options = f"loop,offset={number * size},sizelimit={size},errors=remount-ro"
    mounted = subprocess.run(
        ["mount", "-t", "ext4", "-o", options, disk, str(MOUNT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        wrong = [f"cannot be mounted: {mounted.stderr.strip()}"]
        return {"image": number, "mounted": False, "recorder": wrong, "promotion": wrong}
    try:
        layout = BrainLayout(MOUNT / "brain")
        return {
            "image": number,
            "mounted": True,
            "recorder": all_of(wrong_with_episodes(layout.episodes_dir, need)),
            "promotion": all_of(wrong_with_store(layout.root, need)),
        }
    finally:
        subprocess.run(["umount", str(MOUNT)], check=True)


def main() -> None:
    disk, needs = sys.argv[1], json.loads(Path(sys.argv[2]).read_bytes().rstrip(b"\0"))
    for number, need in enumerate(needs["images"]):
        print("CHECKED " + json.dumps(checked(disk, number, needs["size"], need)), flush=True)


if __name__ == "__main__":
    main()
