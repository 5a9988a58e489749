"""Changes of the base as the running brain sees them: one file changes, then everybody is told and starts anew."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.notices import NoticeAnswer, ask_notice
from continuonbrain.loops.promotion import TELLING_S, changing, finish_the_last
from continuonbrain.loops.wire import WireError
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.base_slot_rule import BaseEvent, BaseState, Switch
from continuonbrain.storage.base_slots import (
    CALIBRATION_FILE,
    VERDICT_FILE,
    BaseSlot,
    BaseSlotError,
    BaseSlots,
)
from continuonbrain.storage.base_verdict_rule import switch_refusal
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import read_record
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from continuonbrain.storage.manifest import manifest_from_settings, write_manifest
from continuonbrain.storage.probation_rule import Confirm, Rollback, Terms
from continuonbrain.storage.signal_listeners import signal_listeners
from continuonbrain.storage.trusted_keys import TrustedKeys

log = logging.getLogger(__name__)

_TRAINING_S = 5.0
"""A round in which there is nothing to learn is over sooner."""


class SwitchRefused(BaseSlotError):
    """A base must not drive, or not now. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class BaseChange:
    """What drives now. running: a policy process was told. detail: for people."""

    slot: str
    event: str
    running: bool
    detail: str


def switch_base(
    brain: BrainRoot, slot_id: str, *, again: bool = False, boot: str | None = None, wait_s: float = 0.0
) -> BaseChange:
    """Let an imported base drive, on the verdict beside it, and tell the running brain. Its probation begins.

    Args:
        brain: the root, opened as it drives now.
        slot_id: which base.
        again: although it was taken back on probation once.
        boot: identity of this start of the machine; None asks the kernel.
        wait_s: for a learning that is under way.

    Raises:
        SwitchRefused: no verdict of exactly these two, an adapter on probation, a learning under way, a key that is
            not trusted any more, bytes that are not those that came.
        BaseSlotError, AdapterError, LockHeldError, OSError: nothing was changed.
    """
    layout, slots = brain.layout, BaseSlots(brain.layout)
    if slots.state().current == slot_id:  # its verdict is of the base that drove before
        return announce_base(open_brain(layout.root))
    with _while_nobody_learns(brain, wait_s), changing(brain, timeout_s=TELLING_S):
        finish_the_last(brain)
        standing = AdapterStore(layout).standing()
        if standing.kind == "probation":
            raise SwitchRefused(
                f"the base is not switched: adapter {standing.version_id} is on probation",
                remedy="let the robot drive until it is confirmed or taken back; by hand: continuonbrain adapters "
                "confirm, or adapters rollback",
            )
        slot = slots.get(slot_id)
        require_trusted(brain, slot)
        verdict = slot.verdict()
        # The rule first: it costs nothing, hashing a base minutes.
        for sha256 in (slot.base_sha256, _hashed(slot)):
            why = switch_refusal(
                verdict,
                base_sha256=sha256,
                adapter_sha256=drives_sha256(brain.on(slot_id)),
                calibration_sha256=_calibration_sha256(slot),
                against_base=_serving(brain),
                against_adapter=drives_sha256(brain),
            )
            if why:
                raise SwitchRefused(
                    f"base {slot_id} does not drive: {why}",
                    remedy=_judging(slot, verdict, layout.root),
                )
        new = slots.change(
            Switch(slot_id, _terms(brain, slot_id, boot), again), {"by": "person", "reason": "verdict"}
        )
    if new is None:
        return BaseChange(slot_id, "", False, f"base {slot_id} drives already")
    return announce_base(open_brain(layout.root))


def roll_back_base(brain: BrainRoot) -> BaseChange:
    """Go back to the base that drove before, with the adapter that it had; by hand, also on probation."""
    return _by_hand(brain, Rollback())


def confirm_base(brain: BrainRoot) -> BaseChange:
    """A person says that the base may stay. Raises BaseSlotError when none is on probation."""
    return _by_hand(brain, Confirm())


def _by_hand(brain: BrainRoot, event: BaseEvent) -> BaseChange:
    slots = BaseSlots(brain.layout)
    # Whichever base it was opened with: the one that drives may be what is damaged.
    with _while_nobody_learns(brain), changing(brain.on(slots.state().current), timeout_s=TELLING_S):
        slots.change(event, {"by": "person", "reason": "by_hand"})
    return announce_base(open_brain(brain.layout.root))


def announce_base(brain: BrainRoot, *, policy: bool = True) -> BaseChange:
    """Tell everybody which base drives, once: apps by the manifest and SIGUSR1, who follows events, and the policy
    process, which publishes it to who listens on the notice socket and starts anew. Whoever is not told, because
    whoever changed it was killed, finds it by itself (`base_watch.py`), and the next start tells the rest.

    brain: opened as it drives now. policy: whether the policy process is told; it does not ask itself.
    """
    layout = brain.layout
    state = BaseSlots(layout).state()
    event = _last_event(state)
    words = _in_words(state, event)
    if _told(brain) == str(state.change):
        return BaseChange(state.current, event.get("event", ""), False, words)
    told = False
    try:
        write_manifest(layout, manifest_from_settings(layout, brain.config.model_dump(mode="json")))
        signal_listeners(layout.listeners_dir)
        data = {"slot": state.current, "event": event.get("event", ""), "change": state.change}
        events = EventLog(layout.events_dir)
        told = events.tells_of(state.change, {"base"}) or events.note(
            "base", {**data, "reason": str(event.get("reason", ""))}
        )
    except OSError as error:
        log.error("%s cannot be written: %s", layout.manifest_path, error)
    answer = NoticeAnswer(False, False, False, "")
    if policy and layout.policy_socket.exists():
        try:
            answer = ask_notice(layout.policy_socket, {"kind": "base", "slot": state.current})
        except WireError as error:
            answer = NoticeAnswer(True, False, False, error.message)
    if told:
        with contextlib.suppress(OSError):  # a full disk: it is told once more
            write_bytes_durably(layout.base_announced_path, f"{state.change}\n".encode())
    return BaseChange(state.current, event.get("event", ""), answer.listening, words)


def _judging(slot: BaseSlot, verdict: Mapping[str, Any] | None, root: Path) -> str:
    """What to do about a base that may not drive. One that was judged, and found worse, would be again."""
    command = f"continuonbrain base verdict {slot.slot} --root {root}"
    if verdict is None or verdict.get("passed") is True:
        return command
    return (
        f"what each check asked and found is in {slot.path / VERDICT_FILE}; it is worth judging again only when "
        f"something else drives, or more was recorded: {command}"
    )


def drives_sha256(brain: BrainRoot) -> str:
    """Of the adapter that drives on this brain's base, from its bytes; "" is the base alone. Raises AdapterError."""
    current = AdapterStore(brain.layout).current()
    return "" if current is None else current.whole_sha256(root=brain.layout.root)


def _serving(brain: BrainRoot) -> str:
    return base_sha256(brain.layout.base_model_dir)


def _hashed(slot: BaseSlot) -> str:
    sha256 = base_sha256(slot.base)
    if sha256 != slot.base_sha256:
        raise SwitchRefused(
            f"base {slot.slot} is damaged: its bytes hash to {sha256[:16]}",
            remedy=f"remove {slot.path}, then have it packed and import it again",
        )
    return sha256


def _calibration_sha256(slot: BaseSlot) -> str:
    try:
        return hashlib.sha256((slot.path / CALIBRATION_FILE).read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def require_trusted(brain: BrainRoot, slot: BaseSlot) -> None:
    """Raises SwitchRefused, KeyRefused where the key that an imported base came by is not, or no longer, trusted."""
    imported = slot.about.get("imported")
    key_id = imported.get("key_id") if isinstance(imported, dict) else None
    if not isinstance(key_id, str):
        raise SwitchRefused(
            f"base {slot.slot} does not say by which key it came",
            remedy=f"remove {slot.path}, import it again",
        )
    TrustedKeys(brain.layout).get(key_id)


def _terms(brain: BrainRoot, slot_id: str, boot: str | None) -> Terms | None:
    """Of the probation that the config asks for; None when it asks for none."""
    promotion = brain.config.promotion
    if not promotion.probation_ticks and not promotion.probation_minutes:
        return None
    there = brain.on(slot_id)
    driven = read_record(there.layout.driving_dir, drives_sha256(there), now=there.layout.driving_now_dir)
    return Terms(
        promotion.probation_ticks,
        promotion.probation_minutes,
        boot_id() if boot is None else boot,
        driven.to_json() if driven else {},
    )


@contextlib.contextmanager
def _while_nobody_learns(brain: BrainRoot, wait_s: float = 0.0) -> Iterator[None]:
    """The trainer's lock. Raises SwitchRefused while something is learned."""
    brain.layout.trainer_dir.mkdir(parents=True, exist_ok=True)
    lock = ProcessLock(
        brain.layout.trainer_lock_path, purpose="change the base", timeout_s=max(wait_s, _TRAINING_S)
    )
    try:
        lock.acquire()
    except LockHeldError as error:
        raise SwitchRefused(
            "the base is not changed while something is learned on the one that drives",
            remedy=f"{error.remedy}; base switch --wait SECONDS waits",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _told(brain: BrainRoot) -> str:
    try:
        return brain.layout.base_announced_path.read_text().strip()
    except FileNotFoundError:
        return "0"
    except (OSError, UnicodeDecodeError):
        return ""


def _last_event(state: BaseState) -> dict[str, Any]:
    return dict(state.events[-1]) if state.events else {}


def _in_words(state: BaseState, event: dict[str, Any]) -> str:
    what = f"base {state.current}" if state.current else "the base of config.json"
    how = {
        "switch": "drives now" + (", on probation" if state.terms is not None else ""),
        "confirm": "is confirmed",
        "rollback": "drives again",
        "revert": f"drives again: base {event.get('from')} was taken back ({event.get('reason', '')})",
        "boot": f"drives again: the machine was started anew before base {event.get('from')} was confirmed",
    }
    return f"{what} {how.get(str(event.get('event')), 'drives')}"
