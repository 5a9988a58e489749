"""An app that follows the manifest by the rules of the existing one (continuonai), as a process of its own.

* The manifest's folder is watched for create and modify; a move into place is not seen.
* The adapter's folder is watched for create, modify and move, at the place where it was when the watch began.
* SIGUSR1 counts as a change.
* 200 ms after the last change the adapter is loaded that the manifest names.

Prints one JSON line when it is ready, and one for every load: {"adapter": sha256 of the adapter file or ""}.

    python reference_consumer.py MANIFEST PID_FILE
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from inotify_simple import INotify, flags

DEBOUNCE_S = 0.2
MODIFY = flags.MODIFY | flags.ATTRIB | flags.CLOSE_WRITE | flags.CREATE
MOVE = flags.MOVED_TO | flags.MOVED_FROM


def loaded(manifest: Path) -> str:
    adapter = Path(json.loads(manifest.read_text())["paths"]["adapter"])
    return hashlib.sha256(adapter.read_bytes()).hexdigest() if adapter.exists() else ""


def main(manifest: Path, pid_file: Path) -> None:
    wake, awake = os.pipe()
    os.set_blocking(awake, False)
    signal.set_wakeup_fd(awake)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    watch = INotify()
    of_manifest = watch.add_watch(manifest.parent, MODIFY)
    adapter_dir = Path(json.loads(manifest.read_text())["paths"]["adapter_dir"])
    if adapter_dir.exists():
        watch.add_watch(adapter_dir, MODIFY | MOVE)
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    pid_file.write_text(str(os.getpid()))
    print(json.dumps({"ready": True}), flush=True)
    due: float | None = None
    while True:
        left = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([wake, watch.fileno()], [], [], left)
        changed = False
        if wake in ready:
            changed = bool(os.read(wake, 64))
        if watch.fileno() in ready:
            for event in watch.read(timeout=0):
                changed |= event.wd != of_manifest or event.name == manifest.name
        if changed:
            due = time.monotonic() + DEBOUNCE_S
        elif due is not None and time.monotonic() >= due:
            due = None
            print(json.dumps({"adapter": loaded(manifest)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
