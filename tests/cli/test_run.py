"""`continuonbrain run`: everything starts, is watched, is restarted, and ends within seconds of Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.dashboard import Dashboard
from continuonbrain.cli.main import app
from continuonbrain.cli.run import _in_world, line, nothing_new, summary_line, view
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_plan import ChildPlan, service_plan, standard_plans
from continuonbrain.loops.child_process import ChildLogError
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.loops.supervisor import ChildGaveUpError, Supervisor
from continuonbrain.policy.watch import HEAD_CALIBRATION_FILE, HeadCalibration
from continuonbrain.storage.layout import BrainLayout, init_brain_root

STUBS = str(Path(__file__).parents[1] / "loops")
RUN = [sys.executable, "-m", "continuonbrain.cli.main", "run"]


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    (layout.base_model_dir / "config.json").write_text("{}")  # the stub policy process does not read it
    return layout


@pytest.fixture
def plans(layout: BrainLayout, monkeypatch: pytest.MonkeyPatch) -> tuple[ChildPlan, ...]:
    """Control and sidecar for real, the policy process with an engine that needs no torch."""
    path = os.pathsep.join(p for p in (STUBS, os.environ.get("PYTHONPATH", "")) if p)
    monkeypatch.setenv("PYTHONPATH", path)
    control, policy, sidecar = standard_plans(layout, shift="tape", decision_time_s=0.1)
    arguments = tuple(a for a in control.arguments if a != "--cycle")
    return (
        ChildPlan("control", control.module, arguments),
        ChildPlan("policy", "stub_policy", policy.arguments),
        sidecar,
    )


def poll_until(
    supervisor: Supervisor, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = 10.0
) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        supervisor.poll()
        shot = supervisor.snapshot()
        if wanted(shot):
            return shot
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {shot}")


def driving(shot: dict[str, Any]) -> bool:
    return bool(shot["control"].get("chunks") and shot["training"].get("phase"))


def test_a_killed_process_is_started_again_and_counted(
    layout: BrainLayout, plans: tuple[ChildPlan, ...]
) -> None:
    with Supervisor(open_brain(layout.root), plans) as supervisor:
        shot = poll_until(supervisor, driving)
        assert shot["gates"]["open"] is False
        assert shot["probation"] == {"state": "base", "version_id": ""}
        assert not shot["gates"]["gates"]["idle"]["open"]  # it is driving
        os.kill(supervisor.child("policy").pid, signal.SIGKILL)
        os.kill(supervisor.child("control").pid, signal.SIGKILL)
        shot = poll_until(supervisor, lambda s: s["processes"]["control"]["restarts"] == 1 and driving(s))
        assert any("control died (signal 9)" in event["text"] for event in shot["events"])
        text = line(shot)
        assert "autopilot" in text
        assert "gates closed" in text
        assert view(shot, layout).renderables
        pids = [process["pid"] for process in shot["processes"].values()]
        started = time.monotonic()
        summary = supervisor.stop()
        assert time.monotonic() - started < 6.0
    assert summary.restarts == {"control": 1, "policy": 1, "sidecar": 0}
    assert summary.report is not None
    assert "control ticks" in summary_line(summary)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_what_a_person_must_mend_ends_the_run_with_the_process_own_words(
    layout: BrainLayout, plans: tuple[ChildPlan, ...]
) -> None:
    control = ChildPlan("control", plans[0].module, (*plans[0].arguments, "--shift", "sideways"))
    told = "unknown shift 'sideways'"
    with (
        Supervisor(open_brain(layout.root), [control]) as supervisor,
        pytest.raises(ChildGaveUpError, match=told),
    ):
        poll_until(supervisor, lambda _s: False)


def test_a_view_of_nothing_yet_is_drawn_too(layout: BrainLayout) -> None:
    shot = {
        "uptime_s": 0.0,
        "control": {},
        "training": {},
        "gates": {"open": False, "gates": {}},
        "processes": {},
        "events": [],
    }
    assert "starting" in line(shot)
    assert view(shot, layout).renderables


def test_while_it_starts_the_line_and_the_view_say_what_keeps_it(layout: BrainLayout) -> None:
    shot: dict[str, Any] = {
        "uptime_s": 3.0,
        "control": {},
        "training": {},
        "gates": {"open": False, "gates": {}},
        "processes": {"control": {"running": False, "restarts": 2, "last_words": "No space left on device"}},
        "trouble": "the disk of /b is full",
        "events": [],
    }
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view(shot, layout))
    for text in (line(shot), console.export_text()):
        assert "control is being restarted: No space left on device" in text
        assert "the disk of /b is full" in text
    shot["control"], shot["trouble"] = {"mode": "park", "fault": "teaching failed"}, ""
    assert "teaching failed" in line(shot)


def test_the_line_and_the_view_say_how_far_a_probation_is(layout: BrainLayout) -> None:
    probation = {
        "state": "probation",
        "ticks": 64,
        "of_ticks": 400,
        "minutes": 0.5,
        "of_minutes": 5.0,
        "incidents": {"block": 1},
        "restarts": 0,
    }
    shot: dict[str, Any] = {
        "uptime_s": 3.0,
        "control": {"mode": "autopilot", "instruction": "drive", "adapter_sha256": "ab" * 32},
        "training": {"phase": "gates"},
        "gates": {"open": False, "gates": {}},
        "probation": probation,
        "processes": {},
        "events": [],
    }
    assert "abababababab (probation 64/400 ticks 0.5/5 min)" in line(shot)
    assert len(line(shot)) < 160
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view(shot, layout))
    assert "64 of 400 ticks, 0.5 of 5 minutes of driving, 1 x block" in console.export_text()
    shot["probation"] = {"state": "confirmed", "version_id": "000001-abababab"}
    assert "probation" not in line(shot)


def test_a_run_that_put_learning_down_says_so(layout: BrainLayout) -> None:
    with Supervisor(open_brain(layout.root), []) as supervisor:
        layout.training_state_path.parent.mkdir(parents=True, exist_ok=True)
        layout.training_state_path.write_bytes(b"a job")
    assert "goes on with it" in summary_line(supervisor.stop())
    layout.training_state_path.unlink()
    with Supervisor(open_brain(layout.root), []) as supervisor:
        pass
    assert "put down" not in summary_line(supervisor.stop())


def test_a_log_that_cannot_be_written_names_it(layout: BrainLayout) -> None:
    (layout.log_dir / "control.log").mkdir(parents=True)
    plan = ChildPlan("control", "json.tool", ())
    with pytest.raises(ChildLogError, match=r"control\.log"), Supervisor(open_brain(layout.root), [plan]):
        pass


def test_a_root_without_a_base_model_says_how_to_build_one(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    done = subprocess.run(
        [*RUN, "--root", str(layout.root)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "there is no base model" in done.stderr
    assert "model build-tiny" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_root_that_cannot_be_made_is_said_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = str(tmp_path / "file" / "brain")
    done = subprocess.run([*RUN, "--root", root], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "cannot create the brain root" in done.stderr
    assert "--root" in done.stderr


def test_ctrl_c_ends_a_whole_run_within_seconds_with_exit_code_0(layout: BrainLayout, tmp_path: Path) -> None:
    # A policy process that takes for ever to load (an import that hangs) must not delay the end either.
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\ntime.sleep(60)\n")
    path = os.pathsep.join(p for p in (str(tmp_path), os.environ.get("PYTHONPATH", "")) if p)
    command = [*RUN, "--root", str(layout.root), "--shift", "tape", "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        shots = []
        for text in process.stdout:
            shots.append(json.loads(text))
            if shots[-1]["control"].get("mode") == "teach" and shots[-1]["control"]["taught"][0]:
                break
        process.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        rest, errors = process.communicate(timeout=20)
        assert time.monotonic() - pressed < 7.0
    assert process.returncode == 0, errors
    summary = json.loads(rest.splitlines()[-1])["summary"]
    assert set(summary["restarts"]) == {"control", "policy", "service", "sidecar"}
    assert not any(Path(f"/proc/{p['pid']}").exists() for p in shots[-1]["processes"].values())


def test_a_shift_stays_with_the_robot_so_that_it_is_judged_on_the_road_it_drives(layout: BrainLayout) -> None:
    brain = open_brain(layout.root)
    assert brain.config.robot.shift == "none"
    assert _in_world(brain, None) is brain
    assert "--shift tape" in nothing_new(brain)
    moved = _in_world(brain, "tape")
    assert moved.config.robot.shift == "tape"
    assert nothing_new(moved) == ""
    assert open_brain(layout.root).config == moved.config
    assert moved.config.with_overrides({"robot.shift": "none"}) == brain.config


def test_a_shift_of_a_robot_that_is_not_simulated_is_refused_and_its_config_left_alone(
    tmp_path: Path,
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    before = layout.config_path.read_bytes()
    with pytest.raises(BrainError, match="only a simulated robot"):
        _in_world(open_brain(layout.root), "tape")
    assert layout.config_path.read_bytes() == before


def test_a_base_that_only_talks_is_told_before_anything_is_started(tmp_path: Path) -> None:
    talking = Path(__file__).parents[1] / "talking_base" / "base"
    layout = init_brain_root(tmp_path / "b", "sim-donkey", base_model=talking)
    result = CliRunner().invoke(app, ["run", "--root", str(layout.root), "--seconds", "1"])
    assert "not built to drive" in str(result.exception)
    assert not layout.policy_socket.exists()


def test_a_robot_that_drives_takes_what_its_safety_head_was_told_meanwhile(layout: BrainLayout) -> None:
    process = ControlProcess(open_brain(layout.root), ControlOptions(seconds=0.0, record=False))
    try:
        watch = process._loop.pilot.watch
        assert watch is not None
        assert watch.calibration.mount_yaw_rad == 0.0
        told = HeadCalibration(mount_yaw_rad=0.1, slope=1.5, offset=0.5, head_sha256=watch.head.sha256)
        path = layout.safety_dir / HEAD_CALIBRATION_FILE
        path.write_bytes(told.to_json())
        process._take_head_calibration()
        assert watch.calibration == told
        path.write_bytes(b"{")
        process._take_head_calibration()
        assert watch.calibration == told
    finally:
        process._client.close()
        process._reflexes.close()


def test_a_driving_process_looks_for_a_new_calibration_of_its_head_by_itself(layout: BrainLayout) -> None:
    process = ControlProcess(open_brain(layout.root), ControlOptions(seconds=4.0, record=False))
    watch = process._loop.pilot.watch
    assert watch is not None
    told = HeadCalibration(mount_yaw_rad=0.1, slope=1.5, offset=0.5, head_sha256=watch.head.sha256)
    (layout.safety_dir / HEAD_CALIBRATION_FILE).write_bytes(told.to_json())
    process.run()
    assert watch.calibration == told


def test_the_dashboard_has_one_address_and_ends_with_the_run(tmp_path: Path) -> None:
    httpx, root = pytest.importorskip("httpx"), tmp_path / "b"
    pytest.importorskip("websockets")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = subprocess.run(
            [*RUN, "--root", str(root), "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert refused.returncode == 2
    assert "--port" in refused.stderr
    process = subprocess.Popen(
        [*RUN, "--root", str(root), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline().strip()
        while not line.startswith("dashboard: "):
            line = process.stderr.readline().strip()
        address = line.removeprefix("dashboard: ")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        page = httpx.get(address)
        assert page.status_code == 200
        assert "<title>" in page.text
        assert httpx.get(f"{address}/v1/session").json()["robot"]["kind"] == "sim-donkey"
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    shots = [json.loads(text) for text in out.splitlines()]
    assert {shot["dashboard"] for shot in shots[:-1]} == {address}
    assert shots[-1]["summary"]["restarts"]["service"] == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_without_its_service_a_robot_lives_on(layout: BrainLayout, plans: tuple[ChildPlan, ...]) -> None:
    broken = replace(service_plan(layout, port=1), arguments=("serve", "--root", "/nowhere/at/all"))
    with Supervisor(open_brain(layout.root), [broken]) as supervisor:
        shot = poll_until(supervisor, lambda s: s["processes"]["service"]["restarts"] >= 1, 30.0)
    assert "/nowhere" in json.dumps(shot["processes"]["service"])


def test_on_the_lan_the_line_says_where_the_code_is_and_no_log_holds_it(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("websockets")
    dashboard = Dashboard.of(layout, port=None, listen="127.0.0.1")
    assert dashboard is not None
    layout.run_dir.mkdir(exist_ok=True)
    layout.pairing_code_path.write_text("123456\n")
    assert dashboard.in_words().endswith(f"pairing code in {layout.pairing_code_path}")
    assert dashboard.news() == ""  # nothing answers yet
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert dashboard.in_words().endswith("pairing code 123456")
    with socket.create_server(("127.0.0.1", dashboard.port)):
        time.sleep(0.6)
        assert dashboard.news() == dashboard.in_words()
        time.sleep(0.6)
        assert dashboard.news() == ""  # told once
    with pytest.raises(BrainError, match="--listen"):
        Dashboard.of(layout, port=None, listen="203.0.113.7")
