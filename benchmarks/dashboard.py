"""How heavy and how quick is the dashboard, on this machine's loopback?

    python -m benchmarks.dashboard [--seconds 20] [--tries 5] [--json]

The real service beside a real policy and control process of the simulated car, and a real Chromium
(`apt-get install chromium`, `pip install playwright`) that shows the page.

Keys:
  first_load_kb      bytes over the wire until the Drive view shows a picture, without the picture's own socket / 1024
                     (goal < 600)
  frames, p50_frame_age_ms, p95_frame_age_ms
                     from a frame's exposure to its being on the page, while the autopilot drives (goal < 150 at 20 Hz)
  fps                frames that the page showed in a second
  idle_cpu_share     of one core that the service uses while no page is open, after a page was (goal < 0.02)
  dead_man_ms        the longest time from the moment at which a driver is no more to the guard's stop as the control
                     process tells it, over `tries` of each way in dead_man (goal < 250)
  dead_man           ms of each try: hidden (the page's tab is hidden), closed (its tab is closed), killed (SIGKILL of
                     all of the browser)
Takes about `seconds` times two and two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from continuonbrain.loops import wire
from continuonbrain.loops.drive_session import DriveSession
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.storage.layout import BrainLayout, init_brain_root

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_WAIT_S = 30.0
_WAYS = ("hidden", "closed", "killed")
_HIDE = (
    "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)


@contextlib.contextmanager
def serving(layout: BrainLayout) -> Iterator[tuple[psutil.Process, str]]:
    """The service's process and the address of its page."""
    command = [
        sys.executable,
        "-m",
        "continuonbrain",
        "serve",
        "--root",
        str(layout.root),
        "--tcp",
        "0",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the service did not start")
        yield psutil.Process(process.pid), json.loads(line)["serving"][1]
    finally:
        process.terminate()
        process.wait(15)


def wait(page: Page, condition: str) -> None:
    """Until a condition in the page holds. SystemExit when it does not in half a minute."""
    end = time.monotonic() + _WAIT_S
    while not page.evaluate(f"Boolean(globalThis.continuonbrain && ({condition}))"):
        if time.monotonic() > end:
            raise SystemExit(f"it did not come true in {_WAIT_S:.0f} s: {condition}")
        page.wait_for_timeout(20)


def first_load_kb(browser: Browser, address: str) -> float:
    """Bytes over the wire of a first visit / 1024."""
    context = browser.new_context()
    try:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        sizes: list[float] = []
        network.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
        page.goto(f"{address}/#drive")
        page.locator(".picture img[src]").wait_for()
        page.wait_for_timeout(500)
        return sum(sizes) / 1024
    finally:
        context.close()


def frame_ages(browser: Browser, address: str, seconds: float) -> dict[str, float]:
    """Ages of the frames that a page shows, ms."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    try:
        page = context.new_page()
        page.goto(f"{address}/#drive")
        page.get_by_role("button", name="Autopilot").click()
        wait(page, "continuonbrain.view.tick?.mode === 'autopilot' && continuonbrain.view.ages.length > 20")
        page.evaluate("continuonbrain.view.ages.length = 0")
        page.wait_for_timeout(seconds * 1000)
        ages: list[float] = sorted(page.evaluate("continuonbrain.view.ages"))
    finally:
        context.close()
    if len(ages) < 20:
        raise SystemExit(f"the page showed {len(ages)} frames in {seconds:.0f} s")
    return {
        "frames": len(ages),
        "fps": round(len(ages) / seconds, 1),
        "p50_frame_age_ms": round(statistics.median(ages), 1),
        "p95_frame_age_ms": round(ages[int(0.95 * len(ages))], 1),
    }


def idle_cpu_share(service: psutil.Process, seconds: float) -> float:
    """Of one core."""
    time.sleep(2)  # what the last page left behind is over
    before, began = service.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = service.cpu_times()
    used = after.user - before.user + after.system - before.system
    return used / (time.monotonic() - began)


def ticks(layout: BrainLayout) -> Iterator[tuple[float, dict[str, Any]]]:
    """(monotonic seconds, tick), as the control process tells them."""
    with wire.connect_unix(layout.run_dir / "view.sock", 2) as sock:
        wire.send(sock, {"type": "view", "fps": 20})
        while True:
            header, _ = wire.receive(sock, 5)
            tick = header["tick"]
            assert isinstance(tick, dict)
            yield time.monotonic(), tick


def dead_man_ms(browser: Browser, address: str, layout: BrainLayout, how: str) -> float:
    """A page drives; it is no more; how long until the guard stops the car."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{address}/#drive")
        page.get_by_role("button", name="By hand").click()
        wait(page, "continuonbrain.wheel.held && continuonbrain.view.tick?.mode === 'teleop'")
        page.keyboard.down("ArrowUp")
        told_pids = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
        pids = [int(process["id"]) for process in told_pids["processInfo"]]
        told = ticks(layout)
        end = time.monotonic() + _WAIT_S
        for _, tick in told:
            if not tick["stopped"] and tick["guarded"][1] > 0.2:
                break
            if time.monotonic() > end:
                raise SystemExit(f"the page does not drive the car: {tick}")
        began = time.monotonic()
        if how == "hidden":
            page.evaluate(_HIDE)
        elif how == "closed":
            page.close()
        else:
            kill(pids)
        for at_s, tick in told:
            if tick["stopped"]:
                return (at_s - began) * 1000
            if at_s - began > 5:
                raise SystemExit(f"the car drives on without a driver ({how})")
        raise SystemExit("the control process ended")
    finally:
        with contextlib.suppress(Exception):  # its page may have been killed
            context.close()


def _close(browser: Browser) -> None:
    with contextlib.suppress(Exception):  # it may have been killed
        browser.close()


def kill(pids: list[int]) -> None:
    """SIGKILL to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run(seconds: float, tries: int) -> dict[str, Any]:
    """Every figure."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        layout = init_brain_root(Path(folder, "brain"), "sim-donkey", base_model=tiny_base_folder())
        drive = DriveSession(layout, shift=None, track_seed=9001, seed=0, instruction="drive")
        stack.enter_context(drive)
        service, address = stack.enter_context(serving(layout))
        playwright = stack.enter_context(sync_playwright())
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]

        def launch() -> Browser:
            started = playwright.chromium.launch(executable_path=path, args=arguments)
            stack.callback(_close, started)
            return started

        browser = launch()
        found: dict[str, Any] = {"first_load_kb": round(first_load_kb(browser, address), 1)}
        found |= frame_ages(browser, address, seconds)
        found["idle_cpu_share"] = round(idle_cpu_share(service, seconds), 4)
        ways: dict[str, list[float]] = {way: [] for way in _WAYS}
        for way in _WAYS:
            for _ in range(tries):
                one = launch() if way == "killed" else browser
                ways[way].append(round(dead_man_ms(one, address, layout, way), 1))
        found["dead_man_ms"] = max(max(times) for times in ways.values())
        return {**found, "dead_man": ways}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = run(asked.seconds, asked.tries)
    if asked.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
