"""Looks at the running system from outside: processes in /proc, the files it tells itself in, its sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.soak.body import WORK_VARIABLE
from benchmarks.soak.system import SYSTEM_FILE
from continuonbrain.loops.drive_session import read_status
from continuonbrain.loops.wire import WireError, connect_unix
from continuonbrain.safety.reasons import Reason
from continuonbrain.storage.durable import STAGING_PREFIX
from continuonbrain.storage.layout import BrainLayout

CHILDREN = ("control", "policy", "sidecar", "service")
PROCESSES = ("supervisor", *CHILDREN)
_NOBODY_DRIVES = {str(r) for r in (Reason.NO_PATH, Reason.STALE_PATH, Reason.SENSOR_FAULT, Reason.CLOCK)}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Seen:
    """One process now. handles: open file descriptors; anon_mib: of its memory what is no file's, so that the kernel
    cannot take it back."""

    pid: int
    age_s: float
    state: str
    rss_mib: float
    handles: int
    threads: int
    anon_mib: float


def look_at(pid: int) -> Seen | None:
    """None when there is no such process (any more)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        handles = len(os.listdir(f"/proc/{pid}/fd"))
        of_memory = Path(f"/proc/{pid}/statm").read_text().split()
        up_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, IndexError):
        return None
    if after_name[0] in "ZX":
        return None
    age_s = up_s - int(after_name[19]) / _TICKS_PER_S
    rss, of_files = (int(of_memory[n]) * _PAGE_MIB for n in (1, 2))
    return Seen(pid, age_s, after_name[0], rss, handles, int(after_name[17]), rss - of_files)


def marked(work: Path) -> set[int]:
    """All processes that this soak's system started, whoever started them."""
    mark, found = f"{WORK_VARIABLE}={work}".encode(), set()
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                if mark in environment and look_at(int(entry)) is not None:
                    found.add(int(entry))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """{} when it is not there or makes no sense."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def phase_of(control: dict[str, Any]) -> str:
    """Of `run/control.json`: what the robot is at. One that somebody has parked is parked, whatever its life is at."""
    return "park" if control.get("held") else str(control.get("phase", ""))


class System:
    """What the system tells of itself. supervisor: pid of the one that runs now, 0 for none."""

    def __init__(self, layout: BrainLayout, work: Path) -> None:
        self.layout, self.work = layout, work
        self.supervisor = 0

    def told(self) -> dict[str, Any]:
        """The supervisor's snapshot; {} before its first."""
        shot = read_json(self.work / SYSTEM_FILE)
        return shot if shot.get("pid") == self.supervisor else {}

    def pids(self) -> dict[str, int]:
        """Of all processes that run, by name."""
        running = {"supervisor": self.supervisor} if self.supervisor else {}
        for name, process in (self.told().get("processes") or {}).items():
            if process.get("running"):
                running[name] = int(process["pid"])
        return running

    def control(self) -> dict[str, Any]:
        """`run/control.json`."""
        return read_status(self.layout)

    def training(self) -> dict[str, Any]:
        """`trainer/status.json`."""
        return read_json(self.layout.status_path)

    def phases(self) -> set[str]:
        """What robot and sidecar are at: the `when` of faults."""
        training, control = self.training(), self.control()
        found = {phase_of(control), str(training.get("phase", ""))}
        if training.get("kind") == "slow":
            found.add("consolidate")
        if training.get("phase") in ("judged", "promoted"):
            found.add("promote")
        if (self.told().get("probation") or {}).get("state") == "probation" and "drive" in found:
            found.add("probation")
        return found

    def unwell(self, now_s: float, before: dict[str, Any]) -> str:
        """Why the system is not at work; "" when it is. before: `control` of a moment ago, to see it move."""
        pids = self.pids()
        for name in PROCESSES:
            seen = look_at(pids[name]) if name in pids else None
            if seen is None or seen.state in "Tt":
                return f"{name} does not run"
        control, training = self.control(), self.training()
        if control.get("pid") != pids["control"] or now_s - float(control.get("monotonic_s", 0)) > 2.0:
            return "control tells nothing"
        if control.get("fault"):
            return f"control: {control['fault']}"
        mode = control.get("mode")
        moved = [name for name in ("tick", "taught", "round") if control.get(name) != before.get(name)]
        if before.get("pid") != control.get("pid") or not moved:
            return "control does not move"
        halted = set(control.get("reasons") or []) & _NOBODY_DRIVES
        if mode == "autopilot" and (control.get("chunks") == before.get("chunks") or halted):
            return f"no path is followed: {control.get('reasons')}"
        if training.get("pid") != pids["sidecar"]:
            return "sidecar tells nothing"
        if training.get("phase") == "failed":
            return f"sidecar: {training.get('detail')}"
        return self._deaf()

    def _deaf(self) -> str:
        with contextlib.suppress(WireError):
            connect_unix(self.layout.policy_socket, 1.0).close()
            status = _ask(self.layout.service_socket)
            return "" if status == 200 else f"service answers {status}"
        return "policy does not answer"

    def leftovers(self) -> dict[str, int]:
        """What restarts may leave behind below the root: staging files, unfinished versions, lock and socket files."""
        counts = {"staging": 0, "sockets": 0, "events_and_logs_mib": 0, "files": 0}
        for folder, _, files in os.walk(self.layout.root):
            counts["files"] += len(files)
            counts["staging"] += sum(name.startswith(STAGING_PREFIX) for name in (*files, Path(folder).name))
            counts["sockets"] += sum(name.endswith(".sock") for name in files)
            if Path(folder) in (self.layout.log_dir, self.layout.events_dir):
                for name in files:
                    with contextlib.suppress(OSError):
                        counts["events_and_logs_mib"] += os.stat(Path(folder) / name).st_size
        counts["events_and_logs_mib"] >>= 20
        return counts


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("brain", timeout=3.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(path: Path) -> int:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/v1/status")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
