"""The pictures in docs/dashboard: `python -m tests.dashboard.screenshots` (a minute; needs Chromium).

They show the page before the played robot of `fake_server.py`: the road and the driving are the simulator's; the
verdict, the processes and the temperatures are made up.
"""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.dashboard.conftest import ROOT, Server, end, start_fake

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = ROOT / "docs/dashboard"
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}
_FLAT = 80


def save(page: Page, name: str) -> None:
    """A small PNG: the page's own flat colours exactly, what is left of a palette for the road."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    counted = sorted(picture.getcolors(1 << 24) or [], reverse=True)[:_FLAT]
    exact = [channel for _, colour in counted for channel in colour]
    rest = picture.quantize(256 - _FLAT, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((exact + rest)[: 256 * 3])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def until(page: Page, condition: str) -> None:
    give_up = time.monotonic() + 20
    while not page.evaluate(f"Boolean(globalThis.continuonbrain && ({condition}))"):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)


def drive(page: Page) -> None:
    """The autopilot drives, a person holds the wheel and corrects it."""
    page.get_by_role("button", name="Assisted").click()
    until(page, "continuonbrain.view.tick?.speed_mps > 0.8")
    page.get_by_label("Tell it how to drive").fill("keep left, slowly")
    page.locator("body").press("ArrowLeft")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(600)
    until(page, "document.querySelector('.tag:not(.old)')")


def teach(page: Page) -> None:
    page.locator(".episode").nth(2).click()
    page.locator(".plot canvas").nth(3).wait_for()
    page.get_by_label("Step", exact=True).fill("48")
    page.wait_for_timeout(500)


def train(page: Page) -> None:
    page.get_by_role("button", name="Start training").click()
    page.locator(".plot canvas").wait_for()
    page.wait_for_timeout(2500)


def judge(page: Page) -> None:
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("button", name="Show how it drives").click(timeout=20_000)
    page.locator(".rollouts canvas").nth(1).wait_for()
    page.evaluate("document.querySelector('#promote').closest('.panel').scrollIntoView()")
    page.wait_for_timeout(500)


def talk(page: Page) -> None:
    page.get_by_label("Say").fill("Where do you drive?")
    page.keyboard.press("Enter")
    page.get_by_text("I keep to the left").first.wait_for()
    page.get_by_role("button", name="Explain the last decision").click()
    page.wait_for_timeout(400)


def system(page: Page) -> None:
    page.get_by_role("button", name="Run the doctor").click()
    page.get_by_text("the base drives and is silent").wait_for()


SHOTS: tuple[tuple[str, str, str, str, Any], ...] = (
    ("drive-light", "drive", "wide", "light", drive),
    ("drive-dark-390", "drive", "narrow", "dark", drive),
    ("teach-dark", "teach", "wide", "dark", teach),
    ("teach-light-390", "teach", "narrow", "light", teach),
    ("learn-light", "learn", "wide", "light", train),
    ("candidate-dark", "learn", "wide", "dark", judge),
    ("talk-light-390", "talk", "narrow", "light", talk),
    ("system-dark", "system", "wide", "dark", system),
)


def shoot(browser: Browser, server: Server, shot: tuple[str, str, str, str, Any]) -> None:
    name, view, size, scheme, act = shot
    server.bend(reset=True)
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{server.url}/#{view}")
    until(page, "continuonbrain.view.tick")
    page.wait_for_timeout(800)
    act(page)
    save(page, name)
    context.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(parents=True, exist_ok=True)
    server = start_fake("--episodes", "8")
    try:
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for shot in SHOTS:
                shoot(browser, server, shot)
            browser.close()
    finally:
        end(server)
    for path_out in sorted(Path(FOLDER).glob("*.png")):
        print(f"{path_out.relative_to(ROOT)} {path_out.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
