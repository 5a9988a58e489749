"""The page over a line that comes and goes, and with a clock that goes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.dashboard.conftest import Opener, Server
from tests.dashboard.test_page import until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

LATE_CLOSES = """
const Real = WebSocket;
globalThis.late = [];
globalThis.WebSocket = class extends Real {
  set onclose(heard) {
    super.onclose = (event) => {
      if (globalThis.hold && this.url.includes("/v1/drive")) globalThis.late.push(() => heard(event));
      else heard(event);
    };
  }
};
"""


def on_autopilot(fake: Server, open_page: Opener) -> Page:
    page = open_page(f"{fake.url}/#drive")
    until(page, "continuonbrain.view.tick")
    page.get_by_role("button", name="Autopilot").click()
    until(page, "continuonbrain.view.tick.mode === 'autopilot' && continuonbrain.view.tick.speed_mps > 0.2")
    return page


@pytest.mark.parametrize("chosen", ["Park", "Assisted"])
def test_a_stop_goes_on_being_said_while_nothing_is_heard(
    fake: Server, open_page: Opener, chosen: str
) -> None:
    page = on_autopilot(fake, open_page)
    for path in ("stop", "mode"):
        page.route(f"**/v1/{path}", lambda route: route.abort())
    page.locator("#stop").click()
    page.get_by_text("It is said again until it is").wait_for()
    page.get_by_role("button", name=chosen, exact=True).click()
    page.wait_for_timeout(400)
    assert page.locator("#stop").text_content() == "Stopping…"
    page.unroute("**/v1/stop")  # the mode is still not heard
    until(page, "continuonbrain.view.tick.emergency_stop")


def test_park_that_is_heard_leaves_a_stop_that_is_not(fake: Server, open_page: Opener) -> None:
    page = on_autopilot(fake, open_page)
    page.route("**/v1/stop", lambda route: route.abort())
    page.locator("#stop").click()
    page.get_by_role("button", name="Park", exact=True).click()
    until(page, "continuonbrain.view.tick.mode === 'park'")
    page.unroute("**/v1/stop")
    until(page, "continuonbrain.view.tick.emergency_stop")


def test_a_mode_that_is_heard_ends_a_stop_that_is_not_but_no_later_one(
    fake: Server, open_page: Opener
) -> None:
    page = on_autopilot(fake, open_page)
    page.route("**/v1/stop", lambda route: route.abort())
    page.locator("#stop").click()
    page.get_by_role("button", name="Assisted", exact=True).click()
    until(page, "continuonbrain.view.tick.mode === 'assisted'")
    until(page, "document.getElementById('stop').textContent === 'Stop'")
    # A mode that is heard late does not end a stop that was asked for after it.
    waiting: list[Route] = []
    page.route("**/v1/mode", lambda route: waiting.append(route))
    page.get_by_role("button", name="Autopilot").click()
    page.wait_for_timeout(200)
    page.locator("#stop").click()
    page.wait_for_timeout(200)
    (mode,) = waiting
    mode.continue_()
    until(page, "continuonbrain.view.tick.mode === 'autopilot'")
    page.unroute("**/v1/stop")
    until(page, "continuonbrain.view.tick.emergency_stop")


def test_an_earlier_wheels_end_is_not_the_end_of_this_one(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    page.add_init_script(LATE_CLOSES)
    page.reload()
    page.get_by_role("button", name="By hand").click()
    until(page, "continuonbrain.wheel.held")
    page.evaluate("globalThis.hold = true")
    page.get_by_role("button", name="Give the wheel back").click()
    until(page, "!continuonbrain.wheel.held && globalThis.late.length === 1")
    page.get_by_role("button", name="Take the wheel").click()
    until(page, "continuonbrain.wheel.held")
    page.evaluate("globalThis.late.forEach((tell) => tell())")
    page.wait_for_timeout(300)
    assert page.evaluate("continuonbrain.wheel.held")
    assert page.evaluate("continuonbrain.wheel.lost") == ""


def change(event: str, at: float, to: str = "") -> dict[str, Any]:
    of_whom = {
        "from": "" if event == "promote" else "000001-aaaaaaaa",
        "to": to,
        "by": "boot",
        "reason": "boot",
    }
    return {"at_unix_s": at, "event": event, **of_whom, "episodes": [], "verdict": None}


def test_what_was_taken_back_is_told_though_the_clock_went_back(fake: Server, open_page: Opener) -> None:
    entries = [change("promote", 1.8e9, "000001-aaaaaaaa")]
    page = open_page("about:blank")

    def status(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "last_event": len(entries)})

    page.route("**/v1/status", status)
    page.route("**/v1/history", lambda route: route.fulfill(json={"entries": entries, "problem": ""}))
    with page.expect_response("**/v1/history"):
        page.goto(f"{fake.url}/#drive")
    entries.append(change("revert", 1.8e9 - 3600))  # the clock of a robot that was without power
    page.get_by_text("Adapter 000001-aaaaaaaa was taken back on probation.").wait_for()
    page.goto(f"{fake.url}/#learn")
    page.get_by_text("What drove was taken back on probation.").first.wait_for()
    newest = page.locator("ol.timeline li").first.inner_text()
    assert "Taken back on probation" in newest
