"""The policy process: one engine behind a Unix socket.

    python -m continuonbrain.loops.policy_process --root R [--decision-time S]

It decides on frames for the control process and takes notices of changes ("promotion", "revert", "rollback"). One
thread does everything, so an adapter is always changed between two decisions and never inside one; the control
process keeps following its last path meanwhile. An adapter that cannot be used changes nothing: the old one
goes on, and the notice is answered with the reason. At the start the same fault ends the process (exit 2),
because driving on without the adapter that was promoted would be another robot than the one that was proved; unless
it is on probation: then it is taken back, and what drove before is loaded.

Requests and answers are headers of `wire`:

    {"type": "decide", "observed_s", "instruction", "speed_mps"} + frame  ->  {"type": "chunk", ...}
                                                                         or  {"type": "refused", "reason", "remedy"}
    {"type": "notice", "event": {"kind": "promotion" | "revert" | "rollback", ...}}  ->  {"type": "ack", "ok", "detail"}
"""

from __future__ import annotations

import argparse
import heapq
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import notify
from continuonbrain.loops.base_probation import open_to_serve, take_base_back
from continuonbrain.loops.base_watch import MOVED, BaseWatch
from continuonbrain.loops.child_process import exit_code
from continuonbrain.loops.notices import NoticeBoard
from continuonbrain.loops.probation import at_policy_start, take_back
from continuonbrain.loops.wire_stream import Message, Peer, WireServer
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.robot.protocol import FRAME_SHAPE
from continuonbrain.storage.adapters import AdapterError, AdapterStore
from continuonbrain.storage.base_slots import BaseSlotError, BaseSlots

if TYPE_CHECKING:
    from continuonbrain.policy.acting_cache import Remember
    from continuonbrain.policy.engine import ShowingEngine

log = logging.getLogger("continuonbrain.policy")
_FASTEST_MPS = 100.0
_LONGEST_UPTIME_S = 1e9

CALIBRATION_FILE = "calibration.json"
_FRAME_BYTES = FRAME_SHAPE[0] * FRAME_SHAPE[1] * FRAME_SHAPE[2]
_SERVICE_S = 0.1
_NOTICES = ("promotion", "confirm", "revert", "rollback")


class _Due(NamedTuple):
    """An answer that waits until the imposed decision time is over."""

    due_s: float
    number: int
    peer: Peer
    header: dict[str, object]


class PolicyServer:
    """Serves one engine. `serve` runs until told to stop; construct `WireServer` and `NoticeBoard` before.

    Args:
        engine: answers; its adapter is set by `use_current_adapter`.
        store: where the current adapter stands.
        server: the policy socket.
        board: where swaps are published.
        decision_time_s: an answer leaves no earlier than so long after its observation (imitates a slow
            computer; 0 = as soon as it is ready).
        remember: decides instead of the engine when a request says that its step may be learned from.
    """

    def __init__(
        self,
        engine: Engine,
        store: AdapterStore,
        server: WireServer,
        board: NoticeBoard,
        *,
        decision_time_s: float = 0.0,
        remember: Remember | None = None,
    ) -> None:
        self._engine = engine
        self._remember = remember
        self._store = store
        self._server = server
        self._board = board
        self._decision_time_s = decision_time_s
        self._calibration = Calibration()
        self._version = ""
        self._intents = Intents(engine)
        self._wondering = ""
        self._due: list[_Due] = []
        self.decisions = 0
        self._base = BaseWatch(store.layout)

    def use_current_adapter(self) -> bool:
        """Load what `current` names now; True when that changed anything.

        Raises `BrainError` when it is damaged, not for this base, or its calibration is not plausible; the
        adapter in use stays.
        """
        version = self._store.current()
        sha256 = "" if version is None else version.whole_sha256(root=self._store.layout.root)
        # Read first: an adapter without a usable calibration must not be attached at all.
        servo = (
            self._store.layout.base_calibration_path if version is None else version.path / CALIBRATION_FILE
        )
        calibration = Calibration() if servo is None else Calibration.from_file(servo)
        if sha256 == self._engine.adapter_sha256 and calibration == self._calibration:
            self._version = "" if version is None else version.version_id
            return False
        self._engine.use_adapter(None if version is None else version.path, sha256=sha256)
        self._calibration = calibration
        self._version = "" if version is None else version.version_id
        return True

    def _drives(self) -> str:
        try:
            return BaseSlots(self._store.layout).state().current
        except BaseSlotError:
            return ""

    def moved(self) -> bool:
        """Whether another base drives now: this process has to be started anew."""
        return self._base.moved()

    def serve(self, should_stop: Callable[[], bool]) -> None:
        """Answer until `should_stop` (asked at least ten times a second), or until another base drives."""
        pulse = notify.Pulse()
        while not should_stop() and not self.moved():
            pulse.beat()
            for message in self._server.wait(self._patience_s()):
                self._handle(message)
            self._send_due()
            self._wonder()
            self._board.service()

    def _wonder(self) -> None:
        """Ask one probe of the intent that the last answer went without."""
        instruction, self._wondering = self._wondering, ""
        if instruction:
            self._intents.advance(instruction)

    def _patience_s(self) -> float:
        if not self._due:
            return _SERVICE_S
        return min(_SERVICE_S, max(0.0, self._due[0].due_s - time.monotonic()))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0].due_s <= now:
            answer = heapq.heappop(self._due)
            self._server.reply(answer.peer, answer.header)

    def _handle(self, message: Message) -> None:
        kind = message.header.get("type")
        if kind == "decide":
            self._decide(message)
        elif kind == "notice":
            self._take_notice(message)
        else:
            reason = f"unknown request type {kind!r}"
            self._server.reply(
                message.peer, {"type": "refused", "reason": reason, "remedy": "update continuonbrain"}
            )

    def _decide(self, message: Message) -> None:
        try:
            header = self._chunk(message)
        except BrainError as error:
            # Control then gets no fresh path and stops: better than a guess at what was meant.
            refused = {"type": "refused", "reason": error.message, "remedy": error.remedy}
            self._server.reply(message.peer, refused)
            return
        self.decisions += 1
        observed_s = header["observed_s"]
        assert isinstance(observed_s, float)
        due_s = observed_s + self._decision_time_s
        if self._decision_time_s > 0.0 and due_s > time.monotonic():
            heapq.heappush(self._due, _Due(due_s, self.decisions, message.peer, header))
        else:
            self._server.reply(message.peer, header)

    def _chunk(self, message: Message) -> dict[str, object]:
        observed_s, instruction, speed = _request(message.header, message.body)
        frame = np.frombuffer(message.body, np.uint8).reshape(1, *FRAME_SHAPE)
        started = time.perf_counter()
        # A copy: torch warns about the read-only buffer of `bytes`.
        if self._remember is not None and message.header.get("keep") is True:
            decisions = self._remember(frame[0].copy(), instruction, speed, int(observed_s * 1e9))
        else:
            decisions = self._engine.decide(frame.copy(), [instruction], [speed])
        intent = self._intents.known(instruction)
        # Not now: somebody is waiting for a path. One probe after each answer keeps every path young enough.
        self._wondering = instruction if intent is None else ""
        decision_ms = (time.perf_counter() - started) * 1000
        chunk = ActionChunk(
            tuple(float(v) for v in decisions.curvature[0]),
            tuple(float(v) for v in decisions.speed[0]),
            observed_s,
            self._engine.adapter_sha256,
            decision_ms,
            () if intent is None else tuple(float(v) for v in intent),
        )
        reflex = self._engine.reflex
        return {
            "type": "chunk",
            "observed_s": chunk.observed_s,
            "curvature": list(chunk.curvature),
            "speed": list(chunk.speed),
            "adapter_sha256": chunk.adapter_sha256,
            "decision_ms": round(chunk.decision_ms, 3),
            "calibration": asdict(self._calibration),
            "intent": list(chunk.intent),
            "reflex": None if reflex is None else {"version": self._version, "sha256": reflex.sha256},
        }

    def _take_notice(self, message: Message) -> None:
        event = message.header.get("event")
        kind = event.get("kind") if isinstance(event, dict) else None
        if kind == "base":
            self._base = BaseWatch(self._store.layout)  # looks now
            self._server.acknowledge(message.peer, ok=True, detail="started anew")
            self._board.publish({"kind": "base", "slot": self._drives()})
            return
        if kind not in _NOTICES:
            self._server.acknowledge(message.peer, ok=False, detail=f"notice of kind {kind!r} is unknown")
            return
        started = time.perf_counter()
        try:
            changed = self.use_current_adapter()
        except Exception as error:  # whatever a stranger's bytes make a library raise: the robot drives on
            log.error(
                "%s refused, the adapter in use stays: %s",
                kind,
                error,
                exc_info=not isinstance(error, BrainError | OSError),
            )
            self._server.acknowledge(message.peer, ok=False, detail=str(error))
            self._board.publish({"kind": "swap_refused", "reason": str(error)})
            return
        load_ms = (time.perf_counter() - started) * 1000
        sha256 = self._engine.adapter_sha256
        self._server.acknowledge(message.peer, ok=True, detail=sha256)
        if changed:
            log.info("%s: adapter %s loaded in %.0f ms", kind, sha256[:12] or "none (base alone)", load_ms)
            self._board.publish({"kind": "swapped", "adapter_sha256": sha256, "load_ms": round(load_ms, 1)})


def _request(header: Mapping[str, object], body: bytes) -> tuple[float, str, float | None]:
    """The fields of a "decide" request. Raises BrainError naming the one that is wrong."""
    try:
        return _checked_request(header, body)
    except OverflowError as error:
        raise BrainError("decide: observed_s or speed_mps is too large a number") from error


def _checked_request(header: Mapping[str, object], body: bytes) -> tuple[float, str, float | None]:
    observed_s, instruction, speed = (header.get(k) for k in ("observed_s", "instruction", "speed_mps"))
    if isinstance(observed_s, bool) or not isinstance(observed_s, int | float) or not isfinite(observed_s):
        raise BrainError(f"decide: observed_s = {observed_s!r} is not a time")
    if abs(observed_s) > _LONGEST_UPTIME_S:
        raise BrainError(f"decide: observed_s = {observed_s!r} is not a monotonic time in seconds")
    if not isinstance(instruction, str):
        raise BrainError(f"decide: instruction = {instruction!r} is not text")
    if speed is not None and (isinstance(speed, bool) or not isinstance(speed, int | float)):
        raise BrainError(f"decide: speed_mps = {speed!r} is not a number or null")
    if speed is not None and not abs(speed) <= _FASTEST_MPS:
        raise BrainError(f"decide: speed_mps = {speed!r} is not a speed in m/s")
    if len(body) != _FRAME_BYTES:
        raise BrainError(
            f"decide: the frame is {len(body)} bytes; {_FRAME_BYTES} (uint8 {list(FRAME_SHAPE)}) are needed"
        )
    return float(observed_s), instruction, None if speed is None else float(speed)


def _engine_of(brain: BrainRoot) -> Engine:
    return open_engine(brain.layout.base_model_dir, brain.config.policy)


def _load(brain: BrainRoot, load_engine: Callable[[BrainRoot], Engine]) -> tuple[BrainRoot, Engine]:
    """The engine of the base that drives; of the one before where a base on probation cannot be loaded, or is not the
    one that was imported. Raises BrainError."""
    try:
        engine = load_engine(brain)
        if not engine.base_sha256.startswith(brain.layout.base_slot):
            raise BaseSlotError(
                f"{brain.layout.base_model_dir} is damaged: its bytes hash to {engine.base_sha256[:16]}",
                remedy=f"continuonbrain base rollback --root {brain.layout.root}",
            )
        return brain, engine
    except BrainError as error:
        if take_base_back(brain, "unusable", error.message) is None:
            raise
        log.error("%s", error)
    brain = open_brain(brain.layout.root)
    return brain, load_engine(brain)


def run_policy(
    root: Path,
    *,
    decision_time_s: float | None = None,
    load_engine: Callable[[BrainRoot], Engine] = _engine_of,
) -> bool:
    """Open the root, load base and adapter, serve until SIGTERM or SIGINT. True: until another base drives, so that
    this process has to be started anew. Raises BrainError."""
    brain = open_brain(root, slot="")
    serving = stopping = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        if not serving:  # loading torch takes seconds, and nothing there needs an orderly end
            raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # Sockets first: a second policy process on this root is refused in a blink, not after loading torch.
    with WireServer(brain.layout.policy_socket) as server, NoticeBoard(brain.layout.notice_socket) as board:
        brain = open_to_serve(brain)
        try:
            AdapterStore(brain.layout).recover()
            at_policy_start(brain)
        except AdapterError as error:
            if take_base_back(brain, "unusable", error.message) is None:
                raise
            return True
        imposed = brain.config.robot.decision_time_s if decision_time_s is None else decision_time_s
        brain, engine = _load(brain, load_engine)
        store = AdapterStore(brain.layout)
        policy = PolicyServer(
            engine, store, server, board, decision_time_s=imposed, remember=_memory(brain, engine)
        )
        try:
            policy.use_current_adapter()
        except BrainError as error:
            # What belongs to a base on probation goes with it: the one before drives, in a process of its own.
            if take_base_back(brain, "unusable", error.message) is not None:
                return True
            if take_back(brain, "unusable", error.message, policy=False) is None:
                raise
            log.error("%s", error)
            policy.use_current_adapter()
        _warm_up(engine)
        log.info(
            "serving on %s: base %s, adapter %s, decision time %s",
            brain.layout.policy_socket,
            engine.base_sha256[:12],
            engine.adapter_sha256[:12] or "none",
            f"{imposed:g} s" if imposed else "as fast as it is",
        )
        serving = True
        try:
            policy.serve(lambda: stopping)
        finally:
            notify.stopping()
        return not stopping and policy.moved()


def _memory(brain: BrainRoot, engine: Engine) -> Remember | None:
    """Where decisions are kept for the trainer; None when the config says no, or the engine's frozen pass is not the
    trainer's."""
    from continuonbrain.policy.acting_cache import ActingCache, remembering

    budget = brain.config.training.cache_mib
    if not budget or getattr(engine, "precision", "fp32") != "fp32" or not hasattr(engine, "decide_and_show"):
        return None
    cache = ActingCache(brain.layout.cache_dir, engine.base_sha256, max_bytes=budget << 20)
    return remembering(cast("ShowingEngine", engine), cache)


def _warm_up(engine: Engine) -> None:
    # torch's first pass allocates and picks kernels: ten times as slow, and not while somebody waits.
    for _ in range(2):
        engine.decide(np.zeros((1, *FRAME_SHAPE), np.uint8), ["drive"], [0.0])


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit 2 when a person must put something right."""
    parser = argparse.ArgumentParser(
        prog="python -m continuonbrain.loops.policy_process", description=__doc__
    )
    parser.add_argument("--root", type=Path, required=True, help="brain root")
    parser.add_argument("--decision-time", type=float, default=None, help="imposed decision time in seconds")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    moved: list[bool] = []
    code = exit_code(lambda: moved.append(run_policy(options.root, decision_time_s=options.decision_time)))
    return MOVED if code == 0 and moved[0] else code


if __name__ == "__main__":
    sys.exit(main())
