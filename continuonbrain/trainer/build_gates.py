"""Which gates there are, with limits and windows: from arguments, or as `config.json` sets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from continuonbrain.errors import BrainError
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason
from continuonbrain.trainer.gate_rules import (
    DeclaredGate,
    FlagGate,
    Gate,
    Sensor,
    ThresholdGate,
    ThrottledGate,
)
from continuonbrain.trainer.gates import GateSet
from continuonbrain.trainer.stuck import Grows, Moves, MovesOrRests, PulseOr

if TYPE_CHECKING:
    from continuonbrain.config import BrainConfig

NO_PSI = "this kernel has no PSI (psi=1 on its command line switches it on)"
_LOOKS = 20
"""In how many looks a coarse value must have been the same: it often is in two. A counter never is in three."""


@dataclass(frozen=True, slots=True)
class StuckWindows:
    """How long what has to move may stand still, seconds, before its gate closes.

    Each is several times what a healthy sensor needs, and none closes for ever: the gate opens again once it moves. A
    sensor that stood still before the first look is believed for this long.
    """

    heartbeat_s: float = 5.0
    """The control loop's ticks, 20 a second and written once: a writer that goes on writing for a loop that hangs."""
    proc_s: float = 10.0
    """`/proc/uptime`, a hundredth of a second: a `/proc` that is a copy. Load and pressure rest at 0 by right."""
    load_s: float = 180.0
    """A load average that is not whole: its kernel average needs 66 s for the last hundredth to a whole number."""
    memory_s: float = 120.0
    """Available memory, in pages: whoever looks at it takes some and gives it back."""
    temperature_s: float = 300.0
    """The processor's heat in steps of about 0.5 C (Pi): in a calm room it stays on one for seconds, and flickers
    between two; a processor that trains warms and cools through many."""
    throttled_s: float = 300.0
    """The heat of any zone, as the sign that `/sys` is alive: the bits themselves are 0 on a healthy robot."""
    battery_s: float = 600.0
    """A gauge's voltage and current, in microunits; one step of a coarse gauge is 1.25 mV."""
    battery_percent_s: float = 7200.0
    """Of a gauge that tells whole percents alone, and only away from the charger: a Pi draws 2.5 W at rest, so that one
    percent of even 200 Wh is gone in 48 minutes."""
    docked_s: float = 600.0
    """The heat of any zone, or the control loop's ticks where the robot feels its dock."""
    disk_s: float = 1200.0
    """Twice the time after which a free space that stands still is tried (`robot/disk_probe.py`)."""


_HOTTEST_C = 110.0
_COOLEST_C = 25.0
"""A processor at work is warmer than the room that it is in."""


def build_gates(
    *,
    idle_s: float = 60.0,
    max_load: float | None = None,
    min_battery: float = 0.4,
    battery_margin: float = 0.05,
    max_temp_c: float = 75.0,
    temp_margin_c: float = 5.0,
    min_memory_mib: float = 512.0,
    memory_margin_mib: float = 128.0,
    max_memory_pressure: float = 20.0,
    min_disk_mib: float = 512.0,
    disk_margin_mib: float = 128.0,
    max_io_pressure: float = 60.0,
    pressure_margin: float = 10.0,
    max_age_s: float = 5.0,
    dwell_s: float = 5.0,
    thermal_dwell_s: float = 30.0,
    stuck: StuckWindows | None = None,
    power: str = "battery",
    battery: str = "gauge",
    docked: bool = False,
    require_throttled: bool = False,
    require_pressure: bool = False,
    poll_timeout_s: float = 2.0,
) -> GateSet:
    """The gates of the trainer: idle, battery, thermal, throttled, teleop, memory, disk (and load, docked).

    Args:
        idle_s: the robot must not have driven for this long, s.
        max_load: one-minute load average above which training waits; None leaves the gate out.
        min_battery: fraction 0..1; reopens at `min_battery + battery_margin`.
        max_temp_c: processor temperature; reopens at `max_temp_c - temp_margin_c`.
        min_memory_mib, min_disk_mib: what must be free, MiB; reopen with their margins.
        max_memory_pressure, max_io_pressure: percent of time in which some task waits for memory or a disk (PSI). A
            task that waits for memory a fifth of its time means that pages are thrown out that are needed; reading
            weights from a card alone takes half of it, so the disk may be busier.
        max_age_s: readings older than this do not count, s.
        dwell_s, thermal_dwell_s: a gate that closed opens after its rule said yes for this long, s. A processor cools
            in seconds once the load is gone, its housing does not.
        stuck: windows of the stuck detector.
        power: "battery", or "mains" for a robot without one, which opens the battery gate and says so.
        battery: "gauge", or "none" for a robot on a battery whose charge nothing tells (a power bank): opens the
            gate and says so. Low voltage then shows in the firmware's bits alone.
        docked: True adds the gate that opens only while the robot is plugged in.
        require_throttled: True on a Raspberry Pi; see `ThrottledGate`.
        require_pressure: True where the kernel must have PSI; else its absence opens those two gates, and says so.
        poll_timeout_s: how long a host may take to answer, s.

    Raises:
        BrainError: naming the setting that is not usable.
    """
    windows = stuck or StuckWindows()
    numbers = {
        "idle_s": idle_s,
        "min_battery": min_battery,
        "battery_margin": battery_margin,
        "max_temp_c": max_temp_c,
        "temp_margin_c": temp_margin_c,
        "min_memory_mib": min_memory_mib,
        "memory_margin_mib": memory_margin_mib,
        "max_memory_pressure": max_memory_pressure,
        "min_disk_mib": min_disk_mib,
        "disk_margin_mib": disk_margin_mib,
        "max_io_pressure": max_io_pressure,
        "pressure_margin": pressure_margin,
        "max_age_s": max_age_s,
        "dwell_s": dwell_s,
        "thermal_dwell_s": thermal_dwell_s,
        **{f"stuck.{name}": window for name, window in asdict(windows).items()},
    }
    if max_load is not None:
        numbers["max_load"] = max_load
    check_thresholds(numbers)
    if not min_battery + battery_margin <= 1.0:
        raise BrainError(
            f"gates: min_battery={min_battery!r} plus battery_margin={battery_margin!r} is above 1, "
            "so the gate could never open again",
            remedy="both are fractions of a full battery: 0.4 is 40 %",
        )
    if max_temp_c > _HOTTEST_C:
        raise BrainError(
            f"gates: max_temp_c={max_temp_c!r} is above {_HOTTEST_C:g}, so the gate would never close",
            remedy="75 suits a Raspberry Pi, which slows itself down from 80 on",
        )
    if not max_temp_c - temp_margin_c >= _COOLEST_C:
        raise BrainError(
            f"gates: max_temp_c={max_temp_c!r} less temp_margin_c={temp_margin_c!r} is below {_COOLEST_C:g}, "
            "so the gate would not open again in a room",
            remedy="75 and 5 suit a Raspberry Pi, which slows itself down from 80 on",
        )
    if power not in ("battery", "mains"):
        raise BrainError(f"gates: power={power!r} is unknown", remedy='use "battery" or "mains"')
    if battery not in ("gauge", "none"):
        raise BrainError(f"gates: battery={battery!r} is unknown", remedy='use "gauge" or "none"')

    def pressure(name: str, limit: float) -> ThresholdGate:
        # A limit below the margin would need less than nothing to open again.
        sensor = Sensor(name, max_age_s, (0.0, 100.0), (Moves("pulse", windows.proc_s),))
        absent = "" if require_pressure else NO_PSI
        return ThresholdGate(
            name, sensor, limit, False, min(pressure_margin, limit / 2), dwell_s, " %", absent
        )

    heartbeat = Moves("pulse", windows.heartbeat_s)
    idle = Sensor("idle_s", max_age_s, (0.0, 1e9), (heartbeat, Grows()))
    teleop = Sensor("teleop_active", max_age_s, (0.0, 1.0), (heartbeat,))
    bits = Sensor(
        "throttled", max_age_s, (0.0, float(0xFFFFFFFF)), (Moves("pulse", windows.throttled_s, _LOOKS),)
    )
    memory_alive = (Moves("value", windows.memory_s, _LOOKS),)
    memory = Sensor("memory_available_mib", max_age_s, (0.0, 1e9), memory_alive)
    disk = Sensor("disk_free_mib", max_age_s, (0.0, 1e12), (Moves("pulse", windows.disk_s),))
    gates: list[Gate] = [
        ThresholdGate("idle", idle, idle_s, True, 0.0, dwell_s, " s"),
        _battery_gate(power, battery, min_battery, battery_margin, max_age_s, dwell_s, windows),
        thermal_gate(max_temp_c, temp_margin_c, max_age_s, thermal_dwell_s, windows.temperature_s),
        ThrottledGate(bits, require_throttled, dwell_s),
        teleop_gate(teleop, dwell_s),
        ThresholdGate("memory", memory, min_memory_mib, True, memory_margin_mib, dwell_s, " MiB"),
        pressure("memory_pressure", max_memory_pressure),
        ThresholdGate("disk", disk, min_disk_mib, True, disk_margin_mib, dwell_s, " MiB"),
        pressure("io_pressure", max_io_pressure),
    ]
    if max_load is not None:
        alive = (Moves("pulse", windows.proc_s), MovesOrRests(windows.load_s, "whole", _LOOKS))
        load = Sensor("load", max_age_s, (0.0, 1e5), alive)
        gates.append(ThresholdGate("load", load, max_load, False, 0.0, dwell_s))
    if docked:
        gates.append(_docked_gate(power, max_age_s, dwell_s, windows))
    return GateSet(tuple(gates), poll_timeout_s=poll_timeout_s)


def gates_from_config(config: BrainConfig, *, docked: bool | None = None) -> GateSet:
    """The gates as `config.json` sets them; a real donkeycar must have a Raspberry Pi's throttle bits.

    docked: whether the robot must be plugged in; None as `gates.require_docked` says.
    """
    gates = config.gates
    return build_gates(
        idle_s=gates.idle_s,
        min_battery=gates.min_battery,
        battery_margin=min(0.05, 1.0 - gates.min_battery),
        max_temp_c=gates.max_temp_c,
        max_memory_pressure=gates.max_memory_pressure,
        max_io_pressure=gates.max_io_pressure,
        max_age_s=gates.max_age_s,
        dwell_s=gates.dwell_s,
        thermal_dwell_s=gates.thermal_dwell_s,
        power=config.power,
        battery=config.battery,
        docked=gates.require_docked if docked is None else docked,
        require_throttled=config.robot.kind == "donkey",
    )


def check_thresholds(numbers: Mapping[str, float]) -> None:
    """Raises `BrainError` naming the first that is not a number >= 0."""
    for name, given in numbers.items():
        number = as_finite(given)
        if isinstance(number, Reason) or number < 0.0:
            raise BrainError(f"gates: {name}={given!r} is not a number >= 0", remedy=f"correct {name}")


def thermal_gate(
    max_temp_c: float, margin_c: float, max_age_s: float, dwell_s: float, stuck_s: float
) -> ThresholdGate:
    """Closed while the processor is too warm."""
    # A processor that runs this code is warmer than 1 C: exactly 0 is what a dead sensor reads.
    sensor = Sensor("cpu_temp_c", max_age_s, (1.0, 120.0), (Moves("value", stuck_s, _LOOKS),))
    return ThresholdGate("thermal", sensor, max_temp_c, False, margin_c, dwell_s, " C")


_BY_HAND = "it is taught or driven by hand, or may be at any moment: Park ends that"


def teleop_gate(sensor: Sensor, dwell_s: float) -> FlagGate:
    """Closed while a person drives: their robot answers to them, not to a training job."""
    return FlagGate("teleop", sensor, 0.0, dwell_s, "nobody is driving", _BY_HAND)


def _battery_gate(
    power: str,
    battery: str,
    limit: float,
    margin: float,
    max_age_s: float,
    dwell_s: float,
    windows: StuckWindows,
) -> Gate:
    if power == "mains":
        return DeclaredGate("battery", "power: mains is set, there is no battery to look at")
    if battery == "none":
        return DeclaredGate(
            "battery", "battery: none is set, nothing tells the charge of this robot's battery"
        )
    # Whole percents stand still for long, more than any other value here: the gauge's finer numbers are asked first.
    alive = PulseOr(
        Moves("pulse", windows.battery_s, _LOOKS), MovesOrRests(windows.battery_percent_s, "docked", _LOOKS)
    )
    sensor = Sensor("battery_fraction", max_age_s, (0.0, 1.0), (alive,))
    return ThresholdGate("battery", sensor, limit, True, margin, dwell_s, " %", scale=100.0)


def _docked_gate(power: str, max_age_s: float, dwell_s: float, windows: StuckWindows) -> Gate:
    if power == "mains":
        return DeclaredGate("docked", "power: mains is set, the robot is always plugged in")
    sensor = Sensor("docked", max_age_s, (0.0, 1.0), (Moves("pulse", windows.docked_s, _LOOKS),))
    return FlagGate("docked", sensor, 1.0, dwell_s, "plugged in", "not plugged in")
