"""A child that hangs is known by its silence, and only by that."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.loops import notify
from continuonbrain.loops.heartbeats import Heartbeat
from continuonbrain.loops.supervisor import ChildPlan, Supervisor
from continuonbrain.storage.layout import init_brain_root


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_a_ready_one_may_not_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    heart = Heartbeat("one", 5.0, clock=clock)
    for name, value in heart.environment.items():
        monkeypatch.setenv(name, value)
    clock.now += 1000
    assert heart.silent_s() is None  # still starting
    assert notify.ready()
    assert heart.silent_s() is None
    clock.now += 4.9
    assert notify.watchdog()
    assert heart.silent_s() is None
    clock.now += 5.1
    assert heart.silent_s() == pytest.approx(5.1)
    assert notify.status("still here")
    assert heart.silent_s() is None
    assert notify.stopping()
    clock.now += 1000
    assert heart.silent_s() is None  # whoever ends may take its time; the end has limits of its own
    assert notify.watchdog()
    heart.begin()
    clock.now += 1000
    assert heart.silent_s() is None
    heart.close()
    assert not notify.watchdog()


def test_what_is_no_message_is_a_sign_of_life_and_nothing_more() -> None:
    clock = Clock()
    heart = Heartbeat("one", 5.0, clock=clock)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for data in (b"\xff\x00", b"READY=10", b"XREADY=1", b"R" * 4000):
            sock.sendto(data, "\0" + heart.environment["NOTIFY_SOCKET"][1:])
    clock.now += 1000
    assert heart.silent_s() is None
    heart.close()


HANGS = """
import time
from continuonbrain.loops import notify
notify.ready()
time.sleep(600)
"""


def test_the_supervisor_ends_one_that_hangs_and_starts_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs_forever.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    plan = ChildPlan("sidecar", "hangs_forever", (), patience_s=0.5)
    with Supervisor(open_brain(layout.root), [plan]) as supervisor:
        first = supervisor.child("sidecar").pid
        until = time.monotonic() + 60
        while supervisor.child("sidecar").pid == first and time.monotonic() < until:
            supervisor.poll()
            time.sleep(0.05)
        assert supervisor.child("sidecar").pid != first
        told = " ".join(e["text"] for e in supervisor.snapshot()["events"])
        assert "sidecar hangs: it gave no sign of life for" in told
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


def test_a_process_that_is_stopped_and_goes_on_in_time_is_left_alone(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    plan = ChildPlan("sidecar", "continuonbrain.loops.mid", ("--root", str(layout.root)), patience_s=8.0)
    with Supervisor(open_brain(layout.root), [plan]) as supervisor:
        child = supervisor.child("sidecar")
        until = time.monotonic() + 60
        watched = supervisor._watched[0].heartbeat
        while not watched._ready and time.monotonic() < until:
            supervisor.poll()
            time.sleep(0.05)
        assert watched._ready
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(child.pid, signal.SIGCONT)
        for _ in range(20):
            supervisor.poll()
            time.sleep(0.05)
        assert supervisor.child("sidecar").pid == child.pid
