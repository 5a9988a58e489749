"""Another base drives: the processes that opened the one before end in good order and are started anew, at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops import base_probation, probation, promotion
from continuonbrain.loops.base_change import announce_base, confirm_base
from continuonbrain.loops.base_probation import base_progress
from continuonbrain.loops.child_plan import ChildPlan
from continuonbrain.loops.drive_session import CONTROL_MODULE, command_control, read_status
from continuonbrain.loops.probation import progress
from continuonbrain.loops.supervisor import Supervisor
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.base_files import BEHAVIOUR_FILES
from continuonbrain.storage.base_slot_rule import Switch
from continuonbrain.storage.base_slots import SLOT_FILE, BaseSlots
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import DrivingRecord, write_record
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.probation_rule import Terms
from tests.loops.stub_policy import BASE_SHA256
from tests.loops.test_base_change import BOOT, Robot

STUBS = str(Path(__file__).parent)
SLOT = BASE_SHA256[:16]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A simulated robot whose slot is of the base that the stub says it is."""
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    config = json.loads(layout.config_path.read_text())
    config["guards"]["chunk_timeout_s"] = 1.0
    config["heads"]["safety"]["enabled"] = False  # the stub drives straight on, wherever that leads
    layout.config_path.write_text(json.dumps(config))
    slot = layout.slot_dir(SLOT)
    (slot / "base").mkdir(parents=True)
    (slot / "adapters").mkdir()
    for name in BEHAVIOUR_FILES:
        (slot / "base" / name).write_bytes(b"{}")
    (slot / SLOT_FILE).write_text(json.dumps({"base_sha256": BASE_SHA256}))
    return layout.root


def poll_until(supervisor: Supervisor, done: Callable[[], bool], seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, (supervisor.snapshot()["events"], read_status(supervisor._layout))
        supervisor.poll()
        time.sleep(0.02)


def test_control_and_policy_make_way_for_another_base_and_come_back_as_a_person_left_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes: the command lines, their exit codes and the supervisor; only the engine is a stub."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((STUBS, os.environ.get("PYTHONPATH", ""))))
    brain = open_brain(root)
    layout = brain.layout
    given = ("--root", str(root))
    plans = [
        ChildPlan("control", CONTROL_MODULE, (*given, "--no-record")),
        ChildPlan("policy", "stub_policy", given),
    ]

    def status() -> dict[str, Any]:
        return read_status(layout)

    with Supervisor(brain, plans) as supervisor:
        poll_until(supervisor, lambda: (status().get("speed_mps") or 0.0) > 0.2)
        before = {name: supervisor.child(name) for name in ("control", "policy")}
        command_control(layout, {"type": "stop"})
        poll_until(supervisor, lambda: status().get("emergency_stop") is True)
        BaseSlots(layout).change(Switch(SLOT, Terms(400, 0.0, boot_id())), {"by": "test"})
        assert announce_base(open_brain(root)).slot == SLOT
        poll_until(
            supervisor, lambda: all(supervisor.child(name).pid != child.pid for name, child in before.items())
        )
        again = supervisor.child("control").pid
        poll_until(supervisor, lambda: status().get("pid") == again and status()["policy"]["connected"])
        assert status()["emergency_stop"]  # what a person wanted of the one before
        assert status()["guarded"] == [0.0, 0.0]
        command_control(layout, {"type": "mode", "mode": "autopilot"})
        poll_until(supervisor, lambda: (status().get("speed_mps") or 0.0) > 0.2)
        told = [event["text"] for event in supervisor.snapshot()["events"]]
        processes = supervisor.snapshot()["processes"]
        summary = supervisor.stop()
    assert {name: child.exit_code for name, child in before.items()} == {"control": 75, "policy": 75}
    assert {name: process["restarts"] for name, process in processes.items()} == {"control": 1, "policy": 1}
    assert f"base {SLOT} drives from now on" in told
    assert not [text for text in told if "died" in text or "hangs" in text]
    assert summary.troubles == ()
    drives = open_brain(root)
    assert drives.layout.base_slot == SLOT
    assert base_progress(drives)["restarts"] == 0  # the switch itself asked for that start


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    for module in (base_probation, probation):
        monkeypatch.setattr(module, "boot_id", lambda: BOOT)
    return Robot(tmp_path)


def test_the_supervisor_watches_over_what_is_promoted_on_the_base_that_drives_now(robot: Robot) -> None:
    def told(supervisor: Supervisor) -> list[str]:
        return [event["text"] for event in supervisor.snapshot()["events"]]

    with Supervisor(robot.brain, []) as supervisor:
        robot.switched()
        confirm_base(robot.brain)
        robot.adapter("bad", terms=Terms(400, 0.0, BOOT))
        now: BrainRoot = robot.brain
        current = AdapterStore(now.layout).current()
        assert current is not None
        worse = DrivingRecord(400, 20.0, {"off_road": 20})
        write_record(now.layout.driving_dir, current.compute_sha256(), worse)
        poll_until(supervisor, lambda: progress(now)["state"] == "base", 20.0)
        poll_until(
            supervisor, lambda: any("taken back (off_road)" in text for text in told(supervisor)), 20.0
        )
        assert f"base {robot.slot} drives from now on" in told(supervisor)
        assert supervisor.snapshot()["probation"]["state"] == "base"


def test_a_process_that_makes_way_is_started_again_at_once_and_its_pause_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "makes_way.py").write_text("import sys\nsys.exit(75)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    now = [100.0]  # pauses would need a clock that goes on
    with Supervisor(
        open_brain(layout.root), [ChildPlan("sidecar", "makes_way", ())], clock=lambda: now[0]
    ) as one:
        poll_until(one, lambda: one._watched[0].restarts >= 3)
        assert one.snapshot()["events"] == []
