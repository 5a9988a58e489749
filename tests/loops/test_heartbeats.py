"""A child that hangs is known by its silence, and only by that."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.run import summary_line
from continuonbrain.loops import notify
from continuonbrain.loops import supervisor as supervisor_module
from continuonbrain.loops.child_plan import ChildPlan, standard_plans
from continuonbrain.loops.heartbeats import Heartbeat, Limits
from continuonbrain.loops.supervisor import Supervisor
from continuonbrain.storage.layout import init_brain_root


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_limit_has_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    heart = Heartbeat("one", Limits(start_s=100.0, silent_s=5.0, stop_s=30.0), clock=clock)
    for name, value in heart.environment.items():
        monkeypatch.setenv(name, value)
    clock.now += 100
    assert notify.status("loading")  # a sign of life is not "ready"
    assert heart.overdue() == ""
    assert heart.worked_s() == 0.0
    clock.now += 0.1
    assert heart.overdue() == "it did not say that it is ready within 100 s"
    assert notify.ready()
    assert heart.overdue() == ""
    clock.now += 4.9
    assert notify.watchdog()
    assert heart.overdue() == ""
    clock.now += 5.1
    assert heart.overdue() == "it gave no sign of life for 5 s"
    assert heart.worked_s() == pytest.approx(4.9)
    assert notify.status("still here")
    assert heart.overdue() == ""
    assert notify.stopping()
    assert heart.overdue() == ""
    clock.now += 29.9
    assert notify.watchdog()  # whoever lives on does not end
    assert heart.overdue() == ""
    clock.now += 0.2
    assert heart.overdue() == "it said that it ends, and did not within 30 s"
    assert notify.watchdog()
    heart.begin()
    clock.now += 100
    assert heart.overdue() == ""
    heart.close()
    assert not notify.watchdog()


def test_what_is_no_message_is_a_sign_of_life_and_nothing_more() -> None:
    clock = Clock()
    heart = Heartbeat("one", Limits(start_s=2000.0, silent_s=5.0, stop_s=5.0), clock=clock)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for data in (b"\xff\x00", b"READY=10", b"XREADY=1", b"R" * 4000, b"XSTOPPING=1"):
            sock.sendto(data, "\0" + heart.environment["NOTIFY_SOCKET"][1:])
    clock.now += 1000
    assert heart.overdue() == ""
    assert heart.worked_s() == 0.0
    heart.close()


HANGS = {
    "it gave no sign of life for": "notify.ready(); time.sleep(600)",
    "it did not say that it is ready within 1.5 s": "time.sleep(600)",
    "it said that it ends, and did not within 1.5 s": "notify.ready(); notify.stopping(); time.sleep(600)",
}
LIMITS_HERE = Limits(start_s=1.5, silent_s=1.5, stop_s=1.5)


def module(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that children find."""
    heading = "import signal, sys, time\nfrom pathlib import Path\nfrom continuonbrain.loops import notify\n"
    (folder / f"{name}.py").write_text(heading + code)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return name


def events(supervisor: Supervisor) -> list[str]:
    return [e["text"] for e in supervisor.snapshot()["events"]]


def poll_until(supervisor: Supervisor, done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until, events(supervisor)
        supervisor.poll()
        time.sleep(0.05)


@pytest.mark.parametrize("told", HANGS)
def test_the_supervisor_ends_one_that_hangs_and_starts_it_again_later_and_later(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = module(tmp_path, "hangs_forever", HANGS[told], monkeypatch)
    monkeypatch.setattr(supervisor_module, "_FORGIVEN_AFTER_S", 1.0)  # shorter than it hangs
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    plan = ChildPlan("sidecar", hangs, (), LIMITS_HERE)
    with Supervisor(open_brain(layout.root), [plan]) as supervisor:
        first = supervisor.child("sidecar").pid
        poll_until(supervisor, lambda: supervisor._watched[0].restarts == 2)
        said = events(supervisor)
        assert said[0].startswith(f"sidecar hangs: {told}")
        assert said[0].endswith("it is killed")
        again = [text for text in said if "starting it again" in text]
        assert [text.rpartition(" in ")[2] for text in again] == ["0.5 s", "1 s"]
        assert told in supervisor.snapshot()["processes"]["sidecar"]["last_words"]
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


NEVER_ENDS = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
notify.ready()
while True:
    notify.watchdog()
    time.sleep(0.1)
"""
SWITCHES_OFF = """
with Path(sys.argv[1]).open("a") as file:
    file.write("off\\n")
"""


def test_control_that_does_not_end_is_killed_and_its_robot_left_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = module(tmp_path, "never_ends", NEVER_ENDS, monkeypatch)
    off = module(tmp_path, "switches_off", SWITCHES_OFF, monkeypatch)
    told = tmp_path / "told"
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    plan = ChildPlan("control", stubborn, (), afterwards=(off, str(told)))
    with Supervisor(open_brain(layout.root), [plan]) as supervisor:
        child = supervisor.child("control")
        poll_until(supervisor, lambda: supervisor._watched[0].heartbeat.worked_s() > 0.2)
        assert not told.exists()
        os.kill(child.pid, signal.SIGKILL)
        poll_until(supervisor, lambda: supervisor._watched[0].restarts == 1)
        assert told.read_text() == "off\n"  # before it drives again
        again = supervisor.child("control")
        poll_until(supervisor, lambda: supervisor._watched[0].heartbeat.worked_s() > 0.2)
        summary = supervisor.stop()
    assert again.exit_code == -signal.SIGKILL
    assert told.read_text() == "off\n" * 2
    assert summary.troubles == ("control did not end within 3 s of being asked and was killed",)
    assert summary.troubles[0] in summary_line(summary)


def test_a_car_whose_pulses_could_not_be_switched_off_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`calibrate --off` itself, on a computer without that bus."""
    layout = init_brain_root(tmp_path / "brain", "pi5-donkey")
    settings = json.loads(layout.config_path.read_bytes())
    settings["donkey"]["pwm"]["i2c_bus"] = 31
    layout.config_path.write_text(json.dumps(settings))
    control = standard_plans(layout, kind="donkey")[0]
    assert standard_plans(layout)[0].afterwards == ()
    dies = module(tmp_path, "dies_at_once", "sys.exit(1)", monkeypatch)
    plan = replace(control, module=dies, arguments=())
    with Supervisor(open_brain(layout.root), [plan]) as supervisor:
        poll_until(supervisor, lambda: len(events(supervisor)) > 1)
        said = events(supervisor)
        assert said[0].startswith("the robot may still move: continuonbrain calibrate --off")
        assert "31" in said[0]
        assert said[1].startswith("control died (exit 1)")


def test_a_process_that_is_stopped_and_goes_on_in_time_is_left_alone(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    limits = Limits(start_s=60.0, silent_s=8.0, stop_s=60.0)
    plan = ChildPlan("sidecar", "continuonbrain.loops.mid", ("--root", str(layout.root)), limits)
    with Supervisor(open_brain(layout.root), [plan]) as supervisor:
        child = supervisor.child("sidecar")
        until = time.monotonic() + 60
        watched = supervisor._watched[0].heartbeat
        while watched._ready_s is None and time.monotonic() < until:
            supervisor.poll()
            time.sleep(0.05)
        assert watched._ready_s is not None
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(child.pid, signal.SIGCONT)
        for _ in range(20):
            supervisor.poll()
            time.sleep(0.05)
        assert supervisor.child("sidecar").pid == child.pid


TAKES_ITS_TIME = """
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
notify.ready()
while not asked or time.monotonic() - asked[0] < 3.0:
    notify.watchdog()
    time.sleep(0.05)
sys.exit(len(asked) - 1)
"""


def test_who_puts_work_down_or_shows_pages_has_time_to_end_on_a_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = module(tmp_path, "takes_its_time", TAKES_ITS_TIME, monkeypatch)
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    plans = [ChildPlan(name, slow, ()) for name in ("policy", "sidecar", "service")]
    with Supervisor(open_brain(layout.root), plans) as supervisor:
        poll_until(supervisor, lambda: all(w.heartbeat.worked_s() > 0.2 for w in supervisor._watched))
        children = [supervisor.child(plan.name) for plan in plans]
        began = time.monotonic()
        summary = supervisor.stop()
    assert summary.troubles == ()
    assert [child.exit_code for child in children] == [0, 0, 0]  # asked once
    assert time.monotonic() - began < 6.0  # together, not one after the other
