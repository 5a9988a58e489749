"""Runs the commands of a trial, one after the other, in the namespace that it was started in, and notes what each did.

`python inside.py TRIAL.json`: `{"log", "out", "closed", "runs": [{"words", "look_up", "local",
"stop_s", "ready", "meanwhile", "limit_s", "given"}]}`.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from listeners import Listeners
from wire import Wire, close_in

_SETTLE_S = 0.15
"""A packet is read within a tenth of a second."""

_LEAVE_S = 120
"""For what was interrupted."""


def found_now(word: str) -> str:
    """A word with a star as the one path that it fits, `NAME-OF:PATH` as that path's last part."""
    wanted = word.removeprefix("NAME-OF:")
    if "*" in wanted:
        paths = glob.glob(wanted)
        if len(paths) != 1:
            raise SystemExit(f"{wanted} fits {len(paths)} paths")
        (wanted,) = paths
    return os.path.basename(wanted) if word.startswith("NAME-OF:") else wanted


def run(given: dict[str, Any], log: Path) -> dict[str, Any]:
    """One command: how it ended, what it said, and what its processes tried."""
    log.unlink(missing_ok=True)
    environment = {**os.environ, "OFFLINE_LOG": str(log), "OFFLINE_LOCAL": "1" if given["local"] else "0"}
    words = [found_now(word) for word in given["words"]] if given["look_up"] else given["words"]
    began = time.monotonic()
    with open(log.with_suffix(".said"), "w+", errors="replace") as said:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(given["given"].encode())
        code = _ended(process, given, began, said=said, environment=environment | {"OFFLINE_LOCAL": "0"})
        said.seek(0)
        told = said.read()[-2000:]
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {
        "code": code,
        "said": told,
        "seconds": round(time.monotonic() - began, 2),
        "processes": sum(row["event"] == "started" for row in rows),
        "attempts": [row for row in rows if row["event"] != "started"],
    }


def _ended(
    process: subprocess.Popen[bytes],
    given: dict[str, Any],
    began: float,
    *,
    said: TextIO,
    environment: dict[str, str],
) -> int | None:
    """Its exit code, or that of what ran meanwhile; None when it had to be killed."""
    limit, beside = given["limit_s"], 0
    if given["stop_s"] is not None:
        ready = Path(given["ready"])
        while process.poll() is None and not ready.exists() and time.monotonic() - began < limit:
            time.sleep(0.05)
        if given["meanwhile"]:
            beside = subprocess.run(
                given["meanwhile"],
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
                timeout=limit,
            ).returncode
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=given["stop_s"])
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        limit = _LEAVE_S
    try:
        return process.wait(timeout=limit) or beside
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def main(trial: Path) -> None:
    """Run all, and write down what was seen."""
    asked = json.loads(trial.read_text())
    wire = listeners = None
    if asked["closed"]:
        close_in()
        wire, listeners = Wire(), Listeners()
    found = []
    for given in asked["runs"]:
        if listeners is not None:
            listeners.local = given["local"]
        row = run(given, Path(asked["log"]))
        if wire is not None and listeners is not None:
            time.sleep(_SETTLE_S)
            row["packets"], row["listeners"] = wire.taken(), listeners.taken()
        found.append(row)
    missed = 0 if wire is None else wire.close()
    if listeners is not None:
        listeners.close()
    Path(asked["out"]).write_text(json.dumps({"runs": found, "missed": missed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
