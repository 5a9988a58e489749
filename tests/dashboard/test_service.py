"""The page before the real service and the real control process of a simulated car."""

from __future__ import annotations

import json
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

import torch

from benchmarks.small_verdict import judged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops import wire
from continuonbrain.loops.drive_session import DriveSession, read_status
from continuonbrain.loops.teach import record_expert
from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.lora import adapter_files, attach_lora
from continuonbrain.policy.calibration import Calibration
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore
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

    def start(self, *more: str) -> None:
        """Serve; returns when it answers."""
        command = [sys.executable, "-m", "continuonbrain", "serve", "--root", str(self.layout.root), "--json"]
        self.service = subprocess.Popen([*command, "--tcp", str(self.port), *more], stdout=subprocess.PIPE)
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
        if how == "hidden":
            page.evaluate(HIDE)
        else:
            page.close()
        gone = (
            time.monotonic()
        )  # at the latest: how long a browser takes to close on a busy machine is its own
        while True:
            header, _ = wire.receive(sock, 5)
            tick, took = header["tick"], time.monotonic() - gone
            assert isinstance(tick, dict)
            if tick["stopped"]:
                break
            assert took < 5, "the car drives on"
    # From the moment at which a person closes it: `benchmarks.dashboard`.
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


def test_a_stop_that_nobody_heard_is_said_again_until_it_is(rig: Rig, open_page: Opener) -> None:
    page = open_page(f"{rig.url}/#drive")
    page.get_by_role("button", name="Autopilot").click()
    until(page, "continuonbrain.view.tick?.mode === 'autopilot'")
    rig.end()
    until(page, "!continuonbrain.view.linked")
    page.keyboard.press("Escape")
    page.get_by_text("It is said again until it is.").wait_for()
    assert page.locator("#stop").text_content() == "Stopping…"
    rig.start()  # it knows no session from before
    until(page, "continuonbrain.view.tick?.emergency_stop")
    page.get_by_role("button", name="Release the stop").click()
    until(page, "!continuonbrain.view.tick.emergency_stop")
    time.sleep(1.0)  # heard once, it is not said again
    assert not page.evaluate("continuonbrain.view.tick.emergency_stop")


def test_what_a_person_shows_is_recorded_as_theirs(rig: Rig, open_page: Opener) -> None:
    page = open_page(f"{rig.url}/#drive")
    before = set(list_episodes(rig.layout.episodes_dir, finished_only=True))
    page.get_by_role("button", name="By hand").click()
    until(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'teleop'")
    page.get_by_text("nothing that you drive now teaches").wait_for()
    page.keyboard.down("ArrowUp")
    until(page, "continuonbrain.view.tick.speed_mps > 0.1")
    page.keyboard.up("ArrowUp")
    page.get_by_label("What you show it").fill("keep right")
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_text("Your lesson “keep right” waits: nothing is recorded until somebody drives.").wait_for()
    page.locator("body").click(position={"x": 5, "y": 400})
    page.keyboard.down("ArrowUp")
    page.get_by_text("Recording your lesson “keep right”").wait_for()
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
    # Who tried the wheel before taught nothing.
    by_hand = [e for e in shown if e.metadata.control_role.startswith("human")]
    assert {step.instruction for e in by_hand for step in e.steps()} == {"keep right"}


def test_the_page_says_that_an_override_is_recorded_before_one_begins(rig: Rig, open_page: Opener) -> None:
    page = open_page(f"{rig.url}/#drive")
    page.get_by_role("button", name="Assisted").click()
    until(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'assisted'")
    page.get_by_text("Take the wheel, and that is recorded as a correction, which teaches.").wait_for()
    until(page, "continuonbrain.view.tick.by === 'policy'")
    page.keyboard.down("ArrowUp")
    page.get_by_text("Recording your correction to").wait_for()
    page.keyboard.up("ArrowUp")
    page.goto(f"{rig.url}/#teach")
    switch = page.get_by_label("Record the autopilot's drives and my corrections, too")
    switch.wait_for()
    until(page, "document.getElementById('drives').checked")
    switch.click()
    until(page, "continuonbrain.view.tick.recording.drives === false")
    switch.click()
    until(page, "continuonbrain.view.tick.recording.drives === true")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, untrained_base: Path) -> Iterator[Rig]:
    """A service whose robot does not run: three lessons, and a candidate that passed."""
    layout = init_brain_root(
        tmp_path_factory.mktemp("taught") / "brain", "sim-donkey", base_model=untrained_base
    )
    guards = open_brain(layout.root).config.guards
    record_expert(
        layout.episodes_dir,
        world("none"),
        instructions=["drive", "keep left", "keep right"],
        steps=60,
        seed=3,
        limits=Limits.from_config(guards),
    )
    stage(open_brain(layout.root))
    rig = Rig(layout, free_port())
    rig.start()
    try:
        yield rig
    finally:
        rig.end()


def stage(brain: BrainRoot) -> None:
    """A candidate of random numbers with a verdict that passed."""
    torch.manual_seed(1)
    model, base = load_base(brain.layout.base_model_dir), base_sha256(brain.layout.base_model_dir)
    for parameter in attach_lora(model, base_sha256=base, rank=4, alpha=8.0, targets=("q_proj",)):
        torch.nn.init.normal_(parameter, 0.0, 0.01)
    store = AdapterStore(brain.layout)
    version = store.stage({**adapter_files(model), "calibration.json": Calibration().to_json()})
    store.attach(version, "verdict.json", json.dumps(judged(version, base)).encode())


def test_episodes_are_looked_at_labelled_marked_and_deleted(taught: Rig, open_page: Opener) -> None:
    page = open_page(f"{taught.url}/#teach")
    page.locator(".episode").first.wait_for()
    assert page.locator(".episode").count() == 3
    page.get_by_text("3 of 16 episodes taught").wait_for()
    page.locator(".episode").filter(has_text="keep left").click()
    page.get_by_text("step 1 / 60").wait_for()
    assert page.locator(".plots .uplot").count() >= 3
    page.get_by_label("Step", exact=True).fill("30")
    page.get_by_text("step 31 / 60").wait_for()
    image = page.locator(".picture img")
    assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") == 160
    page.get_by_label("What was asked of the driver").fill("keep left, slowly")
    page.get_by_role("button", name="Relabel").click()
    page.locator(".episode").filter(has_text="keep left, slowly").wait_for()
    page.locator(".episode").filter(has_text="keep left, slowly").click()
    page.get_by_role("button", name="Mark as bad").click()
    page.get_by_text("2 of 16 episodes taught").wait_for()
    page.locator(".episode").filter(has_text="keep right").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text("1 of 16 episodes taught").wait_for()
    left = {e.metadata.tags[-1]: e for e in map(open_episode, list_episodes(taught.layout.episodes_dir))}
    assert len(left) == 2
    marked = left["marked:bad"]
    assert {step.instruction for step in marked} == {"keep left, slowly"}
    assert all(examine(e.path) == [] for e in left.values())


def test_learning_is_paused_a_candidate_promoted_confirmed_and_taken_back(
    taught: Rig, open_page: Opener
) -> None:
    page = open_page(f"{taught.url}/#learn")
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("Paused by a person.").wait_for()
    assert taught.layout.owner_pause_path.exists()
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Pause").wait_for()
    assert not taught.layout.owner_pause_path.exists()
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("no trainer runs that could learn now").wait_for()
    page.get_by_role("button", name="Show how it drives").click()
    page.locator(".rollouts canvas").nth(1).wait_for(timeout=120_000)
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    page.get_by_text("Probation:").wait_for()
    page.get_by_role("button", name="Confirm now").click()
    page.locator(".timeline").get_by_text("Confirmed").wait_for()
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.locator(".timeline").get_by_text("Rolled back").wait_for()
    events = [entry.event for entry in AdapterStore(taught.layout).history()]
    assert events == ["promote", "confirm", "rollback"]


def test_the_machine_the_logs_the_doctor_and_the_last_decision(taught: Rig, open_page: Opener) -> None:
    page = open_page(f"{taught.url}/#system")
    page.get_by_role("row").filter(has_text="service").filter(has_text="alive").wait_for()
    page.get_by_role("row").filter(has_text="control").filter(has_text="ended").wait_for()
    page.get_by_role("button", name="Run the doctor").click()
    page.get_by_role("row").filter(has_text="base model").wait_for(timeout=60_000)
    page.goto(f"{taught.url}/#talk")
    page.get_by_role("button", name="Explain the last decision").click()
    page.locator(".said").get_by_text("no control process runs").wait_for()


def test_on_the_lan_a_browser_pairs_by_the_code_on_the_console(taught: Rig, open_page: Opener) -> None:
    layout = init_brain_root(taught.layout.root.parent / "lan", "sim-donkey")
    rig = Rig(layout, free_port())
    rig.start("--listen", "127.0.0.1")
    try:
        page = open_page(rig.url)
        page.get_by_label("code").fill("000000")
        code = layout.pairing_code_path.read_text().strip()
        if code == "000000":
            pytest.skip("the one code in a million")
        page.keyboard.press("Enter")
        page.get_by_text("this is not the code").wait_for()
        assert page.locator(".tabs").is_hidden()
        page.get_by_label("code").fill(code)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="By hand").wait_for()
        assert layout.pairing_code_path.read_text().strip() != code  # it opens once
        stranger = open_page(rig.url)
        stranger.get_by_label("code").wait_for()
    finally:
        rig.end()


TALKING_BASE = Path(__file__).parents[1] / "talking_base" / "base"


def test_a_base_that_talks_answers_on_the_page(tmp_path: Path, open_page: Opener) -> None:
    """Its own words, by the engine that a robot has, streamed to the page."""
    rig = Rig(init_brain_root(tmp_path / "t", "sim-donkey", base_model=TALKING_BASE), free_port())
    rig.start()
    try:
        page = open_page(f"{rig.url}/#talk")
        page.locator("#say").fill("who are you")
        page.get_by_role("button", name="Ask").click()
        answer = page.get_by_role("list", name="Conversation").get_by_text("a brain of my own.")
        answer.wait_for()
        assert answer.text_content() == "I am a small robot with a brain of my own."
    finally:
        rig.end()
