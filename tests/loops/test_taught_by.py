"""What became of an episode: nothing is learned before a verdict, and what drives counts most."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.small_verdict import judged
from continuonbrain.loops.taught_by import fates
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root

BASE = "ba5e" * 16


def test_an_episode_is_learned_when_its_adapter_has_passed(tmp_path: Path) -> None:
    store = AdapterStore(init_brain_root(tmp_path / "b", "sim-donkey"))
    assert fates(store) == {}
    files = dict.fromkeys(("adapter_model.safetensors", "adapter_config.json", "calibration.json"), b"{}")
    version = store.stage(files)
    store.attach(version, "card.json", json.dumps({"episodes": ["a", "b"], "considered": ["c"]}).encode())
    assert fates(store) == {"a": "unjudged", "b": "unjudged"}
    verdict = judged(version, BASE)
    store.attach(version, "verdict.json", json.dumps({**verdict, "passed": False}).encode())
    assert set(fates(store).values()) == {"refused"}
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    assert set(fates(store).values()) == {"passed"}
    store.promote(version.version_id, verdict, base_sha256=BASE)
    assert set(fates(store).values()) == {"drives"}
    other = store.stage({**files, "calibration.json": b"[]"})
    store.attach(other, "card.json", json.dumps({"episodes": ["b", "d"]}).encode())
    assert fates(store) == {"a": "drives", "b": "drives", "d": "unjudged"}
    store.rollback()
    assert fates(store) == {"a": "passed", "b": "passed", "d": "unjudged"}
