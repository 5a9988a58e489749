"""The memory stays within its limits, and keeps what an adapter's card names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.small_verdict import judged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cli.main import app
from continuonbrain.errors import BrainError
from continuonbrain.loops.memory import keep_within_limits
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.writer import EpisodeWriter
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.lock import LockHeldError, ProcessLock

BASE = "b2" * 32


def brain_with(tmp_path: Path, *, keep: str = "promoted", most: int = 3) -> BrainRoot:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    settings = json.loads(layout.config_path.read_text())
    settings |= {"min_episodes": 1, "max_episodes": most}
    settings["recorder"]["keep"] = keep
    layout.config_path.write_text(json.dumps(settings))
    for number in range(6):
        recorder = EpisodeRecorder(layout.episodes_dir, metadata=make_metadata_example(f"e{number}"))
        recorder.append(make_step_example(0))
        recorder.close()
    return open_brain(layout.root)


def promote(brain: BrainRoot, tag: str, **card: list[str]) -> None:
    store = AdapterStore(brain.layout)
    version = store.stage(
        {
            "adapter_model.safetensors": tag.encode(),
            "adapter_config.json": b"{}",
            "card.json": json.dumps(card).encode(),
        }
    )
    verdict = judged(version, BASE)
    store.promote(version.version_id, verdict, base_sha256=BASE)


def left(brain: BrainRoot) -> list[str]:
    return [path.name for path in list_episodes(brain.layout.episodes_dir)]


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        ("promoted", ["e0", "e2", "e4", "e5"]),
        ("current", ["e2", "e4", "e5"]),
        ("nothing", ["e3", "e4", "e5"]),
    ],
)
def test_what_a_promoted_adapters_card_names_stays_unless_told(
    tmp_path: Path, keep: str, stay: list[str]
) -> None:
    brain = brain_with(tmp_path, keep=keep)
    seen = json.dumps({"considered": [f"e{n}" for n in range(6)]}).encode()  # by one that was never promoted
    AdapterStore(brain.layout).stage(
        {"adapter_model.safetensors": b"x", "adapter_config.json": b"{}", "card.json": seen}
    )
    for number, card in enumerate(({"episodes": ["e0"]}, {"held_out": ["e4"]}, {"considered": ["e2", "e5"]})):
        promote(brain, str(number), **card)
    gone = keep_within_limits(brain)
    assert left(brain) == stay
    assert set(gone.episodes) == {f"e{n}" for n in range(6)} - set(stay)
    assert bool(gone.over) is (len(stay) > 3)
    assert keep_within_limits(brain).episodes == ()


@pytest.mark.parametrize("damaged", ["history", "card"])
def test_a_damaged_store_deletes_nothing(tmp_path: Path, damaged: str) -> None:
    brain = brain_with(tmp_path)
    promote(brain, "a", episodes=["e0"])
    history = brain.layout.history_path
    if damaged == "history":
        history.write_text(history.read_text().replace("promote", "promoted"))
    else:
        (brain.layout.current / "card.json").write_text("{")
    gone = left(brain)
    with pytest.raises(BrainError):
        keep_within_limits(brain)
    assert left(brain) == gone


def test_the_command_tells_before_it_does_and_waits_for_a_trainer(tmp_path: Path) -> None:
    brain = brain_with(tmp_path)

    def run(*options: str) -> dict[str, object]:
        result = CliRunner().invoke(
            app, ["episodes", "prune", "--root", str(brain.layout.root), "--json", *options]
        )
        if result.exception is not None:
            raise result.exception
        told: dict[str, object] = json.loads(result.output)
        return told

    assert run("--dry-run")["episodes"] == ["e0", "e1", "e2"]
    assert len(left(brain)) == 6
    with (
        ProcessLock(brain.layout.trainer_lock_path, purpose="test"),
        pytest.raises(LockHeldError),
    ):
        run()
    assert run()["episodes"] == ["e0", "e1", "e2"]
    assert left(brain) == ["e3", "e4", "e5"]


def test_a_quota_of_bytes_counts_and_imported_episodes_stay(tmp_path: Path) -> None:
    brain = brain_with(tmp_path, most=100)
    with EpisodeWriter(
        brain.layout.episodes_dir, metadata=make_metadata_example("a-tub"), closed_by="import"
    ) as imported:
        imported.write(make_step_example(0))
    (imported.path / "blobs" / "filler").write_bytes(bytes(3 << 20))
    filler = brain.layout.episodes_dir / "e1" / "blobs" / "filler"
    filler.write_bytes(bytes(17 << 20))
    settings = json.loads(brain.layout.config_path.read_text())
    settings["recorder"]["quota_mib"] = 16
    brain.layout.config_path.write_text(json.dumps(settings))
    gone = keep_within_limits(open_brain(brain.layout.root))
    assert gone.episodes == ("e0", "e1")  # oldest first, until it fits
    assert left(brain) == ["a-tub", "e2", "e3", "e4", "e5"]
