"""The ecosystem's four gates, by its name and arguments: callables instead of a host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from continuonbrain.robot.readings import READING_NAMES, Host, HostReadings, Reading
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason
from continuonbrain.trainer.build_gates import check_thresholds, teleop_gate, thermal_gate
from continuonbrain.trainer.gate_rules import Sensor, ThresholdGate
from continuonbrain.trainer.gates import GateReport, GateSet

_MAX_AGE_S = 5.0
_TEMPERATURE_STUCK_S = 300.0


class ProbeGates:
    """Gates over four callables, in the ecosystem's shape: `allow()` says whether training may run."""

    def __init__(self, gates: GateSet, host: Host, clock: Callable[[], float]) -> None:
        self._gates = gates
        self._host = host
        self._clock = clock

    def report(self) -> GateReport:
        """Call the probes and judge their answers. Probes that hang close all four gates."""
        return self._gates.poll(self._host, clock=self._clock)

    def allow(self) -> bool:
        return self.report().open


@dataclass(frozen=True)
class _ProbeHost:
    """Callables as a host; one that is None or raises is a missing reading."""

    probes: Mapping[str, Callable[[], object] | None]
    clock: Callable[[], float]

    def read(self) -> HostReadings:
        readings = {name: Reading.missing("nothing", "no probe given") for name in READING_NAMES}
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
    dwell_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> ProbeGates:
    """The ecosystem's four gates by its name and arguments, failing closed.

    `battery_level` is a fraction, `cpu_temp` degrees Celsius. A probe that is None, raises, hangs or answers something
    else than its type closes its gate (there, a missing probe means "train"). Yes, no and a percentage have no sign of
    life beside themselves, so of these four only a temperature that stands still is seen. `dwell_s` is 0 as there.
    """
    check_thresholds({"min_battery": min_battery, "max_temp_c": max_temp_c, "dwell_s": dwell_s})

    def flag(name: str) -> Sensor:
        return Sensor(name, _MAX_AGE_S, (0.0, 1.0), ())

    gates = GateSet(
        (
            ThresholdGate("idle", flag("idle_s"), 1.0, True, 0.0, dwell_s),
            ThresholdGate("battery", flag("battery_fraction"), min_battery, True, 0.0, dwell_s),
            thermal_gate(max_temp_c, 0.0, _MAX_AGE_S, dwell_s, _TEMPERATURE_STUCK_S),
            teleop_gate(flag("teleop_active"), dwell_s),
        )
    )
    probes: dict[str, Callable[[], object] | None] = {
        "robot_idle": robot_idle,
        "teleop_active": teleop_active,
        "battery_fraction": battery_level,
        "cpu_temp_c": cpu_temp,
    }
    return ProbeGates(gates, _ProbeHost(probes, clock), clock)
