"""Gates: may the robot train now?

Rules:

- A gate is a pure function from a reading (and the time, and whether it was open before) to a state.
- A reading that is missing, older than `max_age_s`, from the future, not a finite number or outside what is
  physically plausible closes its gate. So does a probe or a gate that raises. Nothing defaults to open.
- Closing is immediate. A gate that was closed opens only with a margin beyond its limit, so that a
  value at the limit does not start and stop training every few seconds. Without a previous report
  (the first look, `continuonbrain doctor`) the plain limit counts.
- What a robot does not have (a battery, firmware throttle bits) is a setting, never a reading.
- All gates must be open. Every state carries a reason that a person can read.

`GateSet.evaluate` is pure; `GateSet.poll` is the thin shell that asks a host and remembers the last report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from continuonbrain.errors import BrainError
from continuonbrain.robot.host import Host, HostReadings, Reading
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason

if TYPE_CHECKING:
    from continuonbrain.config import BrainConfig

# A host may be read just after the caller took `now_s`; more than this is another clock.
_FUTURE_TOLERANCE_S = 0.5
_THROTTLED_NOW = 0xF
_THROTTLED_BITS = (
    (0x1, "under-voltage"),
    (0x2, "frequency capped"),
    (0x4, "throttled"),
    (0x8, "soft temperature limit"),
)


@dataclass(frozen=True, slots=True)
class GateState:
    """One gate's answer. `value` is what it was decided on, None when there was no usable value."""

    name: str
    open: bool
    value: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class GateReport:
    """All gates at one moment. `open` is True only when every gate is."""

    open: bool
    states: tuple[GateState, ...]

    def state(self, name: str) -> GateState | None:
        """The state of one gate, None when the set has no such gate."""
        return next((state for state in self.states if state.name == name), None)

    @property
    def closed(self) -> tuple[GateState, ...]:
        return tuple(state for state in self.states if not state.open)

    def as_dict(self) -> dict[str, object]:
        """For `--json` and `trainer/status.json`."""
        return {
            "open": self.open,
            "gates": {
                state.name: {"open": state.open, "value": state.value, "reason": state.reason}
                for state in self.states
            },
        }


def shown(value: float) -> str:
    """A reading for people: four digits, and no exponent for ordinary sizes."""
    return f"{value:.0f}" if 1000.0 <= abs(value) < 1e9 else f"{value:.4g}"


class Gate(Protocol):
    """A pure rule over the readings. It may raise; the set then counts it as closed."""

    @property
    def name(self) -> str: ...

    def __call__(self, readings: HostReadings, *, now_s: float, was_open: bool | None) -> GateState: ...


def usable_value(
    reading: Reading, *, now_s: float, max_age_s: float, plausible: tuple[float, float]
) -> float | str:
    """The reading's value, or why it cannot be trusted. `plausible` includes both ends."""
    if reading.error is not None:
        return f"no reading from {reading.source}: {reading.error}"
    if reading.value is None:
        return f"no reading from {reading.source}"
    value = as_finite(reading.value)
    if isinstance(value, Reason):
        return f"{reading.source} gave {reading.value!r}, which is not a finite number"
    now = as_finite(now_s)
    taken = as_finite(reading.monotonic_s)
    if isinstance(now, Reason) or isinstance(taken, Reason):
        return f"the reading from {reading.source} has no usable time"
    age_s = now - taken
    if age_s < -_FUTURE_TOLERANCE_S:
        return f"the reading from {reading.source} is {-age_s:.1f} s in the future: another clock or boot"
    if age_s > max_age_s:
        return f"stale: the reading from {reading.source} is {age_s:.1f} s old, the limit is {max_age_s:g} s"
    low, high = plausible
    if not low <= value <= high:
        return f"implausible: {value:g} from {reading.source} is outside {low:g} to {high:g}"
    return value


@dataclass(frozen=True, slots=True)
class ThresholdGate:
    """Opens at or above `limit` (`above=True`), or at or below it (`above=False`)."""

    name: str
    reading: str
    """Name of the field of `HostReadings`."""
    limit: float
    above: bool
    margin: float
    max_age_s: float
    plausible: tuple[float, float]
    unit: str = ""

    def __call__(self, readings: HostReadings, *, now_s: float, was_open: bool | None) -> GateState:
        value = usable_value(
            getattr(readings, self.reading), now_s=now_s, max_age_s=self.max_age_s, plausible=self.plausible
        )
        if isinstance(value, str):
            return GateState(self.name, False, None, value)
        margin = self.margin if was_open is False else 0.0
        needed = self.limit + margin if self.above else self.limit - margin
        is_open = value >= needed if self.above else value <= needed
        word = "at least" if self.above else "at most"
        reason = f"{shown(value)}{self.unit}, needs {word} {shown(needed)}{self.unit}"
        if margin and not is_open:
            reason += f" to open again (limit {shown(self.limit)}{self.unit})"
        return GateState(self.name, is_open, value, reason)


@dataclass(frozen=True, slots=True)
class TeleopGate:
    """Closed while a person drives: their robot answers to them, not to a training job."""

    max_age_s: float
    name: str = "teleop"

    def __call__(self, readings: HostReadings, *, now_s: float, was_open: bool | None) -> GateState:
        value = usable_value(
            readings.teleop_active, now_s=now_s, max_age_s=self.max_age_s, plausible=(0.0, 1.0)
        )
        if isinstance(value, str):
            return GateState(self.name, False, None, value)
        is_open = value == 0.0  # not "< 0.5": anything but a clear no is a yes
        return GateState(self.name, is_open, value, "nobody is driving" if is_open else "a person is driving")


@dataclass(frozen=True, slots=True)
class ThrottledGate:
    """The Raspberry Pi firmware's view of power and heat.

    `required=False` is the setting for machines without that firmware: a sensor that is absent then opens
    the gate and says so. One that is there closes it when its bits are set, and when they cannot be trusted.
    """

    max_age_s: float
    required: bool
    name: str = "throttled"

    def __call__(self, readings: HostReadings, *, now_s: float, was_open: bool | None) -> GateState:
        reading = readings.throttled
        if not self.required and reading.value is None and reading.broken is False:
            return GateState(self.name, True, None, "not probed: require_throttled is off for this machine")
        bits_range = (0.0, float(0xFFFFFFFF))
        value = usable_value(reading, now_s=now_s, max_age_s=self.max_age_s, plausible=bits_range)
        if isinstance(value, str):
            return GateState(self.name, False, None, value)
        if value != int(value):
            return GateState(self.name, False, value, f"implausible: {value:g} is not a set of bits")
        # Bits 16-19 only remember what happened since boot; they must not close the gate for ever.
        now_bits = int(value) & _THROTTLED_NOW
        if now_bits:
            named = ", ".join(text for bit, text in _THROTTLED_BITS if now_bits & bit)
            return GateState(self.name, False, value, f"the firmware reports {named} ({int(value):#x})")
        return GateState(self.name, True, value, "the firmware reports no throttling now")


@dataclass(frozen=True, slots=True)
class DeclaredGate:
    """Open by an explicit setting, which the reason names."""

    name: str
    reason: str

    def __call__(self, readings: HostReadings, *, now_s: float, was_open: bool | None) -> GateState:
        return GateState(self.name, True, None, self.reason)


class GateSet:
    """Gates that must all be open. `evaluate` is pure; `poll` remembers the last report for hysteresis."""

    def __init__(self, gates: tuple[Gate, ...]) -> None:
        if not gates:
            # An empty set would be open for ever: the ecosystem's "no gating meant train".
            raise BrainError("GateSet: no gates given", remedy="use build_gates()")
        self._gates = gates
        self._last: GateReport | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(gate.name for gate in self._gates)

    def evaluate(
        self, readings: HostReadings, now_s: float, *, previous: GateReport | None = None
    ) -> GateReport:
        """Judge the readings at monotonic time `now_s`. Raises nothing: a gate that raises is closed."""
        states: list[GateState] = []
        for gate in self._gates:
            before = None if previous is None else previous.state(gate.name)
            try:
                state = gate(readings, now_s=now_s, was_open=None if before is None else before.open)
            except Exception as error:  # a rule that fails must not train
                state = GateState(gate.name, False, None, f"the gate failed: {type(error).__name__}: {error}")
            states.append(state)
        return GateReport(all(state.open for state in states), tuple(states))

    def poll(self, host: Host, *, clock: Callable[[], float] = time.monotonic) -> GateReport:
        """Ask the host and judge its answer against the previous poll. A host that raises closes all."""
        try:
            readings = host.read()
        except Exception as error:  # no answer is no permission
            readings = HostReadings.all_missing(type(host).__name__, f"{type(error).__name__}: {error}")
        try:
            # After the read, so that a host that takes long hands in old readings.
            now_s = clock()
        except Exception:  # a clock that raises makes every reading untimed, which closes the gates
            now_s = float("nan")
        self._last = self.evaluate(readings, now_s, previous=self._last)
        return self._last


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
    min_disk_mib: float = 512.0,
    disk_margin_mib: float = 128.0,
    max_age_s: float = 5.0,
    power: str = "battery",
    require_throttled: bool = False,
) -> GateSet:
    """The gates of the trainer: idle, battery, thermal, throttled, teleop, memory, disk (and load).

    Args:
        idle_s: the robot must not have driven for this long, s.
        max_load: one-minute load average above which training waits; None leaves the gate out.
        min_battery: fraction 0..1; reopens at `min_battery + battery_margin`.
        max_temp_c: processor temperature; reopens at `max_temp_c - temp_margin_c`.
        min_memory_mib, min_disk_mib: what must be free, MiB; reopen with their margins.
        max_age_s: readings older than this do not count, s.
        power: "battery", or "mains" for a robot without one, which opens the battery gate and says so.
        require_throttled: True on a Raspberry Pi; see `ThrottledGate`.

    Raises:
        BrainError: naming the threshold that is not usable.
    """
    numbers = {
        "idle_s": idle_s,
        "min_battery": min_battery,
        "battery_margin": battery_margin,
        "max_temp_c": max_temp_c,
        "temp_margin_c": temp_margin_c,
        "min_memory_mib": min_memory_mib,
        "memory_margin_mib": memory_margin_mib,
        "min_disk_mib": min_disk_mib,
        "disk_margin_mib": disk_margin_mib,
        "max_age_s": max_age_s,
    }
    if max_load is not None:
        numbers["max_load"] = max_load
    _check_thresholds(numbers)
    if not min_battery + battery_margin <= 1.0:
        raise BrainError(
            f"gates: min_battery={min_battery!r} plus battery_margin={battery_margin!r} is above 1, "
            "so the gate could never open again",
            remedy="both are fractions of a full battery: 0.4 is 40 %",
        )
    if power not in ("battery", "mains"):
        raise BrainError(f"gates: power={power!r} is unknown", remedy='use "battery" or "mains"')

    gates: list[Gate] = [
        ThresholdGate("idle", "idle_s", idle_s, True, 0.0, max_age_s, (0.0, 1e9), " s"),
        DeclaredGate("battery", "power: mains is set, there is no battery to look at")
        if power == "mains"
        else ThresholdGate(
            "battery", "battery_fraction", min_battery, True, battery_margin, max_age_s, (0.0, 1.0)
        ),
        _thermal_gate(max_temp_c, temp_margin_c, max_age_s),
        ThrottledGate(max_age_s, require_throttled),
        TeleopGate(max_age_s),
        ThresholdGate(
            "memory",
            "memory_available_mib",
            min_memory_mib,
            True,
            memory_margin_mib,
            max_age_s,
            (0.0, 1e9),
            " MiB",
        ),
        ThresholdGate(
            "disk", "disk_free_mib", min_disk_mib, True, disk_margin_mib, max_age_s, (0.0, 1e12), " MiB"
        ),
    ]
    if max_load is not None:
        gates.append(ThresholdGate("load", "load", max_load, False, 0.0, max_age_s, (0.0, 1e5)))
    return GateSet(tuple(gates))


def gates_from_config(config: BrainConfig) -> GateSet:
    """The gates as `config.json` sets them; a real donkeycar must have a Raspberry Pi's throttle bits."""
    return build_gates(
        idle_s=config.gates.idle_s,
        min_battery=config.gates.min_battery,
        battery_margin=min(0.05, 1.0 - config.gates.min_battery),
        max_temp_c=config.gates.max_temp_c,
        max_age_s=config.gates.max_age_s,
        power=config.power,
        require_throttled=config.robot.kind == "donkey",
    )


def _check_thresholds(numbers: Mapping[str, float]) -> None:
    for name, given in numbers.items():
        number = as_finite(given)
        if isinstance(number, Reason) or number < 0.0:
            raise BrainError(f"gates: {name}={given!r} is not a number >= 0", remedy=f"correct {name}")


def _thermal_gate(max_temp_c: float, margin_c: float, max_age_s: float) -> ThresholdGate:
    # A processor that runs this code is warmer than 1 C: exactly 0 is what a dead sensor reads.
    return ThresholdGate("thermal", "cpu_temp_c", max_temp_c, False, margin_c, max_age_s, (1.0, 120.0), " C")


class ProbeGates:
    """Gates over four callables, in the ecosystem's shape: `allow()` says whether training may run."""

    def __init__(self, gates: GateSet, host: Host, clock: Callable[[], float]) -> None:
        self._gates = gates
        self._host = host
        self._clock = clock

    def report(self) -> GateReport:
        """Call the probes and judge their answers."""
        return self._gates.poll(self._host, clock=self._clock)

    def allow(self) -> bool:
        return self.report().open


@dataclass(frozen=True)
class _ProbeHost:
    """Callables as a host; one that is None or raises is a missing reading."""

    probes: Mapping[str, Callable[[], object] | None]
    clock: Callable[[], float]

    def read(self) -> HostReadings:
        readings = {
            name: Reading.missing("nothing", "no probe given") for name in HostReadings.__dataclass_fields__
        }
        for name, probe in self.probes.items():
            source = f"probe {name}"
            if probe is None:
                readings[name] = Reading.missing(source, "no probe given")
                continue
            started_s = self.clock()
            try:
                answer = probe()
            except Exception as error:  # a probe that raises closes its gate
                readings[name] = Reading.missing(source, f"{type(error).__name__}: {error}")
                continue
            value: float | Reason
            if name in ("robot_idle", "teleop_active"):
                # Yes or no, and nothing that merely looks true.
                value = float(answer) if isinstance(answer, bool) else Reason.WRONG_TYPE
            else:
                value = as_finite(answer)
            readings[name] = (
                Reading.missing(source, f"answered {answer!r}")
                if isinstance(value, Reason)
                else Reading(value, started_s, source)
            )
        # The ecosystem asks "is it idle?"; the gate asks "for how long?", with a limit of 1 here.
        readings["idle_s"] = readings.pop("robot_idle")
        return HostReadings(**readings)


def build_pi5_gating(
    robot_idle: Callable[[], bool] | None = None,
    teleop_active: Callable[[], bool] | None = None,
    battery_level: Callable[[], float] | None = None,
    cpu_temp: Callable[[], float] | None = None,
    min_battery: float = 0.4,
    max_temp_c: float = 75.0,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ProbeGates:
    """The ecosystem's four gates by its name and arguments, failing closed.

    `battery_level` is a fraction, `cpu_temp` degrees Celsius. A probe that is None, raises or answers
    something else than its type closes its gate (there, a missing probe means "train").
    """
    _check_thresholds({"min_battery": min_battery, "max_temp_c": max_temp_c})
    max_age_s = 5.0
    gates = GateSet(
        (
            ThresholdGate("idle", "idle_s", 1.0, True, 0.0, max_age_s, (0.0, 1.0)),
            ThresholdGate("battery", "battery_fraction", min_battery, True, 0.0, max_age_s, (0.0, 1.0)),
            _thermal_gate(max_temp_c, 0.0, max_age_s),
            TeleopGate(max_age_s),
        )
    )
    probes: dict[str, Callable[[], object] | None] = {
        "robot_idle": robot_idle,
        "teleop_active": teleop_active,
        "battery_fraction": battery_level,
        "cpu_temp_c": cpu_temp,
    }
    return ProbeGates(gates, _ProbeHost(probes, clock), clock)
