"""Sockets and requests that are not let drive: of other pages, of nobody, without sense."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect, unix_connect

from continuonbrain.service.view import MOST_WATCHERS
from tests.service.browser_person import Hand, Person, ends, now_ms, says, until


@pytest.fixture(scope="module")
def hostile(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One service without a robot, for those who want to break it."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import tiny_base_folder
    from continuonbrain.storage.layout import init_brain_root

    folder: Path = tmp_path_factory.mktemp("h") / "b"
    init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    with helpers.serving(open_brain(folder), "--tcp", "0") as service:
        yield service


@pytest.mark.parametrize(
    "wrong",
    [
        '{"t": 1, "steering": NaN, "throttle": 0, "active": true}',
        '{"t": 1, "steering": 1e999, "throttle": 0, "active": true}',
        '{"t": 1, "steering": 1.5, "throttle": 0, "active": true}',
        '{"t": 1, "steering": true, "throttle": 0, "active": true}',
        '{"t": 1, "steering": 0, "throttle": 0, "active": 1}',
        '{"t": 1}',
        "[]",
        "stop",
        "[" * 400,
        "x" * 600,
        "x" * 10_000,
        b"\x00\x01",
    ],
)
def test_what_is_no_message_ends_the_drive(hostile: Any, wrong: str | bytes) -> None:
    person = Person(hostile.addresses[1])
    until(lambda: person.post("/v1/driver", want=True).status_code == 200)
    with person.socket("/v1/drive") as socket:
        socket.send(says(now_ms()))
        json.loads(socket.recv(2))
        socket.send(wrong)
        assert ends(socket)
    person.post("/v1/driver", want=False)


def test_without_a_robot_the_driver_is_told(hostile: Any) -> None:
    person = Person(hostile.addresses[1])
    until(lambda: person.post("/v1/driver", want=True).status_code == 200)
    with person.socket("/v1/drive") as socket:
        hand = Hand(socket)
        hand.says()
        assert hand.hears()["type"] == "ack"
        hand.says()
        told = [hand.hears() for _ in range(2)]
        assert [t["type"] for t in told] == ["ack", "lost"]
        assert "control process" in told[1]["reason"]
    assert person.post("/v1/mode", mode="teleop").status_code == 409
    person.post("/v1/driver", want=False)


@pytest.mark.parametrize("path", ["/v1/drive", "/v1/view"])
def test_a_socket_of_another_page_or_of_nobody_is_refused(hostile: Any, path: str) -> None:
    person = Person(hostile.addresses[1])
    port = hostile.addresses[1].rpartition(":")[2]
    for headers in (
        {"Origin": "http://evil.example.com"},
        {"Origin": f"http://127.0.0.1.evil.example.com:{port}"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{int(port) - 1}"},
        {"Origin": ""},
        {"Cookie": ""},
        {"Cookie": "continuonbrain_01234567=none"},
    ):
        with pytest.raises(InvalidStatus) as refused, person.socket(path, **headers):
            pass
        assert refused.value.response.status_code == 403, headers


@pytest.mark.parametrize("path", ["/v1/drive", "/v1/view"])
def test_a_socket_that_says_no_origin_is_none_of_a_browser(hostile: Any, path: str) -> None:
    """Refused over TCP, where pages come from; over the Unix socket the file's mode has said who may."""
    unix, address = hostile.addresses
    cookie = {"Cookie": Person(address).cookie}
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(
            address.replace("http", "ws", 1) + path,
            origin=None,
            additional_headers=cookie,
            compression=None,
            proxy=None,
        ),
    ):
        pass
    assert refused.value.response.status_code == 403
    with unix_connect(unix, f"ws://brain{path}", origin=None, compression=None) as socket:
        assert json.loads(socket.recv(2))["type"] in ("lost", "tick")  # it is heard


def test_what_changes_something_needs_the_sessions_token(hostile: Any) -> None:
    person = Person(hostile.addresses[1])
    good = dict(person.http.headers)
    for wrong in (
        {"x-csrf": ""},
        {"x-csrf": "guess"},
        {"x-csrf": Person(hostile.addresses[1]).session["csrf"]},
    ):
        person.http.headers.update(wrong)
        assert person.post("/v1/stop").status_code == 403
    person.http.headers["x-csrf"] = good["x-csrf"]
    assert (
        person.http.post("/v1/stop", json={}, headers={"origin": "http://evil.example.com"}).status_code
        == 403
    )
    assert person.http.post("/v1/stop", json={}, headers={"host": "evil.example.com"}).status_code == 400
    assert person.post("/v1/stop").status_code == 409  # let in; there is no robot
    stranger = httpx.post(f"{hostile.addresses[1]}/v1/stop", json={}, headers={"x-csrf": good["x-csrf"]})
    assert stranger.status_code == 403


READS_ONLY = {"/v1/act", "/v1/chat", "/v1/pair"}
"""Posted, and nothing changes by it."""


def test_every_route_that_changes_something_needs_the_token(hostile: Any) -> None:
    """All that there are: a new one is asked without being named here."""
    person = Person(hostile.addresses[1])
    routes = person.http.get("/openapi.json").json()["paths"]
    asked = [
        (method, path)
        for path, methods in routes.items()
        for method in methods.keys() & {"post", "put", "patch", "delete"}
        if path not in READS_ONLY
    ]
    assert {path for _, path in asked} >= {"/v1/mode", "/v1/stop", "/v1/recording", "/v1/training"}
    for method, path in asked:
        named = path.replace("{name}", "000001-01234567")
        told = person.http.request(method, named, json={}, headers={"x-csrf": "guess"})
        assert told.status_code == 403, (method, path)
        assert "X-CSRF" in told.json()["detail"], (method, path)


def test_who_does_not_drive_commands_nothing_and_gives_nobody_elses_wheel_away(hostile: Any) -> None:
    mine, other = Person(hostile.addresses[1]), Person(hostile.addresses[1])
    until(lambda: mine.post("/v1/driver", want=True).status_code == 200)
    with mine.socket("/v1/drive"):
        assert other.post("/v1/driver", want=False).json() == {"driver": "other"}
        assert mine.http.get("/v1/session").json()["driver"] == "me"
        for path, body in (
            ("/v1/mode", {"mode": "autopilot"}),
            ("/v1/release", {}),
            ("/v1/instruct", {"instruction": "drive"}),
            ("/v1/recording", {"on": True}),
        ):
            told = other.post(path, **body)
            assert (told.status_code, told.json()["detail"]) == (409, "somebody else drives"), path
    mine.post("/v1/driver", want=False)


def test_a_silent_socket_does_not_keep_the_wheel(hostile: Any) -> None:
    mine, other = Person(hostile.addresses[1]), Person(hostile.addresses[1])
    until(lambda: mine.post("/v1/driver", want=True).status_code == 200)
    with mine.socket("/v1/drive") as socket:
        socket.send(says(now_ms()))
        begun_s = time.monotonic()
        assert other.post("/v1/driver", want=True).status_code == 409
        until(lambda: other.http.get("/v1/session").json()["driver"] == "none", 8)
        assert 2.0 < time.monotonic() - begun_s < 8.0
        assert ends(socket)


def test_every_answer_carries_the_policies(hostile: Any) -> None:
    for path in ("/v1/session", "/v1/nothing", "/v1/status"):
        headers = httpx.get(hostile.addresses[1] + path).headers
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_too_many_watchers_and_what_they_should_not_say(hostile: Any) -> None:
    person = Person(hostile.addresses[1])
    with person.socket("/v1/view") as socket:
        socket.send('{"steer": 1}')
        assert ends(socket)
    until(lambda: person.http.get("/v1/session").json()["watchers"] == 0)

    def refused(who: Person) -> str:
        with who.socket("/v1/view") as one_more, pytest.raises(ConnectionClosed) as closed:
            one_more.recv(2)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        return closed.value.rcvd.reason

    with ExitStack() as watching:
        others = [Person(hostile.addresses[1]) for _ in range(3)]
        for number in range(MOST_WATCHERS):
            watching.enter_context(others[number // 3].socket("/v1/view"))
        until(lambda: person.http.get("/v1/session").json()["watchers"] == MOST_WATCHERS)
        assert "this session watches 3 times" in refused(others[0])
        assert "8 watch already" in refused(person)
        assert person.post("/v1/driver", want=True).json() == {"driver": "me"}
        with person.socket("/v1/view") as mine:  # who drives sees where
            assert json.loads(mine.recv(2))["type"] == "tick"
        person.post("/v1/driver", want=False)
    with pytest.raises(InvalidStatus), person.socket("/v1/view?fps=1000"):
        pass
