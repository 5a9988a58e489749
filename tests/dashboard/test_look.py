"""How the page looks and reads: axe's rules, narrow screens, its weight, the policy it is served under."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from tests.dashboard.conftest import Opener, Server
from tests.dashboard.fake_server import STATIC

AXE = Path(__file__).with_name("vendor") / "axe-core/axe.min.js"
VIEWS = ("drive", "teach", "learn", "talk", "system")
FIRST_LOAD_KB = 600


def ready(view: str) -> str:
    return {
        "drive": ".picture img[src]",
        "teach": ".episode",
        "learn": ".gate",
        "talk": "#say",
        "system": "tbody tr",
    }[view]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(fake: Server, open_page: Opener, width: int, scheme: str) -> None:
    page = open_page(f"{fake.url}/#drive", viewport={"width": width, "height": 844}, color_scheme=scheme)
    for view in VIEWS:
        page.goto(f"{fake.url}/#{view}")
        page.locator(ready(view)).first.wait_for()
        if view == "teach":
            page.locator(".episode").first.click()
            page.locator(".plot canvas").first.wait_for()
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run().then((r) => r.violations)")
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is too wide"


@pytest.mark.browser
def test_every_control_is_reached_by_tab_and_shows_it(fake: Server, open_page: Opener) -> None:
    page = open_page(f"{fake.url}/#drive")
    page.locator(".picture img[src]").wait_for()
    seen = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if page.evaluate(
            "document.activeElement !== document.body"
        ):  # behind the last one is the browser's own
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {"stop", "wheel", "instruction", "Park", "Learn", "lesson"} <= seen


@pytest.mark.browser
def test_the_first_load_is_small(fake: Server, open_page: Opener) -> None:
    weights: list[int] = []
    page = open_page("about:blank")
    page.on("response", lambda r: weights.append(len(r.body())) if "/static/" in r.url else None)
    page.goto(f"{fake.url}/#drive")
    page.locator(".picture img[src]").wait_for()
    assert 20 < sum(weights) / 1024 < FIRST_LOAD_KB


def test_nothing_is_inline_or_from_elsewhere() -> None:
    for path in STATIC.rglob("*"):
        if path.suffix not in (".html", ".css", ".js", ".svg") or "vendor" in path.parts:
            continue
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path
        if path.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), path
        if path.suffix == ".js":
            assert not re.search(r"innerHTML|insertAdjacentHTML|\beval\(|new Function", text), path
