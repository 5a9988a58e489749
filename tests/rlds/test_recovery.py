"""What recovery may cut, what it leaves alone because it cannot tell, and what it says about it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.rlds import recovery_files
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.metadata import SYNCED_AT_CLOSE, RecordingState
from continuonbrain.rlds.reader import open_episode, read_metadata
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.recovery import Recovered, recover_unfinished
from continuonbrain.rlds.retention import finished_episodes
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE, EpisodeWriter, metadata_bytes

Die = Callable[..., Path]


@pytest.fixture
def die(tmp_path: Path) -> Die:
    """die(steps, interval=1.0) -> an episode of 20 steps a second, synced, whose recorder died."""

    def run(steps: int, *, interval: float | None = 1.0, dropped: int = 0) -> Path:
        writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"), sync_interval_s=interval)
        for tick in range(steps):
            step = make_step_example(tick, size=(8, 8))
            writer.write(replace(step, extra={"dropped_before": str(dropped)}) if tick == 5 else step)
        writer.sync()
        writer.abandon()
        return writer.path

    return run


def _files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def _state(path: Path) -> RecordingState:
    state = RecordingState.of(read_metadata(path / METADATA_FILE))
    assert state is not None
    return state


def _flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def _left_alone(path: Path, before: dict[str, bytes]) -> str:
    (done,) = recover_unfinished(path.parent)
    assert (done.steps, done.cut_lines, done.cut_blob_bytes) == (0, 0, 0)
    assert _files(path) == before
    return done.problem


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("what", ["read_header", "read_record", "open_inside"])
def test_a_disk_that_cannot_be_read_has_not_said_that_steps_are_damaged(
    what: str, code: int, die: Die, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = die(30)
    before = _files(path)
    real, calls = getattr(recovery_files, what), [0]

    def sometimes(*args: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] >= 10 or what == "open_inside":
            raise OSError(code, os.strerror(code), "x")
        return real(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(recovery_files, what, sometimes)
        assert os.strerror(code) in _left_alone(path, before)
    (done,) = recover_unfinished(path.parent)
    assert (done.steps, done.problem) == (29, "")


@pytest.mark.parametrize("gone", ["blobs", BLOB_FILE])
def test_frames_that_are_not_there_cut_no_steps(gone: str, die: Die, tmp_path: Path) -> None:
    path = die(30)
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    (path / gone).rename(away)
    assert "No such file" in _left_alone(path, _files(path))
    away.rename(path / gone)
    assert recover_unfinished(tmp_path)[0].steps == 29


def test_frames_that_only_old_steps_name_must_be_there_too(die: Die, tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"), sync_interval_s=1.0)
    for tick in range(300):
        step = make_step_example(tick, size=(8, 8))
        writer.write(step if tick < 20 else replace(step, frame=None, frame_monotonic_ns=None))
    writer.abandon()
    (writer.path / BLOB_FILE).unlink()
    assert "No such file" in _left_alone(writer.path, _files(writer.path))


def test_lines_without_seals_count_when_the_metadata_say_that_there_are_none(die: Die) -> None:
    path = die(10)
    unsealed = RecordingState(step_crc="").into(make_metadata_example("e"))
    (path / METADATA_FILE).write_bytes(metadata_bytes(unsealed))
    lines = [json.loads(line) for line in (path / STEPS_FILE).read_text().splitlines()]
    for line in lines:
        del line["step_metadata"]["crc32c"]
    (path / STEPS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recover_unfinished(path.parent)[0].steps == 9
    assert _state(path).step_crc == ""
    assert [step.tick for step in open_episode(path).steps(frames=True)] == list(range(9))


def test_a_flipped_bit_costs_only_what_may_be_unsynced(die: Die) -> None:
    """1000 steps are 50 s; the tenth is damaged, and everything was synced every second."""
    path = die(1000)
    tenth = open_episode(path, strict=False).step(10).frame_ref
    assert tenth is not None
    _flip(path / BLOB_FILE, tenth.offset + 100)
    (done,) = recover_unfinished(path.parent)
    assert (done.steps, done.cut_lines) == (999, 0)
    assert {f.step for f in examine(path) if f.severity == ERROR} == {10}


@pytest.mark.parametrize(
    ("interval", "kept"), [(0.1, 999), (1.0, 999), (30.0, 700), (None, 700), (float("inf"), 700)]
)
def test_how_far_recovery_goes_back_is_what_the_metadata_say(
    interval: float | None, kept: int, die: Die
) -> None:
    path = die(1000, interval=interval)
    assert _state(path).sync_interval_s == (SYNCED_AT_CLOSE if interval == float("inf") else interval)
    frame = open_episode(path, strict=False).step(700).frame_ref  # 15 s before the end
    assert frame is not None
    _flip(path / BLOB_FILE, frame.offset + 100)
    assert recover_unfinished(path.parent)[0].steps == kept
    assert _state(path).sync_interval_s == (SYNCED_AT_CLOSE if interval == float("inf") else interval)


def test_what_is_cut_is_set_aside_byte_for_byte_and_counted(die: Die, tmp_path: Path) -> None:
    path = die(40, dropped=7)
    steps, blob = (path / STEPS_FILE).read_bytes(), (path / BLOB_FILE).read_bytes()
    frame = open_episode(path, strict=False).step(30).frame_ref
    assert frame is not None
    _flip(path / BLOB_FILE, frame.offset + 100)
    blob = (path / BLOB_FILE).read_bytes()
    (done,) = recover_unfinished(tmp_path)
    assert (done.steps, done.cut_lines, done.problem) == (30, 9, "")
    aside = sorted((path / "aside").iterdir())
    kept_blob, kept_steps = (path / BLOB_FILE).read_bytes(), (path / STEPS_FILE).read_bytes()
    assert [file.name for file in aside] == [
        f"blobs-000000.tfrecord-from-{len(kept_blob)}",
        f"steps-000000.jsonl-from-{len(kept_steps)}",
    ]
    assert kept_blob + aside[0].read_bytes() == blob
    assert kept_steps + aside[1].read_bytes() == steps
    state = _state(path)
    assert (state.cut_lines, state.cut_bytes) == (9, sum(file.stat().st_size for file in aside))
    assert state.dropped == 7
    assert len(list(open_episode(path).steps(frames=True))) == 30
    assert [f for f in examine(path) if f.severity == ERROR] == []
    (held,) = finished_episodes(tmp_path)
    assert held.bytes == sum(len(data) for data in _files(path).values())


def test_a_frame_whose_line_never_came_is_said_and_set_aside(die: Die, tmp_path: Path) -> None:
    path = die(10)
    blob = (path / BLOB_FILE).read_bytes()
    (done,) = recover_unfinished(tmp_path)
    assert (done.steps, done.cut_frames, _state(path).cut_frames) == (9, 1, 1)
    (file,) = (path / "aside").iterdir()
    assert (path / BLOB_FILE).read_bytes() + file.read_bytes() == blob


def test_nothing_is_cut_that_cannot_be_set_aside(die: Die, monkeypatch: pytest.MonkeyPatch) -> None:
    path = die(10)
    with (path / STEPS_FILE).open("ab") as file:
        file.write(b'{"torn')
    before = _files(path)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(recovery_files, "_copy", full)
        assert "No space left" in _left_alone(path, before)
    os.truncate(path / BLOB_FILE, 1 << 40)
    (done,) = recover_unfinished(path.parent)
    assert "more than a crash leaves" in done.problem
    assert (path / BLOB_FILE).stat().st_size == 1 << 40
    assert (path / STEPS_FILE).read_bytes() == before[STEPS_FILE]


@pytest.mark.parametrize("name", [STEPS_FILE, BLOB_FILE, "steps", "blobs", "aside", "."])
def test_recovery_never_writes_through_a_link(name: str, die: Die, tmp_path: Path) -> None:
    path = die(10)
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    with (path / STEPS_FILE).open("ab") as file:
        file.write(b'{"torn')
    if name == "aside":
        outside.mkdir()
    else:
        shutil.move(path / name, outside)
    os.symlink(outside, path / name)
    before = _files(outside) if outside.is_dir() else {"": outside.read_bytes()}
    (done,) = recover_unfinished(tmp_path)
    assert done.problem
    assert (_files(outside) if outside.is_dir() else {"": outside.read_bytes()}) == before
    assert _state(path).state == "open"


def test_an_episode_from_before_the_new_keys_is_closed(die: Die) -> None:
    path = die(10, interval=None)
    assert "sync_interval_s" not in (path / METADATA_FILE).read_text()
    assert recover_unfinished(path.parent) == [
        replace(Recovered(path, steps=9, cut_frames=1), cut_blob_bytes=_state(path).cut_bytes)
    ]


def test_the_recorder_says_how_often_it_syncs(tmp_path: Path) -> None:
    with EpisodeRecorder(tmp_path, metadata=make_metadata_example("e"), sync_interval_s=2.5) as recorder:
        assert _state(recorder.path).sync_interval_s == 2.5
    assert _state(recorder.path).sync_interval_s == 2.5
