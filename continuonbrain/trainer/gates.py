"""May the robot train now? A set of gates that must all be open.

The rules are in `gate_rules.py` and `stuck.py`, which gates there are in `build_gates.py`. `GateSet.evaluate` is pure;
`GateSet.poll` is the thin shell that asks a host, with a time budget, and remembers the last report.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from continuonbrain.errors import BrainError
from continuonbrain.robot.patience import Patience
from continuonbrain.robot.readings import Host, HostReadings
from continuonbrain.trainer.gate_rules import Gate, GateState, settled

_ALL = "host"


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


class GateSet:
    """Gates that must all be open. `evaluate` is pure; `poll` remembers the last report for what needs a before.

    poll_timeout_s: a host that has not answered after this many seconds is a host that told nothing.
    """

    def __init__(self, gates: tuple[Gate, ...], *, poll_timeout_s: float = 2.0) -> None:
        if not gates:
            # An empty set would be open for ever: the ecosystem's "no gating meant train".
            raise BrainError("GateSet: no gates given", remedy="use build_gates()")
        self._gates = gates
        self._last: GateReport | None = None
        self._patience: Patience[HostReadings] = Patience(poll_timeout_s)
        # Requests to the service poll from several threads; each must build on the one before.
        self._turn = threading.Lock()

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
                state = gate(readings, now_s=now_s, before=before)
            except Exception as error:  # a rule that fails must not train
                why = f"the gate failed: {type(error).__name__}: {error}"
                state = GateState(gate.name, False, None, why)
                if before is not None:
                    state = replace(state, traces=before.traces, seen=before.seen)
            states.append(settled(state, before, now_s=now_s, dwell_s=gate.dwell_s))
        return GateReport(all(state.open for state in states), tuple(states))

    def poll(self, host: Host, *, clock: Callable[[], float] = time.monotonic) -> GateReport:
        """Ask the host and judge its answer against the previous poll. A host that raises or hangs closes all."""
        with self._turn:
            who = type(host).__name__
            answers = self._patience.ask({_ALL: lambda: _told(host)})
            readings = answers.get(_ALL) or HostReadings.all_missing(who, self._patience.no_answer)
            try:
                # After the read, so that a host that takes long hands in old readings.
                now_s = clock()
            except Exception:  # a clock that raises makes every reading untimed, which closes the gates
                now_s = float("nan")
            self._last = self.evaluate(readings, now_s, previous=self._last)
            return self._last


def _told(host: Host) -> HostReadings:
    try:
        return host.read()
    except Exception as error:  # no answer is no permission
        return HostReadings.all_missing(type(host).__name__, f"{type(error).__name__}: {error}")
