"""Claims about `continuonbrain model`: the defaults build the recipe as it stands, and a base's card is readable."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from continuonbrain.cli.model import app  # noqa: E402
from continuonbrain.model.base_identity import BaseModelError, base_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.trainer import build_tiny  # noqa: E402
from continuonbrain.trainer.build_reflex import ReflexRecipe  # noqa: E402
from continuonbrain.trainer.build_tiny import Recipe  # noqa: E402


@pytest.mark.parametrize(
    ("arguments", "recipe"),
    [
        ([], Recipe()),
        (["--seed", "3", "--chunks", "2", "--trunk-chunks", "1"], Recipe(seed=3, chunks=2, trunk_chunks=1)),
        (["--shared-layers", "6"], Recipe(shared_layers=6)),
        (["--reflex-chunks", "7"], Recipe(reflex=ReflexRecipe(chunks=7))),
    ],
)
def test_build_tiny_builds_the_recipe_asked_for(
    arguments: list[str], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Recipe] = []

    def build(out: Path, asked: Recipe, report: Any) -> dict[str, Any]:
        built.append(asked)
        report("model", 1, 2, 0.5)
        return {"parameters": 1, "scores": {}}

    monkeypatch.setattr(build_tiny, "build_tiny", build)
    result = CliRunner().invoke(app, ["build-tiny", str(tmp_path / "base"), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert built == [recipe]


def test_the_card_of_the_shipped_base_names_what_the_recipe_is_now() -> None:
    result = CliRunner().invoke(app, ["show", "--json"])
    shown = json.loads(result.output)
    assert shown["sha256"] == base_sha256(tiny_base_folder())
    recipe, now = shown["card"]["recipe"], Recipe()
    assert recipe == {key: getattr(now, key) for key in recipe}
    assert shown["card"]["scores"]["completion"] >= 0.95
    head = shown["card"]["reflex"]
    assert head["recipe"] == asdict(ReflexRecipe())
    for slow in ("0.75", "1.5"):
        assert head["scores"][f"reflex_at_{slow}_s"]["completion"] >= 0.95


def test_an_adapter_shown_as_a_base_says_where_adapters_are_shown(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    result = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert isinstance(result.exception, BaseModelError)
    assert "adapters show" in result.exception.remedy


def test_a_card_is_shown_in_words() -> None:
    result = CliRunner().invoke(app, ["show"])
    card = json.loads((tiny_base_folder() / "card.json").read_text())
    assert f"{card['parameters']:,}" in result.output
    assert "{" not in result.output
