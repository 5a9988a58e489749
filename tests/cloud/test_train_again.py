"""What a run that was begun finds on the disk when it is asked for again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.train import train
from continuonbrain.storage.content_hash import sha256_of_json

from .conftest import Enough, enough
from .driving import Given, asked, robot_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("no_workers")]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return robot_of(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def first(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that was begun has left."""
    out = tmp_path_factory.mktemp("first") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("continuonbrain.cloud_train.launch.run_workers", enough)
        begun(given, out)
    return out


@pytest.fixture
def out(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "out"))


def begun(given: Given, out: Path) -> tuple[bytes, list[str]]:
    """`prepared.json` after a run, and what the run said."""
    said: list[str] = []
    with pytest.raises(Enough):
        train(asked(given, out), said.append)
    return (out / "unfinished" / "prepared.json").read_bytes(), said


def _gain(value: float) -> Callable[[Any], None]:
    def change(paper: Any) -> None:
        (calibration,) = paper["prepared"]["calibrations"].values()
        calibration["steering_gain"] = value

    return change


def _set(name: str, value: Any) -> Callable[[Any], None]:
    def change(paper: Any) -> None:
        paper["prepared"][name] = value

    return change


def _resealed(paper: Any) -> None:
    paper["prepared"]["calibrations"] = []
    paper["prepared_sha256"] = sha256_of_json(paper["prepared"])


@pytest.mark.parametrize(
    "change",
    [
        _gain(1.5),
        _gain(40.0),
        _set("robot_of", [7]),
        _set("held_out", []),
        _set("calibrations", []),
        _resealed,
        lambda paper: paper.pop("prepared_sha256"),
    ],
)
def test_what_was_prepared_is_believed_as_it_was_written_only(
    given: Given, out: Path, change: Callable[[Any], None]
) -> None:
    """A robot's calibration goes on to it from here."""
    path = out / "unfinished" / "prepared.json"
    written = path.read_bytes()
    paper = json.loads(written)
    change(paper)
    path.write_text(json.dumps(paper))
    again, said = begun(given, out)
    assert again == written
    assert "are not those that were written there" in " ".join(said)


@pytest.mark.parametrize(
    "garbage", [b"", b"[]", b"\xff", b'{"prepared": NaN}', b"[" * 100_000 + b"]" * 100_000]
)
def test_garbage_instead_of_what_was_prepared_is_prepared_again(
    given: Given, out: Path, garbage: bytes
) -> None:
    path = out / "unfinished" / "prepared.json"
    written = path.read_bytes()
    path.write_bytes(garbage)
    again, said = begun(given, out)
    assert again == written
    assert "are not those that were written there" in " ".join(said)


def test_an_unfinished_training_is_gone_on_with_if_it_is_the_same(given: Given, out: Path) -> None:
    _, said = begun(given, out)
    assert "decoding pictures" not in said
    with pytest.raises(TrainRefused, match="unfinished training of other bundles"):
        train(asked(given, out, recipe={"steps": 7}))
