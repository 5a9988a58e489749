"""What may follow what: base, confirmed, probation; promote, confirm, revert, rollback, boot. No I/O.

- A promotion begins a probation (or, with no terms, is confirmed at once). On probation nothing else is promoted.
- `revert` restores what was before the promotion: what drove, and what `rollback` would have gone back to. So the
  adapter that was taken back stands in no slot, and a person who rolls back a moment later does not bring it back.
- An adapter that was taken back while on probation, by whomever, is not promoted again unless a person says so; nor is
  one that learned the same and came with another calibration of the servo, which is fitted anew with every round.
- A start of the machine while nothing was confirmed reverts: an adapter that takes the power down does not get to
  try twice.

The state is not stored: `standing` reads it from the history, which is written first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from continuonbrain.storage.history import HistoryEntry

PROBATION = "probation"
"""The key of an entry's `about` under which the terms stand."""
LEARNED = "learned_sha256"
"""That under which stands what a promoted adapter is without the servo's calibration, where that is not its sha256."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long an adapter is watched. It is confirmed when both are reached; 0 asks for nothing.

    ticks: control ticks that it drove. minutes: of driving, counted by the control process on the monotonic clock;
    wall time counts nowhere. boot_id: the start of the machine in which it was promoted. already: what its driving
    record said then (an adapter may have driven before).
    """

    ticks: int
    minutes: float
    boot_id: str
    already: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the history."""
        told = {"ticks": self.ticks, "minutes": self.minutes, "boot_id": self.boot_id}
        return {**told, **({"already": dict(self.already)} if self.already else {})}

    @classmethod
    def from_json(cls, value: object) -> Terms | None:
        """Read what `to_json` gave; None for none. What cannot be read is taken for the strictest: never confirmed by
        itself, and reverted at the next start."""
        if value is None:
            return None
        if isinstance(value, Mapping):
            with suppress(KeyError, TypeError, ValueError):
                already = dict(value.get("already", {}))
                return cls(int(value["ticks"]), float(value["minutes"]), str(value["boot_id"]), already)
        return cls(2**62, 0.0, "")


@dataclass(frozen=True, slots=True)
class Standing:
    """What drives, and how sure that is.

    kind: "base" (alone), "confirmed" or "probation". version_id, sha256: of what drives; None is the base.
    previous: what a rollback goes back to. terms, before: of a probation, and what it goes back to. change: hash of
    the history's entry that began this. learned: of a probation, the adapter's hash without the servo's calibration, ""
    where it has none. reverted: hashes that were taken back on probation, with and without calibration.
    """

    kind: Literal["base", "confirmed", "probation"] = "base"
    version_id: str | None = None
    sha256: str | None = None
    previous: str | None = None
    terms: Terms | None = None
    before: Standing | None = None
    change: str = ""
    learned: str = ""
    reverted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Promote:
    """terms None: no probation. again: a person wants it although it was taken back once. learned: its hash without the
    servo's calibration, "" where it has none."""

    version_id: str
    sha256: str
    terms: Terms | None = None
    again: bool = False
    learned: str = ""


@dataclass(frozen=True, slots=True)
class Confirm:
    """It drove well, or a person says so."""


@dataclass(frozen=True, slots=True)
class Revert:
    """The probation takes it back."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """A person goes back."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A process started in this start of the machine; "" is one that nobody knows."""

    boot_id: str


Event = Promote | Confirm | Revert | Rollback | Boot


@dataclass(frozen=True, slots=True)
class Change:
    """What the history gets, and what `current` (to) and `previous` become."""

    event: Literal["promote", "confirm", "revert", "rollback"]
    to: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """code: "on_probation", "reverted", "not_on_probation" or "nothing_before". reason: a sentence without the
    adapter's name; remedy: what a person can do."""

    code: str
    reason: str
    remedy: str = ""


def decide(state: Standing, event: Event) -> Change | Refused | None:
    """What an event does; None: it changes nothing."""
    if isinstance(event, Promote):
        return _promotion(state, event)
    if isinstance(event, Boot):
        same = state.terms is not None and event.boot_id and event.boot_id == state.terms.boot_id
        return None if state.kind != "probation" or same else _back(state, "revert")
    if isinstance(event, Rollback):
        if state.kind == "probation":
            return _back(state, "rollback")
        if state.version_id is None and state.previous is None:
            return Refused("nothing_before", "the base model drives alone and no adapter came before")
        return Change("rollback", state.previous, state.version_id)
    if state.kind != "probation":
        return Refused("not_on_probation", "no adapter is on probation")
    if isinstance(event, Confirm):
        return Change("confirm", state.version_id, state.previous)
    return _back(state, "revert")


def _promotion(state: Standing, event: Promote) -> Change | Refused | None:
    if event.version_id == state.version_id:
        return None
    if state.kind == "probation":
        return Refused(
            "on_probation",
            f"adapter {state.version_id} is on probation",
            "let the robot drive until it is confirmed or taken back; by hand: continuonbrain adapters confirm, or "
            "adapters rollback",
        )
    if not event.again and {event.sha256, event.learned} & state.reverted:
        same = event.sha256 in state.reverted
        taken = f"its bytes ({event.sha256[:8]})" if same else f"what it learned ({event.learned[:8]})"
        return Refused(
            "reverted",
            f"{taken} {'were' if same else 'was'} taken back while on probation",
            f"train another one; a person who knows better: continuonbrain adapters promote {event.version_id} --again",
        )
    return Change("promote", event.version_id, state.version_id)


def _back(state: Standing, event: Literal["revert", "rollback"]) -> Change:
    before = state.before or Standing()
    return Change(event, before.version_id, before.previous)


def standing(entries: Iterable[HistoryEntry]) -> Standing:
    """What the history says. Entries are facts: none is refused here, whatever version of this program wrote it."""
    state = earlier = Standing()
    for entry in entries:
        if entry.event == "abandon":
            # The change did not come about. What drives on stands as it stood before.
            known = next((s for s in (earlier, state) if s.version_id == entry.to_version), None)
            new = _settled(state, entry) if known is None else replace(known, previous=entry.from_version)
        else:
            new = after(state, entry)
        earlier, state = state, new
    return state


def after(state: Standing, entry: HistoryEntry) -> Standing:
    """The state after a change that was made."""
    if entry.event == "confirm":
        kept = state.reverted - {entry.sha256 or "", state.learned}
        return replace(_settled(state, entry), reverted=kept)
    if entry.event == "promote":
        terms, learned = terms_of(entry), str(entry.about.get(LEARNED, ""))
        if terms is None:
            return replace(_settled(state, entry), reverted=state.reverted - {entry.sha256 or "", learned})
        before = replace(state, before=None, terms=None)
        if before.version_id != entry.from_version:  # this history began when something drove already
            kind: Literal["base", "confirmed"] = "base" if entry.from_version is None else "confirmed"
            before = Standing(kind, entry.from_version, reverted=state.reverted)
        return replace(_settled(state, entry), kind="probation", terms=terms, before=before, learned=learned)
    if state.kind == "probation" and state.sha256 is not None:
        state = replace(state, reverted=(state.reverted | {state.sha256, state.learned}) - {""})
    return _settled(state, entry)


def terms_of(entry: HistoryEntry) -> Terms | None:
    """The terms of the probation that an entry began, None when it began none."""
    return Terms.from_json(entry.about.get(PROBATION))


def _settled(state: Standing, entry: HistoryEntry) -> Standing:
    return Standing(
        kind="base" if entry.to_version is None else "confirmed",
        version_id=entry.to_version,
        sha256=entry.sha256,
        previous=entry.from_version,
        change=entry.hash,
        reverted=state.reverted,
    )
