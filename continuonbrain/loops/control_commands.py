"""What people, and the service in their name, tell the control process on `run/control.sock`.

Messages of `wire`, each answered with an "ack" (`ok`, `detail`):

    {"type": "instruct", "instruction": TEXT}
    {"type": "mode", "mode": "autopilot" | "teleop" | "assisted" | "park" | "teach"}
    {"type": "stop"}     {"type": "release"}     {"type": "let_go"}
    {"type": "record", "on": true | false, "what": "lessons" | "drives"}
    {"type": "teleop", "steering": S, "throttle": T, "active": true | false, "for_s": SECONDS}

What has to outlive this process when it is killed (a stop, a mode, a release) holds from the next tick on, and is
acknowledged when that tick is over and the status on disk says it.

"stop" is an emergency stop; a mode ends it (in "park" it stands anyway), and so does "release", which parks. "teach"
hands a simulated robot back to its own life, which begins with being taught (`sim_life.py`). In mode
"teleop" a person drives, by messages some twenty times a second or by the body's own remote control; without a new one
the car stops (`guards.deadman_s`, or `for_s` where the sender gives one; at once when the connection ends). In mode
"assisted" the policy drives while messages come that are not active, and a person while they are; without any it stops.
"record" is about a person's lessons where it does not say what (`recording.py`). A message may say "until_s", monotonic
seconds of this machine: whoever sent it has given up by then, and it is not obeyed any more; but a stop always is. It
may say "asked_s", when a person asked for it, by the same clock: what was asked for before an emergency stop does not
end that one, however late and in whatever order it arrives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from continuonbrain.loops.body import Body
from continuonbrain.loops.fast import FastLoop
from continuonbrain.loops.loop_tick import MODES, Mode
from continuonbrain.loops.recording import PARTS
from continuonbrain.loops.remote import RemoteControl
from continuonbrain.loops.wire_stream import Message, Peer, WireServer
from continuonbrain.storage.plain_text import is_plain

_LONGEST_INSTRUCTION = 200
_WHENEVER = ("stop", "let_go")
"""Safe, however late."""
_ENDS_A_STOP = ("mode", "release")
_TEACH = "teach"
_KNOWN = f"instruct, mode ({', '.join((*MODES, _TEACH))}), stop, release, record (on, what), teleop, let_go"
_KEPT = ("stop", "mode", "release")
"""The next process goes on with them."""
_KEPT_WITHIN_S = 1.0
"""Less than anybody waits for an answer: a disk that takes nothing keeps nobody from hearing that the robot stops."""
_NOT_KEPT = (
    "it holds now, and may be forgotten if the control process is killed: its status cannot be written"
)


class _Waiting(NamedTuple):
    """An answer that waits for a tick, and then for the disk. is_kept: whether the status says it; None before the
    tick."""

    peer: Peer
    detail: str
    until_s: float
    is_kept: Callable[[], bool] | None = None


class ControlCommands:
    """Takes what has arrived and does it, between two ticks. For the loop's thread.

    change_mode, hand_back: give the reason why it stays as it is, "" when it changed. take_part: a person does
    something that says nothing of a mode. keep: have the status on disk say what is true now, without waiting; gives
    whether it does (`StatusWriter.soon`). clock: monotonic seconds.
    """

    def __init__(
        self,
        server: WireServer,
        loop: FastLoop,
        body: Body,
        remote: RemoteControl,
        *,
        change_mode: Callable[[Mode], str],
        take_part: Callable[[], None] = lambda: None,
        hand_back: Callable[[], str] = lambda: "",
        keep: Callable[[], Callable[[], bool]] = lambda: lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server, self._loop, self._body, self._remote = server, loop, body, remote
        self._change_mode, self._take_part, self._hand_back = change_mode, take_part, hand_back
        self._keep, self._clock = keep, clock
        self._waiting: list[_Waiting] = []

    def take(self, *, just_stopped: bool = False) -> None:
        """Obey and answer everything that waits; never waits itself. just_stopped: somebody stopped the robot at its
        own buttons in this tick: what was sent before that does not release it."""
        came = self._server.wait(0.0)
        self._answer_what_is_kept()
        for message in came:
            if just_stopped and message.header.get("type") in ("mode", "release"):
                ok, detail = False, "an emergency stop came at the same moment: ask again to end it"
            else:
                ok, detail = self._obey(message)
            if ok and message.header.get("type") in _KEPT:
                self._waiting.append(_Waiting(message.peer, detail, self._clock() + _KEPT_WITHIN_S))
            else:
                self._server.acknowledge(message.peer, ok=ok, detail=detail)

    def _answer_what_is_kept(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            is_kept = one.is_kept or self._keep()
            if is_kept():
                self._server.acknowledge(one.peer, ok=True, detail=one.detail)
            elif self._clock() >= one.until_s:
                self._server.acknowledge(one.peer, ok=True, detail=one.detail or _NOT_KEPT)
            else:
                self._waiting.append(one._replace(is_kept=is_kept))

    def _obey(self, message: Message) -> tuple[bool, str]:
        header, peer = message.header, message.peer
        if header.get("type") not in _WHENEVER and _is_over(header.get("until_s")):
            return False, "it came too late: whoever sent it was told that nothing answers"
        if header.get("type") in _ENDS_A_STOP and not _is_after(header.get("asked_s"), self._loop.stopped_s):
            return False, "an emergency stop came after it was asked for: ask again to end it"
        match header.get("type"):
            case "instruct":
                return self._instruct(header.get("instruction"))
            case "mode" if (mode := _mode(header.get("mode"))) is not None:
                return _unless(self._change_mode(mode))
            case "mode" if header.get("mode") == _TEACH:
                return _unless(self._hand_back())
            case "teleop":
                return _unless(self._steer(header, peer))
            case "let_go":
                self._remote.let_go()
                return True, ""
            case "stop":
                self._take_part()
                self._loop.emergency_stop()
                return True, ""
            case "release":
                return _unless(self._body.release() or self._change_mode("park"))
            case "record" if isinstance(on := header.get("on"), bool):
                return _unless(self._record(on, header.get("what", "lessons")))
        return False, f"unknown command {header!r}; known: {_KNOWN}"

    def _instruct(self, text: object) -> tuple[bool, str]:
        if (
            not isinstance(text, str)
            or not 0 < len(text.strip()) <= _LONGEST_INSTRUCTION
            or not is_plain(text)
        ):
            said = f"{text!r:.300}"
            return (
                False,
                f"instruction = {said} is not a text of 1 to {_LONGEST_INSTRUCTION} characters in a line",
            )
        self._loop.instruct(text)
        self._body.instruct(text)
        stopped = self._loop.pilot.guard.emergency_stopped
        return True, "the emergency stop is on; mode autopilot ends it" if stopped else ""

    def _steer(self, header: Mapping[str, object], peer: Peer) -> str:
        if refusal := self._remote.take(header, lambda: peer.open):
            return refusal
        self._take_part()
        return ""

    def _record(self, on: bool, what: object) -> str:
        part = next((part for part in PARTS if part == what), None)
        if part is None:
            return f"what = {what!r} is none of {', '.join(PARTS)}"
        if not self._loop.recording.able:
            return "this control process records nothing (--no-record)"
        if on:
            self._take_part()
        self._loop.record(part, on)
        return ""


def _is_over(until_s: object) -> bool:
    # A comparison that NaN fails, too.
    return until_s is not None and not (isinstance(until_s, int | float) and time.monotonic() <= until_s)


def _is_after(asked_s: object, stopped_s: float) -> bool:
    # A comparison that NaN fails, too.
    return asked_s is None or (isinstance(asked_s, int | float) and asked_s > stopped_s)


def _unless(refusal: str) -> tuple[bool, str]:
    return not refusal, refusal


def _mode(name: object) -> Mode | None:
    return next((mode for mode in MODES if mode == name), None)
