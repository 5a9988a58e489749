"""Claims about the processes together: real ones, killed for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.small_verdict import judged
from continuonbrain.loops.control_status import CONTROL_SOCKET_NAME
from continuonbrain.loops.drive_session import CONTROL_MODULE, DriveError, DriveSession, command_control
from continuonbrain.loops.notices import post_notice
from continuonbrain.loops.wire import connect_unix, receive, send
from continuonbrain.loops.wire_stream import WireServer
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.robot.host import HOST_FILE_NAME, FileHost
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.layout import BrainLayout, init_brain_root

CHUNK_TIMEOUT_S = 0.6
STUBS = str(Path(__file__).parent)


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    config = json.loads(layout.config_path.read_text())
    config["guards"]["chunk_timeout_s"] = CHUNK_TIMEOUT_S
    config["heads"]["safety"]["enabled"] = False  # the stub drives straight on, wherever that leads
    layout.config_path.write_text(json.dumps(config))
    return layout


def stub_session(layout: BrainLayout, **options: Any) -> DriveSession:
    path = os.pathsep.join(p for p in (STUBS, os.environ.get("PYTHONPATH", "")) if p)
    return DriveSession(layout, policy_module="stub_policy", env={"PYTHONPATH": path}, **options)


def wait_for(
    session: DriveSession, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = 8.0
) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = session.status()
        if wanted(status):
            return status
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s; last status: {session.status()}")


def promote(layout: BrainLayout, tag: str) -> str:
    store = AdapterStore(layout)
    files = {
        "adapter_model.safetensors": tag.encode(),
        "adapter_config.json": b"{}",
        "calibration.json": b"{}",
    }
    version = store.stage(files)
    sha256 = version.compute_sha256()
    verdict = judged(version, "ba5e" * 16)
    store.promote(version.version_id, verdict, base_sha256="ba5e" * 16)
    return sha256


def test_killing_the_policy_process_stops_the_robot_and_its_return_lets_it_drive(layout: BrainLayout) -> None:
    with stub_session(layout) as session:
        wait_for(session, lambda s: (s["speed_mps"] or 0) > 0.2)
        assert session.policy is not None
        os.kill(session.policy.pid, signal.SIGKILL)
        killed = time.monotonic()
        status = wait_for(session, lambda s: s["stopped"])
        # The status is written every 0.2 s; the guard itself is faster.
        assert time.monotonic() - killed < CHUNK_TIMEOUT_S + 0.6
        assert set(status["reasons"]) & {"stale_path", "no_path"}
        assert status["guarded"][1] == 0.0
        assert not status["torch_loaded"]
        chunks = status["chunks"]
        session.start_policy()
        wait_for(session, lambda s: s["chunks"] > chunks and not s["stopped"] and s["proposed"])
        report = session.stop()
    assert report.reasons.keys() & {"stale_path", "no_path"}
    assert report.stopped_ticks < report.ticks
    told = [e.data for e in EventLog(layout.events_dir).after(0) if e.kind == "safety"]
    stops = [e for e in told if e["stopped"] and set(e["reasons"]) & {"stale_path", "no_path"}]
    assert stops  # for whoever listens
    assert told.index(stops[-1]) < len(told) - 1  # and that it was over


def test_a_promotion_swaps_the_adapter_while_the_robot_drives(layout: BrainLayout) -> None:
    with stub_session(layout) as session:
        sha256 = promote(layout, "better")
        assert post_notice(layout.policy_socket, {"kind": "promotion"})
        session.wait_for_adapter(sha256, timeout_s=5.0)
        time.sleep(0.3)
        report = session.stop()
    assert [swap.adapter_sha256 for swap in report.swaps] == [sha256]
    assert report.swap["missed_ticks"] == 0
    assert report.swap["ticks_on_new"] > 3
    recorded = [step for path in list_episodes(layout.episodes_dir) for step in open_episode(path)]
    assert {s.adapter_sha256 for s in recorded} == {"", sha256}
    assert {s.source for s in recorded} == {"autopilot"}
    assert len(recorded) == report.recorded_steps
    assert report.dropped_steps == 0


def test_stop_needs_no_policy_process_and_commands_are_checked(layout: BrainLayout) -> None:
    with stub_session(layout, record=False) as session:
        wait_for(session, lambda s: (s["speed_mps"] or 0) > 0.2)
        with pytest.raises(DriveError, match="instruction = ''"):
            session.instruct("")
        with pytest.raises(DriveError, match="unknown command"):
            command_control(layout, {"type": "mode", "mode": "fly"})
        assert session.policy is not None
        session.policy.kill()
        session.instruct("stop now")
        wait_for(session, lambda s: s["speed_mps"] == 0.0 and "instruction_stop" in s["reasons"])
        command_control(layout, {"type": "stop"})
        wait_for(session, lambda s: s["emergency_stop"] and "emergency_stop" in s["reasons"])
        command_control(layout, {"type": "mode", "mode": "park"})
        status = wait_for(session, lambda s: s["mode"] == "park" and not s["emergency_stop"])
        assert status["reasons"] == []
        assert session.stop().recorded_steps == 0
    assert list_episodes(layout.episodes_dir) == []


def test_what_waited_for_longer_than_its_time_is_not_told_any_more(layout: BrainLayout) -> None:
    with WireServer(layout.run_dir / CONTROL_SOCKET_NAME) as control:
        with pytest.raises(DriveError, match="waited for more than 2 s"):
            command_control(layout, {"type": "mode", "mode": "autopilot"}, asked_s=time.monotonic() - 2.1)
        assert control.wait(0.2) == []
        assert control.wait(0.0) == []
        began_s = time.monotonic()
        with pytest.raises(DriveError, match="no complete message in time"):
            command_control(layout, {"type": "mode", "mode": "autopilot"}, asked_s=began_s - 1.7)
        assert time.monotonic() - began_s < 1.5
        control.wait(0.2)
        (told,) = control.wait(0.2)
        assert told.header["asked_s"] == pytest.approx(began_s - 1.7)
        assert told.header["until_s"] == pytest.approx(began_s + 0.3)


def test_a_person_drives_over_the_socket_and_the_car_stops_when_nothing_comes_any_more(
    layout: BrainLayout,
) -> None:
    with stub_session(layout) as session:
        wait_for(session, lambda s: (s["speed_mps"] or 0) > 0.2)
        command_control(layout, {"type": "teleop", "steering": 0.5, "throttle": 0.3})  # means nothing yet
        command_control(layout, {"type": "record", "on": True})
        command_control(layout, {"type": "mode", "mode": "teleop"})
        wait_for(session, lambda s: s["mode"] == "teleop" and "deadman" in s["reasons"])
        for odd in (
            {"steering": 2.0, "throttle": 0.0},
            {"steering": True, "throttle": 0.0},
            {"steering": 0.0},
        ):
            with pytest.raises(DriveError, match="is not a number in"):
                command_control(layout, {"type": "teleop", **odd})
        with contextlib.closing(connect_unix(layout.run_dir / CONTROL_SOCKET_NAME, 2.0)) as line:
            driving_until = time.monotonic() + 1.5
            while time.monotonic() < driving_until or session.status()["reasons"]:
                send(line, {"type": "teleop", "steering": 0.1, "throttle": 0.3}, timeout_s=2.0)
                assert receive(line, 2.0)[0]["ok"]
                time.sleep(0.04)
                assert time.monotonic() < driving_until + 10.0, "it never drives as it is told"
            assert session.status()["guarded"] == [0.1, 0.3]
        wait_for(session, lambda s: "deadman" in s["reasons"] and s["guarded"][1] == 0.0)
        command_control(layout, {"type": "mode", "mode": "autopilot"})
        wait_for(session, lambda s: s["mode"] == "autopilot" and not s["stopped"])
        session.stop()
    roles = {}
    for path in list_episodes(layout.episodes_dir):
        episode = open_episode(path)
        roles[episode.metadata.control_role] = {step.source for step in episode}
    # What a person drove is a lesson; what the policy drove is none.
    assert roles == {"human_teleop": {"human_teleop_xr"}, "autonomous": {"autopilot"}}


def test_one_root_has_one_driver_and_a_killed_one_loses_no_acknowledged_step(layout: BrainLayout) -> None:
    with stub_session(layout) as session:
        wait_for(session, lambda s: s["chunks"] > 5)
        assert session.control is not None
        second = control("--root", str(layout.root))
        assert second.returncode == 2
        assert f"process {session.control.pid} is already doing this" in second.stderr
        host = FileHost(layout.run_dir / HOST_FILE_NAME)
        # While the second one took the machine, this one may have stood still.
        wait_for(session, lambda _s: (idle_s := host.read().idle_s.value) is not None and idle_s < 0.5)
        # Ticks that came late end an episode, and the next one begins.
        told = wait_for(session, lambda s: s["recording"]["steps"] > 5)["recording"]
        time.sleep(0.5)
        os.kill(session.control.pid, signal.SIGKILL)
        with pytest.raises(DriveError, match="control process ended"):
            wait_for(session, lambda _s: False)
    again = control("--root", str(layout.root), "--seconds", "0.2")
    assert again.returncode == 0, again.stderr
    held = {path.name: len(open_episode(path)) for path in list_episodes(layout.episodes_dir)}
    assert held[told["episode"]] >= told["steps"]
    report = json.loads((layout.run_dir / "control_report.json").read_text())
    late = report["overrun_stops"]  # on a machine with other work; the clock stops these
    assert report["reasons"] == {"no_path": report["ticks"] - late} | ({"clock": late} if late else {})


def test_a_policy_process_that_cannot_start_is_told_with_the_end_of_its_log(layout: BrainLayout) -> None:
    started = time.monotonic()
    with (
        pytest.raises(DriveError, match=r"(?s)policy process ended.*No module named"),
        DriveSession(layout, policy_module="no_such_module"),
    ):
        pass
    assert time.monotonic() - started < 10.0
    assert not list(layout.run_dir.glob("*.sock"))


def test_children_do_not_outlive_a_parent_that_is_killed(layout: BrainLayout) -> None:
    program = (
        "import sys, time; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path\n"
        "from test_drive_session import stub_session, BrainLayout\n"
        "with stub_session(BrainLayout(Path(sys.argv[1]))) as session:\n"
        "    print(session.policy.pid, session.control.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(layout.root), STUBS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    deadline = time.monotonic() + 8.0
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (layout.run_dir / "control_report.json").exists()  # it ended in good order


def test_a_car_that_nobody_calibrated_does_not_drive(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "pi", "pi5-donkey")
    done = control("--root", str(layout.root))
    assert done.returncode == 2
    assert "donkey.calibrated = false" in done.stderr
    assert "continuonbrain calibrate" in done.stderr


def control(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", CONTROL_MODULE, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_real_engine_swaps_a_real_adapter_while_the_robot_drives(layout: BrainLayout) -> None:
    torch = pytest.importorskip("torch")
    from continuonbrain.model.base import save_base
    from continuonbrain.model.base_identity import base_sha256
    from continuonbrain.model.driving import new_tiny_model
    from continuonbrain.model.lora import adapter_files, attach_lora
    from continuonbrain.policy import codec
    from continuonbrain.policy.prompt import PromptLayout
    from continuonbrain.robot.sim.instructions import BY_PHRASING
    from continuonbrain.trainer.tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(BY_PHRASING)
    prompts = PromptLayout(tokenizer)
    model = new_tiny_model(prompts.vocabulary, image_token=prompts.image_token, queries=codec.QUERIES)
    save_base(model, tokenizer.to_str(), {}, layout.base_model_dir)
    identity = base_sha256(layout.base_model_dir)
    attach_lora(model, base_sha256=identity, rank=4, alpha=8, targets=["q_proj", "o_proj"])
    store = AdapterStore(layout)
    with DriveSession(layout, record=False) as session:
        assert session.status()["adapter_sha256"] == ""
        version = store.stage({**adapter_files(model), "calibration.json": b'{"steering_trim_rad": 0.1}'})
        sha256 = version.compute_sha256()
        verdict = judged(version, identity)
        store.promote(version.version_id, verdict, base_sha256=identity)
        assert post_notice(layout.policy_socket, {"kind": "promotion"})
        status = session.wait_for_adapter(sha256, timeout_s=10.0)
        report = session.stop()
    assert not status["torch_loaded"]
    assert status["decision_ms"] > 0.0
    assert report.swap["adapter_sha256"] == sha256
