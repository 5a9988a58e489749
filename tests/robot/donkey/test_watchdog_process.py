"""The watchdog process and the control process it watches, as real processes on a model's bus: frozen, killed, busy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from drive_rig import Rig

from benchmarks.driven_car import LIMIT_S, ROOT, DrivingProcess, ModelBus, is_alive
from continuonbrain.robot.donkey.watchdog_process import WatchdogProcess, Watched
from continuonbrain.robot.protocol import RobotFault

LATE_S = 3.0
"""On a machine that is busy with other tests; the supervisor would come after ten."""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[ModelBus]:
    bus = ModelBus(tmp_path)
    yield bus
    bus.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrivingProcess]:
    """One for all tests that leave it driving."""
    bus = ModelBus(tmp_path_factory.mktemp("bus"))
    with DrivingProcess(bus) as car:
        yield car
    assert not is_alive(car.watchdog)
    bus.close()


@pytest.fixture
def car(kept: DrivingProcess) -> Iterator[DrivingProcess]:
    kept.drive()
    yield kept
    kept.bus.trouble = lambda packet: 0
    kept.process.send_signal(signal.SIGCONT)


def stopped_after(car: DrivingProcess, since_s: float) -> float:
    at_s = car.bus.wait_for(rest=True, since_s=since_s)
    print(f"the pulse stayed for {1e3 * (at_s - since_s):.0f} ms")
    return at_s - since_s


def told(car: DrivingProcess) -> tuple[list[str], int | None]:
    car.ask("told")
    answer = json.loads(car.answer())
    return answer["refused"], answer["watchdog"]


def until(what: object, patience_s: float = 20.0) -> None:
    assert callable(what)
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_that_is_stopped_as_a_whole_does_not_keep_its_pulse(car: DrivingProcess) -> None:
    began_s = time.monotonic()
    car.process.send_signal(signal.SIGSTOP)
    assert stopped_after(car, began_s) < LIMIT_S + LATE_S
    time.sleep(0.2)
    assert car.bus.at_rest
    assert car.bus.chip.pulse_us(0) is not None  # the ESC stays armed
    car.process.send_signal(signal.SIGCONT)
    car.drive()  # without a restart of anything
    refused, watchdog = told(car)
    assert any("the car was stopped meanwhile" in why for why in refused)
    assert watchdog == car.watchdog


def test_the_pulse_that_a_waking_process_sends_once_more_is_taken_back(car: DrivingProcess) -> None:
    began_s = time.monotonic()
    car.process.send_signal(signal.SIGSTOP)
    car.bus.wait_for(rest=True, since_s=began_s)
    woke_s = time.monotonic()
    chip = car.bus.chip
    with car.bus._changed:  # as the process would, halfway through a command
        chip.write(0x06, [0, 0, 0x80, 0x01])
        car.bus._pulses.append((woke_s, chip.pulse_us(0)))
    assert not car.bus.at_rest
    assert car.bus.wait_for(rest=True, since_s=woke_s) - woke_s < LATE_S


def test_a_call_that_keeps_the_interpreter_does_not_keep_the_pulse(car: DrivingProcess) -> None:
    car.ask("hold")
    began_s = float(car.answer())
    # The call takes 2.5 s; no thread of the process could do it sooner.
    assert stopped_after(car, began_s) < 2.4
    car.drive()


def test_a_bus_that_fails_at_that_moment_is_tried_until_it_works(car: DrivingProcess) -> None:
    began_s = time.monotonic()
    car.process.send_signal(signal.SIGSTOP)
    car.bus.trouble = lambda packet: 121
    failing_from = car.bus.transactions
    until(lambda: car.bus.transactions > failing_from + 10)
    assert not car.bus.at_rest
    car.bus.trouble = lambda packet: 0
    assert stopped_after(car, began_s) < LIMIT_S + LATE_S


def test_while_commands_come_it_keeps_off_the_bus(car: DrivingProcess) -> None:
    seen: list[bytes] = []
    car.bus.trouble = lambda packet: seen.append(packet) or 0  # type: ignore[func-returns-value]
    for _ in range(10):
        before, _ = told(car)
        seen.clear()
        time.sleep(0.5)
        during = list(seen)
        if told(car)[0] == before:  # the machine let it drive without a gap
            break
    else:
        pytest.fail("this machine is too busy to drive for half a second")
    # The read of its look: four registers of the throttle alone.
    assert during
    assert not [packet for packet in during if packet == b"r" + bytes((0x40, 0x06, 4))]


def test_it_has_nothing_of_its_parents_but_the_two_pipes_and_stderr(car: DrivingProcess) -> None:
    _, watchdog = told(car)
    folder = Path(f"/proc/{watchdog}/fd")
    opened = {int(entry.name): os.readlink(entry) for entry in folder.iterdir()}
    assert opened[0].startswith("pipe:")
    assert opened[1].startswith("pipe:")
    assert len(opened.keys() - {0, 1, 2}) == 1, opened  # its own way to the bus
    assert watchdog is not None
    assert os.getsid(watchdog) == watchdog  # a signal for control's group is none for it
    assert os.sched_getscheduler(watchdog) == os.SCHED_OTHER
    modules = Path(f"/proc/{watchdog}/maps").read_text()
    assert "numpy" not in modules
    assert "pydantic" not in modules


def test_signals_do_not_end_it(car: DrivingProcess) -> None:
    _, watchdog = told(car)
    assert watchdog is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT):
        os.kill(watchdog, number)
    time.sleep(0.1)
    assert told(car)[1] == watchdog


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_when_it_dies_or_stands_the_car_stops_until_there_is_another(
    car: DrivingProcess, how: signal.Signals
) -> None:
    refused_before, watchdog = told(car)
    assert watchdog is not None
    began_s = time.monotonic()
    os.kill(watchdog, how)
    assert stopped_after(car, began_s) < 1.0 + LATE_S
    car.drive()
    refused, another = told(car)
    assert any("watchdog process" in why for why in refused[len(refused_before) :])
    assert another not in (None, watchdog)
    until(lambda: not Path(f"/proc/{watchdog}").exists())  # reaped
    # The new one does what the first did.
    began_s = time.monotonic()
    car.process.send_signal(signal.SIGSTOP)
    assert stopped_after(car, began_s) < LIMIT_S + LATE_S
    assert another is not None
    car.watchdog = another


def test_a_killed_control_process_leaves_the_throttle_off_and_no_process(bus: ModelBus) -> None:
    with DrivingProcess(bus) as car:
        car.drive()
        began_s = time.monotonic()
        os.killpg(car.process.pid, signal.SIGKILL)  # with all that it started, as the supervisor does
        assert stopped_after(car, began_s) < LATE_S
        until(lambda: bus.chip.pulse_us(0) is None, 5)
        until(lambda: not is_alive(car.watchdog), 5)
        seen = bus.chip.seen[0]
        assert seen[-1] is None
        assert seen[-2] == pytest.approx(1500, abs=5)  # at rest first


def test_a_car_that_is_closed_ends_it_and_waits_for_it(bus: ModelBus) -> None:
    with DrivingProcess(bus) as car:
        car.drive()
        car.ask("leave")
        assert car.process.wait(20) == 0
        assert not is_alive(car.watchdog)
    assert bus.chip.pulse_us(0) is None


@pytest.fixture
def on_the_bus(bus: ModelBus, monkeypatch: pytest.MonkeyPatch) -> ModelBus:
    """Where this process and its children find the bus."""
    monkeypatch.setenv("MODEL_BUS", str(bus.path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "benchmarks" / "model_bus"), str(ROOT))))
    return bus


def test_it_leaves_the_core_of_the_control_loop(on_the_bus: ModelBus) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this machine has one core for everything")
    for core in sorted(cores)[:2]:
        process = WatchdogProcess(Watched(1, 0x40, 0x06, bytes(4)), limit_s=60.0, not_cpu=core)
        process.start()
        try:
            process.wait(20)
            assert process.pid is not None
            assert core not in os.sched_getaffinity(process.pid)
        finally:
            process.end(orderly=True)


_FORKS = """
import os, sys, time
from continuonbrain.robot.donkey.watchdog_process import WatchdogProcess, Watched
process = WatchdogProcess(Watched(1, 0x40, int(sys.argv[1]), bytes.fromhex(sys.argv[2])), limit_s=60.0)
process.start()
process.wait(20)
process.beat()
copy = os.fork()
if not copy:
    time.sleep(60)
    os._exit(0)
print(process.pid, copy, flush=True)
time.sleep(60)
"""


def test_a_forked_copy_of_the_pipe_does_not_hide_that_control_is_gone(on_the_bus: ModelBus) -> None:
    rig = Rig()
    rig.arm()
    rig.drive(0.2, 0.5, ticks=3)
    on_the_bus.chip = rig.chip
    register, rest = rig.train.rest_registers
    command = [sys.executable, "-c", _FORKS, str(register), rest.hex()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as control:
        try:
            assert control.stdout is not None
            watchdog, copy = map(int, control.stdout.readline().split())
            assert not rig.at_rest()
        finally:
            control.kill()
    try:
        until(lambda: not is_alive(watchdog))
        assert is_alive(copy), "it ended by the pipe"
        assert rig.chip.pulse_us(0) is None
        assert rig.chip.seen[0][-2] == pytest.approx(1500, abs=5)
    finally:
        os.kill(copy, signal.SIGKILL)


def test_one_that_never_gets_ready_is_given_up_and_another_is_started() -> None:
    now = [0.0]
    process = WatchdogProcess(
        Watched(1, 0x40, 0x06, bytes(4)),
        limit_s=0.6,
        clock=lambda: now[0],
        command=[sys.executable, "-c", "import time; time.sleep(60)"],
    )
    process.start()
    first = process._process
    assert first is not None
    now[0] = 9.9
    process.look()
    assert process._process is first
    now[0] = 10.1
    process.look()
    assert first.wait(10) == -signal.SIGKILL
    with pytest.raises(RobotFault, match="not ready within 10 s"):
        process.beat()
    now[0] = 10.4
    process.look()
    assert process._process not in (None, first)
    process.end(orderly=True)


def test_a_bus_that_it_cannot_open_is_told() -> None:
    process = WatchdogProcess(Watched(31, 0x40, 0x06, bytes(4)), limit_s=0.6)
    process.start()
    with pytest.raises(RobotFault, match=r"watchdog process: .*i2c-31"):
        process.wait(20)
    with pytest.raises(RobotFault, match="i2c-31"):
        process.beat()
    process.end(orderly=True)


def test_one_that_dies_at_once_is_started_again_after_pauses_that_double() -> None:
    now, starts = [0.0], []
    process = WatchdogProcess(
        Watched(1, 0x40, 0x06, bytes(4)), limit_s=0.6, clock=lambda: now[0], command=["/bin/false"]
    )
    begin = process.start

    def started() -> None:
        starts.append(now[0])
        begin()

    process.start = started  # type: ignore[method-assign]
    with suppress(RobotFault):
        process.start()
    for _ in range(320):
        running = process._process
        if running is not None:
            running.wait(10)
        process.look()
        now[0] += 0.02
    process.end(orderly=True)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6], abs=0.05)
    count = len(starts)
    now[0] += 100
    process.look()
    assert len(starts) == count  # a car that is closed needs none


def test_a_program_that_cannot_be_started_is_told() -> None:
    process = WatchdogProcess(Watched(1, 0x40, 0x06, bytes(4)), limit_s=0.6, command=["/nowhere/python"])
    with pytest.raises(RobotFault, match="cannot be started: No such file"):
        process.start()
    process.end(orderly=True)
