"""Probation of a base: after a switch it is watched as an adapter is, then confirmed or taken back.

The rules are the adapters' (`storage/probation_look.py`), on counts of the control process: of what drives on the new
base beside what drove on the one before. While it lasts no adapter is promoted, so these two stay what they are. A
start of the machine takes the base back, and so do too many starts of the policy process, and a base that it cannot
load. Who looks: whoever looks after adapters (`probation.py`).
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.base_change import BaseChange, announce_base
from continuonbrain.loops.base_watch import BaseMoved
from continuonbrain.loops.probation_rules import rules_from_config
from continuonbrain.loops.promotion import TELLING_S, changing
from continuonbrain.loops.start_count import StartCount
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.base_slot_rule import BaseEvent, BaseState
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import DrivingRecord, read_record
from continuonbrain.storage.lock import LockHeldError
from continuonbrain.storage.probation_look import Look, asked_of, look
from continuonbrain.storage.probation_rule import Boot, Confirm, Revert

log = logging.getLogger(__name__)


def look_after_base(
    brain: BrainRoot, *, boot: str | None = None, wait_s: float = 0.0, policy: bool = True
) -> BaseChange | None:
    """Look once, and confirm or take back if it is time for that. None: nothing changed, or somebody else changes it.

    Args:
        brain: the root, whichever base it was opened with.
        boot: identity of this start of the machine; None asks the kernel.
        wait_s: for others who change what drives; 0 leaves it to the next look.
        policy: tell the policy process, which does not ask itself.

    Raises:
        BaseSlotError: nobody can say which base drives, or the one before is gone.
        LockHeldError: others were still changing something after `wait_s`.
        OSError: the file system refused.
    """
    state = BaseSlots(brain.layout).state()
    if state.terms is None:
        return None
    boot = boot_id() if boot is None else boot
    if not boot or boot != state.terms.boot_id:
        return _changed(brain, state, Boot(boot), {"by": "boot", "reason": "boot"}, wait_s, policy)
    seen = judge_base_probation(brain, state)
    if seen.do == "go_on":
        return None
    return _conclude(brain, state, seen, wait_s, policy)


def judge_base_probation(brain: BrainRoot, state: BaseState) -> Look:
    """What the records say about the base on probation now."""
    assert state.terms is not None
    new, before = _records(brain, state)
    rules = rules_from_config(brain.config.promotion)
    return look(new, before, state.terms, restarts=_starts(brain, state).restarts, rules=rules)


def base_progress(brain: BrainRoot) -> dict[str, Any]:
    """Which base drives and, on probation, how far that is: for people and apps. Raises BaseSlotError."""
    state = BaseSlots(brain.layout).state()
    told: dict[str, Any] = {
        "slot": state.current,
        "previous": state.previous,
        "state": "confirmed" if state.terms is None else "probation",
    }
    if state.terms is not None:
        new = _records(brain, state)[0]
        restarts = _starts(brain, state).restarts
        asked = asked_of(state.terms, restarts)
        told["ticks"], told["of_ticks"] = new.ticks, asked.ticks
        told["minutes"], told["of_minutes"] = round(new.seconds / 60.0, 3), asked.minutes
        told["incidents"] = {name: count for name, count in new.incidents.items() if count}
        told["restarts"] = restarts
    return told


def open_to_serve(brain: BrainRoot, *, boot: str | None = None) -> BrainRoot:
    """What the policy process opens: after a start of the machine that is no longer a base on probation; otherwise
    the start is counted against it, and one too many takes it back. Then everybody knows which base drives.

    brain: the root, whichever base it was opened with.

    Raises:
        BaseSlotError, LockHeldError: what must not drive cannot be taken back, or what should drive is not there.
    """
    boot = boot_id() if boot is None else boot
    if look_after_base(brain, boot=boot, wait_s=TELLING_S, policy=False) is None:
        _note_start(brain)
        look_after_base(brain, boot=boot, wait_s=TELLING_S, policy=False)
    now = open_brain(brain.layout.root)
    announce_base(now, policy=False)
    return now


def take_base_back(brain: BrainRoot, reason: str, words: str) -> BaseChange | None:
    """Take back the base on probation for a reason that no record shows: it cannot be loaded. None: none is."""
    state = BaseSlots(brain.layout).state()
    if state.terms is None:
        return None
    return _conclude(brain, state, Look("revert", reason, words), TELLING_S, policy=False)


def _conclude(
    brain: BrainRoot, state: BaseState, seen: Look, wait_s: float, policy: bool
) -> BaseChange | None:
    new, before = _records(brain, state)
    about = {
        "by": "probation",
        "reason": seen.reason,
        "words": seen.words[:500],
        "new": new.to_json(),
        "before": before.to_json(),
    }
    event: BaseEvent = Confirm() if seen.do == "confirm" else Revert()
    return _changed(brain, state, event, about, wait_s, policy)


def _changed(
    brain: BrainRoot, state: BaseState, event: BaseEvent, about: dict[str, Any], wait_s: float, policy: bool
) -> BaseChange | None:
    try:
        with changing(brain.on(state.current), timeout_s=wait_s):
            if BaseSlots(brain.layout).change(event, about, change=state.change) is None:
                return None
    except BaseMoved:  # somebody else did it in between
        return None
    except LockHeldError:
        if wait_s > 0.0:
            raise
        return None  # the next look is in a second
    told = announce_base(open_brain(brain.layout.root), policy=policy)
    level = logging.INFO if told.event == "confirm" else logging.WARNING
    log.log(level, "%s %s", told.detail, about.get("words", ""))
    return told


def _records(brain: BrainRoot, state: BaseState) -> tuple[DrivingRecord, DrivingRecord]:
    new, before = (_record(brain.on(slot or "")) for slot in (state.current, state.previous))
    if state.terms is not None and state.terms.already:
        with contextlib.suppress(ValueError):
            new = new.since(DrivingRecord.from_json(state.terms.already))
    return new, before


def _record(brain: BrainRoot) -> DrivingRecord:
    """Of what drives on a brain's base; empty where its store cannot be read: less is then known."""
    try:
        sha256 = AdapterStore(brain.layout).standing().sha256
    except BrainError as error:
        log.error("probation of the base: %s", error)
        return DrivingRecord()
    return read_record(brain.layout.driving_dir, sha256, now=brain.layout.driving_now_dir)


def _note_start(brain: BrainRoot) -> None:
    state = BaseSlots(brain.layout).state()
    if state.terms is not None:
        _starts(brain, state).note()


def _starts(brain: BrainRoot, state: BaseState) -> StartCount:
    # Unlike an adapter's promotion the switch itself has the policy process start anew.
    return StartCount(brain.layout.base_probation_path, state.change, expected=1)
