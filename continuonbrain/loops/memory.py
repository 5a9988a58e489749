"""The memory's size: what is over the limits of the config is forgotten, except what drives."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.remembering import read_reservoir
from continuonbrain.loops.slow_adapter import KIND, SLOW, card_of
from continuonbrain.rlds.retention import finished_episodes, forget, sweep, unheld_bytes, what_goes
from continuonbrain.storage.adapters import AdapterStore

log = logging.getLogger(__name__)
_NAMING = ("episodes", "held_out", "considered")
"""Keys of a card that name episodes."""


@dataclass(frozen=True)
class Forgotten:
    """What was deleted (or would be). over: what is still too much, in words, "" when nothing is."""

    episodes: tuple[str, ...]
    bytes: int
    protected: int
    over: str


def protected_episodes(brain: BrainRoot) -> set[str]:
    """Names of the episodes that adapters were trained or judged on: of those that were ever promoted, of those that
    drive or drove before, or of none (`recorder.keep`); and of those that the reservoir holds.

    Raises:
        BrainError: the store is damaged, so that nobody can say.
    """
    keep = brain.config.recorder.keep
    named: set[str] = set()
    if brain.config.slow.enabled:
        named |= read_reservoir(brain.layout.reservoir_path).names
    if keep == "nothing":
        return named
    store = AdapterStore(brain.layout)
    if not (check := store.verify_history()).ok:
        raise BrainError(
            f"{brain.layout.history_path} {check.problem}: nobody can say what was promoted, so nothing is forgotten",
            remedy=f"continuonbrain adapters list --root {brain.layout.root}",
        )
    versions = protected_versions(store)
    if keep == "promoted":
        versions |= {e.to_version for e in store.history() if e.event == "promote" and e.to_version}
    for version in store.list():
        if version.version_id in versions:
            card = version.card() or {}
            # A consolidation has considered all that there was: it stands on what the reservoir holds.
            for key in _NAMING if card.get(KIND) != SLOW else _NAMING[:2]:
                value = card.get(key)
                named |= {str(e) for e in value} if isinstance(value, list) else set()
    return named


def learned_episodes(store: AdapterStore) -> set[str]:
    """Names of the episodes that some adapter's card names: learned from, judged on, or seen and left out."""
    named: set[str] = set()
    for version in store.list():
        card = card_of(version)
        for key in _NAMING:
            value = card.get(key)
            named |= {str(e) for e in value} if isinstance(value, list) else set()
    return named


def protected_versions(store: AdapterStore) -> set[str]:
    """Ids of what drives, drove before, or waits."""
    slots = (store.current(), store.previous(), store.candidate())
    return {v.version_id for v in slots if v is not None}


def keep_within_limits(brain: BrainRoot, *, really: bool = True) -> Forgotten:
    """Forget episodes until the memory is as small as `max_episodes` and `recorder.quota_mib` say. For whoever holds
    the trainer's lock: nothing may be reading them. really: False only tells.

    Raises:
        BrainError: see `protected_episodes`, with nothing deleted; or the disk refused.
    """
    folder, quota = brain.layout.episodes_dir, brain.config.recorder.quota_mib
    protected = protected_episodes(brain)
    held = finished_episodes(folder)
    others, other_bytes = unheld_bytes(folder, held)
    learned = learned_episodes(AdapterStore(brain.layout))
    plan = what_goes(
        held,
        unlearned=[e.path.name for e in held if e.taught and e.path.name not in learned],
        least_unlearned=brain.config.min_episodes,
        max_episodes=brain.config.max_episodes,
        max_bytes=None if quota is None else quota << 20,
        protected=protected,
        other_bytes=other_bytes,
    )
    over = []
    if plan.episodes_over:
        over.append(f"{plan.episodes_over} episodes more than max_episodes ({brain.config.max_episodes})")
    if plan.bytes_over:
        over.append(f"{plan.bytes_over / 2**20:.0f} MiB more than recorder.quota_mib ({quota})")
    if really:
        try:
            sweep(folder)
            forget(plan.going)
        except OSError as error:
            raise BrainError(
                f"{error.filename or folder} cannot be deleted: {error.strerror}",
                remedy=f"make {folder} writable for this user",
            ) from error
        if plan.going:
            log.info("forgot %d episodes that were over the limits", len(plan.going))
    words = " and ".join(over)
    if words:
        words += ": adapters' cards name what is left (recorder.keep), or it was imported"
    if plan.bytes_over and others:
        words += (
            f"; {other_bytes / 2**20:.0f} MiB are of {others} episodes that are unfinished or cannot be read"
        )
    return Forgotten(
        tuple(e.path.name for e in plan.going), sum(e.bytes for e in plan.going), len(protected), words
    )
