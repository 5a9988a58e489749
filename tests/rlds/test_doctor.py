from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR, WARNING, Finding
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.stepline import seal_step_object
from continuonbrain.rlds.tfrecord import frame_record
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE, EpisodeWriter

runner = CliRunner()


def _write(memory: Path, steps: list[Step], episode_id: str = "e") -> Path:
    with EpisodeWriter(memory, metadata=make_metadata_example(episode_id)) as writer:
        for step in steps:
            writer.write(step)
    return writer.path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return _write(tmp_path / "memory", [make_step_example(tick, size=(8, 8)) for tick in range(4)])


def _errors(path: Path) -> list[Finding]:
    return [finding for finding in examine(path) if finding.severity == ERROR]


@pytest.mark.parametrize(
    ("skew_ns", "said"),
    [
        (0, ""),
        (5_000_000, ""),
        (-5_000_000, ""),
        (5_000_001, "younger"),
        (-6_000_000, "the frame is 6.0 ms older than its state; at most 5 ms"),
        (None, ""),
    ],
)
def test_a_frame_more_than_five_milliseconds_from_its_state_is_named(
    tmp_path: Path, skew_ns: int | None, said: str
) -> None:
    step = make_step_example(1)
    time_ns = None if skew_ns is None else step.monotonic_ns + skew_ns
    path = _write(tmp_path, [make_step_example(0), replace(step, frame_monotonic_ns=time_ns)])
    assert open_episode(path).step(1).frame_monotonic_ns == time_ns
    findings = examine(path)
    assert len(findings) == bool(said)
    for finding in findings:
        assert said in finding.problem
        assert (finding.step, finding.field) == (1, "observation.frame.monotonic_ns")
        assert (finding.file, finding.severity) == (str(path / STEPS_FILE), WARNING)


def test_a_step_without_a_frame_or_from_an_older_recorder_has_no_time_of_its_frame(tmp_path: Path) -> None:
    path = _write(tmp_path, [replace(make_step_example(0), frame=None), make_step_example(1)])
    file = path / STEPS_FILE
    assert open_episode(path).step(0).frame_monotonic_ns is None
    value = open_episode(path).step(1).to_json()
    assert value["observation"]["frame"]["monotonic_ns"] == 1_048_000_000
    del value["observation"]["frame"]["monotonic_ns"]
    assert Step.from_json(value).frame_monotonic_ns is None
    assert b'"monotonic_ns":1048000000' in file.read_bytes()


def test_frames_behind_a_bad_one_are_not_blamed(path: Path) -> None:
    blob = path / BLOB_FILE
    refs = [step.frame_ref for step in open_episode(path)]
    for inside in (0, 9, 40):  # the length, its CRC, the image
        data = blob.read_bytes()
        assert refs[1] is not None
        at = refs[1].offset + inside
        blob.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found = _errors(path)
        assert {finding.step for finding in found} == {1}
        assert {finding.field for finding in found} == {"observation.frame"}
        assert {finding.file for finding in found} == {str(blob), str(path / STEPS_FILE)}
        blob.write_bytes(data)
    assert examine(path) == []


def _altered(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the steps behind their seals."""
    values = [json.loads(line) for line in (path / STEPS_FILE).read_bytes().splitlines()]
    for value in values:
        del value["step_metadata"]["crc32c"]
    change(values)
    (path / STEPS_FILE).write_bytes(b"".join(map(seal_step_object, values)))


def test_a_frame_that_two_steps_name_is_told(path: Path) -> None:
    def same(values: list[dict[str, Any]]) -> None:
        values[2]["observation"]["frame"] = values[1]["observation"]["frame"]

    _altered(path, same)
    (finding,) = [f for f in examine(path) if "the same frame" in f.problem]
    assert (finding.step, finding.severity, finding.problem) == (2, WARNING, "the same frame as step 1")


def test_a_terminal_step_that_is_not_the_last_is_told(path: Path) -> None:
    _altered(path, lambda values: values[1].update(is_terminal=True))
    (finding,) = examine(path)
    assert (finding.step, finding.field, finding.severity) == (1, "is_terminal", WARNING)


@pytest.mark.parametrize("more", [b"x", frame_record(b"of no step")])
def test_frames_that_no_step_names_are_more_than_were_recorded(path: Path, more: bytes) -> None:
    with open(path / BLOB_FILE, "ab") as file:
        file.write(more)
    assert "metadata.provenance.recording.blob_bytes" in {finding.field for finding in _errors(path)}


def _replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        assert old in data
        (path / name).write_bytes(data.replace(old, new, 1))

    return damage


def _cut(name: str) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size - 3)


@pytest.mark.parametrize(
    ("damage", "file", "step", "field"),
    [
        (_cut(STEPS_FILE), STEPS_FILE, 3, "step"),
        (_cut(BLOB_FILE), BLOB_FILE, 3, "observation.frame"),
        (_cut(METADATA_FILE), METADATA_FILE, None, "metadata"),
        (_replaced(STEPS_FILE, b"_tick", b"_tock"), STEPS_FILE, 0, "crc32c"),
        (_replaced(METADATA_FILE, b"human", b"alien"), METADATA_FILE, None, "metadata_crc32c"),
        (_replaced(METADATA_FILE, b'"tags"', b'"tagz"'), METADATA_FILE, None, "metadata"),
        (lambda path: (path / METADATA_FILE).unlink(), METADATA_FILE, None, "metadata"),
        (lambda path: (path / STEPS_FILE).unlink(), "steps", None, "steps"),
        (lambda path: (path / BLOB_FILE).unlink(), STEPS_FILE, 2, "observation.frame"),
    ],
)
def test_every_error_names_file_step_and_field_and_the_exit_code_is_one(
    path: Path, damage: Callable[[Path], None], file: str, step: int | None, field: str
) -> None:
    damage(path)
    for target in (path, path.parent):  # alone, and as one of a memory
        result = runner.invoke(app, ["doctor", str(target), "--json"])
        assert result.exit_code == 1, result.output
        found = [f for f in json.loads(result.stdout)["findings"] if f["severity"] == ERROR]
        assert all(f["file"] and f["field"] and f["problem"] and f["remedy"] for f in found)
        assert any(
            f["file"] == str(path / file) and f["step"] == step and f["field"].endswith(field) for f in found
        ), found


def test_a_warning_alone_is_told_and_the_exit_code_is_zero(tmp_path: Path) -> None:
    late = replace(make_step_example(1), frame_monotonic_ns=0)
    path = _write(tmp_path, [make_step_example(0), late])
    result = runner.invoke(app, ["doctor", str(path)])
    assert result.exit_code == 0
    assert "warning" in result.output
    assert "observation.frame.monotonic_ns" in result.output
