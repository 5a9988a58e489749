"""Telling systemd: against a real datagram socket, and a control loop that really hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from continuonbrain.loops import notify
from continuonbrain.loops.policy_process import PolicyServer
from continuonbrain.storage.layout import BrainLayout, init_brain_root

HANGING_CONTROL = """
import sys, time
from pathlib import Path
from continuonbrain.brain_root import open_brain
from continuonbrain.loops.control_process import ControlOptions, ControlProcess

process = ControlProcess(open_brain(Path(sys.argv[1])), ControlOptions(park=True, record=False))
ticked = process._body.ticked

def hang(tick):
    ticked(tick)
    if (Path(sys.argv[1]) / "hang").exists():
        time.sleep(600)

process._body.ticked = hang
process.run()
"""


class Listener:
    """What systemd's side of the socket has heard."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)

    def heard(self, timeout_s: float = 0.0) -> list[str]:
        """All messages that are there; waits for the first."""
        messages = []
        self.sock.settimeout(timeout_s or 0.001)
        try:
            while True:
                messages.append(self.sock.recv(4096).decode())
                self.sock.settimeout(0.001)
        except TimeoutError:
            return messages


@pytest.fixture(params=["path", "abstract"])
def listener(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Listener]:
    if request.param == "path":
        address = name = str(tmp_path / "notify")
    else:
        name = f"@continuonbrain-test-{os.getpid()}"
        address = "\0" + name[1:]
    monkeypatch.setenv(notify.SOCKET_VARIABLE, name)
    listening = Listener(address)
    yield listening
    listening.sock.close()


def test_every_word_reaches_the_socket(listener: Listener) -> None:
    assert notify.ready()
    assert notify.status("two\nlines  and more")
    assert notify.watchdog()
    assert notify.stopping()
    assert listener.heard() == ["READY=1", "STATUS=two lines and more", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    "name", [None, "", "relative", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 200, "/a\0b"]
)
def test_nobody_listens_and_nothing_happens(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if name is None:
        monkeypatch.delenv(notify.SOCKET_VARIABLE, raising=False)
    elif "\0" in name:
        monkeypatch.setattr(os, "environ", {notify.SOCKET_VARIABLE: name})
    else:
        monkeypatch.setenv(notify.SOCKET_VARIABLE, name)
    assert not notify.ready()
    assert not notify.watchdog()


def test_a_full_socket_does_not_block(listener: Listener) -> None:
    started = time.monotonic()
    while notify.watchdog():
        assert time.monotonic() - started < 5.0
    assert time.monotonic() - started < 5.0


def test_a_pulse_says_ready_once_and_beats_at_intervals(listener: Listener) -> None:
    now = [0.0]
    pulse = notify.Pulse(lambda: now[0])
    for _ in range(31):
        pulse.beat()
        now[0] += 0.1
    heard = listener.heard()
    assert heard[0] == "READY=1"
    assert heard.count("READY=1") == 1
    assert 3 <= heard.count("WATCHDOG=1") <= 4


def test_ready_is_said_again_until_it_was_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notify.SOCKET_VARIABLE, str(tmp_path / "late"))
    now = [0.0]
    pulse = notify.Pulse(lambda: now[0])
    pulse.beat()
    late = Listener(str(tmp_path / "late"))
    now[0] = 2.0
    pulse.beat()
    assert late.heard() == ["READY=1", "WATCHDOG=1"]
    late.sock.close()


@pytest.mark.parametrize(("usec", "every_s"), [("400000", 0.1), ("60000000", 1.0), ("soon", 1.0), ("0", 1.0)])
def test_a_short_watchdog_is_fed_more_often(
    usec: str, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notify.WATCHDOG_VARIABLE, usec)
    assert notify._interval_s() == pytest.approx(every_s)


def _heard_until(listener: Listener, word: str, times: int, timeout_s: float = 60.0) -> list[str]:
    heard: list[str] = []
    until = time.monotonic() + timeout_s
    while heard.count(word) < times:
        assert time.monotonic() < until, heard
        heard += listener.heard(0.5)
    return heard


def test_the_policy_server_beats_while_it_serves(listener: Listener, tmp_path: Path) -> None:
    rounds = iter([False, False, True])
    server = SimpleNamespace(wait=lambda _patience_s: [])
    board = SimpleNamespace(service=lambda: None)
    engine: Any = SimpleNamespace()
    store: Any = SimpleNamespace(layout=BrainLayout(tmp_path))
    PolicyServer(engine, store, cast(Any, server), cast(Any, board)).serve(lambda: next(rounds))
    assert listener.heard() == ["READY=1", "WATCHDOG=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["continuonbrain.loops.mid", "--probation"], ["continuonbrain", "serve"]]
)
def test_sidecar_and_service_are_ready_alive_and_say_when_they_end(
    tmp_path: Path, command: list[str]
) -> None:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    name = f"@continuonbrain-{command[-1]}-{os.getpid()}"
    listener = Listener("\0" + name[1:])
    child = subprocess.Popen(
        [sys.executable, "-m", *command, "--root", str(layout.root)],
        env={**os.environ, notify.SOCKET_VARIABLE: name, notify.WATCHDOG_VARIABLE: "2000000"},
        stderr=subprocess.DEVNULL,
    )
    try:
        heard = _heard_until(listener, "WATCHDOG=1", 3)
        assert heard[0] == "READY=1"
        assert heard.count("READY=1") == 1
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        assert listener.heard()[-1] == "STOPPING=1"
    finally:
        child.kill()
        child.wait()
        listener.sock.close()


@pytest.mark.slow
def test_a_control_loop_that_hangs_sends_no_watchdog(tmp_path: Path) -> None:
    layout = BrainLayout(init_brain_root(tmp_path / "brain", "sim-donkey").root)
    name = f"@continuonbrain-hang-{os.getpid()}"
    listener = Listener("\0" + name[1:])
    child = subprocess.Popen(
        [sys.executable, "-c", HANGING_CONTROL, str(layout.root)],
        env={**os.environ, notify.SOCKET_VARIABLE: name},
    )
    status = layout.run_dir / "control.json"
    try:
        heard = _heard_until(listener, "WATCHDOG=1", 2)
        assert heard[0] == "READY=1"
        assert json.loads(status.read_bytes())["mode"] == "park"  # as --park says
        (layout.root / "hang").touch()
        time.sleep(0.5)
        listener.heard()
        before = json.loads(status.read_bytes())
        time.sleep(3.0)
        after = json.loads(status.read_bytes())
        assert listener.heard() == []
        assert after["tick"] == before["tick"]
        assert after["monotonic_s"] > before["monotonic_s"]  # other threads are well, and that must not count
    finally:
        child.kill()
        child.wait()
        listener.sock.close()


@pytest.mark.slow
def test_a_control_process_says_when_it_ends(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    name = f"@continuonbrain-end-{os.getpid()}"
    listener = Listener("\0" + name[1:])
    module = "continuonbrain.loops.control_process"
    command = [
        sys.executable,
        "-m",
        module,
        "--root",
        str(layout.root),
        "--park",
        "--no-record",
        "--seconds",
        "1",
    ]
    done = subprocess.run(command, env={**os.environ, notify.SOCKET_VARIABLE: name}, timeout=60)
    assert done.returncode == 0
    heard = listener.heard()
    assert (heard[0], heard[-1]) == ("READY=1", "STOPPING=1")
    listener.sock.close()
