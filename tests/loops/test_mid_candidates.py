"""What a candidate of the sidecar is made of: its reflex head, the engine that judges it, where it came from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops import judging, reflex_stage
from continuonbrain.loops.promotion import promote_candidate
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex
from continuonbrain.storage.adapters import AdapterStore, PromotionRefused
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys
from continuonbrain.trainer.evidence import Evidence
from continuonbrain.trainer.reflex_job import TaughtReflex
from tests.loops.sidecar import Brain, Evidences, loop, make_brain

pytestmark = pytest.mark.usefixtures("torch_threads")


# ------------------------------------------------------------------------------ the reflex head


@pytest.fixture
def headed(tmp_path: Path, untrained_base: Path, taught: Path) -> Brain:
    """As `brain`, with a base that has a reflex head."""
    base = tmp_path / "base"
    shutil.copytree(untrained_base, base)
    shutil.copy(tiny_base_folder() / REFLEX_FILE, base)
    return lambda **changes: make_brain(tmp_path / "brain", base, taught, **changes)


def head_of(root: BrainRoot, version_id: str) -> Reflex | None:
    return Reflex.of_folder(root.layout.versions_dir / version_id)


@pytest.mark.usefixtures("evidence")
def test_the_adapter_travels_with_a_head_that_the_same_lessons_taught(headed: Brain) -> None:
    root = headed(**{"training.reflex_steps": 4})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "judged"
    head = head_of(root, outcome.version_id)
    assert head is not None
    assert head.sha256 != Reflex.from_file(tiny_base_folder() / REFLEX_FILE).sha256
    version = AdapterStore(root.layout).candidate()
    assert version is not None
    card = version.card()
    assert card is not None
    assert len(card["reflex_losses"]) == card["training"]["reflex_steps"] == 4
    assert card["training"]["wall_s"] >= card["training"]["reflex_s"] > 0
    assert {c["name"] for c in outcome.verdict["checks"]} >= {"reflex", "slow_completion", "slow_following"}
    # A head that was changed after the verdict is another adapter.
    path = version.path / REFLEX_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert version.compute_sha256() != outcome.verdict["candidate_sha256"]


@pytest.mark.usefixtures("evidence")
def test_no_steps_for_the_head_mean_no_head_and_no_reproach(headed: Brain) -> None:
    root = headed(**{"training.reflex_steps": 0})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "judged"
    assert head_of(root, outcome.version_id) is None


@pytest.mark.usefixtures("evidence")
def test_a_head_that_came_to_nothing_is_missed_by_the_verdict(
    headed: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        reflex_stage, "teach_reflex", lambda *_a, **_k: TaughtReflex(b"", [], 0.1, "loss not finite")
    )
    root = headed(**{"training.reflex_steps": 4})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "refused"
    assert outcome.verdict["reason"].startswith("reflex:")


@pytest.mark.usefixtures("evidence")
def test_a_head_that_had_no_time_is_told_before_minutes_of_judging(
    headed: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        reflex_stage, "teach_reflex", lambda *_a, **_k: TaughtReflex(b"", [], 0.1, "wall time")
    )
    root = headed(**{"training.reflex_steps": 4})
    mid = loop(root)
    with pytest.raises(BrainError, match="wall time") as told:
        mid.round(hold=True)
    assert "max_wall_time_s" in (told.value.remedy or "")
    assert AdapterStore(root.layout).candidate() is None
    assert root.layout.training_state_path.exists()  # the adapter's steps are not lost
    assert mid.status.phase == "failed"


def test_a_refusal_names_the_time_that_was_too_short(
    headed: Brain, monkeypatch: pytest.MonkeyPatch, evidence: Evidences
) -> None:
    real = reflex_stage.teach_reflex

    def hasty(*args: Any, **more: Any) -> TaughtReflex:
        return replace(real(*args, **more), ended="wall time")

    monkeypatch.setattr(reflex_stage, "teach_reflex", hasty)
    root = headed(**{"training.reflex_steps": 4, "promotion.avg_action_delta_threshold": 0.01})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "refused"
    assert "the reflex head made 4 of 4 steps within max_wall_time_s" in outcome.verdict["reason"]


@pytest.mark.parametrize(("engine", "name"), [("torch", "TorchEngine"), ("auto", "LiteRTEngine")])
def test_the_engine_that_will_serve_judges_the_bytes(
    tmp_path: Path, taught: Path, evidence: Evidences, monkeypatch: pytest.MonkeyPatch, engine: str, name: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    root = make_brain(
        tmp_path / "b", tiny_base_folder(), taught, **{"policy.engine": engine, "training.reflex_steps": 0}
    )
    monkeypatch.setattr("continuonbrain.loops.learning._REPLAY_STATES", 32)  # enough to be mixed in
    gathered = judging.gather_evidence
    judges: list[Any] = []

    def seen(judge: Any, **rest: Any) -> Evidence:
        judges.append(judge)
        candidate = rest["candidate"]
        judge.use_adapter(candidate.folder, sha256=candidate.sha256)  # it reads what was staged
        return gathered(judge, **rest)

    monkeypatch.setattr(judging, "gather_evidence", seen)
    outcome = loop(root).round(hold=True)
    assert [type(judge).__name__ for judge in judges] == [name]
    assert judges[0].adapter_sha256 == outcome.verdict["candidate_sha256"]


# ------------------------------------------------------------------------------ what came from elsewhere


def trusted(root: BrainRoot) -> str:
    """A key that this brain trusts."""
    key = PrivateKeys(root.layout).new("shop")
    TrustedKeys(root.layout).trust(key)
    return key.key_id


def test_a_candidate_of_a_revoked_key_is_neither_judged_nor_promoted(
    brain: Brain, evidence: Evidences
) -> None:
    root = brain(**{"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0})
    key_id = trusted(root)
    store = AdapterStore(root.layout)
    own = loop(root).round(hold=True)
    assert own.phase == "judged"
    foreign = store.get(own.version_id)
    card = (foreign.card() or {}) | {"origin": {}, "imported": {"key_id": key_id}}
    store.attach(foreign, "card.json", json.dumps(card).encode())
    TrustedKeys(root.layout).revoke(key_id)
    with pytest.raises(PromotionRefused, match="not trusted"):
        promote_candidate(root)
    learned = loop(root).round()
    assert learned.version_id != foreign.version_id, "it learns for itself"
    current = store.current()
    assert current is not None
    assert current.version_id == learned.version_id


def test_a_candidate_from_elsewhere_is_judged_here_once_and_promoted_on_that(
    brain: Brain, evidence: Evidences
) -> None:
    root = brain(**{"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0})
    own = loop(root).round()
    assert own.phase == "promoted"
    store = AdapterStore(root.layout)
    folder = store.get(own.version_id).path
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".safetensors", ".pt")}
    config = json.loads((folder / "adapter_config.json").read_bytes()) | {"lora_dropout": 0.25}
    files |= {
        "adapter_config.json": json.dumps(config).encode(),
        "calibration.json": (folder / "calibration.json").read_bytes(),
        "card.json": b'{"origin": {}, "imported": {"key_id": "%s"}}' % trusted(root).encode(),
    }
    foreign = store.stage(files)
    assert foreign.verdict() is None
    judged = loop(root).round()
    assert (judged.phase, judged.version_id) == ("promoted", foreign.version_id)
    assert foreign.verdict() is not None
    current = store.current()
    assert current is not None
    assert current.version_id == foreign.version_id
    after = loop(root).round()
    assert (after.phase, after.nothing_new) == ("waiting", True), (
        "its episodes were learned from before it came"
    )


def test_a_candidate_from_elsewhere_that_fails_does_not_drive(brain: Brain) -> None:
    root = brain(**{"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0})
    store = AdapterStore(root.layout)
    foreign = store.stage(
        {
            "adapter_model.safetensors": b"no weights",
            "adapter_config.json": b"{}",
            "card.json": b'{"origin": {}, "imported": {"key_id": "%s"}}' % trusted(root).encode(),
        }
    )
    outcome = loop(root).round()
    assert (outcome.phase, outcome.version_id) == ("refused", foreign.version_id)
    assert outcome.detail.startswith("loads")
    assert store.current() is None
