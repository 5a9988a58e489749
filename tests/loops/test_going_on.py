"""What a person wanted of a control process that was killed, or failed, still holds for the one that follows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from continuonbrain.cli.main import app
from continuonbrain.loops.drive_session import command_control, read_status
from continuonbrain.storage.layout import BrainLayout, init_brain_root

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    return init_brain_root(tmp_path / "b", "sim-donkey")


FAILING = """
import sys
from pathlib import Path
from continuonbrain.loops import control_process
from continuonbrain.loops.open_body import body_of

def open_body(brain, **how):
    body = body_of(brain, **how)
    ticked = body.ticked

    def fails_when_told(tick):
        ticked(tick)
        if (brain.layout.root / "fail").exists():
            raise ZeroDivisionError("a fault of the program")

    body.ticked = fails_when_told
    return body

sys.exit(control_process.main(sys.argv[1:], open_body=open_body))
"""


@contextmanager
def control(layout: BrainLayout, *, fails: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A control process that drives off by itself, as in a simulated life. fails: once a file says so."""
    how = ["-c", FAILING] if fails else ["-m", "continuonbrain.loops.control_process"]
    command = [sys.executable, *how, "--no-record", "--root", str(layout.root)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(layout, lambda s: s.get("pid") == process.pid and s.get("tick", 0) > 3)
        yield process
    finally:
        process.kill()
        process.wait(10)


def until(layout: BrainLayout, true: Any) -> dict[str, Any]:
    end = time.monotonic() + 30
    while not true(status := read_status(layout)):
        assert time.monotonic() < end, status
        time.sleep(0.02)
    return status


def killed(layout: BrainLayout, process: subprocess.Popen[bytes]) -> None:
    """At once: what was acknowledged is in its file."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


def test_an_emergency_stop_outlives_a_control_process_that_is_killed(layout: BrainLayout) -> None:
    with control(layout) as process:
        assert read_status(layout)["mode"] == "autopilot"
        command_control(layout, {"type": "stop"})
        killed(layout, process)
    with control(layout) as process:
        status = until(layout, lambda s: s["pid"] == process.pid)
        assert status["emergency_stop"]
        assert status["guarded"] == [0.0, 0.0]
        command_control(layout, {"type": "mode", "mode": "autopilot"})  # a person ends it
        killed(layout, process)
    with control(layout):
        assert not read_status(layout)["emergency_stop"]


@pytest.mark.parametrize("mode", ["teleop", "assisted", "park"])
def test_a_robot_that_a_person_has_in_hand_does_not_drive_off_by_itself(
    layout: BrainLayout, mode: str
) -> None:
    with control(layout) as process:
        command_control(layout, {"type": "mode", "mode": mode})
        assert read_status(layout)["mode"] == mode
        killed(layout, process)
    with control(layout):
        assert read_status(layout)["mode"] == "park"
        assert read_status(layout)["held"]


@pytest.mark.parametrize(
    "told", [{"type": "stop"}, {"type": "mode", "mode": "teleop"}, {"type": "mode", "mode": "park"}]
)
def test_a_control_process_that_fails_leaves_what_a_person_wanted(
    layout: BrainLayout, told: dict[str, Any]
) -> None:
    with control(layout, fails=True) as process:
        command_control(layout, told)
        (layout.root / "fail").touch()
        assert process.wait(30) == 1
    assert read_status(layout)["mode"] == "stopped"
    with control(layout):
        status = read_status(layout)
        assert status["emergency_stop"] == (told["type"] == "stop")
        assert status["guarded"] == [0.0, 0.0]
        assert status["mode"] == ("autopilot" if told["type"] == "stop" else "park")


PARENT = """
import sys
import time
from pathlib import Path
from continuonbrain.loops.child_process import ChildProcess

log, *arguments = sys.argv[1:]
ChildProcess("control", "continuonbrain.loops.control_process", arguments, log_path=Path(log))
time.sleep(600)
"""


def is_gone(pid: int) -> bool:
    """A zombie has ended, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("told", [{"type": "stop"}, {"type": "mode", "mode": "teleop"}])
def test_a_control_process_whose_parent_is_killed_leaves_what_a_person_wanted(
    layout: BrainLayout, told: dict[str, Any]
) -> None:
    arguments = [str(layout.log_dir / "control.log"), "--no-record", "--root", str(layout.root)]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments])
    try:
        pid = until(layout, lambda s: s.get("tick", 0) > 3)["pid"]
        command_control(layout, told)
    finally:
        killed(layout, parent)
    end = time.monotonic() + 30
    while not is_gone(pid):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert read_status(layout)["mode"] == "stopped"  # in good order: the kernel asked it
    with control(layout):
        status = read_status(layout)
        assert status["emergency_stop"] == (told["type"] == "stop")
        assert status["guarded"] == [0.0, 0.0]
        assert status["mode"] == ("autopilot" if told["type"] == "stop" else "park")


RUN = """
import sys
import time
from pathlib import Path
from continuonbrain.brain_root import open_brain
from continuonbrain.loops.child_plan import CONTROL_MODULE, LIMITS, ChildPlan
from continuonbrain.loops.supervisor import ChildGaveUpError, Supervisor

root = sys.argv[1]
plan = ChildPlan("control", CONTROL_MODULE, ("--root", root, "--no-record"), LIMITS["control"])
with Supervisor(open_brain(Path(root)), [plan]) as run:
    while True:
        run.poll()
        if (Path(root) / "fail").exists():
            raise ChildGaveUpError("the policy process cannot run")
        if (Path(root) / "end").exists():
            raise SystemExit(0)
        time.sleep(0.02)
"""


@pytest.mark.parametrize("told", [{"type": "stop"}, {"type": "mode", "mode": "teleop"}])
@pytest.mark.parametrize("fails", [True, False], ids=["a run that fails", "one that is ended"])
def test_a_run_that_fails_leaves_what_a_person_wanted_and_one_that_is_ended_does_not(
    layout: BrainLayout, told: dict[str, Any], fails: bool
) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(layout.root)], stderr=subprocess.DEVNULL)
    try:
        until(layout, lambda s: s.get("tick", 0) > 3)
        command_control(layout, told)
        (layout.root / ("fail" if fails else "end")).touch()
        assert run.wait(30) == (1 if fails else 0)
    finally:
        run.kill()
    assert read_status(layout)["mode"] == "stopped"
    with control(layout):
        status = read_status(layout)
        assert status["emergency_stop"] == (fails and told["type"] == "stop")
        assert (status["mode"] == "park") == (fails and told["type"] != "stop")


def test_who_is_told_to_end_leaves_nothing_to_the_next(layout: BrainLayout) -> None:
    with control(layout) as process:
        command_control(layout, {"type": "stop"})
        process.terminate()
        process.wait(10)
    with control(layout):
        assert not read_status(layout)["emergency_stop"]
        assert read_status(layout)["mode"] == "autopilot"


def test_a_stop_needs_no_settings_and_no_base(layout: BrainLayout) -> None:
    with control(layout):
        layout.config_path.write_text("{ torn")
        layout.base_slot_path.write_text("{ torn")
        told = CliRunner().invoke(app, ["mode", "stop", "--root", str(layout.root)])
        assert told.exit_code == 0, told.output
        assert until(layout, lambda s: s["emergency_stop"])
