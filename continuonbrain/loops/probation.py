"""Probation as the running brain sees it: an adapter that was promoted is watched, then confirmed or taken back.

Who watches adapters watches bases, too (`base_probation.py`).

Who looks: the supervisor once a second (under systemd, which has none, the sidecar), the sidecar at every round, the
policy process when it starts. All go through
the lock of every other change, and the store changes only what is still on probation, so two who look do one thing.

What is looked at are counts that the control process keeps; the wall clock decides nothing. A start of the machine
while nothing was confirmed takes the adapter back; starts of the policy process are counted, and too many of them do,
too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.base_change import BaseChange
from continuonbrain.loops.base_probation import look_after_base
from continuonbrain.loops.probation_rules import rules_from_config
from continuonbrain.loops.promotion import TELLING_S, Promotion, changing, finish_the_last, tell_of
from continuonbrain.loops.start_count import StartCount
from continuonbrain.storage.adapters import AdapterError, AdapterStore
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import DrivingRecord, read_record
from continuonbrain.storage.history import HistoryEntry
from continuonbrain.storage.lock import LockHeldError
from continuonbrain.storage.probation_look import Look, asked_of, look
from continuonbrain.storage.probation_rule import Standing

log = logging.getLogger(__name__)

_EVERY_S = 1.0


def progress(brain: BrainRoot) -> dict[str, Any]:
    """What drives and, on probation, how far that is: for people and apps. Raises `AdapterError`."""
    state = AdapterStore(brain.layout).standing()
    told: dict[str, Any] = {"state": state.kind, "version_id": state.version_id or ""}
    if state.terms is not None:
        new = _records(brain, state)[0]
        restarts = _starts(brain, state).restarts
        asked = asked_of(state.terms, restarts)
        told["ticks"], told["of_ticks"] = new.ticks, asked.ticks
        told["minutes"], told["of_minutes"] = round(new.seconds / 60.0, 3), asked.minutes
        told["incidents"] = {name: count for name, count in new.incidents.items() if count}
        told["restarts"] = restarts
    return told


def look_after(
    brain: BrainRoot, *, boot: str | None = None, wait_s: float = 0.0, policy: bool = True
) -> Promotion | None:
    """Look once, and confirm or revert if it is time for that. None: nothing changed, or somebody else is changing it.

    Args:
        brain: the root.
        boot: identity of this start of the machine; None asks the kernel.
        wait_s: for others who change the adapter; 0 leaves it to the next look.
        policy: tell the policy process, which does not ask itself.

    Raises:
        AdapterError: the store is damaged.
        LockHeldError: others were still changing the adapter after `wait_s`.
        OSError: the file system refused.
    """
    store = AdapterStore(brain.layout)
    state = store.standing()
    if state.kind != "probation":
        return None
    boot = boot_id() if boot is None else boot
    if state.terms is None or not boot or boot != state.terms.boot_id:
        return _changed(brain, lambda: store.revert_after_boot(boot), wait_s, policy)
    seen = judge(brain, state)
    if seen.do == "go_on":
        return None
    return _conclude(brain, state, seen, wait_s, policy)


def judge(brain: BrainRoot, state: Standing) -> Look:
    """What the records say about the adapter on probation now."""
    assert state.terms is not None
    new, before = _records(brain, state)
    rules = rules_from_config(brain.config.promotion)
    return look(new, before, state.terms, restarts=_starts(brain, state).restarts, rules=rules)


def at_policy_start(brain: BrainRoot, *, boot: str | None = None) -> None:
    """Before the policy process loads what drives: after a start of the machine that is no longer the adapter on
    probation; otherwise the start is counted, and one too many takes it back.

    Raises:
        AdapterError: the store is damaged.
        LockHeldError: after a start of the machine, when others keep it from being taken back: it must not drive.
    """
    boot = boot_id() if boot is None else boot
    try:
        if look_after(brain, boot=boot, wait_s=TELLING_S, policy=False) is None:
            note_start(brain)
            look_after(brain, boot=boot, wait_s=TELLING_S, policy=False)
    except LockHeldError as error:
        terms = AdapterStore(brain.layout).standing().terms
        if terms is not None and (not boot or terms.boot_id != boot):
            raise
        log.warning("probation: %s", error)  # somebody is changing the adapter right now, and will tell us


def note_start(brain: BrainRoot) -> None:
    """Count a start of the policy process against the adapter on probation."""
    state = AdapterStore(brain.layout).standing()
    if state.kind == "probation":
        _starts(brain, state).note()


def take_back(brain: BrainRoot, reason: str, words: str, *, policy: bool = True) -> Promotion | None:
    """Revert what is on probation for a reason that no record shows: it cannot be loaded. None: nothing is."""
    state = AdapterStore(brain.layout).standing()
    if state.kind != "probation":
        return None
    return _conclude(brain, state, Look("revert", reason, words), TELLING_S, policy)


def confirm_by_hand(brain: BrainRoot, *, drives: str | None = None) -> Promotion:
    """A person says that it may stay. drives: only if this adapter is the one. Raises `AdapterError` when nothing, or
    another one, is on probation."""
    store = AdapterStore(brain.layout)
    sha256 = None if drives is None else store.get(drives).compute_sha256()
    told = _changed(
        brain,
        lambda: store.confirm(sha256=sha256, about={"by": "person", "reason": "by_hand"}),
        TELLING_S,
    )
    if told is None:  # with a hash it may be another one that is on probation by now
        raise AdapterError(
            f"adapter {drives} is not confirmed: it is not on probation",
            remedy=f"see: continuonbrain adapters list --root {brain.layout.root}",
        )
    return told


def _conclude(brain: BrainRoot, state: Standing, seen: Look, wait_s: float, policy: bool) -> Promotion | None:
    store, sha256 = AdapterStore(brain.layout), state.sha256 or ""
    new, before = _records(brain, state)
    about = {
        "by": "probation",
        "reason": seen.reason,
        "words": seen.words,
        "new": new.to_json(),
        "before": before.to_json(),
    }

    def change() -> HistoryEntry | None:
        if seen.do == "confirm":
            return store.confirm(sha256=sha256, about=about)
        return store.revert(sha256=sha256, about=about)

    if seen.do == "confirm" and not _is_whole(store, state):
        about |= {"reason": "damaged", "words": "its bytes are not those that were promoted"}
        return _changed(brain, lambda: store.revert(sha256=sha256, about=about), wait_s, policy)
    return _changed(brain, change, wait_s, policy)


def _changed(
    brain: BrainRoot, change: Callable[[], HistoryEntry | None], wait_s: float, policy: bool = True
) -> Promotion | None:
    try:
        with changing(brain, timeout_s=wait_s):
            finish_the_last(brain)
            entry = change()
            if entry is None:
                return None
            told = tell_of(brain, entry, policy=policy)
            level = logging.INFO if entry.event == "confirm" else logging.WARNING
            log.log(level, "%s %s", told.detail, entry.about.get("words", ""))
            return told
    except LockHeldError:
        if wait_s > 0.0:
            raise
        return None  # the next look is in a second


def _is_whole(store: AdapterStore, state: Standing) -> bool:
    try:
        return store.get(state.version_id or "").compute_sha256() == state.sha256
    except BrainError:
        return False


def _records(brain: BrainRoot, state: Standing) -> tuple[DrivingRecord, DrivingRecord]:
    layout, terms = brain.layout, state.terms
    now = layout.driving_now_dir
    new = read_record(layout.driving_dir, state.sha256, now=now)
    before = read_record(layout.driving_dir, None if state.before is None else state.before.sha256, now=now)
    if terms is not None and terms.already:
        try:
            already = DrivingRecord.from_json(terms.already)
        except ValueError:
            already = DrivingRecord()
        new = new.since(already)
    return new, before


def _starts(brain: BrainRoot, state: Standing) -> StartCount:
    return StartCount(brain.layout.probation_path, state.change)


class ProbationWatch:
    """Looks once a second, on a thread of its own: what a change tells everybody may wait for an answer.

    on_change is called on that thread.
    """

    def __init__(
        self,
        brain: BrainRoot,
        *,
        on_change: Callable[[Promotion | BaseChange], None] = lambda _told: None,
        every_s: float = _EVERY_S,
    ) -> None:
        self._brain, self._on_change, self._every_s = brain, on_change, every_s
        self._done = threading.Event()
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="probation", daemon=True)

    def start(self) -> None:
        """Look now, then once a second. The first look is over when this returns, so that after a start of the machine
        the adapter is taken back before anything loads it."""
        self._look()
        self._thread.start()

    def follow(self, brain: BrainRoot) -> None:
        """Look at this root from now on: the same, with another base."""
        self._brain = brain

    def close(self) -> None:
        """End. A change under way is finished, or by the next start."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        while not self._done.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        try:
            told: Promotion | BaseChange | None = look_after_base(self._brain)
            told = told or look_after(self._brain)
        except Exception as error:  # a full disk, a damaged history, whatever: said once, tried again
            if str(error) != self._fault:
                log.error("probation: %s", error)
            self._fault = str(error)
            return
        self._fault = ""
        if told is not None:
            self._on_change(told)
