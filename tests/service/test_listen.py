"""`continuonbrain serve --listen`: nobody of the LAN is let in but by the code on the console."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from continuonbrain.cli.main import app
from continuonbrain.errors import BrainError
from continuonbrain.storage.layout import BrainLayout, init_brain_root

GUESSES = 10


class Lan:
    """A service on an address, and all that it has said."""

    def __init__(self, layout: BrainLayout, log: Path) -> None:
        self.layout, self._log = layout, log
        command = [sys.executable, "-m", "continuonbrain", "serve", "--root", str(layout.root), "--json"]
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1"], stdout=subprocess.PIPE, stderr=log.open("wb"), text=True
        )
        assert self.process.stdout is not None
        self.printed = self.process.stdout.readline()
        self.address: str = json.loads(self.printed)["serving"][1]

    @property
    def code(self) -> str:
        return self.layout.pairing_code_path.read_text().strip()

    @property
    def said(self) -> str:
        return self.printed + self._log.read_text()


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    lan = Lan(init_brain_root(tmp_path / "b", "sim-donkey"), tmp_path / "log")
    try:
        yield lan
    finally:
        lan.process.terminate()
        lan.process.wait(15)


def pair(lan: Lan, code: str) -> Any:
    return httpx.post(f"{lan.address}/v1/pair", json={"code": code})


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06}"


def test_without_a_session_there_is_the_page_to_pair_and_nothing_else(lan: Lan) -> None:
    home = httpx.get(f"{lan.address}/")
    assert (home.status_code, home.headers["location"]) == (303, "/pair")
    page = httpx.get(f"{lan.address}/pair")
    assert page.status_code == 200
    assert httpx.get(f"{lan.address}/static/js/main.js").status_code == 200
    for path in (
        "/v1/session",
        "/v1/status",
        "/v1/episodes",
        "/v1/training",
        "/v1/system",
        "/v1/logs/control",
        "/v1/doctor",
        "/v1/explain",
        "/v1/history",
        "/v1/events",
        "/openapi.json",
        "/static/../v1/status",
    ):
        assert httpx.get(f"{lan.address}{path}").status_code in (401, 404), path
    for path in ("/v1/stop", "/v1/mode", "/v1/training", "/v1/act", "/v1/chat", "/v1/adapters/rollback"):
        assert httpx.post(f"{lan.address}{path}", json={}).status_code == 401, path
    url = lan.address.replace("http", "ws", 1)
    for path in ("/v1/drive", "/v1/view"):
        with pytest.raises(InvalidStatus) as refused, connect(f"{url}{path}", origin=lan.address, proxy=None):
            pass
        assert refused.value.response.status_code == 403


def test_the_code_opens_once_and_stands_in_no_log(lan: Lan) -> None:
    code = lan.code
    assert stat.S_IMODE(lan.layout.pairing_code_path.stat().st_mode) == 0o600
    assert pair(lan, wrong(code)).status_code == 403
    let_in = pair(lan, code)
    assert let_in.status_code == 204
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    again = pair(lan, code)
    assert again.status_code == 403
    assert "used already" in again.json()["detail"]
    assert "run/pairing_code" in again.json()["remedy"]
    assert str(lan.layout.root) not in again.text
    with httpx.Client(base_url=lan.address, cookies=let_in.cookies) as person:
        session = person.get("/v1/session").json()
        assert session["paired"]
        assert person.get("/").status_code == 200
        assert person.get("/v1/episodes").status_code == 200
        assert person.post("/v1/training", json={"action": "pause"}).status_code == 403  # no token
        paused = person.post("/v1/training", json={"action": "pause"}, headers={"x-csrf": session["csrf"]})
        assert paused.json()["paused"]
        elsewhere = person.get("/v1/status", headers={"host": "evil.example.com"})
        assert elsewhere.status_code == 400
        foreign = person.get("/v1/status", headers={"origin": "http://evil.example.com"})
        assert foreign.status_code == 403
    (token,) = let_in.cookies.values()
    for secret in (code, lan.code, token, session["csrf"]):
        assert secret not in lan.said


def test_who_guesses_waits_and_who_stands_at_the_robot_ends_that(lan: Lan) -> None:
    code = lan.code
    for _ in range(GUESSES):
        assert pair(lan, wrong(code)).status_code == 403
    closed = pair(lan, code)
    assert closed.status_code == 429
    assert "too many" in closed.json()["detail"]
    # Forging where it comes from helps nobody.
    forged = httpx.post(
        f"{lan.address}/v1/pair", json={"code": code}, headers={"x-forwarded-for": "203.0.113.9"}
    )
    assert forged.status_code == 429
    assert httpx.post(f"{lan.address}/v1/pair/renew", json={}).status_code == 401  # a stranger
    shown = CliRunner().invoke(app, ["pair", "--root", str(lan.layout.root)])
    assert (shown.exit_code, shown.output.strip()) == (0, code)
    other = CliRunner().invoke(app, ["pair", "--new", "--json", "--root", str(lan.layout.root)])
    assert other.exit_code == 0, other.output
    assert json.loads(other.output) == {"code": lan.code}
    assert lan.code != code
    let_in = pair(lan, lan.code)
    assert let_in.status_code == 204
    with httpx.Client(base_url=lan.address, cookies=let_in.cookies) as person:
        csrf = person.get("/v1/session").json()["csrf"]
        renewed = person.post("/v1/pair/renew", json={}, headers={"x-csrf": csrf})
    assert renewed.status_code == 403  # it came over TCP


def test_when_it_ends_the_code_is_gone(lan: Lan) -> None:
    assert len(lan.code) == 6
    lan.process.terminate()
    lan.process.wait(15)
    assert not lan.layout.pairing_code_path.exists()


def test_a_log_says_where_the_code_is_and_not_the_code(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    command = [sys.executable, "-m", "continuonbrain", "serve", "--root", str(layout.root)]
    process = subprocess.Popen([*command, "--listen", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        code = layout.pairing_code_path.read_text().strip()
    finally:
        process.terminate()
        rest = process.communicate(timeout=15)[1]
    assert str(layout.pairing_code_path) in line
    assert code not in line + rest


def test_an_address_that_is_none_of_ours(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    command = [sys.executable, "-m", "continuonbrain", "serve", "--root", str(layout.root)]
    told = subprocess.run(
        [*command, "--listen", "203.0.113.7"], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 2
    assert "203.0.113.7" in told.stderr
    assert "--listen" in told.stderr


def test_where_no_code_is_asked_for_pair_says_how_to_have_one(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    told = CliRunner().invoke(app, ["pair", "--root", str(layout.root)])
    assert told.exit_code == 2 or isinstance(told.exception, BrainError)
    assert "no code is asked for" in (told.output + str(told.exception))
    nobody = CliRunner().invoke(app, ["pair", "--new", "--root", str(layout.root)])
    assert "no service answers" in (nobody.output + str(nobody.exception))
