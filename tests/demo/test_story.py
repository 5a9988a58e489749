"""The closed loop, small: everything that the demo does, with real processes, on fewer tracks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.demo import processes
from continuonbrain.demo.narrator import Narrator
from continuonbrain.demo.settings import DemoSettings
from continuonbrain.demo.story import Demo
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_process import launch_command
from continuonbrain.loops.control_status import CONTROL_REPORT_NAME
from continuonbrain.loops.drive_session import read_status
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.lock import ProcessLock

# Two and a half minutes of one core; a busy machine must not turn that into a failure.
pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The candidate is judged on fewer tracks than a robot's (see `tests/short_course.py`)."""

    def on_a_short_course(module: str, arguments: Sequence[str]) -> list[str]:
        if "--once" not in arguments:  # it only promotes
            return launch_command(module, arguments)
        return launch_command("tests.short_course", [module, *arguments])

    out = tmp_path_factory.mktemp("demo")
    settings = DemoSettings(tracks=2, follow_tracks=1, live_s=3.0, max_steps=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # the sidecar is to find the tests
        patch.setattr(processes, "launch_command", on_a_short_course)
        return Demo(settings, out, Narrator()).play(), out


def test_the_shifted_robot_drives_badly_before_and_well_after(played: tuple[dict[str, Any], Path]) -> None:
    report, _ = played
    assert report["before"]["completion"] < report["after"]["completion"]
    assert report["after"]["completion"] >= 0.97
    assert (
        report["after"]["lateral_error_m"] <= 0.06
    )  # two tracks, half of the steps, fewer on a busy machine
    assert report["after"]["completion_at_pi_speed"] >= 0.95
    assert report["training"]["reflex_steps"] > 0


def test_stop_is_obeyed_and_instructions_that_nobody_taught_too(played: tuple[dict[str, Any], Path]) -> None:
    report, _ = played
    assert report["after"]["stop"] == 1.0
    assert report["after"]["following"] >= 0.75  # one track: one instruction is an eighth
    assert report["after"]["following"] > report["before"]["following"]


def test_old_roads_are_not_forgotten(played: tuple[dict[str, Any], Path]) -> None:
    assert played[0]["forgetting"] <= 0.02


def test_the_promotion_is_bound_to_a_verdict_over_the_bytes_that_drive(
    played: tuple[dict[str, Any], Path],
) -> None:
    report, out = played
    assert report["promoted"] is True
    current = AdapterStore(BrainLayout(out / "brain")).current()
    assert current is not None
    assert report["verdict"]["passed"] is True
    assert report["verdict"]["candidate_sha256"] == current.compute_sha256()


def test_the_swap_missed_no_tick_and_both_adapters_drove(played: tuple[dict[str, Any], Path]) -> None:
    swap = played[0]["swap"]
    assert swap["noticed"] is True
    assert swap["ticks_on_adapter"] > 10
    assert swap["ticks"] > swap["ticks_on_adapter"]
    # A shared machine may steal a tick from anybody; on an idle one this is 0 (demo/report.json shows it).
    assert swap["missed_ticks"] <= 2


def test_the_report_and_the_picture_are_written(played: tuple[dict[str, Any], Path]) -> None:
    report, out = played
    on_disk = json.loads((out / "report.json").read_text())
    assert on_disk == json.loads(json.dumps(report))
    for key in ("wall_s", "steps", "peak_rss_mib"):
        assert on_disk["training"][key] > 0
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "brain").mkdir()
    (tmp_path / "brain" / "thesis.txt").write_text("years of work")
    with pytest.raises(BrainError, match="was not made by the demo"):
        Demo(DemoSettings(), tmp_path, Narrator()).play()
    assert (tmp_path / "brain" / "thesis.txt").exists()


def test_an_unknown_shift_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BrainError, match="sideways") as error:
        Demo(DemoSettings(shift="sideways"), tmp_path, Narrator())
    assert "tape" in error.value.remedy


def start_demo(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "continuonbrain.cli.main", "demo", "--quick", "--out", str(out)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, as these tests may be, hands down "ignore Ctrl-C"; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_phase(out: Path, phase: str) -> BrainLayout:
    """Until the demo's sidecar is in this phase."""
    layout = BrainLayout(out / "brain")

    def reached() -> bool:
        try:
            return bool(json.loads(layout.status_path.read_text())["phase"] == phase)
        except (OSError, ValueError):
            return False

    wait_until(reached, phase)
    return layout


def wait_until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if reached():
            return
        time.sleep(0.02)
    raise AssertionError(f"the demo never came to {what}")


def wait_for_act(out: Path, act: str) -> None:
    """Until the demo's later acts: the robot drives live, the new adapter stands, the drive is over."""
    layout = BrainLayout(out / "brain")
    store = AdapterStore(layout)
    report = layout.run_dir / CONTROL_REPORT_NAME
    reached = {
        "driving on the base": lambda: read_status(layout).get("chunks", 0) > 0,
        "just promoted": lambda: store.current() is not None,
        "second drive": lambda: store.current() is not None and report.exists(),
    }[act]
    wait_until(reached, act)


@pytest.mark.parametrize(
    "moment",
    [
        1.0,
        6.0,
        pytest.param("train", marks=pytest.mark.long),
        pytest.param("reflex", marks=pytest.mark.long),
        pytest.param("cache", marks=pytest.mark.long),
        pytest.param("judge", marks=pytest.mark.long),
        pytest.param("driving on the base", marks=pytest.mark.long),
        pytest.param("just promoted", marks=pytest.mark.long),
        pytest.param("second drive", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_ends_the_demo_with_no_child_left_and_the_store_whole(
    tmp_path: Path, moment: float | str
) -> None:
    process = start_demo(tmp_path)
    if isinstance(moment, float):
        time.sleep(moment)
    elif moment in ("cache", "train", "reflex", "judge"):
        wait_for_phase(tmp_path, moment)
    else:
        wait_for_act(tmp_path, moment)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    _, errors = process.communicate(timeout=30)
    # 130 to a shell either way: on a slow machine it may still be importing, where Python itself ends it.
    assert process.returncode in (130, -signal.SIGINT)
    assert process.returncode != 130 or "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    root = tmp_path / "brain"
    if root.exists():
        store = AdapterStore(BrainLayout(root))
        assert store.verify_history().ok
        current = store.current()
        promoted = moment in ("just promoted", "second drive")
        assert (current is not None) == promoted
        if current is not None:  # promoted and whole: its bytes are those that the history names
            assert current.compute_sha256() == store.history()[-1].sha256


@pytest.mark.long
def test_a_demo_that_is_killed_takes_its_trainer_with_it(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    layout = wait_for_phase(tmp_path, "train")
    process.kill()
    process.communicate(timeout=30)
    with ProcessLock(layout.trainer_lock_path, purpose="look whether it is free", timeout_s=20.0):
        pass
    assert AdapterStore(layout).current() is None
