"""What the control process says of itself: `run/control.json`, and the part of it that a view shows.

Taken on other threads than the loop's, so everything here only reads.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from continuonbrain.loops.body import Body
from continuonbrain.loops.fast import FastLoop
from continuonbrain.loops.in_hand import InHand
from continuonbrain.loops.loop_tick import LoopTick
from continuonbrain.loops.policy_client import PolicyClient
from continuonbrain.loops.realtime import Granted
from continuonbrain.loops.sim_life import SimulatedLife

_PROFILE_EVERY_S = 5.0
_BY = {"teleop": "person", "autopilot": "policy"}
GAUGES = (
    *(
        "mode",
        "phase",
        "by",
        "held",
        "life",
        "taught",
        "speed_mps",
        "proposed",
        "guarded",
        "stopped",
        "emergency_stop",
    ),
    *("reasons", "safety_head", "fault", "instruction", "adapter_sha256", "decision_ms", "latency_ms"),
    *("missed_ticks", "tick", "recording", "off_road", "astray", "policy"),
)
"""Of the status, what `view.sock` tells."""


@dataclass(slots=True)
class ControlState:
    """What only the process knows; it writes here, the status reads. hand: what a person wants; tick: the last one;
    granted: what its thread got; stopped: it has left its loop; told_to_end: because somebody wanted that, and not
    because its parent died. Else what a person wanted of this process they want of the next."""

    hand: InHand = field(default_factory=InHand)
    tick: LoopTick | None = None
    granted: Granted = field(default_factory=lambda: Granted("ordinary", None))
    stopped: bool = False
    told_to_end: bool = False


class ControlSnapshot:
    """Makes the status of one process. life: of a simulated robot that lives by itself."""

    def __init__(
        self,
        state: ControlState,
        loop: FastLoop,
        client: PolicyClient,
        body: Body,
        life: SimulatedLife | None,
    ) -> None:
        self._state, self._loop, self._client, self._body = state, loop, client, body
        self._life = life
        self._profiled: dict[str, Any] = {}
        self._profiled_s = -_PROFILE_EVERY_S

    @property
    def phase(self) -> str:
        """ "stopped", "drive", or what the simulated life is at."""
        if self._state.stopped:
            return "stopped"
        return "drive" if self._life is None else self._life.phase

    @property
    def life(self) -> str:
        """Of a simulated life: "alone" while it goes on by itself, "taken" while a person has taken part; "" without
        one."""
        return "" if self._life is None else "taken" if self._state.hand.taken else "alone"

    def take(self) -> dict[str, Any]:
        """`run/control.json`."""
        loop, life, tick = self._loop, self._life, self._state.tick
        return {
            "schema": 1,
            "pid": os.getpid(),
            "monotonic_s": round(time.monotonic(), 3),
            "told_to_end": self._state.told_to_end,
            "by_hand": self._state.hand.by_hand is not None,
            **self._driving(tick),
            "round": 0 if life is None else life.rounds,
            "missed_ticks": loop.missed_ticks,
            "chunks": loop.chunks,
            "world_head": None
            if tick is None or tick.foreseen is None
            else round(tick.foreseen.probability, 4),
            "policy": self._policy(),
            "realtime": {"scheduler": self._state.granted.scheduler, "cpu": self._state.granted.cpu},
            "profile": self._profile(),
            "torch_loaded": "torch" in sys.modules,
            **self._body.tell(),
        }

    def gauges(self) -> dict[str, Any]:
        """What changes from tick to tick, for a view: `GAUGES`."""
        shot = {
            **self._driving(self._state.tick),
            "missed_ticks": self._loop.missed_ticks,
            "policy": self._policy(),
            **self._body.tell(),
        }
        return {name: shot[name] for name in GAUGES if name in shot}

    def _driving(self, tick: LoopTick | None) -> dict[str, Any]:
        loop, phase, life = self._loop, self.phase, self._life
        seen = None if tick is None else tick.observation
        chunk = None if tick is None else tick.chunk
        guarded = None if tick is None else tick.guarded
        return {
            "mode": phase if phase in ("teach", "stopped") else loop.mode,
            "phase": phase,
            "held": self._state.hand.parked,
            "life": self.life,
            "taught": [0, 0] if life is None else list(life.lesson),
            "tick": loop.ticks,
            "speed_mps": None if seen is None or seen.speed_mps is None else round(seen.speed_mps, 3),
            "instruction": loop.instruction,
            "proposed": None if tick is None or tick.proposed is None else _rounded(tick.proposed),
            "guarded": None if guarded is None else _rounded((guarded.steering, guarded.throttle)),
            "by": "nobody" if tick is None or tick.mode == "park" else _BY[tick.mode],
            "stopped": guarded is None or guarded.stopped,
            "emergency_stop": loop.pilot.guard.emergency_stopped,
            "reasons": [] if guarded is None else [str(r) for r in guarded.reasons],
            "safety_head": None if tick is None or tick.risk is None else round(tick.risk.probability, 4),
            "fault": (life is not None and life.fault) or ("" if tick is None else tick.fault),
            "adapter_sha256": None if chunk is None else chunk.adapter_sha256,
            "decision_ms": None if chunk is None else round(chunk.decision_ms, 2),
            "latency_ms": None
            if chunk is None or tick is None
            else round((tick.now_s - chunk.observed_s) * 1000, 1),
            "recording": self._recording(),
        }

    def _policy(self) -> dict[str, Any]:
        refusal = self._client.refusal
        return {
            "connected": self._client.connected,
            "connects": self._client.connects,
            "problem": self._client.problem,
            "refusal": "" if refusal is None else f"{refusal.reason} ({refusal.remedy})",
        }

    def _recording(self) -> dict[str, Any]:
        """on: what is driven now is recorded, as what `as` says; waits: nothing is until somebody drives again;
        lessons, drives: the two switches."""
        episode, steps = self._loop.being_recorded()
        switches, kind = self._loop.recording, str(self._loop.recorded_as())
        waits = self._loop.recording_waits()
        if self.phase == "teach":  # the simulated teacher records by itself, many cars at once
            kind, steps = "simulated lesson", 0 if self._life is None else self._life.lesson[0]
            waits = False
        elif self.phase == "stopped":
            kind = ""
        told = {"on": kind != "", "as": kind, "waits": waits, "episode": episode, "steps": steps}
        return {**told, "able": switches.able, "lessons": switches.lessons, "drives": switches.drives}

    def _profile(self) -> dict[str, Any]:
        """How punctual the loop is; looked at anew every few seconds, as it takes milliseconds."""
        now = time.monotonic()
        if now - self._profiled_s >= _PROFILE_EVERY_S:
            self._profiled_s, self._profiled = now, self._loop.profile()
        return self._profiled


def _rounded(pair: tuple[float, float]) -> list[float | None]:
    # NaN is not JSON; a proposal that is no number shows as null beside the guard's reason.
    return [round(v, 4) if abs(v) <= 1e9 else None for v in pair]
