"""Driving from a browser: a real service, a real control process of a simulated car, real WebSockets."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops import wire
from continuonbrain.loops.drive_session import read_status
from tests.service.browser_person import Hand, Person, control, now_ms, says, until

DEAD_MAN_S = 0.25


@pytest.fixture
def rig(helpers: Any, driving: BrainRoot) -> Iterator[Any]:
    with control(driving), helpers.serving(driving, "--tcp", "0") as service:
        yield service


def stopped_at_s(brain: BrainRoot) -> Iterator[tuple[float, dict[str, Any]]]:
    """(monotonic seconds, tick) as the control process tells it."""
    with wire.connect_unix(brain.layout.run_dir / "view.sock", 2) as sock:
        wire.send(sock, {"type": "view", "fps": 20})
        while True:
            header, _ = wire.receive(sock, 5)
            yield time.monotonic(), header["tick"]  # type: ignore[misc]


CLIENT = """
import json, sys, time
from websockets.sync.client import connect

print("ready", flush=True)
address, cookie = sys.stdin.readline().split()
url = address.replace("http", "ws", 1) + "/v1/drive"
with connect(url, origin=address, additional_headers={"Cookie": cookie}, compression=None, proxy=None) as socket:
    echo = {}
    while True:
        message = {"t": time.monotonic() * 1000, "steering": 0.2, "throttle": 0.3, "active": True, **echo}
        socket.send(json.dumps(message))
        told = json.loads(socket.recv())
        if told["type"] == "ack":
            echo = {"clock": told["clock"], "heard": time.monotonic() * 1000}
        time.sleep(0.05)
"""
"""A client of its own, which drives until it is killed."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_the_car_stops_within_a_quarter_second_of_a_client_that_is_no_more(rig: Any, how: int) -> None:
    brain, address = rig.brain, rig.addresses[1]
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        assert client.stdout.readline() == "ready\n"
        person = Person(address)
        assert person.post("/v1/driver", want=True).json() == {"driver": "me"}
        assert person.post("/v1/mode", mode="teleop").status_code == 200
        client.stdin.write(f"{address} {person.cookie}\n")
        client.stdin.flush()
        seen = stopped_at_s(brain)
        end = time.monotonic() + 10
        for _, tick in seen:
            if not tick["stopped"] and tick["guarded"][1] > 0.2:
                break
            assert time.monotonic() < end, tick
        killed_s = time.monotonic()
        os.kill(client.pid, how)
        for at_s, tick in seen:
            if tick["stopped"]:
                break
            assert at_s - killed_s < 2, tick
        print(f"{how!r}: stopped {(at_s - killed_s) * 1000:.0f} ms after")
        assert at_s - killed_s < DEAD_MAN_S
        assert tick["reasons"] == ["deadman"]
        assert tick["guarded"][1] == 0.0
    finally:
        client.kill()
        client.communicate(timeout=5)


def test_a_service_that_freezes_lets_go_all_the_same(rig: Any) -> None:
    person = Person(rig.addresses[1])
    person.post("/v1/driver", want=True)
    person.post("/v1/mode", mode="teleop")
    with person.socket("/v1/drive") as socket:
        seen, hand = stopped_at_s(rig.brain), Hand(socket)
        for _ in range(40):
            hand.says()
            hand.hears()
            if not next(seen)[1]["stopped"]:
                break
        hand.says()
        frozen_s = time.monotonic()
        os.kill(rig.process.pid, signal.SIGSTOP)
        try:
            at_s = next(at for at, tick in seen if tick["stopped"])
        finally:
            os.kill(rig.process.pid, signal.SIGCONT)
        assert at_s - frozen_s < DEAD_MAN_S


def test_each_message_is_answered_and_letting_go_stops_at_once(rig: Any) -> None:
    person = Person(rig.addresses[1])
    person.post("/v1/driver", want=True)
    person.post("/v1/mode", mode="teleop")
    seen = stopped_at_s(rig.brain)
    with person.socket("/v1/drive") as socket:
        hand = Hand(socket)
        for _ in range(20):
            sent = now_ms()
            hand.says(t=sent)
            told = hand.hears()
            assert (told["type"], told["t"]) == ("ack", sent)
            assert sent <= told["clock"] <= now_ms()  # the service's clock is this machine's
            _, tick = next(seen)  # at most twenty a second
        assert not tick["stopped"]
        let_go_s = time.monotonic()
        hand.says(active=False)
        assert next(at for at, tick in seen if tick["stopped"]) - let_go_s < DEAD_MAN_S
        assert hand.hears()["type"] == "ack"
        assert hand.hears() == {"type": "lost", "reason": "no message for 150 ms"}
        hand.says()  # the connection that heals, to a hand that had let go
        assert hand.hears()["type"] == "ack"
        until(lambda: not next(seen)[1]["stopped"])


def test_a_hand_that_never_let_go_drives_nothing_after_a_gap(rig: Any) -> None:
    person = Person(rig.addresses[1])
    person.post("/v1/driver", want=True)
    person.post("/v1/mode", mode="teleop")
    seen = stopped_at_s(rig.brain)
    with person.socket("/v1/drive") as socket:
        hand, told = Hand(socket), list[dict[str, Any]]()

        def drives(seconds: float, **more: Any) -> bool:
            for _ in range(round(seconds / 0.05)):
                hand.says(**more)
                told.append(hand.hears())
                while told[-1]["type"] != "ack":
                    told.append(hand.hears())
                tick = next(seen)[1]
            return not tick["stopped"]

        assert drives(1.0)
        silent_s = time.monotonic()
        while time.monotonic() - silent_s < 1.2:
            stopped = next(seen)[1]["stopped"]
        assert stopped
        assert not drives(1.5)  # the key is still down
        assert [t for t in told if t.get("hold_anew")]
        drives(0.1, active=False)
        assert drives(1.0)


def test_a_hand_that_never_let_go_drives_nothing_after_the_robot_hung(rig: Any) -> None:
    """Every message came in time to the service; the robot obeyed none for three seconds."""
    person = Person(rig.addresses[1])
    person.post("/v1/driver", want=True)
    person.post("/v1/mode", mode="teleop")
    pid = read_status(rig.brain.layout)["pid"]
    with person.socket("/v1/drive") as socket:
        hand, told = Hand(socket), list[dict[str, Any]]()

        def drove(seconds: float, **more: Any) -> bool:
            """Whether the car was driven in the last half of so long."""
            stopped, half_s = [], time.monotonic() + seconds / 2
            while time.monotonic() < half_s + seconds / 2:
                hand.says(**more)
                told.append(hand.hears())
                while told[-1]["type"] != "ack":
                    told.append(hand.hears())
                if time.monotonic() > half_s:
                    stopped.append(read_status(rig.brain.layout)["stopped"])
                time.sleep(0.04)
            return not all(stopped)

        assert drove(2.0)
        os.kill(pid, signal.SIGSTOP)
        try:
            drove(3.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert [t for t in told if t.get("hold_anew")]
        assert not drove(2.0)
        drove(0.2, active=False)
        assert drove(2.0)


def test_messages_of_which_nobody_knows_how_old_they_are_drive_nothing(rig: Any) -> None:
    person = Person(rig.addresses[1])
    person.post("/v1/driver", want=True)
    person.post("/v1/mode", mode="teleop")
    seen = stopped_at_s(rig.brain)
    with person.socket("/v1/drive") as socket:
        for silent in (True, False):
            told = []
            for _ in range(10):
                # One that repeats no ack, and one whose acks take three quarters of a second.
                socket.send(
                    says(now_ms(), **({} if silent else {"clock": now_ms() - 750, "heard": now_ms()}))
                )
                told.append(json.loads(socket.recv(2)))
                assert next(seen)[1]["stopped"]
            lost = [t["reason"] for t in told if t["type"] == "lost"]
            assert len(lost) == 1
            assert ("no ack has come back" if silent else "ms late") in lost[0]


def test_one_drives_and_others_watch(rig: Any) -> None:
    mine, other = Person(rig.addresses[1]), Person(rig.addresses[1])
    assert mine.post("/v1/driver", want=True).json() == {"driver": "me"}
    with mine.socket("/v1/drive") as socket:
        assert other.http.get("/v1/session").json()["driver"] == "other"
        assert other.post("/v1/driver", want=True).status_code == 409
        for path, body in (
            ("/v1/mode", {"mode": "autopilot"}),
            ("/v1/instruct", {"instruction": "drive"}),
            ("/v1/release", {}),
        ):
            assert other.post(path, **body).status_code == 409, path
        for refused in (other.socket("/v1/drive"), mine.socket("/v1/drive")):
            with refused:
                assert json.loads(refused.recv(2))["type"] == "lost"
                with pytest.raises(ConnectionClosed):
                    refused.recv(2)
        socket.send(says(now_ms()))
        assert json.loads(socket.recv(2))["type"] == "ack"  # who was refused took nothing away
        assert other.post("/v1/stop").status_code == 200  # but anybody may stop it
        until(lambda: read_status(rig.brain.layout)["emergency_stop"])
    until(lambda: other.http.get("/v1/session").json()["driver"] == "none")
    assert other.post("/v1/driver", want=True).json() == {"driver": "me"}
    assert other.post("/v1/release").status_code == 200
    until(lambda: not read_status(rig.brain.layout)["emergency_stop"])
    assert read_status(rig.brain.layout)["mode"] == "park"
    assert other.post("/v1/driver", want=False).json() == {"driver": "none"}


def test_the_view_shows_frames_of_now_and_never_more_than_two_unanswered(rig: Any) -> None:
    person = Person(rig.addresses[1])
    with person.socket("/v1/view?fps=20") as socket:
        ages, ticks = [], 0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            message = socket.recv(2)
            if isinstance(message, bytes):
                (exposed_ms,) = struct.unpack("<d", message[:8])
                ages.append(time.time() * 1000 - exposed_ms)
                assert message[8:10] == b"\xff\xd8"
                socket.send(json.dumps({"ack": len(ages)}))
            else:
                tick = json.loads(message)
                ticks += 1
        assert len(ages) > 30
        assert sorted(ages)[len(ages) // 2] < 150
        assert ticks >= 15
        assert {"mode", "guarded", "reasons", "recording", "tick"} <= tick.keys()
        assert person.http.get("/v1/session").json()["watchers"] == 1
        unanswered = 0
        end = time.monotonic() + 1
        while time.monotonic() < end:
            unanswered += isinstance(socket.recv(2), bytes)
        assert unanswered <= 2
    until(lambda: person.http.get("/v1/session").json()["watchers"] == 0)
