"""Which engine a config opens."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert")

from continuonbrain.config import PolicyConfig
from continuonbrain.policy import open_engine as room
from continuonbrain.policy.open_engine import engine_name


def test_litert_where_its_bundle_is_and_torch_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serving" / "int8").mkdir(parents=True)
    assert engine_name(tmp_path, PolicyConfig()) == "torch"
    assert engine_name(tmp_path, PolicyConfig(precision="int8")) == "litert"
    assert engine_name(tmp_path, PolicyConfig(engine="litert")) == "litert"  # and it will say what is missing
    assert engine_name(tmp_path, PolicyConfig(engine="torch", precision="int8")) == "torch"
    monkeypatch.setattr(room, "find_spec", lambda _name: None)
    assert engine_name(tmp_path, PolicyConfig(precision="int8")) == "torch"
