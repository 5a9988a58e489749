"""`continuonbrain adapters`: what list, show and rollback print and do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from continuonbrain.cli.adapters import app
from continuonbrain.errors import BrainError
from continuonbrain.loops.notices import NoticeAnswer
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Evidence, HeldOut, Imitation, Sources
from continuonbrain.trainer.verdict import judge

BASE = "b2" * 32


def promoted(store: AdapterStore, tag: str) -> AdapterVersion:
    version = store.stage(
        {
            "adapter_model.safetensors": tag.encode(),
            "adapter_config.json": b"{}",
            "card.json": json.dumps(
                {"episodes": ["e1", "e2"], "training": {"steps": 300}, "held_out": []}
            ).encode(),
        }
    )
    verdict = {
        "passed": True,
        "candidate_sha256": version.compute_sha256(),
        "base_sha256": BASE,
        "checks": [
            {"name": "completion", "value": 0.98765, "threshold": 0.5, "passed": True, "meaning": "drives on"}
        ],
    }
    return store.promote(version.version_id, verdict, base_sha256=BASE)


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    return init_brain_root(tmp_path / "brain", "sim-donkey")


def call(layout: BrainLayout, *args: str) -> str:
    result = CliRunner().invoke(app, [*args, "--root", str(layout.root)], env={"COLUMNS": "200"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_list_shows_each_adapter_with_its_slot_and_verdict(layout: BrainLayout) -> None:
    store = AdapterStore(layout)
    first, second = promoted(store, "a"), promoted(store, "b")
    rows = json.loads(call(layout, "list", "--json"))["adapters"]
    assert [(row["id"], row["slot"], row["verdict"], row["trained_on"]) for row in rows] == [
        (first.version_id, "previous", "passed", "2 episodes"),
        (second.version_id, "current", "passed", "2 episodes"),
    ]
    assert second.version_id in call(layout, "list")


def test_list_tells_a_tampered_history(layout: BrainLayout) -> None:
    promoted(AdapterStore(layout), "a")
    layout.history_path.write_text(layout.history_path.read_text().replace("promote", "promoted"))
    assert "line 1 was changed" in call(layout, "list")


def test_show_prints_card_and_verdict(layout: BrainLayout) -> None:
    version = promoted(AdapterStore(layout), "a")
    output = call(layout, "show")
    for expected in (version.version_id, "training.steps", "300", "e1, e2", "none", "completion", "0.9877"):
        assert expected in output
    assert json.loads(call(layout, "show", version.version_id, "--json"))["whole"] is True


def test_show_prints_estimate_interval_threshold_n_and_hashes_within_100_columns(layout: BrainLayout) -> None:
    store = AdapterStore(layout)
    version = store.stage({"adapter_model.safetensors": b"a", "adapter_config.json": b"{}"})
    names = (
        "candidate",
        "base",
        "evaluation",
        "current",
        "reflex",
        "safety_head",
        "held_out",
        "course",
        "replay",
    )
    evidence = Evidence(
        candidate_sha256="c" * 64,
        base_sha256=BASE,
        evaluation_sha256="e" * 64,
        held_out_steps=600,
        difference=0.2,
        held=HeldOut((0, 1, 2, 3), (150.0,) * 4, (0.1, 0.11, 0.1, 0.12), (0.3, 0.29, 0.3, 0.32), (0.4,) * 4),
        candidate=Imitation(0.1075, 0.1),
        current=Imitation(0.3025, 0.1),
        sources=Sources(engine="litert fp32", bundle_sha256="d" * 64, versions={"numpy": "2.0"}),
    )
    verdict = judge(evidence, Rules()).to_json()
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    result = CliRunner().invoke(
        app, ["show", "candidate", "--root", str(layout.root)], env={"COLUMNS": "100"}
    )
    lines = result.output.splitlines()
    assert max(len(line) for line in lines[lines.index(next(s for s in lines if "verdict" in s)) :]) <= 100
    for expected in ("imitation_steering", "-0.6446", "95% interval", "0.02 (0.1)", "4 episodes", "d" * 16):
        assert expected in result.output
    for expected in ("litert fp32", "numpy 2.0", *(n.replace("_", " ") for n in names)):
        assert expected in result.output
    printed = json.loads(call(layout, "show", "candidate", "--json"))["verdict"]
    assert printed == verdict
    assert set(names) <= printed["hashes"].keys()


def test_show_tells_a_damaged_adapter(layout: BrainLayout) -> None:
    version = promoted(AdapterStore(layout), "a")
    (version.path / "adapter_model.safetensors").write_bytes(b"bit rot")
    assert "damaged" in call(layout, "show")


def test_rollback_swaps_and_touches_the_manifest(layout: BrainLayout) -> None:
    store = AdapterStore(layout)
    first, second = promoted(store, "a"), promoted(store, "b")
    layout.manifest_path.unlink()
    moved = json.loads(call(layout, "rollback", "--json"))
    assert (moved["from"], moved["to"]) == (second.version_id, first.version_id)
    assert moved["noticed"] is False  # no brain runs here
    assert store.current() == first
    assert layout.manifest_path.exists()


def test_rollback_ends_with_1_when_the_running_brain_refuses(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AdapterStore(layout)
    promoted(store, "a"), promoted(store, "b")
    layout.policy_socket.parent.mkdir(exist_ok=True)
    layout.policy_socket.touch()
    refused = NoticeAnswer(True, True, False, "it is damaged")
    monkeypatch.setattr("continuonbrain.loops.promotion.ask_notice", lambda *_a, **_k: refused)
    result = CliRunner().invoke(app, ["rollback", "--root", str(layout.root)])
    assert result.exit_code == 1
    assert "the running brain refused it: it is damaged" in result.output


def test_a_slot_that_is_empty_is_told(layout: BrainLayout) -> None:
    with pytest.raises(BrainError, match="no candidate adapter"):
        call(layout, "show", "candidate")


def test_promote_does_as_the_sidecar_does_and_refuses_without_a_verdict(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain.loops import promotion

    monkeypatch.setattr(promotion, "checkpoint_sha256", lambda _folder: BASE)
    with pytest.raises(BrainError, match="no candidate"):
        call(layout, "promote")
    store = AdapterStore(layout)
    version = store.stage({"adapter_model.safetensors": b"a", "adapter_config.json": b"{}"})
    with pytest.raises(BrainError, match="verdict"):
        call(layout, "promote")
    assert store.current() is None
    verdict = {"passed": True, "candidate_sha256": version.compute_sha256(), "base_sha256": BASE}
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    told = json.loads(call(layout, "promote", "--json"))
    assert (told["to"], told["noticed"]) == (version.version_id, False)
    current = store.current()
    assert current is not None
    assert current.version_id == version.version_id
    assert layout.announced_path.exists()
