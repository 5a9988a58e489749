"""What may follow what on probation, over any sequence of events, and what the history says afterwards."""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from continuonbrain.storage.history import HistoryEntry, next_entry, parse_history
from continuonbrain.storage.probation_rule import (
    PROBATION,
    Boot,
    Change,
    Confirm,
    Event,
    Promote,
    Refused,
    Revert,
    Rollback,
    Standing,
    Terms,
    decide,
    standing,
)

NAMES = ("000001-aaaaaaaa", "000002-bbbbbbbb", "000003-cccccccc")
SHA = {name: name[7:] * 8 for name in NAMES}
A, B, C = NAMES
TERMS = Terms(400, 0.0, "boot-1")


class Life:
    """The rule with a history in memory, as the store has it on disk."""

    def __init__(self) -> None:
        self.entries: list[HistoryEntry] = []

    @property
    def state(self) -> Standing:
        lines = [entry.to_json_line() for entry in self.entries]
        entries, check = parse_history(lines)
        assert check.ok
        return standing(entries)

    def do(self, event: Event) -> Change | Refused | None:
        state = self.state
        change = decide(state, event)
        if isinstance(change, Change):
            about: dict[str, object] = {}
            if isinstance(event, Promote):
                about = {PROBATION: event.terms.to_json()} if event.terms else {}
                about |= {"again": True} if event.again else {}
            self.note(change.event, change.to, change.previous, about)
        return change

    def note(
        self, event: str, to: str | None, previous: str | None, about: dict[str, object] | None = None
    ) -> None:
        entry = next_entry(
            self.entries[-1] if self.entries else None,
            event=event,
            to_version=to,
            from_version=previous,
            sha256=SHA.get(to or ""),
            time_unix_s=0.0,
            about=about,
        )
        self.entries.append(entry)

    def promote(self, name: str, *, terms: Terms | None = TERMS, again: bool = False) -> str:
        got = self.do(Promote(name, SHA[name], terms, again))
        return got.code if isinstance(got, Refused) else "" if got is None else got.event


def test_a_promotion_is_on_probation_until_it_is_confirmed() -> None:
    life = Life()
    assert life.promote(A) == "promote"
    assert (life.state.kind, life.state.sha256, life.state.terms) == ("probation", SHA[A], TERMS)
    assert life.promote(B) == "on_probation"
    life.do(Confirm())
    assert (life.state.kind, life.state.version_id, life.state.terms) == ("confirmed", A, None)
    assert life.promote(B) == "promote"


def test_without_terms_it_is_confirmed_at_once() -> None:
    life = Life()
    life.promote(A, terms=None)
    assert life.state.kind == "confirmed"
    assert decide(life.state, Confirm()) == Refused("not_on_probation", "no adapter is on probation")


def test_a_revert_restores_what_was_there_and_a_rollback_after_it_does_not_bring_the_bad_one_back() -> None:
    life = Life()
    for name in (A, B):
        life.promote(name, terms=None)
    life.promote(C)
    life.do(Revert())
    assert (life.state.kind, life.state.version_id, life.state.previous) == ("confirmed", B, A)
    life.do(Rollback())
    assert (life.state.version_id, life.state.previous) == (A, B)
    assert life.promote(C) == "reverted"


def test_one_that_was_taken_back_returns_only_when_a_person_says_so() -> None:
    for event in (Revert(), Rollback(), Boot("boot-2"), Boot("")):
        life = Life()
        life.promote(A)
        life.do(event)
        assert life.state.kind == "base"
        assert life.promote(A) == "reverted"
        assert life.promote(A, again=True) == "promote"
        life.do(Revert())
        assert life.promote(A) == "reverted"
        assert life.promote(A, again=True) == "promote"
        life.do(Confirm())
        assert life.promote(B) == "promote"
        life.do(Confirm())
        assert life.promote(A) == "promote"  # it has proved itself since


def test_a_start_of_the_same_machine_run_goes_on() -> None:
    life = Life()
    life.promote(A)
    assert life.do(Boot("boot-1")) is None
    assert life.state.kind == "probation"


def test_terms_that_cannot_be_read_confirm_nothing_and_end_at_the_next_start() -> None:
    for broken in (7, {}, {"ticks": "x", "minutes": 0, "boot_id": "boot-1"}, [], "yes"):
        life = Life()
        life.note("promote", A, None, {PROBATION: broken})
        assert life.state.kind == "probation"
        assert life.state.terms is not None
        assert life.state.terms.ticks > 10**9
        assert isinstance(decide(life.state, Boot("boot-1")), Change)


def test_an_abandoned_change_leaves_what_was() -> None:
    life = Life()
    life.promote(A, terms=None)
    life.promote(B)
    life.note("abandon", A, None)  # B was lost before it drove
    assert (life.state.kind, life.state.version_id) == ("confirmed", A)
    life = Life()
    life.promote(A, terms=None)
    life.promote(B)
    life.do(Revert())
    life.note("abandon", B, A)  # A was lost before it drove again: B is still to be taken back
    assert (life.state.kind, life.state.version_id) == ("probation", B)


def test_a_history_from_before_there_was_a_probation_is_all_confirmed() -> None:
    life = Life()
    life.note("promote", A, None)
    line = life.entries[0].to_json_line()
    assert "about" not in json.loads(line)
    assert life.state == Standing("confirmed", A, SHA[A], None, change=life.entries[0].hash)


class AnySequence(RuleBasedStateMachine):
    """Never two on probation, what drives is base, confirmed or on probation, and what was taken back stays away."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.banned: set[str] = set()
        self.confirmed: set[str] = set()

    @rule(name=st.sampled_from(NAMES), on=st.booleans(), again=st.booleans())
    def promote(self, name: str, on: bool, again: bool) -> None:
        before = self.life.state
        got = self.life.promote(name, terms=TERMS if on else None, again=again)
        if got == "promote":
            assert before.kind != "probation"
            assert again or SHA[name] not in self.banned
            if not on:
                self.confirmed.add(name)
                self.banned.discard(SHA[name])
        elif got == "reverted":
            assert SHA[name] in self.banned
            assert not again

    @rule()
    def confirm(self) -> None:
        before = self.life.state
        if isinstance(self.life.do(Confirm()), Change):
            assert before.kind == "probation"
            self.confirmed.add(before.version_id or "")
            self.banned.discard(before.sha256 or "")

    @rule(event=st.sampled_from([Revert(), Rollback(), Boot("boot-1"), Boot("boot-2")]))
    def back(self, event: Event) -> None:
        before = self.life.state
        got = self.life.do(event)
        after = self.life.state
        if isinstance(got, Change):
            assert after.kind != "probation"
            if before.kind == "probation":
                self.banned.add(before.sha256 or "")
                assert before.before is not None
                assert (after.version_id, after.previous) == (
                    before.before.version_id,
                    before.before.previous,
                )
            else:
                assert isinstance(event, Rollback)

    @invariant()
    def what_drives_has_a_right_to(self) -> None:
        state = self.life.state
        assert state.reverted == self.banned
        assert (state.kind == "base") == (state.version_id is None)
        if state.kind == "confirmed":
            assert state.version_id in self.confirmed
        if state.previous is not None:
            assert state.previous in self.confirmed
        if state.kind == "probation":
            assert state.before is not None
            assert state.before.kind != "probation"


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
