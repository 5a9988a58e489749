"""The demo's real processes: the sidecar that learns, and the robot that drives while its adapter is swapped."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.demo.narrator import Narrator
from continuonbrain.demo.settings import DemoSettings
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.loops.child_process import launch_command
from continuonbrain.loops.drive_session import DriveSession
from continuonbrain.storage.layout import BrainLayout


def run_sidecar(brain: BrainRoot, narrator: Narrator) -> dict[str, Any]:
    """Run the sidecar for one round as its own process, following its status file; its outcome. Raises `BrainError`."""
    # Through the launcher: however the demo dies, its sidecar ends with it.
    command = launch_command(SIDECAR_MODULE, ["--root", str(brain.layout.root), "--once", "--hold"])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            _show_status(brain.layout, narrator)
            time.sleep(0.15)
        printed, errors = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(10)
    if process.returncode != 0:
        raise BrainError(f"the sidecar failed: {errors.strip()[-2000:]}", remedy="see the lines above")
    outcome: dict[str, Any] = json.loads(printed)
    if outcome["phase"] not in ("judged", "refused"):
        raise BrainError(f"the sidecar did not train: {outcome['phase']}: {outcome['detail']}")
    return outcome


def drive_live(
    brain: BrainRoot, settings: DemoSettings, narrator: Narrator, *, passed: bool
) -> dict[str, Any]:
    """Drive for real, promote in the middle; figures of the swap. Raises `BrainError`."""
    if not passed:
        narrator.say("The verdict is no: nothing is promoted, the base goes on driving.")
        return {"missed_ticks": None, "ms": None, "promoted": False}
    seed = settings.lap_seeds[0]
    with DriveSession(
        brain.layout,
        shift=settings.shift,
        track_seed=seed,
        seed=settings.seed,
        instruction="drive",
    ) as session:
        half = settings.live_s / 2
        _drive_for(session, narrator, half, "on the base")
        command = launch_command(SIDECAR_MODULE, ["--root", str(brain.layout.root), "--promote"])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BrainError(f"the promotion failed: {done.stderr.strip()[-2000:]}")
        promotion = json.loads(done.stdout)
        session.wait_for_adapter(promotion["sha256"], timeout_s=15.0)
        _drive_for(session, narrator, half, f"on adapter {promotion['version_id']}")
        live = session.stop()
    swap = live.swap
    figures = {
        "missed_ticks": live.missed_ticks,
        "ms": round(promotion["notice_ms"], 1),
        "promoted": True,
        "ticks": live.ticks,
        "reflex_ticks": live.reflex_ticks,
        "ticks_on_adapter": swap.get("ticks_on_new", 0),
        "noticed": promotion["noticed"],
    }
    narrator.say(
        f"Swapped in {figures['ms']:.0f} ms while driving; {live.ticks} control ticks, {live.missed_ticks} missed."
    )
    return figures


def _show_status(layout: BrainLayout, narrator: Narrator) -> None:
    try:
        status = json.loads(layout.status_path.read_text())
    except (OSError, ValueError):
        return  # not written yet
    titles = {"read": "reading episodes", "cache": "frozen layers, once a sample", "train": "LoRA steps"}
    titles["reflex"] = "the reflex head"
    phase = str(status.get("phase", ""))
    title = titles.get(phase) or (f"judging: {status.get('detail', '')}" if phase == "judge" else "")
    if title and status.get("steps"):
        note = f"loss {status['loss']:.3f}" if phase == "train" and status.get("loss") is not None else ""
        narrator.progress(title, int(status["step"]), int(status["steps"]), note)


def _drive_for(session: DriveSession, narrator: Narrator, seconds: float, what: str) -> None:
    started = time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        status = session.status()
        speed, error = status.get("speed_mps"), status.get("lane_error_m")
        note = "starting" if speed is None or error is None else f"{speed:.2f} m/s, lane error {error:.2f} m"
        narrator.progress(f"driving live {what}", int(passed * 10), int(seconds * 10), note)
        time.sleep(0.1)
