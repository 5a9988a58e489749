"""Promotion and rollback as the running brain sees them: the store changes, then everybody is told."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.notices import NoticeAnswer, ask_notice
from continuonbrain.loops.wire import WireError
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.manifest import manifest_from_settings, write_manifest
from continuonbrain.storage.signal_listeners import signal_listeners


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


def promote_candidate(brain: BrainRoot) -> Promotion:
    """Promote `adapters/candidate` on the verdict beside it and tell the running brain.

    Raises `PromotionRefused` or `AdapterError` with nothing changed.
    """
    store = AdapterStore(brain.layout)
    candidate = store.candidate()
    if candidate is None:
        raise BrainError(
            f"there is no candidate in {brain.layout.candidate}",
            remedy="train one: continuonbrain train --root DIR",
        )
    version = store.promote(
        candidate.version_id, candidate.verdict(), base_sha256=base_sha256(brain.layout.base_model_dir)
    )
    return announce(brain, "promotion", version.version_id, version.compute_sha256())


def announce(
    brain: BrainRoot, kind: Literal["promotion", "rollback"], version_id: str, sha256: str
) -> Promotion:
    """Tell everybody what drives now: apps by the manifest and, at once after it, by SIGUSR1 to those registered (an
    app that takes both for one change must not wait in between); who follows events; the running policy process."""
    layout = brain.layout
    write_manifest(layout, manifest_from_settings(layout, brain.config.model_dump(mode="json")))
    signal_listeners(layout.listeners_dir)
    EventLog(layout.events_dir).note(kind, {"version_id": version_id, "sha256": sha256})
    started = time.monotonic()
    event = {"kind": kind, "version_id": version_id, "sha256": sha256}
    # A policy process that starts later reads `current` by itself.
    answer = NoticeAnswer(False, False, False, "")
    if brain.layout.policy_socket.exists():
        try:
            answer = ask_notice(brain.layout.policy_socket, event)
        except WireError as error:
            answer = NoticeAnswer(True, False, False, error.message)
    took = (time.monotonic() - started) * 1000
    said = f"{kind} of {version_id or 'the base'}: {_in_words(answer)}"
    return Promotion(version_id, sha256, answer.ok, took, said, answer.listening)


def _in_words(answer: NoticeAnswer) -> str:
    if answer.ok:
        return "the running brain uses it"
    if not answer.listening:
        return "done; no brain is running, the next one that starts uses it"
    if answer.answered:
        return f"the running brain refused it: {answer.detail or 'it gave no reason'}"
    return f"the running brain did not answer ({answer.detail})"
