"""Learning goes on when config.json asks for other layers or another rank: on top, or anew with the reason told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cli.train import trained_text
from continuonbrain.errors import BrainError
from continuonbrain.loops.slow import SlowLoop
from continuonbrain.model.plain_lora import read_plain
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.storage.adapters import AdapterStore
from tests.loops.sidecar import Brain, Evidences, card, docked, outcomes

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_other_lora_layers_begin_anew_and_the_remedies_work(
    slow_brain: Brain, evidence: Evidences, twelve_lessons: Path
) -> None:
    """A real root: learned, consolidated, then lora_layers changed in config.json, forth and back."""
    root = slow_brain()
    assert docked(root).round().phase == "promoted"
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    wide = root
    fewer = BrainRoot(root.layout, root.config.with_overrides({"lora_layers": ["q_proj", "o_proj"]}))

    def drives() -> set[str]:
        return read_plain(AdapterStore(root.layout).find("current").path).modules

    before = drives()
    missing = sorted(before - {"q_proj", "o_proj"})
    assert {"gate_proj", "up_proj"} < set(missing)
    shutil.copytree(
        list_episodes(twelve_lessons)[8], root.layout.episodes_dir / list_episodes(twelve_lessons)[8].name
    )
    outcome = docked(fewer).round()
    assert outcome.phase == "promoted", outcome.detail
    why = outcome.training["anew"]
    for part in (
        str(root.layout.config_path),
        "lora_layers = [q_proj, o_proj]",
        ", ".join(missing),
    ):
        assert part in why
    assert f"from the base on all lessons ({why})" in trained_text(outcome.training)
    assert drives() == {"q_proj", "o_proj"}
    told = card(root)
    assert (told["anew"], "slow" in told) == (why, False)
    assert len(told["considered"]) == 9
    assert outcomes(SlowLoop(docked(fewer)).round())["consolidate"] == "done"

    # More of them on top of fewer: nothing stands in the way.
    shutil.copytree(
        list_episodes(twelve_lessons)[9], root.layout.episodes_dir / list_episodes(twelve_lessons)[9].name
    )
    outcome = docked(wide).round()
    assert outcome.phase == "promoted", outcome.detail
    assert "anew" not in outcome.training
    assert drives() == before

    # What drives cannot be folded into fewer; the error says what to do, and both ways of doing it work.
    failed = SlowLoop(docked(fewer)).round().part("consolidate")
    assert failed is not None
    assert failed.outcome == "failed"
    assert f"lora_layers = [q_proj, o_proj] leaves out {', '.join(missing)}" in failed.detail
    assert "train --again" in failed.detail
    assert docked(fewer).round(again=True).phase == "promoted"
    assert outcomes(SlowLoop(docked(fewer)).round())["consolidate"] == "done"
    assert docked(wide).round(again=True).phase == "promoted"
    assert outcomes(SlowLoop(docked(wide)).round())["consolidate"] == "done"


def test_another_rank_is_learned_on_top_where_there_is_room(
    slow_brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = slow_brain()
    docked(root).round()
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    for rank in (3, 1):
        other = BrainRoot(root.layout, root.config.with_overrides({"training.rank": rank}))
        assert docked(other).round(again=True).phase == "promoted"
        assert read_plain(AdapterStore(root.layout).find("current").path).rank == 2 + rank
    monkeypatch.setattr("continuonbrain.loops.two_adapters.largest_rank", lambda *_: 2)
    outcome = docked(other).round(again=True)  # both of the new ones would fit, not one on top of the old one
    assert outcome.phase == "promoted"
    assert "training.rank = 1 on top of rank 2" in outcome.training["anew"]
    assert str(root.layout.config_path) in outcome.training["anew"]
    assert read_plain(AdapterStore(root.layout).find("current").path).rank == 1


def test_layers_that_cannot_be_trained_name_file_and_field(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain(lora_layers=["k_proj"])
    with pytest.raises(BrainError, match=r"config\.json: lora_layers: 'k_proj' cannot be trained") as refused:
        docked(root).round()
    assert "q_proj" in refused.value.remedy
