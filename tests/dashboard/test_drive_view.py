"""Drive: one sentence that never contradicts itself, colours that are read in every state, two touches on a phone."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.dashboard.conftest import Opener, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import CDPSession, Page

pytestmark = pytest.mark.browser

KNOWN = ["drive", "drive slowly", "keep left", "stop"]
TONES = {"good", "idle", "warn", "bad"}
SAY = """(all) => import('/static/js/situation.js').then((m) => all.map((s) => ({...m.situation(s),
 guard: m.guardInWords(s.linked ? s.tick : null)})))"""


def told(page: Page, *situations: dict[str, Any]) -> list[dict[str, str]]:
    """What the page's own function says."""
    found: list[dict[str, str]] = page.evaluate(SAY, list(situations))
    return found


def tick(mode: str = "autopilot", **more: Any) -> dict[str, Any]:
    return {
        "mode": mode,
        "phase": "drive",
        "held": mode == "park",
        "by": {"teleop": "person", "park": "nobody", "teach": "nobody"}.get(mode, "policy"),
        "stopped": mode == "park",
        "emergency_stop": False,
        "reasons": [],
        "fault": "",
        "instruction": "drive",
        "speed_mps": 1.0,
        "policy": {"problem": "", "refusal": ""},
        **more,
    }


def every_situation() -> list[dict[str, Any]]:
    """Mode, phase, stop, reasons, fault, instruction; who holds the wheel, and what this page lost; the connection."""
    ticks: list[dict[str, Any] | None] = [None]
    for mode, phase, emergency, stopped, rolls, fault, words, why in itertools.product(
        ("teleop", "autopilot", "assisted", "park", "teach", "stopped"),
        ("drive", "park", "teach"),
        (False, True),
        (False, True),
        (False, True),
        ("", "camera: no frame"),
        ("drive", "sing a song"),
        ([], ["deadman"], ["no_path"], ["steering_slew"], ["sensor_fault"], ["instruction_stop"]),
    ):
        if (emergency or rolls) and not stopped:
            continue
        if rolls and phase != "drive":  # it coasts whatever a simulated life is at
            continue
        held = mode == "park" and phase == "drive"
        reasons = [*why, *(["emergency_stop"] if emergency else [])]
        ticks.append(
            tick(
                mode,
                phase=phase,
                held=held,
                emergency_stop=emergency,
                stopped=stopped,
                fault=fault,
                instruction=words,
                reasons=reasons,
                by="person" if mode == "assisted" and why == ["steering_slew"] else tick(mode)["by"],
                speed_mps=0.0 if stopped and not rolls else 1.0,
            )
        )
    hands = [
        {"driver": "me", "held": True},
        {"driver": "me", "held": True, "letGo": "no message for 150 ms"},
        {"driver": "tab"},
        {"driver": "other"},
        {"driver": "none"},
        {"driver": "none", "lost": "the connection was lost"},
        {"driver": "other", "lost": "the connection was lost"},
    ]
    return [
        {"linked": linked, "tick": now, "known": KNOWN, **hand}
        for linked, now, hand in itertools.product((True, False), ticks, hands)
    ]


DRIVES_NOW = re.compile(r"\bYou drive\b|autopilot drives\b|A person drives it|\bIt follows\b")
STANDS = re.compile(r"\b[Ii]t stands\b|is parked")


def test_the_sentence_is_true_in_every_situation(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    situations = every_situation()
    said = told(page, *situations)
    assert len(said) == len(situations) > 5000
    for asked, one in zip(situations, said, strict=True):
        words, now = one["words"], asked["tick"]
        about = (asked, one)
        assert re.fullmatch(r"[A-Z“].*[.?]", words), about
        assert "undefined" not in words + one["short"], about
        assert one["short"], about
        assert one["tone"] in TONES, about
        assert words.count("You hold the wheel") + words.count("You drive") <= 1, about
        drives, stands = DRIVES_NOW.search(words), STANDS.search(words)
        assert not (drives and stands), about
        if not asked["linked"] or now is None:
            assert not drives, about
            assert not stands, about
            assert not one["action"], about
            assert not one["guard"], about
            continue
        if now["stopped"] or now["mode"] in ("park", "teach", "stopped"):
            assert not drives, about
            assert not one["guard"], about
        elif now["mode"] in ("autopilot", "teleop", "assisted") and not now["fault"]:
            assert not stands, about
        rolls = now["stopped"] and now["speed_mps"] > 0
        if rolls and now["mode"] not in ("teach", "stopped"):
            assert not stands, about
            assert "standing" not in one["short"], about
            assert "parked" not in one["short"], about
            if now["mode"] in ("teleop", "assisted") and asked["driver"] == "none" and not now["fault"]:
                assert "comes to a stop" in words, about
        if not asked.get("held"):
            assert "You drive" not in words, about
            assert "You hold the wheel" not in words.replace("You hold the wheel in another tab", ""), about
            assert "Release it here" not in words or asked["driver"] != "other", about
        if now["mode"] == "stopped":
            assert not one["action"], about
            continue
        assert ("emergency stop is on" in words) == now["emergency_stop"], about
        assert (one["action"] == "release") == (now["emergency_stop"] and asked["driver"] != "other"), about
        if now["emergency_stop"]:
            assert one["tone"] == "bad", about
        if now["fault"]:
            assert now["fault"] in words, about
            assert one["tone"] == "bad", about
        elif not now["emergency_stop"]:
            if asked["driver"] in ("other", "tab") and now["mode"] != "stopped":
                watches = "another tab" if asked["driver"] == "tab" else "Another person holds the wheel"
                assert watches in words, about
            if asked.get("lost") and asked["driver"] == "none":
                assert "You gave the wheel back: the connection was lost" in words, about
                assert one["action"] == "understood", about


@pytest.mark.parametrize(
    ("now", "hand", "words"),
    [
        (
            tick("park", phase="park", held=False, speed_mps=0.0),
            {},
            "until it has learned what it was taught; then it will drive",
        ),
        (tick("teach", phase="teach"), {}, "being taught by the simulator’s own driver"),
        (
            tick("teleop", astray="it left the road: it is put back"),
            {"held": True},
            "It left the road: it is put back.",
        ),
        (tick("park", speed_mps=0.0), {}, "parked until a person chooses a mode"),
        (
            tick(
                stopped=True,
                speed_mps=0.0,
                reasons=["no_path"],
                instruction="sing",
                policy={
                    "problem": "",
                    "refusal": "the instruction 'sing' is 40 tokens long (say it shorter)",
                },
            ),
            {},
            "40 tokens long (say it shorter). It knows “drive”, “drive slowly”",
        ),
        (
            tick(stopped=True, speed_mps=0.0, reasons=["no_path"], instruction="sing"),
            {},
            "no path for “sing”, which its base was not",
        ),
        (
            tick(speed_mps=0.0, instruction="sing"),
            {},
            "“sing” is none of the instructions that its base was taught",
        ),
        (tick(speed_mps=0.0, instruction=" Drive  SLOWLY"), {}, "The autopilot drives."),
        (
            tick(
                stopped=True,
                speed_mps=0.0,
                reasons=["no_path"],
                policy={"problem": "no process answers", "refusal": ""},
            ),
            {},
            "without a path: no process answers",
        ),
        (
            tick("teleop", stopped=True, speed_mps=0.0, reasons=["deadman"]),
            {"driver": "me", "held": True},
            "press a key, the stick",
        ),
        (
            tick("teleop", stopped=True, speed_mps=0.0, reasons=["low_battery"]),
            {"driver": "me", "held": True},
            "the battery is low",
        ),
        (
            tick("teleop", stopped=True, speed_mps=0.0, reasons=["deadman"]),
            {},
            "nobody holds the wheel: it stands. Take the wheel",
        ),
        (
            tick("park", emergency_stop=True, stopped=True, speed_mps=0.0),
            {},
            "In Park it stands all the same",
        ),
        (
            tick(emergency_stop=True, stopped=True, speed_mps=0.6),
            {},
            "The emergency stop is on, and it comes to a stop.",
        ),
        (
            tick(stopped=True, speed_mps=0.0, reasons=["safety_head_block"]),
            {},
            "leaving the road. Carry it back to the road, or choose “By hand” and drive it back a little.",
        ),
        (
            tick("teleop", speed_mps=0.4),
            {"driver": "me", "held": True, "letGo": "messages come 227 ms late"},
            "You drive by hand; a moment ago the robot let go of the wheel: messages come 227 ms late.",
        ),
        (
            tick(stopped=True, speed_mps=0.0, reasons=["instruction_stop"], instruction="stop"),
            {},
            "as it was told",
        ),
    ],
)
def test_what_stands_says_why_and_what_to_do(
    fake: Server, open_page: Opener, now: dict[str, Any], hand: dict[str, Any], words: str
) -> None:
    page = open_page(f"{fake.url}/#drive")
    (said,) = told(page, {"linked": True, "tick": now, "known": KNOWN, **hand})
    assert words in said["words"]


def test_an_instruction_that_it_does_not_know_is_said_and_known_ones_are_offered(
    fake: Server, open_page: Opener
) -> None:
    page = open_page(f"{fake.url}/#drive")
    page.get_by_label("Tell it how to drive").fill("sing a song")
    page.get_by_role("button", name="Tell", exact=True).click()
    page.get_by_text("It is told “sing a song”. Its base was not taught these words").wait_for()
    page.get_by_role("button", name="keep left", exact=True).click()
    page.get_by_text("It is told “keep left”.", exact=True).wait_for()


def test_what_the_robot_adds_to_its_yes_is_shown(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    detail = {"detail": "it stands until it has learned what it was taught, then it drives"}
    for route in ("mode", "instruct"):
        page.route(f"**/v1/{route}", lambda r: r.fulfill(json=detail))
    page.get_by_role("button", name="Autopilot").click()
    shown = page.locator("#toasts").get_by_text(
        "It stands until it has learned what it was taught, then it drives."
    )
    shown.wait_for()
    page.locator("#toasts").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="keep left", exact=True).click()
    shown.wait_for()


def test_a_view_that_could_not_be_loaded_is_loaded_when_the_robot_is_back(
    fake: Server, open_page: Opener
) -> None:
    page = open_page(f"{fake.url}/#talk")
    page.get_by_label("Say").wait_for()
    page.route("**/js/views/drive.js", lambda r: r.abort())
    page.get_by_role("link", name="Drive").click()
    page.wait_for_timeout(300)
    page.unroute("**/js/views/drive.js")
    page.get_by_role("button", name="By hand").wait_for()


def test_ask_without_words_says_so(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#talk")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Write a question first").wait_for()
    assert page.evaluate("document.activeElement.id") == "say"
    page.get_by_label("Say").fill("hello")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Enter asks").wait_for()


# Colours.

CONTRAST = """(node) => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (n) => {
    for (; n; n = n.parentElement) { const c = getComputedStyle(n).backgroundColor; if (rgb(c)[3] === 255) return c; }
    return 'white';
  };
  const light = (colour) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb(colour).slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const style = getComputedStyle(node);
  return {text: ratio(style.color, ground(node)), outline: style.outlineStyle === 'none' ? 0 :
    ratio(style.outlineColor, ground(parseFloat(style.outlineOffset) < 0 ? node : node.parentElement))};
}"""
"""WCAG 2's contrast of a node's text on its ground, and of its focus ring on what is around it."""


def contrasts(page: Page, client: CDPSession, states: list[list[str]]) -> Iterator[tuple[list[str], Any]]:
    """(state, name and contrasts) of every button in sight in each of these states: pseudo-classes are forced on all of
    them at once, and all are measured in one call. Without motion the colours change at once."""
    seen = page.locator("button:visible").evaluate_all(
        "(all) => all.forEach((n) => n.setAttribute('data-looked-at', '')) ?? all.length"
    )
    root = client.send("DOM.getDocument")["root"]["nodeId"]
    asked = {"nodeId": root, "selector": "[data-looked-at]"}
    nodes = client.send("DOM.querySelectorAll", asked)["nodeIds"]
    measure = f"(all) => {{ const of = {CONTRAST}; return all.map((n) => [n.innerText, of(n)]); }}"

    def force(state: list[str]) -> None:
        for node in nodes:
            client.send("CSS.forcePseudoState", {"nodeId": node, "forcedPseudoClasses": state})

    for state in states:
        force(state)
        measured = page.locator("[data-looked-at]").evaluate_all(measure)
        assert len(measured) == len(nodes) == seen > 0  # none is another one by now
        yield from ((state, one) for one in measured)
    force([])
    page.evaluate(
        "document.querySelectorAll('[data-looked-at]').forEach((n) => n.removeAttribute('data-looked-at'))"
    )


STATES: list[list[str]] = [
    [],
    ["hover"],
    ["focus", "focus-visible"],
    ["hover", "active"],
    ["hover", "focus", "focus-visible"],
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_button_can_be_read_in_every_state(fake: Server, open_page: Opener, scheme: str) -> None:
    page = open_page(f"{fake.url}/#drive", color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="keep left", exact=True).wait_for()
    low: list[tuple[object, ...]] = []
    client = page.context.new_cdp_session(page)
    client.send("DOM.enable")
    client.send("CSS.enable")

    def look(what: str) -> None:
        for state, (name, measured) in contrasts(page, client, STATES):
            if measured["text"] < 4.5 or ("focus-visible" in state and measured["outline"] < 3.0):
                low.append((what, name, state, measured))

    look("parked")
    page.get_by_role("button", name="By hand").click()
    page.get_by_role("button", name="Give the wheel back").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Release the stop").wait_for()
    look("stopped")
    page.evaluate(
        "for (const kind of ['', 'primary', 'danger', 'quiet', 'small', 'stop']) { const b = "
        "document.createElement('button'); b.className = kind; b.textContent = kind || 'plain';"
        "document.querySelector('.panel').append(b); }"
    )
    look("kinds")
    page.evaluate("for (const b of document.querySelectorAll('button')) b.disabled = true")
    for state, (name, measured) in contrasts(page, client, [["hover"]]):
        # Of what cannot be pressed no contrast is asked (WCAG 1.4.3); it is read all the same.
        if measured["text"] < 3.0:
            low.append(("disabled", name, state, measured))
    assert low == []


# Phones.


def in_sight(page: Page, selector: str) -> bool:
    """Whether all of it is on the screen without scrolling, and nothing lies over its middle."""
    found: bool = page.locator(selector).evaluate(
        "(n) => { const b = n.getBoundingClientRect(); const top = document.elementFromPoint(b.x + b.width / 2, "
        "b.y + b.height / 2); const edge = document.elementFromPoint(b.x + b.width / 2, b.bottom - 3);"
        "return b.top >= 0 && b.left >= 0 && b.bottom <= innerHeight && b.right <= innerWidth && n.contains(top)"
        " && n.contains(edge); }"
    )
    return found


@pytest.mark.parametrize(("width", "height"), [(844, 390), (932, 430), (667, 375), (390, 844), (390, 664)])
def test_two_touches_drive_a_phone_held_either_way(
    fake: Server, open_page: Opener, width: int, height: int
) -> None:
    page = open_page(f"{fake.url}/#drive", viewport={"width": width, "height": height}, has_touch=True)
    page.locator(".picture img[src]").wait_for()
    for selector in ("#stop", ".joystick", "#wheel", ".segmented", ".situation", ".picture.main"):
        assert in_sight(page, selector), selector
    page.get_by_role("button", name="By hand").tap()  # the first
    page.locator(".situation").get_by_text("You hold the wheel").wait_for()
    for selector in ("#stop", ".joystick"):
        assert in_sight(page, selector), selector
    box = page.locator(".joystick").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y - 40)
    page.mouse.down()  # the second
    page.get_by_text("You drive by hand.").wait_for()
    after = page.locator(".joystick").bounding_box()
    assert after == box  # it does not move under the thumb
    page.mouse.up()
    page.locator("#stop").tap()
    page.get_by_role("button", name="Release the stop").wait_for()
    assert in_sight(page, "#release")
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
