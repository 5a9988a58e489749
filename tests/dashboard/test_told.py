"""What the page says of what happened: nothing stale, nothing that was refused already, one sentence before figures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.dashboard.conftest import Opener, Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def called(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """What one of the page's own pure functions answers."""
    return page.evaluate(
        "([m, f, a]) => import(`/static/js/${m}.js`).then((all) => all[f](...a))",
        [module, function, list(arguments)],
    )


def promoted(page: Page) -> None:
    """Learn and promote, as a person does."""
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    page.get_by_text("on probation").first.wait_for()


def test_a_replay_follows_its_episode_and_one_that_is_read_by_a_training_keeps_its_label(
    fake: Server, open_page: Opener
) -> None:
    page = open_page(f"{fake.url}/#teach")
    page.locator(".episode", has_text="keep left").click()
    page.locator(".plot canvas").nth(3).wait_for()
    page.get_by_label("Step", exact=True).fill("40")
    assert page.locator(".episode").first.inner_text().count("Lesson") == 1
    page.get_by_label("What was asked of the driver").fill("drive slowly")
    page.get_by_role("button", name="Relabel").click()
    page.get_by_text(re.compile("^drive slowly · .* a lesson: a person drove$")).wait_for()
    page.get_by_text("step 41 / 120").wait_for()  # it goes on where it was
    page.get_by_role("button", name="Mark as bad").click()
    page.get_by_role("button", name="Use it again").click()
    page.get_by_role("button", name="Mark as bad").wait_for()
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    assert "Delete “drive slowly”?" in dialog.inner_text()
    dialog.get_by_role("button", name="Cancel").click()
    fake.bend(training={"holds": True, "phase": "judge"})
    page.get_by_text("A training reads the episodes: label and deletion wait").wait_for()
    assert page.get_by_role("button", name="Relabel").is_disabled()
    assert page.get_by_role("button", name="Delete").is_disabled()
    assert page.get_by_role("button", name="Mark as bad").is_enabled()
    fake.bend(training={})
    page.get_by_text("A training reads the episodes").wait_for(state="hidden")
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_text("Choose an episode to see").wait_for()


def test_who_watches_is_offered_nothing_that_would_be_refused(fake: Server, open_page: Opener) -> None:
    first, second = open_page(f"{fake.url}/#drive"), open_page(f"{fake.url}/#drive")
    first.get_by_role("button", name="By hand").click()
    second.get_by_text("Another person holds the wheel: they say what is recorded.").wait_for()
    for name in ("Tell", "Record", "keep left"):
        assert second.get_by_role("button", name=name, exact=True).is_disabled(), name
    assert "nothing that you drive" not in second.locator("body").inner_text()
    first.get_by_text("nothing that you drive now teaches").wait_for()
    second.keyboard.press("ArrowUp")
    second.keyboard.press("KeyW")
    second.locator("#toasts").get_by_text("The wheel is not yours: you watch.").wait_for()
    assert second.locator("#toasts .notice").count() == 1  # said twice, it stands there once


def test_keys_and_the_stick_in_park_say_what_they_need(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    page.get_by_text("It is parked").wait_for()
    page.keyboard.press("ArrowUp")
    page.get_by_text("Choose “By hand” to drive.").wait_for()
    page.locator("#toasts").get_by_role("button", name="Close").click()
    page.locator(".joystick").click()
    page.get_by_text("Choose “By hand” to drive.").wait_for()
    page.get_by_label("Tell it how to drive").fill("wasd")
    assert page.locator("#toasts .notice").count() == 1


def test_what_drives_is_not_what_drove_last_and_what_is_taken_back_is_said(
    fake: Server, open_page: Opener
) -> None:
    fake.bend(train=0.2)
    page = open_page(f"{fake.url}/#learn")
    page.get_by_text("Nothing was promoted yet.").wait_for()
    promoted(page)
    page.get_by_text("Taught by 3 episodes; 2 more were held out to judge it").first.wait_for()
    page.goto(f"{fake.url}/#drive")
    now = page.locator(".facts", has_text="It drives with")
    now.get_by_text("v0001-1a2b3c4d, on probation").wait_for()
    now.get_by_text("the base alone").wait_for()  # the last path was not of it
    fake.bend(revert="block: 12 in 11.4 s of driving, before it 0 in 0.0 s (at most 2 a minute)")
    toast = page.locator("#toasts")
    toast.get_by_text("Adapter v0001-1a2b3c4d was taken back on probation.").wait_for()
    words = "It was stopped by the safety head 12 times in 11.4 s of driving"
    assert words in toast.inner_text()
    page.goto(f"{fake.url}/#learn")
    page.get_by_text("What drove was taken back on probation. It was stopped").wait_for()
    assert page.get_by_text("Nothing was promoted yet.").count() == 0


def test_a_training_without_time_says_so_and_a_robot_without_control_process_too(
    fake: Server, open_page: Opener
) -> None:
    short = "time ran out after 36 of 400 steps (max_wall_time_s = 58 in config.json)"
    fake.bend(training={"short": short, "phase": "reflex", "left_out": ["e"]})
    page = open_page(f"{fake.url}/#learn")
    page.get_by_text("Time ran out after 36 of 400 steps (max_wall_time_s = 58 in config.json).").wait_for()
    page.get_by_text("Left out: 1 episode.").wait_for()
    recorded = "recordedInWords"
    assert "control process" in called(page, "words", recorded, None, True)
    assert "No connection" in called(page, "words", recorded, None, False)
    for mode in ("autopilot", "assisted"):
        told = {"on": True, "as": "drive", "waits": False, "able": True, "lessons": False, "drives": True}
        tick = {"mode": mode, "instruction": "drive", "recording": told}
        assert called(page, "words", recorded, tick).startswith("Recording what the autopilot drives")
        told["waits"] = True  # a robot that was stopped
        assert "nothing is recorded until it drives" in called(page, "words", recorded, tick)


def test_a_base_without_words_is_not_asked(fake: Server, open_page: Opener) -> None:
    fake.bend(engines={"driving": "torch", "words": None})
    page = open_page(f"{fake.url}/#talk")
    page.get_by_text("Nothing can be asked: this base has no words.").wait_for()
    assert page.get_by_role("button", name="Ask", exact=True).is_disabled()
    assert page.get_by_role("button", name="Explain the last decision").is_enabled()


def test_a_robot_that_falls_silent_is_told_within_two_seconds(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    page.get_by_text("It is parked").wait_for()
    # A connection that is open and brings nothing, as over a network that is away.
    page.evaluate("continuonbrain.view.socket.onmessage = null")
    page.get_by_text("No connection to the robot.").first.wait_for(timeout=2500)
    page.get_by_text("It is parked").wait_for()  # and another connection heals it


def check(name: str, value: float, n: int | None = None, passed: bool = True) -> dict[str, Any]:
    return {"name": name, "value": value, "n": n, "passed": passed, "meaning": "", "unit": "tracks"}


VERDICTS: list[tuple[list[dict[str, Any]], str]] = [
    ([], "Nothing was measured."),
    ([check("differs_from_base", 0.4)], "All 1 check passed."),
    (
        [
            check("completion", 0.41162, 8),
            check("following", 0.6875, 16),
            check("imitation_steering", -0.785, 4),
            check("forgetting", 0.0, 6),
        ],
        (
            "All 4 checks passed. It drives 41 % of a lap further than before (on 8 tracks), obeys 11 of 16 "
            "instructions more, steers 79 % closer to the driver on episodes that were held out, and has "
            "forgotten nothing of the roads that the base knew."
        ),
    ),
    (
        [check("completion", -0.2, 1, False), check("forgetting", -0.1, 6, False)],
        (
            "2 of 2 checks failed. It drives 20 % of a lap less far than before (on 1 track), and drives 10 % "
            "of a lap less far on the roads that the base knew."
        ),
    ),
]


def test_a_verdict_is_one_sentence_first(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#talk")
    for checks, words in VERDICTS:
        assert called(page, "views/verdict", "verdictInWords", {"checks": checks}) == words
    assert called(page, "words", "sideways", -0.42) == "right 0.42"
    assert called(page, "words", "sideways", 0.42) == "left 0.42"
