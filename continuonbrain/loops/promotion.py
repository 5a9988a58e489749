"""Changes of the adapter as the running brain sees them: the store changes, then everybody is told."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_origin import origin_refusal
from continuonbrain.loops.base_watch import refuse_if_moved
from continuonbrain.loops.notices import NoticeAnswer, ask_notice
from continuonbrain.loops.wire import WireError
from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import read_record
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.history import HistoryEntry
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from continuonbrain.storage.manifest import manifest_from_settings, write_manifest
from continuonbrain.storage.probation_rule import Terms
from continuonbrain.storage.promotion_rule import OnProbation, PromotionRefused
from continuonbrain.storage.signal_listeners import signal_listeners

log = logging.getLogger(__name__)

ChangeKind = Literal["promotion", "confirm", "revert", "rollback"]
_KINDS: dict[str, ChangeKind] = {"promote": "promotion", "confirm": "confirm", "revert": "revert"}

TELLING_S = 10.0
_APART_S = 0.6
"""Between two tellings: the app's 200 ms, and time for what it loads then."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What drives now.

    Attributes:
        noticed: the running policy process confirmed that it uses it.
        running: a policy process is there. With `noticed` False it refused, or did not answer.
        detail: for people, which of these it was.
    """

    version_id: str
    sha256: str
    noticed: bool
    notice_ms: float
    detail: str
    running: bool = False


def promote_candidate(
    brain: BrainRoot, *, version_id: str | None = None, again: bool = False, boot: str | None = None
) -> Promotion:
    """Promote `adapters/candidate` on the verdict beside it and tell the running brain. Its probation begins.

    Args:
        brain: the root.
        version_id: another version than the candidate, on the verdict beside that one.
        again: although it was taken back on probation once: a person's decision.
        boot: identity of this start of the machine; None asks the kernel.

    Raises `OnProbation`, `PromotionRefused` or `AdapterError` with nothing changed.
    """
    with changing(brain, timeout_s=TELLING_S):
        finish_the_last(brain)
        store = AdapterStore(brain.layout)
        candidate = store.candidate() if version_id is None else store.get(version_id)
        if candidate is None:
            raise BrainError(
                f"there is no candidate in {brain.layout.candidate}",
                remedy=f"train one: continuonbrain train --root {brain.layout.root}",
            )
        refusal = origin_refusal(brain, candidate)
        if refusal is not None:
            raise PromotionRefused(
                candidate.version_id, refusal, remedy="continuonbrain keys list says whom this brain trusts"
            )
        _base_is_settled(brain, candidate.version_id)
        _apart(brain.layout.manifest_path)
        version = store.promote(
            candidate.version_id,
            candidate.verdict(),
            base_sha256=checkpoint_sha256(brain.layout.base_model_dir),
            terms=_terms(brain, candidate, boot),
            again=again,
        )
        return announce(brain, "promotion", version.version_id, version.compute_sha256())


def promotion_refused(brain: BrainRoot, version: AdapterVersion, *, again: bool = False) -> BrainError | None:
    """Why `promote_candidate` would not let this version drive now; None when it would. Changes nothing."""
    refusal = origin_refusal(brain, version)
    if refusal is not None:
        return PromotionRefused(version.version_id, refusal)
    try:
        base = checkpoint_sha256(brain.layout.base_model_dir)
        AdapterStore(brain.layout).may_promote(version, version.verdict(), base_sha256=base, again=again)
    except BrainError as error:
        return error
    return None


def roll_back(brain: BrainRoot, *, from_version: str | None = None) -> Promotion:
    """Go back to the adapter that drove before, and tell the running brain; by hand, also on probation.

    from_version: only if this one drives, so that two who want it gone do not bring it back.

    Raises as `AdapterStore.rollback`, and `OnProbation` while the base is: what drives on it is what is watched.
    """
    with changing(brain, timeout_s=TELLING_S):
        finish_the_last(brain)
        store = AdapterStore(brain.layout)
        _base_is_settled(brain, store.current_id() or "")  # what is gone is rolled back, too
        _apart(brain.layout.manifest_path)
        now = store.rollback(from_version=from_version, about={"by": "person"})
        return announce(brain, "rollback", now.version_id if now else "", now.compute_sha256() if now else "")


def _base_is_settled(brain: BrainRoot, version_id: str) -> None:
    if BaseSlots(brain.layout).state().terms is not None:
        raise OnProbation(
            version_id,
            "the base is on probation",
            remedy="let the robot drive until it is confirmed or taken back; by hand: continuonbrain base confirm, "
            "or base rollback, which brings back the base before with its adapter",
        )


def _terms(brain: BrainRoot, version: AdapterVersion, boot: str | None) -> Terms | None:
    """Of the probation that the config asks for; None when it asks for none."""
    promotion = brain.config.promotion
    if not promotion.probation_ticks and not promotion.probation_minutes:
        return None
    sha256 = version.compute_sha256()
    driven = read_record(brain.layout.driving_dir, sha256, now=brain.layout.driving_now_dir)
    return Terms(
        promotion.probation_ticks,
        promotion.probation_minutes,
        boot_id() if boot is None else boot,
        driven.to_json() if driven else {},
    )


def tell_of(brain: BrainRoot, entry: HistoryEntry, *, policy: bool = True) -> Promotion:
    """`announce` the last entry of the history."""
    return announce(
        brain, _KINDS.get(entry.event, "rollback"), entry.to_version or "", entry.sha256 or "", policy=policy
    )


def finish_the_last(brain: BrainRoot) -> None:
    """Tell what was left untold; what keeps it from being told keeps nobody from a change."""
    try:
        _tell_what_was_left(brain)
    except (OSError, BrainError) as error:
        log.error("the last change of the adapter could not be told: %s", error)


def refresh_manifest(brain: BrainRoot) -> bool:
    """Write the manifest anew when it says something else than config and folders do: another base, a bundle for apps
    that was put there. Whether it was. Raises OSError."""
    layout = brain.layout
    wanted = manifest_from_settings(layout, brain.config.model_dump(mode="json"))
    try:
        if json.loads(layout.manifest_path.read_bytes()) == json.loads(json.dumps(wanted)):
            return False
    except (OSError, ValueError, RecursionError):
        pass
    write_manifest(layout, wanted)
    return True


def announce_unfinished(brain: BrainRoot) -> Promotion | None:
    """Tell of the last change of the adapter when whoever made it was killed before everybody was told; None when all
    are told, or somebody is at it now. Raises `AdapterError` for a damaged store."""
    store = AdapterStore(brain.layout)
    last = store.last_change()
    if last is None or _told(brain.layout.announced_path) == last.hash:
        return None
    try:
        with changing(brain, timeout_s=0.0):
            return _tell_what_was_left(brain)
    except LockHeldError:
        return None
    except OSError as error:  # a full disk: the next round tries again
        log.error("the last change of the adapter could not be told: %s", error)
        return None


def _tell_what_was_left(brain: BrainRoot) -> Promotion | None:
    store = AdapterStore(brain.layout)
    store.recover()
    last = store.last_change()
    if last is None or _told(brain.layout.announced_path) == last.hash:
        return None
    if last.event == "abandon":  # what drove drives on
        if _note_earlier(brain, EventLog(brain.layout.events_dir)):
            _mark(brain.layout.announced_path, last.hash)
        return None
    return tell_of(brain, last)


def announce(
    brain: BrainRoot, kind: ChangeKind, version_id: str, sha256: str, *, policy: bool = True
) -> Promotion:
    """Tell everybody what drives now: apps by the manifest and, at once after it, by SIGUSR1 to those registered (an
    app that takes both for one change must not wait in between); who follows events; the running policy process. Last
    it is noted that all were told (`run/announced`). An event that could not be noted is left for the next round.

    A confirmation changes nothing that drives: who knows of the promotion is told by the event alone. policy: whether
    the policy process is told; it does not ask itself."""
    layout = brain.layout
    last = AdapterStore(layout).last_change()
    change = "" if last is None else last.hash
    before = "" if last is None else last.prev_hash
    known = kind == "confirm" and _told(layout.announced_path) in (before, _apps(before))
    events = EventLog(layout.events_dir)
    noted = change != "" and events.tells_of(change, get_args(ChangeKind))
    apps = noted or known or _told(layout.announced_path) == _apps(change) or _tell_apps(brain, change)
    named = {"change": change} if change else {}
    if last is not None and kind in ("confirm", "revert"):
        named["reason"] = str(last.about.get("reason", ""))
    noted = noted or (
        _note_earlier(brain, events)
        and events.note(kind, {"version_id": version_id, "sha256": sha256, **named})
    )
    started = time.monotonic()
    event = {"kind": kind, "version_id": version_id, "sha256": sha256}
    # A policy process that starts later reads `current` by itself.
    answer = NoticeAnswer(False, False, False, "")
    if policy and not known and brain.layout.policy_socket.exists():
        try:
            answer = ask_notice(brain.layout.policy_socket, event)
        except WireError as error:
            answer = NoticeAnswer(True, False, False, error.message)
    took = (time.monotonic() - started) * 1000
    if noted and apps:
        _mark(layout.announced_path, change)
    said = f"{kind} of {version_id or 'the base'}: {'it stays' if known else _in_words(answer)}"
    if kind == "revert":
        now = _in_words(answer) if policy else "it is loaded next"
        said = f"taken back ({named.get('reason', '')}), {version_id or 'the base'} drives: {now}"
    return Promotion(version_id, sha256, answer.ok, took, said, answer.listening)


def _tell_apps(brain: BrainRoot, change: str) -> bool:
    """By the manifest, and SIGUSR1 after it. False when the manifest could not be written: the next round tries again,
    and nobody else waits for it."""
    layout = brain.layout
    _apart(layout.manifest_path)
    try:
        write_manifest(layout, manifest_from_settings(layout, brain.config.model_dump(mode="json")))
    except OSError as error:
        log.error("%s cannot be written: %s", layout.manifest_path, error)
        return False
    signal_listeners(layout.listeners_dir)
    _mark(layout.announced_path, _apps(change))
    return True


def _note_earlier(brain: BrainRoot, events: EventLog) -> bool:
    """Note changes before the last one of which no event tells: the log could not be written then. Whether none is
    left."""
    history = AdapterStore(brain.layout).history()
    try:
        kept = events.after(0)
    except OSError:
        return False
    told = {_told(brain.layout.announced_path)} | {str(e.data.get("change")) for e in kept}
    known = [i for i, entry in enumerate(history) if entry.hash in told]
    if not known:  # nobody can say how much of it was told: the last one is
        return True
    for entry, following in pairwise(history[known[-1] + 1 :]):
        if entry.event == "abandon" or following.event == "abandon":
            continue  # it never came to drive
        kind = _KINDS.get(entry.event, "rollback")
        told_of = {"version_id": entry.to_version or "", "sha256": entry.sha256 or "", "change": entry.hash}
        if not events.note(kind, told_of):
            return False
    return True


def _apps(change: str) -> str:
    """The mark of a change that apps were told of, and followers of events not yet."""
    return f"{change} apps"


def _mark(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: it is told once more
        write_bytes_durably(path, f"{text}\n".encode())


def _apart(manifest: Path) -> None:
    """Wait until the last telling is long enough ago: an app takes changes within 200 ms for one, and then loads what
    is current."""
    with contextlib.suppress(OSError):
        since = time.time() - manifest.stat().st_mtime
        if 0.0 <= since < _APART_S:
            time.sleep(_APART_S - since)


@contextlib.contextmanager
def changing(brain: BrainRoot, *, timeout_s: float) -> Iterator[None]:
    """Held from before a change of the adapter until everybody has been told. Raises BaseMoved when the adapters are
    those of a base that does not drive."""
    brain.layout.run_dir.mkdir(parents=True, exist_ok=True)
    path = brain.layout.changing_lock_path
    with ProcessLock(path, purpose="change the adapter", timeout_s=timeout_s):
        refuse_if_moved(brain.layout)
        yield


def _told(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _in_words(answer: NoticeAnswer) -> str:
    if answer.ok:
        return "the running brain uses it"
    if not answer.listening:
        return "done; no brain is running, the next one that starts uses it"
    if answer.answered:
        return f"the running brain refused it: {answer.detail or 'it gave no reason'}"
    return f"the running brain did not answer ({answer.detail})"
