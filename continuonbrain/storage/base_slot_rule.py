"""What may follow what when a brain changes its base: switch, confirm, revert, rollback, boot. No I/O.

As with adapters (`probation_rule.py`): a switch begins a probation, and while it lasts there is no other; `revert` puts
everything back as it was before the switch, and a start of the machine before the base was confirmed does the same; a
base that was taken back while on probation is not switched to again unless a person says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from continuonbrain.storage.probation_rule import Boot, Confirm, Revert, Rollback, Terms

SCHEMA = 1
SLOT = re.compile(r"[0-9a-f]{16}")
"""The first digits of the sha256 of the base; "" is the base that config.json names."""
MOST_EVENTS = 32
_MOST_TAKEN_BACK = 64
_FIELDS = {"schema", "change", "current", "previous", "before", "probation", "taken_back", "events"}


@dataclass(frozen=True, slots=True)
class BaseState:
    """Which base drives.

    change: how many changes there were: names this one. previous: what a rollback goes back to, None where nothing
    drove before. terms: of a probation, None when there is none; before: what `previous` was before it. taken_back:
    slots that were taken back on probation. events: the newest changes, for people.
    """

    current: str = ""
    previous: str | None = None
    change: int = 0
    terms: Terms | None = None
    before: str | None = None
    taken_back: tuple[str, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in `base_slot.json`."""
        return {
            "schema": SCHEMA,
            "change": self.change,
            "current": self.current,
            "previous": self.previous,
            "before": self.before,
            "probation": None if self.terms is None else self.terms.to_json(),
            "taken_back": list(self.taken_back),
            "events": [dict(event) for event in self.events],
        }

    @classmethod
    def from_json(cls, value: object) -> BaseState:
        """Read what `to_json` gave. Raises ValueError naming the field for anything else."""
        if not isinstance(value, Mapping) or value.keys() != _FIELDS:
            raise ValueError(f"it must be an object of {', '.join(sorted(_FIELDS))}")
        if value["schema"] != SCHEMA or isinstance(value["schema"], bool):
            raise ValueError(f"schema is {value['schema']!r}; this program reads {SCHEMA}")
        change, taken, events = value["change"], value["taken_back"], value["events"]
        if type(change) is not int or change < 0:
            raise ValueError(f"change = {change!r} is no count")
        if not isinstance(taken, list) or not isinstance(events, list):
            raise ValueError("taken_back and events must be lists")
        if not all(isinstance(event, Mapping) for event in events):
            raise ValueError("events must hold objects")
        return cls(
            current=_slot(value["current"], "current"),
            previous=_slot_or_none(value["previous"], "previous"),
            change=change,
            terms=Terms.from_json(value["probation"]),
            before=_slot_or_none(value["before"], "before"),
            taken_back=tuple(_slot(slot, "taken_back") for slot in taken),
            events=tuple(dict(event) for event in events),
        )


@dataclass(frozen=True, slots=True)
class Switch:
    """terms None: no probation. again: a person wants it although it was taken back once."""

    to: str
    terms: Terms | None = None
    again: bool = False


BaseEvent = Switch | Confirm | Revert | Rollback | Boot


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an event changes nothing, as a sentence, and what a person can do."""

    reason: str
    remedy: str = ""


def decide(state: BaseState, event: BaseEvent) -> BaseState | Refused | None:
    """The state after an event; None: it changes nothing."""
    if isinstance(event, Switch):
        return _switched(state, event)
    if isinstance(event, Boot):
        same = state.terms is not None and event.boot_id != "" and event.boot_id == state.terms.boot_id
        return None if state.terms is None or same else _back(state, "boot")
    if isinstance(event, Rollback):
        if state.terms is not None:
            return _back(state, "rollback")
        if state.previous is None:
            return Refused("no other base drove before")
        return _noted(state, "rollback", current=state.previous, previous=state.current)
    if state.terms is None:
        return Refused("no base is on probation")
    if isinstance(event, Confirm):
        kept = tuple(slot for slot in state.taken_back if slot != state.current)
        return _noted(state, "confirm", terms=None, before=None, taken_back=kept)
    return _back(state, "revert")


def told(state: BaseState, about: Mapping[str, Any]) -> BaseState:
    """The state with more said of its last change: by whom, why, when."""
    *earlier, last = state.events
    return replace(state, events=(*earlier, {**last, **about}))


def _switched(state: BaseState, event: Switch) -> BaseState | Refused | None:
    if event.to == state.current:
        return None
    if state.terms is not None:
        return Refused(
            f"base {state.current or 'of config.json'} is on probation",
            "let the robot drive until it is confirmed or taken back; by hand: continuonbrain base confirm, or "
            "base rollback",
        )
    if event.to in state.taken_back and not event.again:
        return Refused(
            f"base {event.to} was taken back while on probation",
            f"a person who knows better: continuonbrain base switch {event.to} --again",
        )
    return _noted(
        state,
        "switch",
        current=event.to,
        previous=state.current,
        terms=event.terms,
        before=state.previous,
        taken_back=state.taken_back
        if event.terms is not None
        else tuple(slot for slot in state.taken_back if slot != event.to),
    )


def _back(state: BaseState, how: Literal["boot", "revert", "rollback"]) -> BaseState:
    assert state.previous is not None  # a probation began with a switch
    taken = tuple(slot for slot in state.taken_back if slot != state.current)
    return _noted(
        state,
        how,
        current=state.previous,
        previous=state.before,
        terms=None,
        before=None,
        taken_back=(*taken, state.current)[-_MOST_TAKEN_BACK:],
    )


def _noted(state: BaseState, event: str, **changes: Any) -> BaseState:
    new = replace(state, change=state.change + 1, **changes)
    entry = {"change": new.change, "event": event, "from": state.current, "to": new.current}
    return replace(new, events=(*state.events, entry)[-MOST_EVENTS:])


def _slot(value: object, name: str) -> str:
    if not isinstance(value, str) or (value and not SLOT.fullmatch(value)):
        raise ValueError(f"{name} = {value!r} names no base: 16 hexadecimal digits, or nothing")
    return value


def _slot_or_none(value: object, name: str) -> str | None:
    return None if value is None else _slot(value, name)
