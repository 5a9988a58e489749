"""In the emulated machine: the recorder records and adapters are promoted, as fast as they can, until the power goes.

    python powercut_work.py MOUNT sync|nosync

Every line on the console is said after the call has returned that it speaks of:
    SYNCED episode steps     the recorder calls so many steps safe against a power cut
    CLOSED episode steps     the episode was closed
    PROMOTING number         (before) and PROMOTED number: an adapter gets to drive
"nosync" is the control: from then on the kernel answers fsync and fdatasync with success and does nothing.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import struct
import sys
import threading
import time
from pathlib import Path

from powercut_marks import FRAMES, adapter_files

from benchmarks.small_verdict import judged
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout, init_brain_root

SYNC_INTERVAL_S = 0.2
STEPS, PERIOD_S = 40, 0.05
BASE_SHA256 = "ba5e" * 16

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO_0 = 0x7FFF0000, 0x00050000
_CALLS = {"aarch64": (81, 82, 83, 84, 267)}
"""sync, fsync, fdatasync, sync_file_range, syncfs (asm-generic/unistd.h)."""


def make_syncing_do_nothing() -> None:
    """A seccomp filter (kernel, Documentation/userspace-api/seccomp_filter.rst) that answers with errno 0, success,
    without making the call. For this process and all of its threads to come. Raises OSError."""
    calls = _CALLS[platform.machine()]
    program = [(_LOAD, 0, 0, 0)]  # seccomp_data.nr
    program += [(_EQUAL, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO_0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    of_filter = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, of_filter, 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


def say(line: str) -> None:
    """One write, so that the lines of two threads do not mix."""
    os.write(1, f"{line}\n".encode())


def record(episodes: Path) -> None:
    """Episodes without end."""
    for number in itertools.count():
        name = f"episode-{number:04d}"
        metadata = EpisodeMetadata("trainer", "autonomous", "cut", (), Software(), episode_id=name)
        recorder = EpisodeRecorder(episodes, metadata=metadata, sync_interval_s=SYNC_INTERVAL_S)
        synced = 0
        for tick in range(STEPS):
            frame = FRAMES[tick % len(FRAMES)]
            recorder.append(
                Step(command=(0.0, 0.1), source="autopilot", frame=frame, tick=tick,
                     monotonic_ns=time.monotonic_ns())
            )  # fmt: skip
            time.sleep(PERIOD_S)
            if recorder.synced > synced:
                synced = recorder.synced
                say(f"SYNCED {name} {synced}")
        recorder.close()
        if recorder.fault:
            say(f"FAILED {recorder.fault}")
            os._exit(1)
        say(f"CLOSED {name} {recorder.synced}")


def promote(store: AdapterStore) -> None:
    """One adapter after the other."""
    for number in itertools.count(1):
        say(f"PROMOTING {number}")
        version = store.stage(adapter_files(number))
        store.promote(version.version_id, judged(version, BASE_SHA256), base_sha256=BASE_SHA256)
        say(f"PROMOTED {number}")


def main() -> None:
    mount, mode = Path(sys.argv[1]), sys.argv[2]
    layout: BrainLayout = init_brain_root(mount / "brain", "sim-donkey")
    os.sync()
    if mode == "nosync":
        make_syncing_do_nothing()
    threading.Thread(target=record, args=(layout.episodes_dir,), daemon=True).start()
    promote(AdapterStore(layout))


if __name__ == "__main__":
    main()
