"""What the sidecar has judged drives only on proof, and what was cut short is gone on with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops import judging, learning
from continuonbrain.loops.probation import confirm_by_hand
from continuonbrain.loops.promotion import promote_candidate
from continuonbrain.storage.adapters import AdapterStore, PromotionRefused, StaleVerdict
from continuonbrain.trainer.evidence import Evidence
from tests.loops.sidecar import Brain, Evidences, loop

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_a_held_candidate_drives_only_after_it_is_promoted(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    outcome = loop(root).round(hold=True)
    store = AdapterStore(root.layout)
    assert outcome.phase == "judged"
    assert store.current() is None
    promotion = promote_candidate(root)
    current = store.current()
    assert current is not None
    assert current.version_id == promotion.version_id == outcome.version_id
    assert promotion.sha256 == current.compute_sha256()
    assert not promotion.noticed
    assert "no brain is running" in promotion.detail


def test_without_hold_a_proven_candidate_is_promoted_and_the_next_one_is_judged_against_it(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    first = loop(root).round()
    assert first.phase == "promoted"
    rivals = []
    gathered = judging.gather_evidence

    def remember(engine: Any, *, current: Any, **rest: Any) -> Evidence:
        rivals.append(current.sha256)
        return gathered(engine, current=current, **rest)

    monkeypatch.setattr(judging, "gather_evidence", remember)
    sha256 = AdapterStore(root.layout).get(first.version_id).compute_sha256()
    held = loop(root).round(again=True)
    assert held.phase == "judged"
    assert "is on probation" in held.detail
    assert rivals == [sha256]
    assert loop(root).round().version_id == held.version_id  # held, not learned anew
    confirm_by_hand(root)
    outcome = loop(root).round()
    assert (outcome.phase, outcome.version_id) == ("promoted", held.version_id)


def test_a_candidate_that_was_judged_against_what_no_longer_drives_is_judged_again(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    first = loop(root).round()
    assert first.phase == "promoted"
    other = BrainRoot(root.layout, root.config.with_overrides({"training.seed": 1}))
    held = loop(other).round(again=True)
    store = AdapterStore(root.layout)
    sha256 = store.get(first.version_id).compute_sha256()
    assert held.verdict is not None
    assert (held.held, held.verdict["hashes"]["current"]) == (True, sha256)
    store.revert(sha256=sha256)  # what it was found better than is taken back
    with pytest.raises(StaleVerdict, match=f"judged against {sha256[:8]}, the base alone drives now"):
        promote_candidate(root)
    assert store.current() is None

    def trained(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is judged, not trained")

    monkeypatch.setattr(learning, "train_adapter", trained)
    outcome = loop(other).round()
    assert (outcome.phase, outcome.version_id) == ("promoted", held.version_id)
    assert outcome.verdict is not None
    assert outcome.verdict["hashes"]["current"] == ""
    assert (store.get(held.version_id).path / "verdict.stale.json").is_file()


def test_bytes_that_changed_after_the_verdict_are_not_promoted(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    outcome = loop(root).round(hold=True)
    weights = AdapterStore(root.layout).get(outcome.version_id).path / "calibration.json"
    weights.write_bytes(weights.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(PromotionRefused, match="changed after staging"):
        promote_candidate(root)
    assert AdapterStore(root.layout).current() is None


def test_a_proven_candidate_whose_promotion_never_came_is_promoted_by_the_next_round(
    brain: Brain, evidence: Evidences
) -> None:
    root = brain()
    held = loop(root).round(hold=True)
    outcome = loop(root).round()
    assert (outcome.phase, outcome.version_id) == ("promoted", held.version_id)
    current = AdapterStore(root.layout).current()
    assert current is not None
    assert current.version_id == held.version_id


def test_a_candidate_whose_judging_was_cut_short_is_judged_and_not_trained_again(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    gathered, trained = judging.gather_evidence, learning.train_adapter

    def interrupted(*_: Any, **__: Any) -> Any:
        raise SystemExit(130)

    monkeypatch.setattr(judging, "gather_evidence", interrupted)
    with pytest.raises(SystemExit):
        loop(root).round()
    monkeypatch.setattr(judging, "gather_evidence", gathered)
    candidate = AdapterStore(root.layout).candidate()
    assert candidate is not None
    monkeypatch.setattr(learning, "train_adapter", lambda *_a, **_k: pytest.fail("it trained"))
    outcome = loop(root).round(hold=True)
    assert (outcome.phase, outcome.version_id) == ("judged", candidate.version_id)
    assert outcome.training["steps"] == 3
    # Judged, it stands; other settings, or bytes that changed, are a job of their own.
    monkeypatch.setattr(learning, "train_adapter", trained)
    assert loop(root).round(hold=True, again=True).version_id != candidate.version_id


@pytest.mark.parametrize("change", ["settings", "bytes"])
def test_a_candidate_of_another_plan_is_not_gone_on_with(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    root = brain()
    gathered = judging.gather_evidence

    def interrupted(*_: Any, **__: Any) -> Any:
        raise SystemExit(130)

    monkeypatch.setattr(judging, "gather_evidence", interrupted)
    with pytest.raises(SystemExit):
        loop(root).round()
    monkeypatch.setattr(judging, "gather_evidence", gathered)
    candidate = AdapterStore(root.layout).candidate()
    assert candidate is not None
    if change == "bytes":
        weights = candidate.path / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    else:
        root = replace(root, config=root.config.with_overrides({"learning_rate": 0.002}))
    assert loop(root).round(hold=True).version_id != candidate.version_id


def test_episodes_of_a_candidate_that_was_never_judged_are_still_new(
    brain: Brain, evidence: Evidences
) -> None:
    root = brain()
    held = loop(root).round(hold=True)
    assert loop(root).new_episodes()[1] is False
    (
        AdapterStore(root.layout).get(held.version_id).path / "verdict.json"
    ).unlink()  # as SIGKILL while judging
    assert loop(root).new_episodes()[1] is True


def test_a_damaged_card_does_not_stop_the_learning(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    held = loop(root).round(hold=True)
    card = AdapterStore(root.layout).get(held.version_id).path / "card.json"
    card.write_bytes(card.read_bytes()[:100])
    assert loop(root).new_episodes()[1] is True


def test_promoting_without_a_candidate_says_what_to_do(brain: Brain) -> None:
    with pytest.raises(BrainError, match="no candidate") as caught:
        promote_candidate(brain())
    assert "train" in caught.value.remedy
