"""The rules of the gates: from a reading, the time and what was before to a state. Pure: nothing here reads or waits.

- A reading that is missing, older than `max_age_s`, from the future, not a finite number, outside what is physically
  plausible or from a sensor that is stuck (`stuck.py`) closes its gate. Nothing defaults to open.
- Closing is immediate. A gate that was closed opens only with a margin beyond its limit, and only after its rule has
  said yes for `dwell_s` without a break: what flickers about its limit does not start and stop training. Without a
  previous state (the first look, `continuonbrain doctor`) the plain limit counts.
- What a robot does not have (a battery, firmware throttle bits, PSI) is a setting, never a missing reading. Where a
  setting says "only where there is one", a sensor that was seen once is there: its absence then is a fault.
- Every state carries a reason that a person can read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from continuonbrain.robot.readings import HostReadings, Reading
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason
from continuonbrain.trainer.stuck import Alive, Trace

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
    """One gate's answer. `value` is what it was decided on, None when there was no usable value.

    The rest is what the next look needs: traces of its sensor, whether the sensor was ever there, and when the rule
    last said no (None: it has not, or nobody knows when).
    """

    name: str
    open: bool
    value: float | None
    reason: str
    traces: tuple[Trace | None, ...] = ()
    seen: bool = False
    refused_s: float | None = None


class Gate(Protocol):
    """A pure rule over the readings. It may raise; the set then counts it as closed.

    dwell_s: how long the rule must have said yes before a closed gate opens, seconds."""

    @property
    def name(self) -> str: ...

    @property
    def dwell_s(self) -> float: ...

    def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState: ...


def shown(value: float) -> str:
    """A reading for people: four digits, and no exponent for ordinary sizes."""
    return f"{value:.0f}" if 1000.0 <= abs(value) < 1e9 else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Sensor:
    """A reading and when it can be trusted. `reading`: field of `HostReadings`; `plausible` includes both ends."""

    reading: str
    max_age_s: float
    plausible: tuple[float, float]
    alive: tuple[Alive, ...]


def untimely(reading: Reading, *, now_s: float, max_age_s: float) -> str:
    """Why the reading's time does not do, "" when it does."""
    now, taken = as_finite(now_s), as_finite(reading.monotonic_s)
    if isinstance(now, Reason) or isinstance(taken, Reason):
        return f"the reading from {reading.source} has no usable time"
    age_s = now - taken
    if age_s < -_FUTURE_TOLERANCE_S:
        return f"the reading from {reading.source} is {-age_s:.1f} s in the future: another clock or boot"
    if age_s > max_age_s:
        return f"stale: the reading from {reading.source} is {age_s:.1f} s old, the limit is {max_age_s:g} s"
    return ""


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
    if late := untimely(reading, now_s=now_s, max_age_s=max_age_s):
        return late
    low, high = plausible
    if not low <= value <= high:
        return f"implausible: {value:g} from {reading.source} is outside {low:g} to {high:g}"
    return value


def examined(
    name: str, sensor: Sensor, readings: HostReadings, *, now_s: float, before: GateState | None
) -> GateState:
    """The gate's state so far: closed, with why its sensor cannot be trusted, or open with the value alone."""
    reading: Reading = getattr(readings, sensor.reading)
    traces = before.traces if before is not None and before.traces else (None,) * len(sensor.alive)
    seen = before is not None and before.seen
    value = usable_value(reading, now_s=now_s, max_age_s=sensor.max_age_s, plausible=sensor.plausible)
    if isinstance(value, str):
        gone = "; there was one before" if seen and reading.absent else ""
        return GateState(name, False, None, value + gone, traces, seen)
    answers = [rule(reading, readings, trace) for rule, trace in zip(sensor.alive, traces, strict=True)]
    stuck = next((why for why, _ in answers if why), "")
    return GateState(
        name, not stuck, None if stuck else value, stuck, tuple(trace for _, trace in answers), True
    )


def is_absent(sensor: Sensor, readings: HostReadings, *, now_s: float, before: GateState | None) -> bool:
    """The machine says now that it has no such sensor, and never showed one."""
    reading: Reading = getattr(readings, sensor.reading)
    return (
        reading.absent is True
        and reading.value is None
        and not (before is not None and before.seen)
        and not untimely(reading, now_s=now_s, max_age_s=sensor.max_age_s)
    )


def settled(state: GateState, before: GateState | None, *, now_s: float, dwell_s: float) -> GateState:
    """The state as it counts: what a rule closed stays closed until the rule has said yes for `dwell_s`."""
    now = as_finite(now_s)
    if not state.open:
        return replace(state, refused_s=None if isinstance(now, Reason) else now)
    if before is None or before.open:
        return state
    if isinstance(now, Reason):
        return replace(state, open=False, reason="there is no usable time", refused_s=None)
    # A time that is unknown, or later than now (another clock), counts as now: the wait begins.
    refused_s = now if before.refused_s is None or before.refused_s > now else before.refused_s
    waited_s = now - refused_s
    if waited_s >= dwell_s:
        return state
    reason = f"{state.reason}; well for {waited_s:.0f} s, opens after {dwell_s:g} s"
    return replace(state, open=False, reason=reason, refused_s=refused_s)


@dataclass(frozen=True, slots=True)
class ThresholdGate:
    """Opens at or above `limit` (`above=True`), or at or below it (`above=False`).

    absent: what to say where the machine has no such sensor; the gate is open then. "" closes it. scale: from what is
    read to what is said, in `unit`.
    """

    name: str
    sensor: Sensor
    limit: float
    above: bool
    margin: float
    dwell_s: float
    unit: str = ""
    absent: str = ""
    scale: float = 1.0

    def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
        if self.absent and is_absent(self.sensor, readings, now_s=now_s, before=before):
            return GateState(self.name, True, None, self.absent)
        state = examined(self.name, self.sensor, readings, now_s=now_s, before=before)
        if not state.open or state.value is None:
            return state
        margin = self.margin if before is not None and not before.open else 0.0
        needed = self.limit + margin if self.above else self.limit - margin
        is_open = state.value >= needed if self.above else state.value <= needed
        word = "at least" if self.above else "at most"
        reason = f"{self._said(state.value)}, needs {word} {self._said(needed)}"
        if margin and not is_open:
            reason += f" to open again (limit {self._said(self.limit)})"
        return replace(state, open=is_open, reason=reason)

    def _said(self, value: float) -> str:
        return f"{shown(value * self.scale)}{self.unit}"


@dataclass(frozen=True, slots=True)
class FlagGate:
    """Opens at exactly `wanted` (0 or 1): anything but the clear answer is the other one."""

    name: str
    sensor: Sensor
    wanted: float
    dwell_s: float
    opened: str
    closed: str

    def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
        state = examined(self.name, self.sensor, readings, now_s=now_s, before=before)
        if not state.open:
            return state
        is_open = state.value == self.wanted
        return replace(state, open=is_open, reason=self.opened if is_open else self.closed)


@dataclass(frozen=True, slots=True)
class ThrottledGate:
    """The Raspberry Pi firmware's view of power and heat.

    `required=False` is the setting for machines without that firmware: a sensor that is absent then opens
    the gate and says so. One that is there closes it when its bits are set, and when they cannot be trusted.
    """

    sensor: Sensor
    required: bool
    dwell_s: float
    name: str = "throttled"

    def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
        if not self.required and is_absent(self.sensor, readings, now_s=now_s, before=before):
            return GateState(self.name, True, None, "not probed: require_throttled is off for this machine")
        state = examined(self.name, self.sensor, readings, now_s=now_s, before=before)
        if not state.open or state.value is None:
            return state
        if not state.value.is_integer():
            return replace(state, open=False, reason=f"implausible: {state.value:g} is not a set of bits")
        # Bits 16-19 only remember what happened since boot; they must not close the gate for ever.
        bits = int(state.value)
        if now_bits := bits & _THROTTLED_NOW:
            named = ", ".join(text for bit, text in _THROTTLED_BITS if now_bits & bit)
            return replace(state, open=False, reason=f"the firmware reports {named} ({bits:#x})")
        return replace(state, reason="the firmware reports no throttling now")


@dataclass(frozen=True, slots=True)
class DeclaredGate:
    """Open by an explicit setting, which the reason names."""

    name: str
    reason: str
    dwell_s: float = 0.0

    def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
        return GateState(self.name, True, None, self.reason)
