"""`episodes export`: what is taken, what is left out, and that nothing is written over or left half."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.flat import export_flat
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE, EpisodeWriter

RecordEpisode = Callable[..., Path]
FORMATS = [
    "tfds",
    "steps",
    "json",
    pytest.param("lerobot", marks=pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow")),
]


def _export(path: Path | str, out: Path, form: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["export", str(path), str(out), "--format", form, *more])


def _json(result: Result) -> Any:
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.mark.parametrize(("form", "suffix"), [("steps", ".tfrecord"), ("json", ".json")])
def test_names_with_dots_do_not_collide_and_nothing_is_written_over(
    form: str, suffix: str, tmp_path: Path, record: RecordEpisode
) -> None:
    memory = record(2, episode_id="run.1").parent
    record(3, episode_id="run.2")
    out = tmp_path / "out"
    assert _json(_export(memory, out, form, "--json"))["steps"] == 5
    names = {f"run.{n}{suffix}" for n in (1, 2)} | (
        {"run.1.frames", "run.2.frames"} if form == "json" else set()
    )
    assert set(os.listdir(out)) == names
    (out / f"run.1{suffix}").unlink()
    if form == "json":
        shutil.rmtree(out / "run.1.frames")
    kept = (out / f"run.2{suffix}").read_bytes()
    before = sorted(os.listdir(out))
    result = _export(memory, out, form)
    assert isinstance(result.exception, EpisodeError)
    assert "there already" in str(result.exception)
    assert sorted(os.listdir(out)) == before  # the one that is free was not written either
    assert (out / f"run.2{suffix}").read_bytes() == kept
    if form == "json":
        (out / "run.2.json").unlink()  # frames alone are not ours to remove either
        assert isinstance(_export(memory, out, form).exception, EpisodeError)
        assert len(os.listdir(out / "run.2.frames")) == 3


@pytest.mark.parametrize(("form", "suffix"), [("steps", ".tfrecord"), ("json", ".json")])
def test_the_episode_that_one_stands_in_has_its_name(
    form: str, suffix: str, tmp_path: Path, record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(record(2, episode_id="run.1"))
    assert _json(_export(".", tmp_path / "out", form, "--json"))["steps"] == 2
    assert (tmp_path / "out" / f"run.1{suffix}").is_file()


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_left_out_is_named_in_every_format(form: str, tmp_path: Path, record: RecordEpisode) -> None:
    memory = record(3, episode_id="whole").parent
    record(0, episode_id="empty")
    live = EpisodeWriter(memory, metadata=make_metadata_example("live"))
    dead = EpisodeWriter(memory, metadata=make_metadata_example("dead"))
    for writer in (live, dead):
        writer.write(make_step_example(0))
    dead.abandon()
    told = _json(_export(memory, tmp_path / "a", form, "--json"))
    assert (told["episodes"], told["steps"]) == (1, 3)
    reasons = {item["episode"]: item["reason"] for item in told["left_out"]}
    assert set(reasons) == {"dead", "empty", "live"}
    assert "never closed" in reasons["dead"]
    assert "being recorded" in reasons["live"]
    result = _export(memory, tmp_path / "b", form)
    assert result.exit_code == 0
    assert "left out, 3 episodes: dead: it was never closed" in result.output
    live.close()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("damage", ["torn", "metadata", "frame"])
def test_a_damaged_episode_is_refused_and_nothing_is_left(
    form: str, damage: str, tmp_path: Path, record: RecordEpisode
) -> None:
    memory = record(3, episode_id="a").parent
    hurt = record(3, episode_id="b")
    if damage == "torn":
        os.truncate(hurt / STEPS_FILE, (hurt / STEPS_FILE).stat().st_size - 9)
    elif damage == "metadata":
        (hurt / "metadata.json").unlink()
    elif form == "steps":
        pytest.skip("has no frames")
    else:
        data = bytearray((hurt / BLOB_FILE).read_bytes())
        data[-20] ^= 1
        (hurt / BLOB_FILE).write_bytes(data)
    result = _export(memory, tmp_path / "out", form)
    assert isinstance(result.exception, EpisodeError)
    assert str(hurt) in str(result.exception)
    assert "repair" in result.exception.remedy or damage == "frame"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


PROGRAM = """
import os, signal, sys
from pathlib import Path
from continuonbrain.rlds import flat
from continuonbrain.rlds.reader import open_episode
real = os.rename
def rename(a, b):
    real(a, b)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
flat.export_flat(open_episode(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_a_flat_export_that_was_killed_between_its_renames_does_not_block_the_next(
    tmp_path: Path, record: RecordEpisode
) -> None:
    path, out = record(2, episode_id="e"), tmp_path / "out"
    out.mkdir()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(out / "e.json")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == -signal.SIGKILL
    assert (out / "e.frames").is_dir()
    assert not (out / "e.json").exists()
    (out / "f.frames").mkdir()
    assert export_flat(open_episode(path), out / "e.json") == 2
    assert sorted(os.listdir(out)) == ["e.frames", "e.json", "f.frames"]
    with pytest.raises(EpisodeError, match="there already"):  # without a staged JSON nobody knows whose it is
        export_flat(open_episode(path), out / "f.json")
