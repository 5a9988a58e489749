"""The page against the played robot (`fake_server.py`): what a person does, and what the page does when things fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.dashboard.conftest import Opener, Server, end, free_port, start_fake

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

DEAD_MAN_S = 0.25
HIDE = (
    "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)


def speed(page: Page) -> float:
    """What the newest tick says, m/s."""
    return float(page.evaluate("continuonbrain.view.tick?.speed_mps ?? -1"))


def until(page: Page, condition: str) -> None:
    """Wait for a condition in the page. Not by `wait_for_function`: that needs the eval that the policy forbids."""
    give_up = time.monotonic() + 15
    while not page.evaluate(f"Boolean(globalThis.continuonbrain && ({condition}))"):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)


def take_the_wheel(page: Page) -> None:
    page.get_by_role("button", name="By hand").click()
    until(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'teleop'")


def drive_ahead(page: Page) -> None:
    take_the_wheel(page)
    page.keyboard.down("ArrowUp")
    until(page, "continuonbrain.view.tick.speed_mps > 0.3 && !continuonbrain.view.tick.stopped")


def stop_after(fake: Server, began: float) -> float:
    """Seconds from `began` to the guard's stop; the robot says how long ago that was."""
    while (ago := fake.bend()["stopped_s"]) is None:
        assert time.monotonic() - began < 5, "the car drives on"
        time.sleep(0.005)
    return time.monotonic() - ago - began


def test_a_simulated_robot_is_handed_back_by_a_button_that_is_there_once_a_person_has_taken_part(
    fake: Server, open_page: Opener
) -> None:
    page = open_page(f"{fake.url}/#drive")
    until(page, "continuonbrain.view.tick?.life === 'alone'")
    button = page.get_by_role("button", name="Let the simulator’s driver teach it")
    assert not button.is_visible()
    page.get_by_role("button", name="Autopilot").click()
    button.click()
    until(page, "continuonbrain.view.tick.mode === 'teach'")
    button.wait_for(state="hidden")


def test_a_person_drives_with_keys_and_the_car_stops_when_they_let_go(
    fake: Server, open_page: Opener
) -> None:
    page = open_page(f"{fake.url}/#drive")
    drive_ahead(page)
    page.keyboard.down("KeyA")
    until(page, "continuonbrain.view.tick.guarded[0] > 0.5")
    page.keyboard.up("ArrowUp")
    page.keyboard.up("KeyA")
    until(page, "continuonbrain.view.tick.reasons.includes('deadman')")
    page.get_by_text("You hold the wheel: press a key, the stick or a gamepad").wait_for()


@pytest.mark.parametrize("key", ["Escape", "Space"])
def test_escape_and_space_stop_until_a_person_releases(fake: Server, open_page: Opener, key: str) -> None:
    page = open_page(f"{fake.url}/#drive")
    drive_ahead(page)
    page.keyboard.press(key)  # the focus is still on the button "By hand"
    until(page, "continuonbrain.view.tick.emergency_stop && continuonbrain.view.tick.guarded[1] === 0")
    page.get_by_role("button", name="Stopped").click()  # a second press in fright
    page.wait_for_timeout(300)
    assert page.evaluate("continuonbrain.view.tick.emergency_stop")
    page.get_by_role("button", name="Release the stop").click()
    until(page, "!continuonbrain.view.tick.emergency_stop")


def test_the_stick_drives_while_it_is_held(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive", viewport={"width": 390, "height": 844})
    take_the_wheel(page)
    stick = page.locator(".joystick")
    stick.scroll_into_view_if_needed()
    box = stick.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 50, y - 50)
    until(page, "continuonbrain.view.tick.proposed[0] > 0.3 && continuonbrain.view.tick.proposed[1] > 0.3")
    page.mouse.up()
    until(page, "continuonbrain.view.tick.reasons.includes('deadman')")


def test_a_gamepad_drives_only_after_it_was_at_rest(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    page.evaluate(
        "globalThis.pad = {connected: true, mapping: 'standard', axes: [-0.6, 0, 0, -0.7], buttons: []};"
        "navigator.getGamepads = () => [globalThis.pad]"
    )
    take_the_wheel(page)
    page.wait_for_timeout(400)
    assert page.evaluate("continuonbrain.view.tick.reasons.includes('deadman')")
    page.evaluate("pad.axes = [0.05, 0, 0, 0]")
    page.wait_for_timeout(150)
    page.evaluate("pad.axes = [-0.6, 0, 0, -0.7]")
    until(page, "continuonbrain.view.tick.proposed[0] > 0.5 && continuonbrain.view.tick.proposed[1] > 0.6")
    # One of an unknown make: what rests at -1 may be a trigger.
    page.evaluate("pad.mapping = ''")
    until(page, "continuonbrain.view.tick.reasons.includes('deadman')")


def test_the_same_person_in_two_tabs(fake: Server, open_page: Opener) -> None:
    first = open_page(f"{fake.url}/#drive")
    take_the_wheel(first)
    second = first.context.new_page()
    second.goto(f"{fake.url}/#drive")
    second.locator(".situation").get_by_text("You hold the wheel in another tab or window").wait_for()
    assert second.get_by_role("button", name="Take the wheel").is_disabled()
    assert first.evaluate("continuonbrain.wheel.held")


@pytest.mark.parametrize(
    "gone",
    [
        HIDE,
        "dispatchEvent(new Event('blur'))",
        "dispatchEvent(new Event('pagehide'))",
        "continuonbrain.wheel.socket.close()",
    ],
    ids=["hidden tab", "another window", "left page", "lost socket"],
)
def test_the_dead_man(fake: Server, open_page: Opener, gone: str) -> None:
    took = []
    while len(took) < 3:  # what a busy machine adds is not the page's: one of three is in time
        fake.bend(reset=True)
        page = open_page(f"{fake.url}/#drive")
        drive_ahead(page)
        # Keys stay down: nothing of what stops the car here is a person letting go.
        began = time.monotonic()
        page.evaluate(gone)
        took.append(stop_after(fake, began))
        page.close()
        if took[-1] < DEAD_MAN_S:
            return
    pytest.fail(f"the car drove on for {took} s")


def test_a_page_that_ends_stops_the_car(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    drive_ahead(page)
    began = time.monotonic()
    page.close()
    assert stop_after(fake, began) < DEAD_MAN_S
    until_free = time.monotonic() + 2
    while fake.bend()["driver"] and time.monotonic() < until_free:
        time.sleep(0.02)
    assert fake.bend()["driver"] == ""


def test_two_drivers(fake: Server, open_page: Opener) -> None:
    first, second = open_page(f"{fake.url}/#drive"), open_page(f"{fake.url}/#drive")
    take_the_wheel(first)
    second.get_by_text("Another person holds the wheel: you watch").wait_for()
    assert second.get_by_role("button", name="Take the wheel").is_disabled()
    # Who asks all the same (a page that does not know yet) is refused in words.
    assert "another person drives" in second.evaluate("continuonbrain.wheel.take().catch((e) => e.message)")
    second.get_by_role("button", name="Stop", exact=True).click()
    until(first, "continuonbrain.view.tick.emergency_stop")
    first.get_by_role("button", name="Release the stop").click()
    first.get_by_role("button", name="Give the wheel back").click()
    second.get_by_role("button", name="Take the wheel").click()
    until(second, "continuonbrain.wheel.held")


def test_the_base_that_drives_is_named_where_there_is_more_than_one(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#learn")
    page.locator("#base").wait_for(state="attached")
    assert page.locator("#base").text_content() == ""
    slot = "0123456789abcdef"
    probation = {"state": "probation", "ticks": 7, "of_ticks": 400, "minutes": 0.0, "of_minutes": 0.0}
    fake.bend(base={"slot": slot, "previous": "", **probation})
    page.get_by_text(f"the imported base {slot}, on probation: 7 of 400 ticks driven").wait_for()
    fake.bend(base={"slot": "", "previous": slot, "state": "confirmed"})
    page.get_by_text(f"the base of config.json. Before it drove the imported base {slot}.").wait_for()


def test_record_train_promote_and_roll_back(fake: Server, open_page: Opener) -> None:
    fake.bend(train=2.0)
    page = open_page(f"{fake.url}/#drive")
    page.get_by_label("What you show it").fill("keep left")
    page.get_by_role("button", name="Record", exact=True).click()
    drive_ahead(page)
    page.get_by_role("button", name="Stop recording").click()
    page.keyboard.up("ArrowUp")
    page.get_by_role("button", name="Park").click()
    page.goto(f"{fake.url}/#teach")
    page.get_by_text("6 episodes taught").wait_for()
    page.locator(".episode").first.click()
    page.locator(".plot canvas").first.wait_for()
    assert page.locator(".plot canvas").count() == 4
    page.goto(f"{fake.url}/#learn")
    page.get_by_text("All gates are open").wait_for()
    page.get_by_role("button", name="Start training").click()
    page.locator(".plot canvas").wait_for()
    page.get_by_text("It passed").wait_for()
    page.get_by_role("button", name="Show how it drives").click()
    page.locator(".rollouts canvas").nth(1).wait_for()
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    page.get_by_text("on probation").wait_for()
    page.locator(".timeline").get_by_text("Promoted").wait_for()
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.locator(".timeline").get_by_text("Rolled back").wait_for()
    page.get_by_text("What drove was rolled back.").wait_for()
    page.get_by_text("You may, though its bytes were taken back").wait_for()
    page.get_by_role("button", name="Promote again").click()
    dialog = page.get_by_role("dialog")
    assert "It was taken back: its bytes were taken back." in dialog.inner_text()
    dialog.get_by_role("button", name="Promote").click()
    page.get_by_text("on probation").wait_for()
    page.get_by_role("button", name="Promote again").wait_for(state="detached")


def test_a_start_is_answered_and_shown_until_it_begins(fake: Server, open_page: Opener) -> None:
    said = "asked for: it begins when the gates open: teleop (a person drives)"
    page = open_page(f"{fake.url}/#learn")
    page.get_by_role("button", name="Start training").wait_for()
    fake.bend(training={"phase": "gates", "wanted": True, "said": said})
    asked = page.get_by_role("button", name="Asked for")
    asked.wait_for()
    assert asked.is_disabled()
    page.get_by_text("Asked for: it begins when the gates open: teleop (a person drives).").wait_for()
    # A round that waited for a gate is no training: it may be asked for.
    fake.bend(training={"phase": "gates", "wanted": False})
    page.get_by_role("button", name="Start training").wait_for()
    assert page.get_by_role("button", name="Start training").is_enabled()
    fake.bend(training={"phase": "reflex", "step": 3, "steps": 150})
    learns = page.get_by_role("button", name="It learns")
    learns.wait_for()
    assert learns.is_disabled()
    page.get_by_text("Teaching the reflex head.").wait_for()


def test_judging_says_which_measurement_and_losses_stand_at_their_steps(
    fake: Server, open_page: Opener
) -> None:
    told = {"losses": [2.0, 1.5, 1.2], "loss_steps": [1, 8, 15], "detail": "candidate: laps"}
    fake.bend(training={**told, "phase": "judge", "part": 7, "parts": 14, "step": 30, "steps": 60})
    page = open_page(f"{fake.url}/#learn")
    page.get_by_text("7 of 14").wait_for()
    bar = page.get_by_label("Progress of the training")
    assert bar.evaluate("b => [b.value, b.max]") == [6.5, 14]
    page.locator(".plot[data-last-step='15']").wait_for()


def test_an_episode_is_not_learned_before_a_verdict(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#teach")
    page.locator(".episode").first.wait_for()
    fates = {
        "unjudged": "trained on, not judged",
        "refused": "trained on, refused",
        "passed": "learned, not driving",
        "drives": "learned",
    }
    for fate, words in fates.items():
        fake.bend(fate=fate)
        page.reload()
        chip = page.locator(".episode .chip").first
        chip.wait_for()
        assert chip.inner_text() == words


def test_relabel_mark_bad_and_delete(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#teach")
    page.locator(".episode", has_text="drive slowly").click()
    page.get_by_text("three frames are missing").wait_for()
    page.get_by_label("What was asked of the driver").fill("drive slowly keep left")
    page.get_by_role("button", name="Relabel").click()
    page.locator(".episode", has_text="drive slowly keep left").click()
    page.get_by_role("button", name="Mark as bad").click()
    page.locator(".episode[data-bad]").wait_for()
    page.get_by_text("4 of 6 episodes taught").wait_for()
    page.locator(".episode[data-bad]").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert page.locator(".episode").count() == 5
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    until(page, "document.querySelectorAll('.episode').length === 4")


def test_scrubbing_shows_the_step(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#teach")
    page.locator(".episode").first.click()
    page.locator(".plot canvas").nth(3).wait_for()
    page.get_by_label("Step", exact=True).fill("40")
    page.get_by_text("step 41 / 120").wait_for()
    assert page.locator(".panel .picture img").get_attribute("src").endswith("/frames/40.jpg")  # type: ignore[union-attr]


def test_talk_streams_and_explains(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#talk")
    page.get_by_label("Say").fill("<b>hello</b>")
    page.keyboard.press("Enter")
    page.get_by_text("You said: <b>hello</b>. I keep to the left").first.wait_for()
    page.get_by_role("button", name="Explain the last decision").click()
    page.locator(".said").get_by_text("the guard gave").wait_for()


def test_a_dropped_connection_heals(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    drive_ahead(page)
    fake.bend(drop=True)
    until(page, "!continuonbrain.wheel.held")
    until(page, "continuonbrain.view.linked")
    page.get_by_text("You gave the wheel back: the connection was lost").wait_for()
    # The key is still down: the wheel that was lost must not come back by itself.
    page.wait_for_timeout(500)
    assert not page.evaluate("continuonbrain.wheel.held")


def test_a_robot_that_was_away_is_found_again(open_page: Opener) -> None:
    port = free_port()
    server = start_fake("--episodes", "0", port=port)
    try:
        page = open_page(f"{server.url}/#drive")
        # A view whose file did not come would be loaded anew, with the page.
        page.get_by_role("button", name="By hand").wait_for()
        until(page, "continuonbrain.view.linked")
    finally:
        end(server)
    page.get_by_text("Where a person drives, it stops by itself").wait_for()
    again = start_fake("--episodes", "0", port=port)
    try:
        until(page, "continuonbrain.view.linked")
    finally:
        end(again)


def test_pairing_refused_and_accepted(open_page: Opener) -> None:
    server = start_fake("--pair", "123456", "--episodes", "0")
    try:
        page = open_page(server.url)
        page.get_by_label("Pairing code").fill("654321")
        page.get_by_role("button", name="Pair").click()
        page.get_by_text("this is not the code").wait_for()
        assert page.get_by_role("button", name="Stop").count() == 0
        page.get_by_label("Pairing code").fill("123456")
        page.get_by_role("button", name="Pair").click()
        page.get_by_role("heading", name="Who drives").wait_for()
        assert "123456" not in page.url
    finally:
        end(server)
