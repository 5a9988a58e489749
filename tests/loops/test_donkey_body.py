"""The donkey's body: its own stop and mode buttons, its machine's readings, and when it refuses to be."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.config import BrainConfig
from continuonbrain.errors import BrainError
from continuonbrain.loops import donkey_body, senses
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.loops.donkey_body import DonkeyBody
from continuonbrain.robot.donkey.gamepad import Gamepad
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.machine import GaugedHost
from continuonbrain.robot.donkey.watchdog_process import Watched
from continuonbrain.robot.host import FileHost
from continuonbrain.robot.readings import HostReadings, Reading
from continuonbrain.storage.layout import init_brain_root

sys.path.insert(0, str(Path(__file__).parents[1] / "robot" / "donkey"))
from bus_models import Ina219Model, ModelBus, Pca9685Model


class NoChips:
    """A bus on which nobody answers."""

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        raise OSError(121, "Remote I/O error")

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        raise OSError(121, "Remote I/O error")

    def close(self) -> None:
        pass


def _body(tmp_path: Path, **overrides: object) -> DonkeyBody:
    config = BrainConfig().with_overrides(
        {"donkey.calibrated": True, "donkey.gamepad.enabled": False, **overrides}
    )
    return DonkeyBody(
        config, config_path=tmp_path / "config.json", disk_path=tmp_path, bus=RetryingBus(NoChips(), "nobody")
    )


def _tick(mode: str) -> Any:
    return SimpleNamespace(mode=mode)


def test_an_uncalibrated_car_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrainError, match="calibrated = false"):
        _body(tmp_path, **{"donkey.calibrated": False})


def test_the_pads_stop_holds_until_it_is_released(tmp_path: Path) -> None:
    body = _body(tmp_path)
    assert body.asked() is None
    body._pressed("mode")
    body._pressed("stop")
    assert body.asked() == "stop"
    assert body.asked() == "stop"
    assert body.release() == ""
    assert body.asked() is None


def test_a_switch_that_is_pressed_after_the_mode_button_is_not_released_by_it(tmp_path: Path) -> None:
    body = _body(tmp_path)
    body._pressed("mode")
    body._stop.press("the switch")
    assert body.asked() == "stop"
    assert body.asked() == "stop"
    body._pressed("mode")  # now a person has seen it, and means to go on
    assert body.asked() == "teleop"


def test_the_mode_button_goes_between_hand_and_autopilot(tmp_path: Path) -> None:
    body = _body(tmp_path)
    for mode, wanted in (("park", "teleop"), ("autopilot", "teleop"), ("teleop", "autopilot")):
        body.ticked(_tick(mode))
        body._pressed("mode")
        assert body.asked() == wanted
        assert body.asked() is None


def test_after_an_emergency_stop_the_mode_button_gives_it_to_the_hand(tmp_path: Path) -> None:
    for mode in ("park", "autopilot", "teleop", "assisted"):
        body = _body(tmp_path / mode)
        body.ticked(_tick(mode))
        body._pressed("stop")
        assert body.asked() == "stop"
        body._pressed("mode")
        assert body.asked() == "teleop"


def test_what_the_mode_button_asked_for_while_the_loop_hung_is_nobodys_wish_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, now = _body(tmp_path), [100.0]
    monkeypatch.setattr(donkey_body, "time", SimpleNamespace(monotonic=lambda: now[0]))
    body._pressed("mode")  # before the first tick: while the car comes up
    body.ticked(_tick("park"))
    assert body.asked() == "teleop"
    for wait_s, wanted in ((0.05, "autopilot"), (0.4, "autopilot"), (0.6, None), (0.05, "autopilot")):
        body._pressed("mode")
        body._mode = "teleop"
        body._pressed("mode")
        now[0] += wait_s
        body.ticked(_tick("teleop"))
        assert body.asked() == wanted
    body._pressed("stop")
    now[0] += 5.0
    body.ticked(_tick("teleop"))
    assert body.asked() == "stop"  # however late


def test_a_car_whose_chips_do_not_answer_does_not_open(tmp_path: Path) -> None:
    body = _body(tmp_path)
    with pytest.raises(BrainError, match="nobody: write of chip 0x40"):
        body.open()


def test_what_the_machine_tells(tmp_path: Path) -> None:
    machine = _body(tmp_path).machine
    machine.alive(driving=True, teleop=True)
    told = machine.read()
    assert told.teleop_active.value == 1.0
    assert told.idle_s.value == 0.0
    assert told.battery_fraction.value is None
    assert not told.battery_fraction.absent
    assert "chip 0x41" in str(told.battery_fraction.error)


class Fixed:
    def __init__(self, battery: Reading) -> None:
        self.battery = battery

    def read(self) -> HostReadings:
        missing = HostReadings.all_missing("test", "not told")
        return HostReadings(
            **{
                name: self.battery if name == "battery_fraction" else getattr(missing, name)
                for name in HostReadings.__dataclass_fields__
            }
        )


def test_the_gauge_counts_before_the_machines_own_supplies() -> None:
    own, gauge = Reading(0.9, 1.0, "sys"), Reading(0.2, 1.0, "gauge")
    assert GaugedHost(Fixed(own), Fixed(gauge)).read().battery_fraction is gauge
    broken = Reading.missing("gauge", "no answer")
    assert GaugedHost(Fixed(own), Fixed(broken)).read().battery_fraction is broken
    absent = Reading.missing("gauge", "none", absent=True)
    assert GaugedHost(Fixed(own), Fixed(absent)).read().battery_fraction is own


def test_the_control_process_drives_it_by_hand_and_leaves_it_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    settings = json.loads(layout.config_path.read_text())
    settings["robot"].update(realtime_priority=None, cpu=None)
    settings["heads"]["safety"]["enabled"] = False
    settings["donkey"]["calibrated"] = True
    settings["donkey"]["throttle"]["arming_s"] = 0.05
    # A busy machine may keep the camera's thread waiting; what a late frame does is tried elsewhere.
    settings["donkey"]["camera"]["timeout_s"], settings["donkey"]["watchdog_s"] = 5.0, 2.0
    layout.config_path.write_text(json.dumps(settings))
    chip = Pca9685Model()
    hand = Gamepad(lambda: None, None, quiet_s=3, on_press=lambda press: None)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(hand, "start", lambda: None)
    monkeypatch.setattr(type(hand), "__call__", lambda self: ((0.5, 0.4), 0.0))
    monkeypatch.setattr(
        donkey_body,
        "open_bus",
        lambda number: RetryingBus(ModelBus(at_40=chip, at_41=Ina219Model()), "model"),
    )
    monkeypatch.setattr(senses, "OLDEST_OBSERVATION_S", 5.0)
    monkeypatch.setattr(donkey_body, "backend_for", lambda config: NoisyCamera())
    monkeypatch.setattr(donkey_body, "WatchdogProcess", ToldOnly)
    monkeypatch.setattr(donkey_body, "open_gamepad", lambda config, on_press: hand)
    process = ControlProcess(open_brain(layout.root), ControlOptions(seconds=1.5, record=False))
    assert isinstance(process._body, DonkeyBody)
    assert process._loop.mode == "park"  # hardware never drives off by itself
    process._body._pressed("mode")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        report = process.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert report.to_json()["sensor_faults"] == 0
    driven = [pulse for pulse in chip.seen[0] if pulse is not None]
    assert max(driven) == pytest.approx(1580, abs=5)
    assert driven[-1] == pytest.approx(1500, abs=5)
    assert chip.pulse_us(0) is None
    outside = ToldOnly.made.pop()
    assert outside.story == ["start", "wait", "beat", "end True"]
    assert (outside.watched.bus, outside.watched.address, outside.watched.register) == (1, 0x40, 0x06)
    assert outside.limit_s == 4.0
    host = FileHost(layout.run_dir / "host.json").read()
    assert host.battery_fraction.value is not None
    assert host.teleop_active.value == 1.0


def test_a_battery_that_runs_low_stops_the_drive_and_no_mode_starts_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge = Ina219Model()
    monkeypatch.setattr(donkey_body, "open_bus", lambda number: RetryingBus(ModelBus(at_41=gauge), "model"))
    config = BrainConfig().with_overrides(
        {"donkey.calibrated": True, "donkey.gamepad.enabled": False, "donkey.gauge.low_s": 0.0}
    )
    body = DonkeyBody(config, config_path=tmp_path / "config.json", disk_path=tmp_path)
    body.machine.read()
    assert body.unfit() == ""
    gauge.volts = 6.8
    body.machine.read()
    assert "below 5%" in body.unfit()
    assert body.tell()["battery_stop"] == body.unfit()
    assert "must come to 15%" in body.release()
    gauge.volts = 8.0
    body.machine.read()
    assert body.unfit()
    assert body.release() == ""
    assert body.unfit() == ""


def test_a_car_on_mains_has_no_battery_that_could_stop_it(tmp_path: Path) -> None:
    body = _body(tmp_path, power="mains")
    assert body.unfit() == ""
    assert body.machine.read().battery_fraction.source != "INA219 0x41"
    assert _body(tmp_path, power="battery").machine.read().battery_fraction.source == "INA219 0x41"


def test_the_control_process_stops_for_a_low_battery_and_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    settings = json.loads(layout.config_path.read_text())
    settings["robot"].update(realtime_priority=None, cpu=None)
    settings["heads"]["safety"]["enabled"] = False
    settings["donkey"]["calibrated"] = True
    settings["donkey"]["throttle"]["arming_s"] = 0.05
    settings["donkey"]["camera"]["timeout_s"], settings["donkey"]["watchdog_s"] = 5.0, 2.0
    settings["donkey"]["gauge"]["low_s"] = 0.0
    layout.config_path.write_text(json.dumps(settings))
    chip, gauge = Pca9685Model(), Ina219Model()
    hand = Gamepad(lambda: None, None, quiet_s=3, on_press=lambda press: None)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(hand, "start", lambda: None)
    monkeypatch.setattr(type(hand), "__call__", lambda self: ((0.5, 0.4), 0.0))
    monkeypatch.setattr(
        donkey_body, "open_bus", lambda number: RetryingBus(ModelBus(at_40=chip, at_41=gauge), "model")
    )
    monkeypatch.setattr(donkey_body, "backend_for", lambda config: NoisyCamera())
    monkeypatch.setattr(donkey_body, "WatchdogProcess", ToldOnly)
    monkeypatch.setattr(donkey_body, "open_gamepad", lambda config, on_press: hand)
    process = ControlProcess(open_brain(layout.root), ControlOptions(seconds=120, record=False))
    process._body._pressed("mode")  # type: ignore[attr-defined]
    driven = process._on_tick

    stops = 0

    def empty_once_it_drives(tick: Any) -> None:
        nonlocal stops
        driven(tick)
        if (chip.pulse_us(0) or 0.0) > 1550:
            gauge.volts = 6.8
        stops += tick.guarded.reasons == ("low_battery",)
        process._stopping = stops >= 10  # however long a busy machine takes to come here

    monkeypatch.setattr(process, "_on_tick", empty_once_it_drives)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        report = process.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert report.reasons["low_battery"] >= 10
    pulses = [pulse for pulse in chip.seen[0] if pulse is not None]
    assert max(pulses) > 1550
    told = json.loads((layout.run_dir / "control.json").read_text())
    assert told["reasons"] == ["low_battery"]
    assert told["fault"].startswith("the battery is at")
    assert told["guarded"][1] == 0.0


class ToldOnly:
    """In the place of the watchdog process, which could not reach a model in this one."""

    made: ClassVar[list[ToldOnly]] = []

    def __init__(self, watched: Watched, *, limit_s: float, not_cpu: int | None) -> None:
        self.watched, self.limit_s, self.not_cpu = watched, limit_s, not_cpu
        self.story: list[str] = []
        self.made.append(self)

    def start(self) -> None:
        self.story.append("start")

    def wait(self) -> None:
        self.story.append("wait")

    def beat(self) -> None:
        if self.story[-1] != "beat":
            self.story.append("beat")

    def look(self) -> None:
        pass

    def end(self, *, orderly: bool) -> None:
        self.story.append(f"end {orderly}")


class NoisyCamera:
    """Another picture every hundredth of a second."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def open(self) -> None:
        pass

    def read(self) -> tuple[np.ndarray, float]:
        time.sleep(0.01)
        return self._random.integers(0, 255, (120, 160, 3), np.uint8), time.monotonic()

    def close(self) -> None:
        pass
