"""The memory of every process of a robot while it drives, learns, judges and answers: what the units' limits rest on.

    python -m benchmarks.process_memory [--shift tape] [--limit 900] [--json]

The simulated robot lives as `continuonbrain run` lets it, with the service beside it and an app that asks for
decisions, until its sidecar has been through a whole round (or --limit seconds). Five times a second each process is
looked at together with all that it has started.

Keys, in MiB, for control, policy, sidecar and service: peak_rss_mib (resident, files that are mapped among it; pages
that two of its processes share count twice), peak_anonymous_mib (what cannot be thrown away and read again: what
MemoryMax= ends a process for). phases: what the sidecar went through; processes: the most at once.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.init import shipped_base_model
from continuonbrain.loops.child_plan import standard_plans
from continuonbrain.loops.child_process import ChildProcess
from continuonbrain.loops.supervisor import Supervisor
from continuonbrain.storage.layout import BrainLayout, init_brain_root

_EVERY_S = 0.2
_ASK_EVERY_S = 1.0
_OVER = ("promoted", "refused", "judged", "failed")


@dataclass(slots=True)
class Peak:
    """The most that a process and its children have had at one time, in bytes."""

    rss: int = 0
    anonymous: int = 0
    processes: int = 0

    def look(self, pid: int) -> None:
        """Take the tree below `pid` as it is now."""
        rss = anonymous = count = 0
        with contextlib.suppress(psutil.Error, OSError):
            first = psutil.Process(pid)
            for process in (first, *first.children(recursive=True)):
                kept = dict(
                    line.split(":", 1)
                    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                )
                if "VmRSS" not in kept:  # it has ended and nobody has asked for its code yet
                    continue
                rss += _bytes(kept["VmRSS"])
                anonymous += _bytes(kept["RssAnon"])
                count += 1
        self.rss, self.anonymous = max(self.rss, rss), max(self.anonymous, anonymous)
        self.processes = max(self.processes, count)

    def to_json(self) -> dict[str, Any]:
        return {
            "peak_rss_mib": self.rss >> 20,
            "peak_anonymous_mib": self.anonymous >> 20,
            "processes": self.processes,
        }


def _frame() -> str:
    """A camera's picture, as the service takes it."""
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


def _bytes(words: str) -> int:
    return int(words.split()[0]) << 10


@dataclass(slots=True)
class App:
    """Asks the service for its status and for decisions, as a person's telephone would."""

    path: Path
    frame: str
    answers: dict[int, int] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        while not self.done.wait(_ASK_EVERY_S):
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._once("GET", "/v1/status", None)
                self._once(
                    "POST",
                    "/v1/act",
                    json.dumps({"instruction": "drive", "frame": self.frame, "speed_mps": 0.5}),
                )

    def _once(self, method: str, where: str, body: str | None) -> None:
        connection = http.client.HTTPConnection("brain", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(60)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.path))
            connection.request(method, where, body, {"Content-Type": "application/json"} if body else {})
            code = connection.getresponse().status
            self.answers[code] = self.answers.get(code, 0) + 1


def measure(root: Path, shift: str, limit_s: float) -> dict[str, Any]:
    """Let a robot live in `root`."""
    layout = init_brain_root(root, "sim-donkey", base_model=shipped_base_model())
    brain = open_brain(root)
    peaks = {name: Peak() for name in ("control", "policy", "sidecar", "service")}
    phases: list[str] = []
    arguments = ("serve", "--root", str(root), "--json")
    began = time.monotonic()
    service = ChildProcess("service", "continuonbrain", arguments, log_path=layout.log_dir / "service.log")
    app = App(layout.service_socket, _frame())
    asking = threading.Thread(target=app.ask, daemon=True)
    asking.start()
    try:
        with Supervisor(brain, standard_plans(layout, shift=shift)) as supervisor:
            over = 0.0
            while time.monotonic() - began < limit_s and not (over and time.monotonic() > over):
                supervisor.poll()
                for name, peak in peaks.items():
                    child = service if name == "service" else supervisor.child(name)
                    peak.look(child.pid)
                phase = _phase(layout)
                if phase and phase != (phases[-1] if phases else ""):
                    phases.append(phase)
                if phase in _OVER and not over:
                    over = time.monotonic() + 20.0  # the swap, too
                time.sleep(_EVERY_S)
    finally:
        app.done.set()
        service.kill()
        asking.join(60)
    return {
        **{name: peak.to_json() for name, peak in peaks.items()},
        "seconds": round(time.monotonic() - began, 1),
        "phases": phases,
        "answers": {str(code): count for code, count in sorted(app.answers.items())},
        "ok": any(phase in _OVER for phase in phases),
    }


def _phase(layout: BrainLayout) -> str:
    try:
        return str(json.loads(layout.status_path.read_text())["phase"])
    except (OSError, ValueError, KeyError):
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shift", default="tape")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds at most")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        told = measure(Path(folder) / "brain", options.shift, options.limit)
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        for name in ("control", "policy", "sidecar", "service"):
            seen = told[name]
            print(
                f"{name:8} {seen['peak_rss_mib']:5} MiB resident, {seen['peak_anonymous_mib']:5} MiB anonymous, "
                f"{seen['processes']} processes"
            )
        print(f"{told['seconds']} s; the sidecar: {', '.join(told['phases'])}; answers {told['answers']}")
    return 0 if told["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
