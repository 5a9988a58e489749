"""What the control process tells the others: `run/control.json` five times a second, `run/host.json` once.

Two threads write them, in the slack of the control loop (`slack.py`), so that no tick waits for a file system or for
the interpreter, and no stop for a gauge that is slow to read. The files are replaced atomically and not synced: after a
power cut nobody needs them, and a fsync five times a second would wear out an SD card. A stop is in the status before
it is acknowledged (`StatusWriter.soon`): a process that is killed leaves it to the next.

Host readings carry the time of the control loop's last sign of life, so they go stale when the loop hangs although
this thread lives on: the gates then close. They also carry the number of its ticks, so that a time that somebody
stamps anew on what the loop no longer says is seen as well.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from continuonbrain.loops.slack import Slack
from continuonbrain.robot.host import HOST_FILE_NAME, FileHost, HostReadings
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.event_log import EventLog

Told = TypeVar("Told")

log = logging.getLogger(__name__)

CONTROL_STATUS_NAME = "control.json"
CONTROL_SOCKET_NAME = "control.sock"
CONTROL_REPORT_NAME = "control_report.json"
"""File names in the brain's run folder, next to `HOST_FILE_NAME`."""

_PERIOD_S = 0.2
_LONGEST_TICK_S = 0.1
_HOST_PERIOD_S = 1.0


class Machine(Protocol):
    """What is read of the machine under the robot."""

    def read(self) -> HostReadings:
        """The readings as they are now; called on a thread of its own, which may wait for them."""
        ...


class StatusWriter:
    """Writes the status that `snapshot` gives, and the machine's readings, each from a thread of its own.

    snapshot is called on the status's thread: it must only read. housekeeping, too: what else is to be done a few times
    a second. When the guards stop the robot, or let it go on, that is an event.
    """

    def __init__(
        self,
        run_dir: Path,
        snapshot: Callable[[], dict[str, Any]],
        machine: Machine,
        events: EventLog,
        housekeeping: Callable[[], None] = lambda: None,
        slack: Slack | None = None,
    ) -> None:
        self._path = run_dir / CONTROL_STATUS_NAME
        self._host_file = FileHost(run_dir / HOST_FILE_NAME)
        self._snapshot = snapshot
        self._machine = machine
        self._events = events
        self._housekeeping = housekeeping
        self._slack = slack or Slack()
        self._stopped: tuple[object, object] | None = None
        self._done, self._hurry = threading.Event(), threading.Event()
        self._asked = self._written = 0
        self._faults: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="control-status", daemon=True)
        self._host_thread = threading.Thread(target=self._run_host, name="control-host", daemon=True)

    def start(self) -> None:
        """Begin. What a process before this one left is replaced in one step: it must not look alive, and what it says
        of a stop must be read by whoever follows if this process is killed now, or finds no room on the disk."""
        self._write_status()
        self._thread.start()
        self._host_thread.start()

    def soon(self) -> Callable[[], bool]:
        """Write what is true now without waiting for the next turn; what is returned says whether that is done. For
        the loop's thread, which waits for nothing."""
        self._asked = asked = self._asked + 1
        self._hurry.set()
        return lambda: self._written >= asked

    def close(self) -> None:
        """Write a last time and end the threads."""
        self._done.set()
        self._hurry.set()
        for thread in (self._thread, self._host_thread):
            if thread.is_alive():
                thread.join(5.0)
        if not self._host_thread.is_alive():  # one that still waits for a gauge has nothing to tell
            self._write_host()
        self._write_status()

    def _run(self) -> None:
        while not self._done.is_set():
            self._slack.wait(_LONGEST_TICK_S)
            self._guarded("housekeeping", self._housekeeping)
            self._write_status()
            until_s = time.monotonic() + _PERIOD_S
            while (left_s := until_s - time.monotonic()) > 0 and self._hurry.wait(left_s):
                if self._done.is_set():
                    return
                self._hurry.clear()
                # It was asked for at the end of a tick, so this is the slack. Nothing else is done here.
                self._write_status()

    def _run_host(self) -> None:
        while not self._done.is_set():
            self._slack.wait(_LONGEST_TICK_S)
            self._write_host()
            self._done.wait(_HOST_PERIOD_S)

    def _write_host(self) -> None:
        # Two things that fail by themselves: a full disk must not look like a gauge that is silent.
        readings = self._guarded("machine", self._machine.read)
        if readings is not None:
            self._guarded("host readings", lambda: self._host_file.write(readings))

    def _write_status(self) -> None:
        self._guarded("status", self._write_shot)

    def _write_shot(self) -> None:
        asked = self._asked  # before it looks
        shot = self._snapshot()
        replace_file(self._path, (json.dumps(shot, allow_nan=False) + "\n").encode())
        self._written = asked
        self._note_stop(shot)

    def _guarded(self, what: str, work: Callable[[], Told]) -> Told | None:
        """None after a fault, which is told once: a full disk, or whatever else, must not end the drive or a thread."""
        try:
            return work()
        except Exception as error:
            if str(error) != self._faults.get(what):
                log.error("control status: %s: %s: %s", what, type(error).__name__, error)
            self._faults[what] = str(error)
            return None

    def _note_stop(self, shot: dict[str, Any]) -> None:
        stopped = shot.get("stopped"), shot.get("emergency_stop")
        if stopped != self._stopped:
            self._stopped = stopped
            names = ("mode", "stopped", "emergency_stop", "reasons", "fault")
            self._events.note("safety", {name: shot.get(name) for name in names})
