"""Is a sensor alive? Pure rules over successive readings of one sensor.

A sensor that hangs often goes on answering: with the value it had. Its age and range are then in order, so something
else has to be asked: what of this sensor cannot stand still while it lives?

- `Moves`: a value, or a reading's pulse, that is the same to the last bit for longer than a window.
- `Grows`: a time that has to grow one second a second, and may begin anew only at a moment after the last reading.

What none of them sees: a source that invents movement, a value that is wrong and moves, and a sensor that stood still
before the first look, until its window has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from continuonbrain.robot.readings import HostReadings, Reading
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason


@dataclass(frozen=True, slots=True)
class Trace:
    """What is remembered of a sensor. Times are the readings' own.

    mark: what has to move. taken_s: the newest reading. same_s: how long it was seen to be the same. doubted_s: when it
    last contradicted itself, None when it never did.
    """

    mark: float
    taken_s: float
    same_s: float = 0.0
    doubted_s: float | None = None


class Alive(Protocol):
    """Why this reading shows a sensor that is stuck ("" when it does not), and the trace with it. The reading has a
    finite value and time."""

    def __call__(
        self, reading: Reading, readings: HostReadings, before: Trace | None
    ) -> tuple[str, Trace | None]: ...


@dataclass(frozen=True, slots=True)
class Moves:
    """What may not stay the same for longer than `window_s`, seen in more than `least` readings.

    Nobody knows what it did between two readings: two looks with an hour between them prove nothing, and a coarse value
    is soon the same again. So no pause counts for more than the `least`-th part of the window.

    of: "value" or "pulse". A pulse that is missing is no sign of life.
    """

    of: Literal["value", "pulse"]
    window_s: float
    least: int = 3

    def __call__(
        self, reading: Reading, readings: HostReadings, before: Trace | None
    ) -> tuple[str, Trace | None]:
        assert reading.monotonic_s is not None
        mark, now_s = as_finite(reading.value if self.of == "value" else reading.pulse), reading.monotonic_s
        if isinstance(mark, Reason):  # NaN, too: it is never the same as before
            return f"stuck: {reading.source} gives no sign of life beside its value", before
        if before is None or mark != before.mark:
            return "", Trace(mark, now_s)
        if now_s < before.taken_s:
            return f"stuck: the reading from {reading.source} is older than the one before it", before
        same_s = before.same_s + min(now_s - before.taken_s, self.window_s / self.least)
        trace = replace(before, taken_s=now_s, same_s=same_s)
        if same_s > self.window_s:
            what = f"{reading.value:g}" if self.of == "value" else "no sign of life"
            return f"stuck: {what} from {reading.source} for {same_s:.0f} s, limit {self.window_s:g} s", trace
        return "", trace


@dataclass(frozen=True, slots=True)
class MovesOrRests:
    """`Moves` of the value, but a value at which this sensor comes to rest by nature proves nothing.

    whole: a load average converges to the number of tasks that run, which is whole. docked: a charged battery on its
    charger stays full. Whoever uses it asks for a pulse, too.
    """

    window_s: float
    at: Literal["whole", "docked"]
    least: int = 20

    def __call__(
        self, reading: Reading, readings: HostReadings, before: Trace | None
    ) -> tuple[str, Trace | None]:
        assert reading.value is not None
        resting = reading.value.is_integer() if self.at == "whole" else readings.docked.value == 1.0
        if resting:
            return "", None
        return Moves("value", self.window_s, self.least)(reading, readings, before)


@dataclass(frozen=True, slots=True)
class PulseOr:
    """The pulse where the source has one; where it has none, the other rule."""

    pulse: Moves
    other: MovesOrRests

    def __call__(
        self, reading: Reading, readings: HostReadings, before: Trace | None
    ) -> tuple[str, Trace | None]:
        rule: Alive = self.other if reading.pulse is None else self.pulse
        return rule(reading, readings, before)


@dataclass(frozen=True, slots=True)
class Grows:
    """A time since something happened: its beginning stays where it is, or moves to after the reading before.

    A value that stands still moves its beginning along with the clock; one that jumps moves it back. Either is a
    contradiction, and the sensor counts again once it has been consistent for `proof_s`.
    """

    tolerance_s: float = 0.5
    proof_s: float = 5.0

    def __call__(
        self, reading: Reading, readings: HostReadings, before: Trace | None
    ) -> tuple[str, Trace | None]:
        assert reading.value is not None
        assert reading.monotonic_s is not None
        now_s = reading.monotonic_s
        begin_s = now_s - reading.value
        if before is None:
            return "", Trace(begin_s, now_s)
        trace = before
        if now_s < before.taken_s:
            return f"stuck: the reading from {reading.source} is older than the one before it", before
        if begin_s > before.taken_s - self.tolerance_s:  # it began anew, after what was known
            trace = Trace(begin_s, now_s, doubted_s=before.doubted_s)
        elif abs(begin_s - before.mark) > self.tolerance_s:
            trace = Trace(begin_s, now_s, doubted_s=now_s)
        trace = replace(trace, taken_s=now_s)
        if trace.doubted_s is not None:
            proven_s = now_s - trace.doubted_s
            if proven_s < self.proof_s:
                told = f"stuck: {reading.value:g} s from {reading.source} does not grow with the clock"
                return told, trace
            trace = replace(trace, doubted_s=None)
        return "", trace
