"""A real Chromium and a played robot for the page. Without the browser these tests are skipped, and say so."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A server process of the contract. url has no slash at its end."""

    url: str
    process: subprocess.Popen[bytes]

    def bend(self, **what: Any) -> dict[str, Any]:
        """Ask the played robot for something out of the ordinary; how it is now."""
        body = json.dumps(what).encode()
        request = urllib.request.Request(
            f"{self.url}/fake", body, {"content-type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
        return told


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start_fake(*more: str, port: int | None = None) -> Server:
    """A played robot in a process of its own, answering."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.dashboard.fake_server", "--port", str(port), *more]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    server = Server(f"http://127.0.0.1:{port}", process)
    until = time.monotonic() + _START_S
    while True:
        try:
            server.bend()
            return server
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise
            time.sleep(0.1)


def end(server: Server) -> None:
    server.process.terminate()
    server.process.wait(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the whole session: while playwright is there, an event loop runs in this thread, and other rooms' tests
    begin theirs."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # As root in a container Chromium has no sandbox; the pages are our own.
        launched = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def fake_process() -> Iterator[Server]:
    server = start_fake()
    yield server
    end(server)


@pytest.fixture
def fake(fake_process: Server) -> Server:
    """The played robot as it was at its start: parked, five episodes taught, nothing learned."""
    fake_process.bend(reset=True)
    return fake_process


Opener = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """open_page(url, **context): a page of a person of their own. Every error of the page's own fails the test."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opened(url: str, **context: Any) -> Page:
        context.setdefault("viewport", {"width": 1280, "height": 860})
        person = browser.new_context(**context)
        contexts.append(person)
        page = person.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # What the Content-Security-Policy refused is told on the console only.
        page.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
        page.goto(url)
        return page

    yield opened
    for person in contexts:
        person.close()
    assert wrong == []
