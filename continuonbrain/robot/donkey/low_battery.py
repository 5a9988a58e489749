"""Whether the battery lets the car drive. The rule is pure: readings and times are given.

Two things stop it: a charge that stays below `stop_below` (open-circuit, so that what a load takes off the voltage is
already given back) in every reading for `low_s`, and a gauge that said nothing believable for `silent_s`: it does not
answer, answers what cannot be, or repeats the very same counts, which a gauge that converts does not do. Either holds
until a person asks for a mode again while the gauge shows `go_above` (after silence alone: `stop_below`).
"""

from __future__ import annotations

import logging
import threading
from math import isfinite
from typing import Literal

from continuonbrain.config import BatteryGaugeConfig
from continuonbrain.robot.readings import Reading

log = logging.getLogger(__name__)

FROZEN_S = 60.0
"""Counts of 4 mV and 0.1 mA that stand still for this long are those of a chip that no longer converts, seconds."""

_REMEDY = (
    'charge the battery, or look after its gauge; battery = "none" in config.json says that there is no gauge'
)


class LowBattery:
    """One battery. `take` and the others may be called on different threads; times are monotonic seconds.

    now_s: from when on the first reading is waited for.
    """

    def __init__(self, config: BatteryGaugeConfig, *, now_s: float) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._charge: float | None = None
        self._believed_s = self._taken_s = self._moved_s = now_s
        self._pulse: float | None = None
        self._problem = "it has not been read yet"
        self._below_since_s: float | None = None
        self._stopped: Literal["", "low", "silent"] = ""
        self._why = ""

    def take(self, reading: Reading) -> None:
        """One reading of the gauge."""
        with self._lock:
            charge, taken_s = reading.value, reading.monotonic_s
            if charge is None or taken_s is None or not isfinite(charge):
                self._problem = reading.error or f"it told {charge}"
                return
            if reading.pulse is None or reading.pulse != self._pulse:
                self._pulse, self._moved_s = reading.pulse, taken_s
            elif taken_s - self._moved_s > FROZEN_S:
                self._problem = f"its counts have stood still for {taken_s - self._moved_s:.0f} s"
                return
            if taken_s <= self._taken_s:
                return  # the same one again
            self._charge, self._believed_s, self._taken_s = charge, taken_s, taken_s
            if charge >= self._config.stop_below:
                self._below_since_s = None
                return
            if self._below_since_s is None:
                self._below_since_s = taken_s
            if taken_s - self._below_since_s >= self._config.low_s:
                self._stop(
                    "low",
                    f"the battery is at {charge:.0%}, below {self._config.stop_below:.0%} "
                    f"for {taken_s - self._below_since_s:.0f} s",
                )

    def why(self, now_s: float) -> str:
        """Why the car must stand; "" when it may drive."""
        with self._lock:
            silent_s = now_s - self._believed_s
            # Written so that NaN stops.
            if not silent_s <= self._config.silent_s:
                self._stop(
                    "silent", f"no charge of the battery could be read for {silent_s:.0f} s: {self._problem}"
                )
            return self._why

    def release(self, now_s: float) -> str:
        """A person wants to drive on: why that cannot be yet, else "" and the stop is over."""
        with self._lock:
            if not self._stopped:
                return ""
            needed = self._config.go_above if self._stopped == "low" else self._config.stop_below
            if not now_s - self._believed_s <= self._config.silent_s or self._charge is None:
                return f"{self._why} ({_REMEDY})"
            if self._charge < needed:
                return f"{self._why}; it is at {self._charge:.0%} and must come to {needed:.0%} ({_REMEDY})"
            self._stopped, self._why, self._below_since_s = "", "", None
            return ""

    def _stop(self, kind: Literal["low", "silent"], why: str) -> None:
        """A low charge outranks silence: it asks for more before the car may go on."""
        if not self._stopped:
            log.error("the car is stopped: %s", why)
        if not self._stopped or kind == "low":
            self._stopped, self._why = kind, why
