"""A person drives, teaches, has it learn, sees the verdict, and takes back what drives: everything is real.

Real Chromium, service, control process, simulator, policy process, sidecar, training and exam. Twice: a short life,
in every run (one lesson is a person's and the others lay there, few steps of training, a few tracks a measure: see
`short_course.py`), and a whole one, nothing cut, of some minutes:

    pytest tests/dashboard/test_life.py -m long -s
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.rlds.marking import driver_of, instruction_of
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.robot.sim.shifts import SHIFTS, world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root
from tests.dashboard.conftest import ROOT, Opener, free_port
from tests.dashboard.driver import Driver
from tests.dashboard.test_page import until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass(frozen=True)
class Life:
    """What is taught and learned. before: lessons that lie there already; lessons: what the person at the page shows,
    lesson_s seconds each; may_fail: the verdict may refuse what was learned, if it says why."""

    shift: str
    lessons: tuple[str, ...]
    lesson_s: float
    settings: dict[str, Any]
    before: int = 0
    sidecar: tuple[str, ...] = (SIDECAR_MODULE,)
    may_fail: bool = False


WHOLE = Life(
    shift="trim",  # the wheels point 11 degrees off: what a person does about it is worth learning
    lessons=("drive", "keep left", "keep right", "drive slowly") * 4,
    lesson_s=6.0,
    settings={"max_wall_time_s": 300},  # time for all steps beside a browser
    may_fail=True,  # a person's lessons may be too few or too poor
)
SHORT = Life(
    shift="reverse",
    lessons=("keep left",),
    lesson_s=6.0,
    settings={"max_steps": 24, "training": {"reflex_steps": 0}, "robot": {"decision_time_s": 0.2}},
    before=15,
    sidecar=("tests.dashboard.short_course", SIDECAR_MODULE),
)
VERDICT_S = 2400.0


def rooted(folder: Path, life: Life) -> BrainRoot:
    """The robot before anybody is at the page."""
    layout = init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    settings = json.loads(layout.config_path.read_text())
    for key, value in life.settings.items():
        settings[key] = settings[key] | value if isinstance(value, dict) else value
    settings["robot"] |= {"shift": life.shift}
    layout.config_path.write_text(json.dumps(settings))
    brain = open_brain(layout.root)
    if life.before:
        record_expert(
            layout.episodes_dir,
            world(life.shift),
            instructions=lessons(life.before),
            steps=80,
            seed=60_000,
            limits=Limits.from_config(brain.config.guards),
        )
    return brain


@contextlib.contextmanager
def robot(brain: BrainRoot, port: int, sidecar: tuple[str, ...]) -> Iterator[None]:
    """The four processes, as systemd starts them: parked, nobody teaches."""
    root = ("--root", str(brain.layout.root))
    commands = (
        ("continuonbrain", "serve", *root, "--json", "--tcp", str(port)),
        ("continuonbrain.loops.control_process", *root, "--park"),
        ("continuonbrain.loops.policy_process", *root),
        (*sidecar, *root, "--probation"),
    )
    running = []
    try:
        for command in commands:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, cwd=ROOT
                )
            )
        first = running[0].stdout
        assert first is not None
        assert first.readline(), "the service did not start"
        yield
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)


@pytest.mark.parametrize("life", [SHORT, pytest.param(WHOLE, marks=pytest.mark.long)], ids=["short", "whole"])
def test_a_person_teaches_it_and_takes_back_what_it_learned(
    life: Life, tmp_path: Path, open_page: Opener
) -> None:
    brain = rooted(tmp_path / "b", life)
    port, began = free_port(), time.monotonic()
    url, layout = f"http://127.0.0.1:{port}", brain.layout
    there = [p.name for p in list_episodes(layout.episodes_dir)]
    with robot(brain, port, life.sidecar):
        page = open_page(f"{url}/#drive")
        page.get_by_role("button", name="By hand").click(timeout=60_000)
        until(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'teleop'")
        hands = Calibration(
            steering_gain=SHIFTS[life.shift].steering_gain,
            steering_trim_rad=SHIFTS[life.shift].steering_trim_rad,
        )
        driver = Driver(page, open_engine(layout.base_model_dir, brain.config.policy), hands)
        driver.drive("drive", 2.0)  # nothing of this teaches
        driver.halt("drive")
        assert [p.name for p in list_episodes(layout.episodes_dir)] == there
        moves = 0
        for words in life.lessons:
            page.get_by_label("What you show it").fill(words)
            page.get_by_role("button", name="Record", exact=True).click()
            page.get_by_text(f"Your lesson “{words}” waits").wait_for()
            moves += driver.drive(words, life.lesson_s)
            page.get_by_role("button", name="Stop recording").click()
            page.get_by_role("button", name="Record", exact=True).wait_for()
            driver.halt(words)
        assert life.before + len(life.lessons) == brain.config.min_episodes
        shown_s = len(life.lessons) * life.lesson_s
        print(f"\n{len(life.lessons)} lessons, {moves / shown_s:.1f} moves of the hands a second")
        off_road = page.evaluate("continuonbrain.view.tick.off_road")
        page.goto(f"{url}/#teach")
        page.get_by_text(f"{brain.config.min_episodes} episodes taught: enough to learn from").wait_for()
        finished = [p for p in list_episodes(layout.episodes_dir, finished_only=True) if p.name not in there]
        told = [open_episode(p).metadata for p in finished]
        assert sorted(instruction_of(m) for m in told) == sorted(life.lessons)
        assert {driver_of(m) for m in told} == {"person"}

        page.goto(f"{url}/#learn")
        page.get_by_text("Waiting for the gates.").wait_for(
            timeout=60_000
        )  # a sidecar that starts takes no wish yet
        page.get_by_role("button", name="Start training").click()
        page.get_by_text("it begins when the gates open").wait_for()  # the car is still in a person's hand
        page.get_by_role("button", name="Asked for").wait_for()
        page.goto(f"{url}/#drive")
        page.get_by_role("button", name="Park").click()
        until(page, "continuonbrain.view.tick.mode === 'park'")
        page.goto(f"{url}/#learn")
        page.get_by_role("button", name="It learns").wait_for(timeout=60_000)
        trained_s = time.monotonic()
        page.locator(".plot[data-last-step]").wait_for(timeout=300_000)
        page.get_by_text("Measurement", exact=True).wait_for(timeout=600_000)
        judged_s = time.monotonic()
        # What passes drives at once, on probation; what does not says why.
        ended = page.locator(".timeline").get_by_text("Promoted").or_(page.get_by_text("Refused:"))
        ended.first.wait_for(timeout=VERDICT_S * 1000)
        print(
            f"off the road {off_road} times; training {judged_s - trained_s:.0f} s, "
            f"judging {time.monotonic() - judged_s:.0f} s"
        )
        if life.may_fail and page.get_by_text("Refused:").count():  # the page says why
            refused = AdapterStore(layout).candidate()
            assert refused is not None
            reason = (refused.verdict() or {})["reason"]
            assert reason
            page.get_by_text(f"Refused: {reason}").wait_for()
            assert page.get_by_role("button", name="Promote", exact=True).is_disabled()
            page.get_by_text("Nothing was promoted yet.").wait_for()
            print(f"refused, and said why: {reason}; {time.monotonic() - began:.0f} s in all")
            return
        page.get_by_text("on probation").wait_for()
        page.get_by_text("All measurements").click()
        page.get_by_role("row").filter(has_text="stop obeyed").filter(has_text="ok").wait_for()
        page.get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        page.locator(".timeline").get_by_text("Rolled back").wait_for()
        # A person may let it drive again, and is told that it was taken back.
        page.get_by_role("button", name="Promote again").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("It was taken back").wait_for()
        dialog.get_by_role("button", name="Promote").click()
        page.locator(".timeline").get_by_text("Promoted").nth(
            1
        ).wait_for()  # the dialog speaks of probation, too
        page.goto(f"{url}/#teach")
        page.locator(".episode .chip").filter(has_text=re.compile("^learned$")).first.wait_for()
        page.goto(f"{url}/#learn")
        page.get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        page.locator(".timeline").get_by_text("Rolled back").nth(1).wait_for()
    events = [entry.event for entry in AdapterStore(layout).history()]
    assert events == ["promote", "rollback", "promote", "rollback"]
    print(f"{time.monotonic() - began:.0f} s in all")
