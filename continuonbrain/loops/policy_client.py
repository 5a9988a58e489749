"""The control loop's side of the policy socket: frames out, action chunks in, and no tick ever waits.

One request is in flight at a time; a frame offered meanwhile is dropped, because a fresher one follows in one
tick. When the policy process dies, hangs or talks nonsense, the client closes the connection and connects
again with a growing pause; the guard stops the robot when its path has become too old.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.errors import BrainError
from continuonbrain.loops.reflex_keeper import ReflexName
from continuonbrain.loops.wire import WireError, encode
from continuonbrain.loops.wire_stream import RECEIVE_BYTES, MessageReader
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.storage.adapter_version import VERSION_ID

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One decision, and the calibration and the reflex head that belong to the adapter which made it."""

    chunk: ActionChunk
    calibration: Calibration
    reflex: ReflexName | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The policy process cannot decide on what it was asked (an instruction too long for the base, ...)."""

    reason: str
    remedy: str


class PolicyClient:
    """Asks the policy process without waiting for it. For one thread.

    Args:
        path: the policy socket; it need not exist yet.
        answer_timeout_s: a request unanswered for so long means that the process hangs: connect again.
            Must exceed the longest honest decision.
        clock: monotonic seconds.
    """

    def __init__(
        self, path: Path, *, answer_timeout_s: float = 15.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._answer_timeout_s = answer_timeout_s
        self._clock = clock
        self._sock: socket.socket | None = None
        self._reader = MessageReader()
        self._unsent = memoryview(b"")
        self._asked_s: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._retry_s = 0.0
        self.connects = 0
        """How often a connection was made; more than 1 means that the policy process went away."""
        self.refusal: Refusal | None = None
        """Why the last request was refused; None after the next decision."""
        self.problem = ""
        """Why the last connection ended, "" while all is well."""

    @property
    def connected(self) -> bool:
        return self._sock is not None

    @property
    def in_flight(self) -> bool:
        """A request is on its way; an offer would be dropped."""
        return self._asked_s is not None

    def offer(
        self,
        frame: NDArray[np.uint8],
        instruction: str,
        speed_mps: float | None,
        observed_s: float,
        *,
        keep: bool = False,
    ) -> bool:
        """Ask for a decision about this observation; False when it was dropped (busy, or nobody there).

        frame: uint8 `[120, 160, 3]`. speed_mps: measured, None when not. observed_s: monotonic. keep: the step is
        recorded with a person's action, so what is computed for it is worth keeping for the trainer.
        """
        if self._asked_s is not None or not self._connect():
            return False
        measured = speed_mps is not None and isfinite(speed_mps)
        try:
            data = encode(
                {
                    "type": "decide",
                    "observed_s": observed_s,
                    "instruction": instruction,
                    "speed_mps": float(speed_mps) if measured and speed_mps is not None else None,
                    "keep": keep,
                },
                frame.tobytes(),
            )
        except WireError as error:  # an instruction of 64 KiB: the caller's, and no reason to fall over
            self.refusal = Refusal(error.message, error.remedy)
            return False
        self._unsent = memoryview(data)
        self._asked_s = self._clock()
        self._flush()
        return True

    def poll(self) -> list[Answer]:
        """Decisions that have arrived, oldest first. Call once a tick."""
        sock = self._sock
        if sock is None:
            self._connect()
            return []
        if self._unsent:
            self._flush()
        answers: list[Answer] = []
        while self._sock is not None:
            try:
                data = sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._disconnect(f"policy process: {error.strerror or error}")
                break
            if not data:
                self._disconnect("the policy process closed the connection")
                break
            try:
                for header, _ in self._reader.feed(data):
                    answer = self._take(header)
                    if answer is not None:
                        answers.append(answer)
            except BrainError as error:
                self._disconnect(str(error))
        asked = self._asked_s
        if asked is not None and self._clock() - asked > self._answer_timeout_s:
            self._disconnect(f"the policy process did not answer within {self._answer_timeout_s:g} s")
        return answers

    def close(self) -> None:
        """Disconnect."""
        if self._sock is not None:
            self._disconnect("")

    def _connect(self) -> bool:
        if self._sock is not None:
            return True
        now = self._clock()
        if now < self._retry_s:
            return False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        # connect on a Unix socket is done or refused at once: it never leaves "in progress" behind.
        code = sock.connect_ex(str(self._path))
        if code != 0:
            sock.close()
            reason = errno.errorcode.get(code, str(code))
            self.problem = f"{self._path}: {reason}: the policy process is not there"
            self._back_off(now)
            return False
        with contextlib.suppress(OSError):
            # One whole request fits, so that a frame leaves in one call.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RECEIVE_BYTES)
        self._sock = sock
        self._reader = MessageReader()
        self.connects += 1
        return True

    def _disconnect(self, problem: str) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._unsent = memoryview(b"")
        self._asked_s = None
        self.problem = problem
        self._back_off(self._clock())

    def _back_off(self, now_s: float) -> None:
        self._retry_s = now_s + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    def _flush(self) -> None:
        sock = self._sock
        try:
            while self._unsent and sock is not None:
                self._unsent = self._unsent[sock.send(self._unsent, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._disconnect(f"policy process: {error.strerror or error}")

    def _take(self, header: Mapping[str, object]) -> Answer | None:
        self._asked_s = None
        kind = header.get("type")
        if kind == "refused":
            self.refusal = Refusal(str(header.get("reason", "")), str(header.get("remedy", "")))
            return None
        if kind != "chunk":
            raise WireError(f"wire: the policy process answered {kind!r}, expected 'chunk' or 'refused'")
        answer = Answer(
            _chunk(header), _calibration(header.get("calibration")), _reflex_name(header.get("reflex"))
        )
        # Only an answer proves that the process is well: one that accepts and dies must not be hammered.
        self._pause_s = _FIRST_PAUSE_S
        self.refusal = None
        self.problem = ""
        return answer


def _chunk(header: Mapping[str, object]) -> ActionChunk:
    sha256 = header.get("adapter_sha256")
    if not isinstance(sha256, str):
        raise WireError(f"wire: adapter_sha256 = {sha256!r} is not text")
    return ActionChunk(
        _numbers(header, "curvature"),
        _numbers(header, "speed"),
        _number(header.get("observed_s"), "observed_s"),
        sha256,
        _number(header.get("decision_ms"), "decision_ms"),
        _numbers(header, "intent") if "intent" in header else (),
    )


def _reflex_name(value: object) -> ReflexName | None:
    if value is None:
        return None
    version, sha256 = (value.get("version"), value.get("sha256")) if isinstance(value, dict) else (None, None)
    if not isinstance(version, str) or not isinstance(sha256, str):
        raise WireError(f"wire: reflex = {value!r} does not name a reflex head")
    if version and not VERSION_ID.fullmatch(version):  # it becomes a folder's name
        raise WireError(f"wire: reflex.version = {version!r} is no version of an adapter")
    return ReflexName(version, sha256)


def _calibration(value: object) -> Calibration:
    if not isinstance(value, dict):
        raise WireError(f"wire: calibration = {value!r} is not an object")
    try:
        return Calibration(**{str(k): _number(v, f"calibration.{k}") for k, v in value.items()})
    except TypeError as error:
        raise WireError(f"wire: calibration: {error}") from error


def _numbers(header: Mapping[str, object], name: str) -> tuple[float, ...]:
    value = header.get(name)
    if not isinstance(value, list):
        raise WireError(f"wire: {name} = {value!r} is not a list of numbers")
    return tuple(_number(v, name) for v in value)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"wire: {name} = {value!r} is not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise WireError(f"wire: {name} is too large a number") from error
