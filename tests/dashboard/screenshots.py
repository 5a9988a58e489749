"""The pictures in docs/dashboard: `python -m tests.dashboard.screenshots` (some ten minutes; needs Chromium).

They show a real run: `continuonbrain run --shift tape` on a new root, its supervisor and processes, the training and
the verdict as they were, the simulated car as it drives before and after. Nothing in them is made up.
"""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console

from tests.dashboard.conftest import ROOT, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = ROOT / "docs/dashboard"
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}
_FLAT = 200
_LONGEST_S = 1800.0
_console = Console(stderr=True)


def save(page: Page, name: str) -> None:
    """A small PNG: the page's own flat colours exactly, what is left of a palette for the road."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    counted = sorted(picture.getcolors(1 << 24) or [], reverse=True)[:_FLAT]
    exact = [channel for _, colour in counted for channel in colour]
    rest = picture.quantize(256 - _FLAT, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((exact + rest)[: 256 * 3])
    path = FOLDER / f"{name}.png"
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    _console.print(f"{path.relative_to(ROOT)} {path.stat().st_size // 1024} KB")


def until(page: Page, condition: str, within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not page.evaluate(f"Boolean(globalThis.continuonbrain && ({condition}))"):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)


class Run:
    """`continuonbrain run` on a new root."""

    def __init__(self, folder: Path) -> None:
        cli = [sys.executable, "-m", "continuonbrain"]
        root, port = str(folder / "brain"), str(free_port())
        subprocess.run(
            [*cli, "init", "--root", root, "--preset", "sim-donkey"], check=True, capture_output=True
        )
        self.url = f"http://127.0.0.1:{port}"
        self._log = open(folder / "run.log", "wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*cli, "run", "--root", root, "--shift", "tape", "--port", port],
            cwd=ROOT,
            stdout=self._log,
            stderr=self._log,
        )

    def wait(self, page: Page, what: str, told: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
        """Until `/v1/...` says so."""
        with _console.status(what):
            give_up = time.monotonic() + _LONGEST_S
            while True:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"{what}: the run ended, or it took too long")
                try:
                    if is_so(page.request.get(f"{self.url}{told}").json()):
                        return
                except Exception:  # it is not up yet
                    pass
                time.sleep(0.5)

    def end(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        self._log.close()


def opened(browser: Browser, run: Run, view: str, size: str = "wide", scheme: str = "light") -> Page:
    page = browser.new_context(viewport=SIZES[size], color_scheme=scheme).new_page()
    page.goto(f"{run.url}/#{view}")
    until(page, "continuonbrain.view.tick")
    page.wait_for_timeout(800)
    return page


def learns(browser: Browser, run: Run) -> None:
    """While it trains for the first time."""
    page = opened(browser, run, "learn")
    run.wait(
        page,
        "it is taught, and begins to train",
        "/v1/training",
        lambda t: t["phase"] == "train" and t["step"] > 0.6 * t["steps"] > 0,
    )
    page.wait_for_timeout(1500)
    save(page, "learn-light")
    page.context.close()


def drives(browser: Browser, run: Run, name: str, size: str, scheme: str) -> None:
    """The autopilot drives, and a person holds the wheel."""
    page = opened(browser, run, "drive", size, scheme)
    page.get_by_role("button", name="Assisted").click()
    until(page, "continuonbrain.view.tick?.speed_mps > 0.4 && continuonbrain.view.tick?.by === 'policy'")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(700)
    save(page, name)
    page.get_by_role("button", name="Autopilot").click()
    page.wait_for_timeout(500)
    page.context.close()


def replays(browser: Browser, run: Run, name: str, size: str, scheme: str) -> None:
    page = opened(browser, run, "teach", size, scheme)
    page.locator(".episode").nth(1).click()
    page.locator(".plot canvas").first.wait_for()
    page.get_by_label("Step", exact=True).fill("40")
    page.wait_for_timeout(800)
    save(page, name)
    page.context.close()


def verdict(browser: Browser, run: Run) -> None:
    page = opened(browser, run, "learn", "wide", "dark")
    page.get_by_role("button", name="Show how it drives").first.click(timeout=20_000)
    page.locator(".rollouts canvas").nth(1).wait_for(timeout=180_000)
    page.evaluate("document.querySelector('.rollouts').closest('.panel').scrollIntoView()")
    page.wait_for_timeout(800)
    save(page, "verdict-dark")
    page.context.close()


def talks(browser: Browser, run: Run) -> None:
    page = opened(browser, run, "talk", "narrow", "light")
    page.get_by_role("button", name="Explain the last decision").click()
    page.wait_for_timeout(1500)
    save(page, "talk-light-390")
    page.context.close()


def system(browser: Browser, run: Run) -> None:
    page = opened(browser, run, "system", "wide", "dark")
    page.get_by_role("button", name="Run the doctor").click()
    page.wait_for_timeout(8000)
    save(page, "system-dark")
    page.context.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as name, sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        run = Run(Path(name))
        try:
            run.wait(browser.new_page(), "it starts", "/v1/status", lambda told: bool(told))
            learns(browser, run)
            run.wait(
                browser.new_page(),
                "it judges and promotes",
                "/v1/history",
                lambda told: any(one["to"] for one in told["entries"]),
            )
            drives(browser, run, "drive-light", "wide", "light")
            drives(browser, run, "drive-dark-390", "narrow", "dark")
            verdict(browser, run)
            replays(browser, run, "teach-dark", "wide", "dark")
            replays(browser, run, "teach-light-390", "narrow", "light")
            talks(browser, run)
            system(browser, run)
        finally:
            run.end()
            browser.close()


if __name__ == "__main__":
    main()
