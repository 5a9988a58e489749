"""Whose servo's calibration goes along when an adapter is fitted for a robot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.cloud_train.fit_folder import fit_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.pseudonyms import pseudonyms_of
from tests.loops.attacked import adapter_files

from .conftest import new_root
from .driving import BASE

pytestmark = pytest.mark.slow
OTHER = "robot-0123456789abcdef"
SENT = Calibration(steering_gain=-0.8).to_json()


def fitted(
    folder: Path, robot: Path, card: dict[str, Any] | None
) -> tuple[dict[str, Any], set[str], dict[str, Any]]:
    """What was told, which files there are, and the card, of an adapter with this one."""
    source = folder / "trained"
    source.mkdir()
    for name, data in (adapter_files() | {"calibration.json": SENT}).items():
        (source / name).write_bytes(data)
    if card is not None:
        (source / "card.json").write_text(json.dumps(card))
    told = fit_folder(source, robot, out=folder / "fitted", base=BASE, elsewhere="refuse")
    return (
        told,
        {p.name for p in (folder / "fitted").iterdir()},
        json.loads((folder / "fitted" / "card.json").read_bytes()),
    )


def test_the_robots_own_calibration_goes_along(tmp_path: Path) -> None:
    brain = new_root(tmp_path / "robot")
    own = pseudonyms_of(brain.layout).root
    told, names, card = fitted(tmp_path, brain.layout.root, {"calibration_of": own})
    assert "calibration.json" in names
    assert (tmp_path / "fitted" / "calibration.json").read_bytes() == SENT
    assert (told["with"], told["calibration"], card["calibration_of"]) == (["calibration.json"], "", own)


@pytest.mark.parametrize("card", [{"calibration_of": OTHER}, {"calibration_of": None}, {}, None])
@pytest.mark.parametrize("known", ["a robot with a name", "a robot without", "its settings"])
def test_another_robots_calibration_stays_behind_and_the_card_says_so(
    tmp_path: Path, card: dict[str, Any] | None, known: str
) -> None:
    root = new_root(tmp_path / "robot").layout
    if known == "a robot with a name":
        pseudonyms_of(root)
    robot = root.config_path if known == "its settings" else root.root
    told, names, found = fitted(tmp_path, robot, card)
    assert "calibration.json" not in names
    assert told["with"] == []
    why = (
        f"it is of {OTHER}, not" if card == {"calibration_of": OTHER} else "its card does not say that it is"
    )
    assert told["calibration"] == f"left out, as {why} of this robot"
    assert found["calibration_of"] is None
    assert found["fit"]["calibration"] == told["calibration"]
