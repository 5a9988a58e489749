"""`continuonbrain adapters`: what list, show and rollback print and do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.small_verdict import judged
from continuonbrain.cli.adapters import app
from continuonbrain.cli.doctor_brain import check_history
from continuonbrain.errors import BrainError
from continuonbrain.loops.notices import NoticeAnswer
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import DrivingRecord, write_record
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.probation_rule import Terms
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
    verdict = judged(version, BASE) | {
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
    assert "drives on" not in output
    assert "drives on" in call(layout, "show", "--full")


def test_show_prints_estimate_interval_threshold_n_and_hashes_within_80_columns(layout: BrainLayout) -> None:
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
        held=HeldOut(
            (0, 1, 2, 3),
            (150.0,) * 4,
            (0.1, 0.11, 0.1, 0.12),
            (0.3, 0.29, 0.3, 0.32),
            (0.4,) * 4,
            speed_candidate=(0.03,) * 4,
            speed_current=(0.03,) * 4,
        ),
        candidate=Imitation(0.1075, 0.1),
        current=Imitation(0.3025, 0.1),
        sources=Sources(engine="litert fp32", bundle_sha256="d" * 64, versions={"numpy": "2.0"}),
    )
    verdict = judge(evidence, Rules()).to_json()
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    result = CliRunner().invoke(app, ["show", "candidate", "--root", str(layout.root)], env={"COLUMNS": "80"})
    lines = result.output.splitlines()
    assert max(len(line) for line in lines[lines.index(next(s for s in lines if "verdict" in s)) : -1]) <= 80
    assert "…" not in result.output
    assert "--full" in lines[-1]
    for expected in ("imitation_steering", "-0.6446", "95% interval", "0.02 (0.1)", "4 episodes", "d" * 12):
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
    verdict = judged(version, BASE)
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    told = json.loads(call(layout, "promote", "--json"))
    assert (told["to"], told["noticed"]) == (version.version_id, False)
    current = store.current()
    assert current is not None
    assert current.version_id == version.version_id
    assert layout.announced_path.exists()


TERMS = Terms(400, 0.0, boot_id())


def on_probation(layout: BrainLayout, tag: str) -> AdapterVersion:
    store = AdapterStore(layout)
    version = store.stage({"adapter_model.safetensors": tag.encode(), "adapter_config.json": b"{}"})
    verdict = judged(version, BASE)
    return store.promote(version.version_id, verdict, base_sha256=BASE, terms=TERMS)


def test_list_and_show_say_how_far_the_probation_is_and_what_came_of_it(layout: BrainLayout) -> None:
    version = on_probation(layout, "a")
    record = DrivingRecord(ticks=120, seconds=6.0, incidents={"correction": 2})
    write_record(layout.driving_dir, version.compute_sha256(), record)
    for output in (call(layout, "list"), call(layout, "show")):
        assert "on probation: 120 of 400 ticks, 2 x correction" in output
    told = json.loads(call(layout, "list", "--json"))["probation"]
    assert (told["state"], told["ticks"], told["of_ticks"]) == ("probation", 120, 400)
    AdapterStore(layout).revert(sha256=version.compute_sha256(), about={"words": "off_road: 3 in 6 s"})
    (row,) = json.loads(call(layout, "list", "--json"))["adapters"]
    assert row["fate"] == "taken back (off_road: 3 in 6 s)"
    assert "taken back" in call(layout, "show", version.version_id)


def test_confirm_by_hand_ends_the_probation(layout: BrainLayout) -> None:
    version = on_probation(layout, "a")
    assert json.loads(call(layout, "confirm", "--json"))["confirmed"] == version.version_id
    assert "confirmed (by_hand)" in call(layout, "list")
    with pytest.raises(BrainError, match="no adapter is on probation"):
        call(layout, "confirm")


def test_what_was_taken_back_by_hand_is_promoted_only_with_again(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain.loops import promotion

    monkeypatch.setattr(promotion, "checkpoint_sha256", lambda _folder: BASE)
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    version = on_probation(layout, "a")
    assert json.loads(call(layout, "rollback", "--json"))["to"] is None
    with pytest.raises(BrainError, match="taken back while on probation") as caught:
        call(layout, "promote", version.version_id)
    assert f"adapters promote {version.version_id} --again" in caught.value.remedy
    assert (
        json.loads(call(layout, "promote", version.version_id, "--again", "--json"))["to"]
        == version.version_id
    )
    assert "on probation" in call(layout, "list")


def test_the_doctor_names_the_broken_entry_of_the_history(layout: BrainLayout) -> None:
    for tag in "abc":
        promoted(AdapterStore(layout), tag)
    good = check_history(layout.root)
    assert (good.ok, good.value) == (True, "3 entries, the chain holds")
    lines = layout.history_path.read_text().splitlines()
    layout.history_path.write_text(
        "\n".join([lines[0], lines[1].replace("promote", "confirm"), lines[2]]) + "\n"
    )
    broken = check_history(layout.root)
    assert not broken.ok
    assert "line 2 was changed after it was written" in broken.value
    assert "1 entries before it are sound" in broken.value


def test_a_lost_adapter_is_told_and_a_rollback_helps(layout: BrainLayout) -> None:
    store = AdapterStore(layout)
    lost = promoted(store, "a")
    waiting = store.stage(
        {"adapter_model.safetensors": b"b", "adapter_config.json": b"{}", "card.json": b"{}"}
    )
    shutil.rmtree(lost.path)
    shutil.rmtree(waiting.path)
    told = " ".join(call(layout, "list").split())
    assert f"points at {lost.version_id}, which is gone" in told
    assert f"adapters rollback --root {layout.root}" in told
    assert f"remove the link {layout.candidate}" in told
    assert "no adapters yet" not in told
    assert len(json.loads(call(layout, "list", "--json"))["damaged"]) == 2
    assert f"rolled back from {lost.version_id} to the base" in call(layout, "rollback")
    layout.candidate.unlink()
    assert "no adapters yet" in call(layout, "list")


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("card.json", {"losses": 5}),
        ("card.json", {"losses": ["x"]}),
        ("card.json", {"losses": [None]}),
        ("verdict.json", {"checks": 5}),
        ("verdict.json", {"checks": [5]}),
        ("verdict.json", {"checks": [{}]}),
        ("verdict.json", {"checks": [{"name": "a", "value": "x", "threshold": 1, "passed": True}]}),
        ("verdict.json", {"evidence": 5}),
        ("verdict.json", {"hashes": [1]}),
    ],
)
def test_papers_of_another_shape_are_told_and_not_raised_through(
    layout: BrainLayout, name: str, paper: dict[str, Any]
) -> None:
    version = promoted(AdapterStore(layout), "a")
    (version.path / name).write_text(json.dumps(paper))
    assert f"{name.split('.')[0]} of {version.version_id} is not of this program's making" in call(
        layout, "show"
    )
    assert json.loads(call(layout, "show", "--json"))[name.split(".")[0]] == paper


def test_the_doctor_tells_of_a_current_that_the_history_does_not_name(layout: BrainLayout) -> None:
    store = AdapterStore(layout)
    first, second = promoted(store, "a"), promoted(store, "b")
    assert check_history(layout.root).ok
    layout.current.unlink()
    layout.current.symlink_to(f"versions/{first.version_id}")
    told = check_history(layout.root)
    assert not told.ok
    assert f"current names {first.version_id}, the history ends with {second.version_id}" in told.value


def test_a_rollback_to_what_is_lost_says_why_the_base_drives(layout: BrainLayout) -> None:
    store = AdapterStore(layout)
    first, second = promoted(store, "a"), promoted(store, "b")
    shutil.rmtree(first.path)
    told = call(layout, "rollback")
    assert f"from {second.version_id} to the base model alone, because {first.version_id}" in told
    assert json.loads(call(layout, "rollback", "--json")) | {"detail": "", "noticed": False} == {
        "from": None,
        "to": second.version_id,
        "instead_of": "",
        "noticed": False,
        "detail": "",
    }
