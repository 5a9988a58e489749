"""A sidecar that is stopped, paused or killed in the middle of training ends with the adapter of one that was not.

Real processes, real signals.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.demo.story import host_readings
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root

pytestmark = pytest.mark.slow
QUICK = {"min_episodes": 4, "max_steps": 150, "batch_size": 8, "max_wall_time_s": 600}


@pytest.fixture
def make(tmp_path: Path, untrained_base: Path, taught: Path) -> Callable[[str], BrainRoot]:
    """make(name): a root with the same episodes each time."""

    def root(name: str) -> BrainRoot:
        layout = init_brain_root(tmp_path / name, "sim-donkey", base_model=untrained_base)
        for path in list_episodes(taught)[:6]:
            shutil.copytree(path, layout.episodes_dir / path.name)
        settings = json.loads(layout.config_path.read_text()) | QUICK
        settings["training"]["rank"] = 2
        layout.config_path.write_text(json.dumps(settings))
        return open_brain(tmp_path / name)

    return root


def sidecar(brain: BrainRoot) -> AbstractContextManager[subprocess.Popen[str]]:
    """One round as a process of its own."""
    command = [sys.executable, "-m", "continuonbrain.loops.mid", "--root", str(brain.layout.root)]
    return running([*command, "--once", "--hold"])


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process, killed at the end if it still runs."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, as these tests may be, hands down "ignore Ctrl-C"; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def status(brain: BrainRoot) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(brain.layout.status_path.read_text())
    except (OSError, ValueError):
        return {}
    return value


def wait_until(
    brain: BrainRoot, process: subprocess.Popen[str], reached: Callable[[dict[str, Any]], bool]
) -> None:
    deadline = time.monotonic() + 120
    while not reached(status(brain)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, status(brain)
        time.sleep(0.02)


def in_the_middle(shot: dict[str, Any]) -> bool:
    return shot.get("phase") == "train" and 20 <= shot["step"] < 120


def staged(brain: BrainRoot) -> dict[str, bytes]:
    """Let a round run until its candidate stands on disk; the adapter's bytes."""
    with sidecar(brain) as process:
        wait_until(brain, process, lambda s: s.get("phase") == "judge")
    candidate = AdapterStore(brain.layout).candidate()
    assert candidate is not None
    names = ("adapter_model.safetensors", "adapter_config.json", "calibration.json")
    return {name: (candidate.path / name).read_bytes() for name in names}


def card(brain: BrainRoot) -> dict[str, Any]:
    candidate = AdapterStore(brain.layout).candidate()
    assert candidate is not None
    found: dict[str, Any] = json.loads((candidate.path / "card.json").read_text())
    return found


@pytest.fixture
def host() -> SimulatedHost:
    host = SimulatedHost()
    host.set(battery_fraction=0.9, cpu_temp_c=45.0, idle_s=120.0, teleop_active=0.0)
    return host


@pytest.fixture
def wanted(make: Callable[[str], BrainRoot], host: SimulatedHost) -> dict[str, bytes]:
    """The adapter of a training that nobody interrupted."""
    straight = make("straight")
    with host_readings(straight, host):
        files = staged(straight)
    assert card(straight)["training"]["resumed_at"] == 0
    return files


@pytest.mark.long
def test_a_sidecar_told_to_end_goes_on_where_it_was(
    make: Callable[[str], BrainRoot], host: SimulatedHost, wanted: dict[str, bytes]
) -> None:
    stopped = make("stopped")
    with host_readings(stopped, host):
        with sidecar(stopped) as process:
            wait_until(stopped, process, in_the_middle)
            nice = stopped.config.training.nice
            assert nice > 0
            assert psutil.Process(process.pid).nice() == min(19, psutil.Process().nice() + nice)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
            assert process.returncode == 128 + signal.SIGTERM
        assert stopped.layout.training_state_path.exists()
        assert AdapterStore(stopped.layout).candidate() is None
        assert staged(stopped) == wanted
    assert card(stopped)["training"]["resumed_at"] >= 20
    assert stopped.layout.training_state_path.exists()  # until its adapter is judged


@pytest.mark.long
def test_ctrl_c_in_a_terminal_puts_the_training_down_too(
    make: Callable[[str], BrainRoot], host: SimulatedHost, wanted: dict[str, bytes]
) -> None:
    by_hand = make("by hand")
    root = str(by_hand.layout.root)
    with running(
        [sys.executable, "-m", "continuonbrain.cli.main", "train", "--hold", "--root", root]
    ) as process:
        wait_until(by_hand, process, in_the_middle)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 128 + signal.SIGINT
        assert "to go on from there" in said
    assert by_hand.layout.training_state_path.exists()
    with host_readings(by_hand, host):
        assert staged(by_hand) == wanted
    assert card(by_hand)["training"]["resumed_at"] >= 20


@pytest.mark.long
def test_a_gate_pauses_within_two_seconds_and_a_power_cut_meanwhile_costs_nothing(
    make: Callable[[str], BrainRoot], host: SimulatedHost, wanted: dict[str, bytes]
) -> None:
    killed = make("killed")
    with host_readings(killed, host):
        with sidecar(killed) as process:
            wait_until(killed, process, in_the_middle)
            host.set(teleop_active=1.0)
            closed = time.monotonic()
            wait_until(killed, process, lambda s: str(s["detail"]).startswith("paused: teleop"))
            assert time.monotonic() - closed < 2.0
            at = status(killed)["step"]
            time.sleep(0.5)
            assert status(killed)["step"] == at
            process.kill()
        host.set(teleop_active=0.0)
        time.sleep(0.6)
        assert staged(killed) == wanted
    assert card(killed)["training"]["resumed_at"] >= at
