"""The stop, whatever else is asked of the service; and what was refused does not happen later."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from websockets.sync.client import connect

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.drive_session import read_status
from continuonbrain.service.door import cookie_of
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import ProcessLock
from tests.service.browser_person import Person, control, ends, until

pytestmark = pytest.mark.timeout(120)
SOON_S = 2.0
"""Of a stop on a machine with other work; alone some 60 ms."""


@pytest.fixture
def rig(helpers: Any, driving: BrainRoot) -> Iterator[Any]:
    with control(driving), helpers.serving(driving, "--tcp", "0") as service:
        yield service


def test_a_stop_does_not_wait_for_what_waits_for_the_trainer(rig: Any, helpers: Any) -> None:
    (episode,) = helpers.lessons(rig.brain, 1)
    person = Person(rig.addresses[1])

    def relabel() -> None:
        with contextlib.suppress(httpx.HTTPError):
            person.post(f"/v1/episodes/{episode.name}", instruction="keep left")

    asking = [threading.Thread(target=relabel, daemon=True) for _ in range(40)]
    with ProcessLock(rig.brain.layout.trainer_lock_path, purpose="train"):
        for thread in asking:
            thread.start()
        time.sleep(0.5)
        begun_s = time.monotonic()
        assert person.post("/v1/stop").status_code == 200
        took_s = time.monotonic() - begun_s
        assert any(thread.is_alive() for thread in asking)  # they do wait
    assert took_s < SOON_S
    until(lambda: read_status(rig.brain.layout)["emergency_stop"])
    for thread in asking:
        thread.join(60)


def test_what_a_robot_that_hung_was_refused_does_not_happen_when_it_goes_on(rig: Any) -> None:
    person, layout = Person(rig.addresses[1]), rig.brain.layout
    person.post("/v1/mode", mode="park")
    until(lambda: read_status(layout)["mode"] == "park")
    pid = read_status(layout)["pid"]

    def while_it_hangs(path: str, **body: Any) -> int:
        os.kill(pid, signal.SIGSTOP)
        try:
            status = person.post(path, **body).status_code
            time.sleep(0.3)
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.6)
        return status

    assert while_it_hangs("/v1/mode", mode="autopilot") == 409
    assert read_status(layout)["mode"] == "park"
    assert while_it_hangs("/v1/stop") == 409  # nobody could say that it was heard, and it is
    assert read_status(layout)["emergency_stop"]
    assert while_it_hangs("/v1/release") == 409
    assert read_status(layout)["emergency_stop"]
    assert person.post("/v1/release").status_code == 200
    until(lambda: not read_status(layout)["emergency_stop"])


def test_a_mode_that_was_asked_for_before_a_stop_does_not_take_it_back(rig: Any) -> None:
    """Two commands keep both threads until they are given up; the third is sent behind the stop."""
    layout = rig.brain.layout
    persons = [Person(rig.addresses[1]) for _ in range(4)]
    pid, told = read_status(layout)["pid"], dict[str, int]()

    def ask(name: str, person: Person, path: str, **body: Any) -> None:
        told[name] = person.post(path, **body).status_code

    modes = {"mode": "autopilot"}
    asked = [
        threading.Thread(
            target=ask, args=("first", persons[0], "/v1/instruct"), kwargs={"instruction": "drive"}
        ),
        threading.Thread(target=ask, args=("second", persons[1], "/v1/mode"), kwargs=modes),
        threading.Thread(target=ask, args=("third", persons[2], "/v1/mode"), kwargs=modes),
        threading.Thread(target=ask, args=("stop", persons[3], "/v1/stop")),
    ]
    os.kill(pid, signal.SIGSTOP)
    try:
        for thread, pause_s in zip(asked, (0.2, 0.4, 0.6, 1.3), strict=True):
            thread.start()
            time.sleep(pause_s)
    finally:
        os.kill(pid, signal.SIGCONT)
    for thread in asked:
        thread.join(10)
    assert told == {"first": 409, "second": 409, "third": 409, "stop": 200}
    time.sleep(0.6)
    status = read_status(layout)
    assert status["emergency_stop"]
    assert status["mode"] == "park"


def test_a_strangers_large_body_is_not_read(helpers: Any, driving: BrainRoot) -> None:
    with helpers.serving(driving, "--listen", "127.0.0.1", "--tcp", "0") as service:
        page = service.addresses[1]
        large = b"{" + b",".join(b'"%d":{}' % i for i in range(300_000)) + b"}"
        begun_s = time.monotonic()
        told = httpx.post(f"{page}/v1/pair", content=large, headers={"content-type": "application/json"})
        assert told.status_code == 413
        pieces = (large[i : i + 65536] for i in range(0, len(large), 65536))
        with contextlib.suppress(httpx.HTTPError):  # it may be hung up on while it still sends
            untold = httpx.post(
                f"{page}/v1/pair", content=pieces, headers={"content-type": "application/json"}
            )
            assert untold.status_code == 413
        assert httpx.get(f"{page}/pair").status_code == 200
        assert time.monotonic() - begun_s < 5.0


def test_bodies_that_never_end_do_not_take_the_service_away(helpers: Any, driving: BrainRoot) -> None:
    with (
        helpers.serving(driving, "--listen", "127.0.0.1", "--tcp", "0") as service,
        contextlib.ExitStack() as slow,
    ):
        host, port = service.addresses[1].removeprefix("http://").split(":")
        head = f"POST /v1/pair HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        for _ in range(400):
            peer = slow.enter_context(socket.create_connection((host, int(port)), timeout=5))
            peer.send(head.encode() + b"Content-Length: 17\r\n\r\n")
        folder = Path(f"/proc/{service.process.pid}/fd")
        until(lambda: len(list(folder.iterdir())) < 150, 20)
        assert httpx.get(f"{service.addresses[1]}/pair", timeout=5).status_code == 200


def test_who_was_let_in_can_stop_the_robot_after_the_service_began_anew(
    helpers: Any, driving: BrainRoot
) -> None:
    with control(driving):
        with helpers.serving(driving, "--listen", "127.0.0.1", "--tcp", "0") as service:
            code = driving.layout.pairing_code_path.read_text().strip()
            let_in = httpx.post(f"{service.addresses[1]}/v1/pair", json={"code": code})
            with httpx.Client(base_url=service.addresses[1], cookies=let_in.cookies) as phone:
                csrf = {"x-csrf": phone.get("/v1/session").json()["csrf"]}
            service.process.kill()
            service.process.wait(10)
        with (
            helpers.serving(driving, "--listen", "127.0.0.1", "--tcp", "0") as service,
            httpx.Client(base_url=service.addresses[1], cookies=let_in.cookies) as phone,
        ):
            assert phone.post("/v1/stop", json={}, headers=csrf).status_code == 200
            assert phone.post("/v1/stop", json={}).status_code == 403  # no token
            cookie = "; ".join(f"{name}={value}" for name, value in let_in.cookies.items())
            with (
                httpx.Client(transport=httpx.HTTPTransport(uds=service.addresses[0])) as robot,
                connect(
                    service.addresses[1].replace("http", "ws", 1) + "/v1/view",
                    origin=service.addresses[1],
                    additional_headers={"Cookie": cookie},
                    proxy=None,
                ) as view,
            ):
                assert view.recv(5)
                renewed = robot.post("http://brain/v1/pair/renew", json={"forget": True})
                assert renewed.status_code == 204
                assert ends(view)
            assert phone.get("/v1/session").status_code == 401


def test_whoever_has_to_pair_anew_hears_no_more_events(helpers: Any, driving: BrainRoot) -> None:
    log = EventLog(driving.layout.events_dir)
    with helpers.serving(driving, "--listen", "127.0.0.1", "--tcp", "0") as service:
        code = driving.layout.pairing_code_path.read_text().strip()
        let_in = httpx.post(f"{service.addresses[1]}/v1/pair", json={"code": code})
        with (
            httpx.Client(base_url=service.addresses[1], cookies=let_in.cookies, timeout=10) as phone,
            phone.stream("GET", "/v1/events") as theirs,
            service.client() as robot,
            robot.stream("GET", "/v1/events") as ours,
        ):
            heard, kept = theirs.iter_lines(), ours.iter_lines()
            assert next(heard) == next(kept) == ": after 0"
            log.append("gate", {"open": True})
            assert next(helpers.events(heard))["data"]["data"] == {"open": True}
            with service.client() as another:
                renewed = another.post("/v1/pair/renew", json={"forget": True})
            assert renewed.status_code == 204
            log.append("gate", {"open": False})
            assert list(helpers.events(heard)) == []  # it has ended
            told = helpers.events(kept)
            assert [next(told)["data"]["data"] for _ in range(2)] == [{"open": True}, {"open": False}]


def test_two_robots_of_one_machine_have_cookies_of_their_own(tmp_path: Path) -> None:
    assert cookie_of(tmp_path / "a") != cookie_of(tmp_path / "b")
    assert cookie_of(tmp_path / "a") == cookie_of(tmp_path / "a")
