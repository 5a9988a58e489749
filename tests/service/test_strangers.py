"""Pages of other sites, other services' cookies, peers that hang up, connections that say nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.owner import owner_gate
from tests.service.browser_person import Person, ends, now_ms, says, until
from tests.service.test_drive import rig
from tests.service.test_listen import Lan, lan

__all__ = ["lan", "rig"]


@pytest.fixture
def page(helpers: Any, driving: BrainRoot) -> Iterator[str]:
    """A service on loopback, without a robot."""
    with helpers.serving(driving, "--tcp", "0") as service:
        yield service.addresses[1]


def test_a_peer_that_hangs_up_at_once_is_nobody_of_this_machine(lan: Lan) -> None:
    """After a reset a TCP peer has no address, as one of the Unix socket has none; what it had sent is still read."""
    host, port = lan.address.removeprefix("http://").split(":")
    body = b'{"action":"pause"}'
    head = f"POST /v1/training HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    request = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    for number in range(600):
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.connect((host, int(port)))
            peer.send(request)
        if number % 50 == 0:
            time.sleep(0.02)
    time.sleep(0.5)
    assert owner_gate(lan.layout).open


def test_another_sites_page_gets_no_session_and_no_answer(page: str) -> None:
    for site in ("cross-site", "same-site"):
        asked = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        answer = httpx.get(f"{page}/v1/session", headers=asked)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert httpx.get(f"{page}/", headers=link).status_code == 200  # a link to the page is one
    assert httpx.get(f"{page}/v1/doctor", headers=link).status_code == 403
    assert httpx.get(f"{page}/v1/session", headers={"Origin": "http://["}).status_code == 403


def test_what_other_services_have_set_is_in_nobodys_way(page: str) -> None:
    person = Person(page)
    ours, token = person.cookie, person.session["csrf"]
    for others in ('theme={"dark":true}', "a=1; b", "=;;", 'x="y'):
        told = httpx.get(f"{page}/v1/session", headers={"Cookie": f"{others}; {ours}"}).json()
        assert told["csrf"] == token, others


def answers(page: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{page}/v1/session", timeout=5).status_code == 200
    return False


def test_connections_that_say_nothing_do_not_take_the_service_away(helpers: Any, driving: BrainRoot) -> None:
    with helpers.serving(driving, "--tcp", "0") as service:
        besieged(service.addresses[1], service.process.pid)


def besieged(page: str, pid: int) -> None:
    host, port = page.removeprefix("http://").split(":")
    with contextlib.ExitStack() as silent:
        for _ in range(700):
            peer = silent.enter_context(socket.create_connection((host, int(port)), timeout=5))
            peer.send(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n")
        until(lambda: answers(page), 20)
        until(
            lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) < 150, 20
        )  # the oldest silent ones are closed
        for _ in range(20):
            assert httpx.get(f"{page}/v1/session", timeout=5).status_code == 200


def test_a_wheel_that_was_given_back_drives_nobody(rig: Any) -> None:
    ann, bob = Person(rig.addresses[1]), Person(rig.addresses[1])
    assert ann.post("/v1/driver", want=True).status_code == 200
    with ann.socket("/v1/drive") as anns:
        anns.send(says(now_ms()))
        assert json.loads(anns.recv(2))["type"] == "ack"
        ann.post("/v1/driver", want=False)  # another tab
        assert bob.post("/v1/driver", want=True).json()["driver"] == "me"
        anns.send(says(now_ms(), throttle=0.9))
        assert ends(anns)
        with bob.socket("/v1/drive") as bobs:
            bobs.send(says(now_ms()))
            assert json.loads(bobs.recv(2))["type"] == "ack"
