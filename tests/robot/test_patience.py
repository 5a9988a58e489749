"""Claims about probes that hang: nobody waits for them for long, and their threads do not pile up."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.robot.host import HostReadings, LinuxHost, SimulatedHost
from continuonbrain.robot.patience import Patience
from continuonbrain.trainer.build_gates import build_gates


def test_what_hangs_has_no_answer_costs_its_budget_once_and_one_thread() -> None:
    go, asked = threading.Event(), []

    def hangs() -> int:
        asked.append(1)
        go.wait()
        return 1

    patience: Patience[int] = Patience(0.2)
    started = time.monotonic()
    assert patience.ask({"slow": hangs, "quick": lambda: 2}) == {"quick": 2}
    assert 0.15 < time.monotonic() - started < 2.0
    threads = threading.active_count()
    for _ in range(20):
        assert patience.ask({"slow": hangs, "quick": lambda: 2}) == {"quick": 2}
    assert threading.active_count() == threads
    assert asked == [1]
    go.set()
    deadline = time.monotonic() + 5.0
    while patience.ask({"slow": hangs}) != {"slow": 1} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(asked) == 2, "it is asked again once the old question has come back"


def test_two_who_ask_at_once_both_have_their_answers() -> None:
    patience: Patience[int] = Patience(5.0)
    found: list[dict[str, int]] = []

    def ask() -> None:
        found.append(patience.ask({"q": lambda: time.sleep(0.05) or 1}))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"q": 1}] * 4


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_never_passes_is_refused(budget_s: float) -> None:
    with pytest.raises(BrainError, match="budget_s"):
        Patience(budget_s)


def test_a_kernel_file_that_hangs_is_a_missing_reading_and_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text("1.00 1.00")
    (tmp_path / "proc/loadavg").write_text("0.50 0 0 1/1 1")
    os.mkfifo(tmp_path / "proc/meminfo")
    host = LinuxHost(tmp_path, probe_timeout_s=0.3)
    readings = host.read()
    assert readings.load.value == 0.5
    assert readings.memory_available_mib.error == "did not answer in 0.3 s"
    assert not readings.memory_available_mib.absent
    os.close(os.open(tmp_path / "proc/meminfo", os.O_WRONLY | os.O_NONBLOCK))


def test_a_host_that_hangs_closes_every_gate_and_is_not_waited_for() -> None:
    go = threading.Event()

    class Hangs:
        def read(self) -> HostReadings:
            go.wait()
            return SimulatedHost().read()

    gates = build_gates(poll_timeout_s=0.2, dwell_s=0.0, thermal_dwell_s=0.0)
    started = time.monotonic()
    for _ in range(5):
        report = gates.poll(Hangs())
        assert not any(state.open for state in report.states)
        assert "did not answer in 0.2 s" in report.states[0].reason
    assert time.monotonic() - started < 2.0
    go.set()
    time.sleep(0.2)
    assert gates.poll(SimulatedHost()).open
