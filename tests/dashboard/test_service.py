"""The page before the real service and the real control process of a simulated car."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")
pytest.importorskip("continuonbrain.service.drive", reason="this service has no routes to drive by")

from continuonbrain.loops import wire
from continuonbrain.loops.drive_session import DriveSession, read_status
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from tests.dashboard.conftest import Opener, free_port
from tests.dashboard.test_page import HIDE, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DEAD_MAN_S = 0.25


@dataclass
class Rig:
    """A robot that drives, and its service."""

    layout: BrainLayout
    port: int
    service: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve; returns when it answers."""
        command = [sys.executable, "-m", "continuonbrain", "serve", "--root", str(self.layout.root), "--json"]
        self.service = subprocess.Popen([*command, "--tcp", str(self.port)], stdout=subprocess.PIPE)
        assert self.service.stdout is not None
        assert self.service.stdout.readline(), "the service did not start"

    def end(self) -> None:
        assert self.service is not None
        self.service.terminate()
        self.service.wait(15)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, untrained_base: Path) -> Iterator[Rig]:
    layout = init_brain_root(
        tmp_path_factory.mktemp("page") / "brain", "sim-donkey", base_model=untrained_base
    )
    with DriveSession(layout, track_seed=9001, seed=0, instruction="drive"):
        rig = Rig(layout, free_port())
        rig.start()
        try:
            yield rig
        finally:
            rig.end()


@pytest.mark.parametrize("how", ["hidden", "closed"])
def test_a_person_drives_and_the_car_stops_with_them(rig: Rig, open_page: Opener, how: str) -> None:
    page = open_page(f"{rig.url}/#drive")
    page.get_by_role("button", name="By hand").click()
    until(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'teleop'")
    page.keyboard.down("ArrowUp")
    until(page, "continuonbrain.view.tick.guarded[1] > 0.2 && continuonbrain.view.tick.speed_mps > 0.1")
    page.locator(".picture img[src]").wait_for()
    with wire.connect_unix(rig.layout.run_dir / "view.sock", 2) as sock:
        wire.send(sock, {"type": "view", "fps": 20})
        wire.receive(sock, 5)
        began = time.monotonic()
        if how == "hidden":
            page.evaluate(HIDE)
        else:
            page.close()
        while True:
            header, _ = wire.receive(sock, 5)
            tick, took = header["tick"], time.monotonic() - began
            assert isinstance(tick, dict)
            if tick["stopped"]:
                break
            assert took < 5, "the car drives on"
    # What a browser's own start of a hidden page or a busy machine adds is in `benchmarks.dashboard`.
    assert took < DEAD_MAN_S


def test_stop_release_and_instruct(rig: Rig, open_page: Opener) -> None:
    page = open_page(f"{rig.url}/#drive")
    page.get_by_role("button", name="Autopilot").click()
    until(page, "continuonbrain.view.tick?.mode === 'autopilot'")
    page.keyboard.press("Escape")
    until(page, "continuonbrain.view.tick.emergency_stop")
    assert read_status(rig.layout)["pid"]
    page.get_by_role("button", name="Release the stop").click()
    until(page, "!continuonbrain.view.tick.emergency_stop")
    page.get_by_label("Tell it how to drive").fill("keep left")
    page.keyboard.press("Enter")
    until(page, "continuonbrain.view.tick.instruction === 'keep left'")


def test_a_service_that_was_restarted_is_found_again_and_takes_commands(rig: Rig, open_page: Opener) -> None:
    page = open_page(f"{rig.url}/#drive")
    until(page, "continuonbrain.view.tick?.mode")
    rig.end()
    until(page, "!continuonbrain.view.linked")
    rig.start()  # it knows no session from before
    until(page, "continuonbrain.view.tick?.mode")
    page.get_by_role("button", name="Park").click()
    until(page, "continuonbrain.view.tick.mode === 'park'")


def test_what_a_person_shows_is_recorded_as_theirs(rig: Rig, open_page: Opener) -> None:
    page = open_page(f"{rig.url}/#drive")
    before = set(list_episodes(rig.layout.episodes_dir, finished_only=True))
    page.get_by_role("button", name="By hand").click()
    until(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'teleop'")
    if page.get_by_role("button", name="Stop recording").count():  # the drive records by itself
        page.get_by_role("button", name="Stop recording").click()
        page.get_by_role("button", name="Record", exact=True).wait_for()
    page.get_by_label("What you show it").fill("keep right")
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop recording").wait_for()
    page.locator("body").click(position={"x": 5, "y": 400})
    page.keyboard.down("ArrowUp")
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop recording").click()
    page.get_by_role("button", name="Record", exact=True).wait_for()
    give_up = time.monotonic() + 10
    while True:
        new = [p for p in list_episodes(rig.layout.episodes_dir, finished_only=True) if p not in before]
        shown = [open_episode(p) for p in new]
        theirs = [e for e in shown if len(e) > 10 and e.step(10).instruction == "keep right"]
        if theirs:
            break
        assert time.monotonic() < give_up, [str(p) for p in new]
        time.sleep(0.2)
    assert theirs[0].step(10).source == "human_teleop_xr"
    assert any(step.command[1] > 0.2 for step in theirs[0].steps())
