"""What no reader takes is refused before it is acknowledged, and one bad step costs one step."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continuonbrain.rlds import writer as writing
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.limits import MAX_FRAME_PIXELS, MAX_LINE_BYTES
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE, EpisodeWriter

JPEG = writing.encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality=90)


def _wide_jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("L", (2049, 1152)).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instruction", 5),
        ("instruction", b"x"),
        ("instruction", "\ud800"),
        ("instruction", "x" * (2 << 20)),
        ("source", None),
        ("adapter_sha256", 5),
        ("extra", {"a": "\udc80"}),
        ("extra", {"a": "x" * MAX_LINE_BYTES}),
        ("extra", ["a"]),
        ("reasons", "clamped"),
        ("reasons", ("\ud800",)),
        ("is_terminal", 1),
        ("frame", "x"),
        ("frame", np.zeros((1, MAX_FRAME_PIXELS + 1, 3), np.uint8)),
        ("frame", np.zeros((1, 65_501, 3), np.uint8)),
        ("frame_jpeg", b"\xff\xd8 and no more"),
        ("frame_jpeg", JPEG[:100]),
        ("frame_jpeg", bytearray(JPEG)),
        ("frame_jpeg", _wide_jpeg()),
        ("frame_jpeg", JPEG + bytes(16 << 20)),
    ],
)
def test_a_step_that_no_reader_takes_cannot_be_made(field: str, value: Any) -> None:
    with pytest.raises(EpisodeError) as error:
        replace(make_step_example(), **{field: value})
    assert error.value.field


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_every_kind_are_taken(mode: str, progressive: bool) -> None:
    out = io.BytesIO()
    Image.new(mode, (32, 16)).save(out, "JPEG", progressive=progressive, comment=b"x" * 300)
    assert Step(command=(0.0, 0.0), source="a", frame_jpeg=out.getvalue()).has_frame


def test_a_line_that_its_escapes_make_too_long_is_refused_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    writer.write(make_step_example(0))
    before = (writer.path / BLOB_FILE).stat().st_size
    with pytest.raises(EpisodeError, match="too long") as error:
        writer.write(replace(make_step_example(1), instruction="\x01" * 200_000))
    assert error.value.remedy
    assert (writer.path / BLOB_FILE).stat().st_size == before
    writer.write(make_step_example(2))
    assert [step.tick for step in open_episode(writer.close()).steps(frames=True)] == [0, 2]


@pytest.mark.parametrize("limit", ["MAX_STEPS", "MAX_STEPS_BYTES"])
def test_an_episode_takes_no_more_steps_than_are_read(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, limit, 3 if limit == "MAX_STEPS" else 3000)
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    refused = 0
    for tick in range(10):
        try:
            writer.write(make_step_example(tick))
        except EpisodeError as error:
            assert "full" in error.problem  # noqa: PT017
            refused += 1
    assert len(open_episode(writer.close())) == 10 - refused == (3 if limit == "MAX_STEPS" else 4)
    assert (writer.path / STEPS_FILE).stat().st_size <= 3000


@pytest.mark.parametrize("provenance", [{"x": "y" * (1 << 20)}, {"x": b"y"}, {"x": float("nan")}])
def test_metadata_that_no_reader_takes_open_no_episode(provenance: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="metadata"):
        EpisodeRecorder(tmp_path, metadata=replace(make_metadata_example("e"), provenance=provenance))
    assert list(tmp_path.iterdir()) == []


def _frames(path: Path) -> list[int]:
    episode = open_episode(path)
    return [int(episode.frame(index).mean()) for index in range(len(episode))]


def test_a_read_only_view_of_a_buffer_that_is_used_again_is_copied(tmp_path: Path) -> None:
    buffer = np.zeros((16, 16, 3), np.uint8)
    raw = bytearray(16 * 16 * 3)
    recorder = EpisodeRecorder(tmp_path, metadata=make_metadata_example("e"))
    for value in range(0, 100, 10):
        buffer[:] = value
        raw[:] = bytes([value]) * len(raw)
        view = buffer.view()
        view.flags.writeable = False
        other = np.frombuffer(memoryview(raw).toreadonly(), np.uint8).reshape(16, 16, 3)
        recorder.append(replace(make_step_example(value), frame=view))
        recorder.append(replace(make_step_example(value), frame=other))
    buffer[:], raw[:] = 255, b"\xff" * len(raw)
    assert _frames(recorder.close()) == [value for value in range(0, 100, 10) for _ in range(2)]


def test_notes_that_are_used_again_are_copied(tmp_path: Path) -> None:
    notes: dict[str, str] = {}
    recorder = EpisodeRecorder(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(10):
        notes["n"] = str(tick)
        recorder.append(replace(make_step_example(tick), extra=notes))
    assert [step.extra["n"] for step in open_episode(recorder.close())] == [str(n) for n in range(10)]


def _state(path: Path) -> RecordingState:
    state = RecordingState.of(open_episode(path).metadata)
    assert state is not None
    return state


@pytest.mark.parametrize("when", ["taken", "held", "closing"])
def test_one_bad_step_costs_that_step_and_is_counted_marked_and_named(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a step does to the writer: when it is taken, when it is held, or when it is the last one."""
    real, seen = writing.encode_step_line, [0]

    def encode(step: Step) -> bytes:
        bad = 9 if when == "closing" else 4
        seen[0] += step.tick == bad
        if step.tick == bad and (when == "taken" or seen[0] > 1):
            raise TypeError("Object of type Brick is not JSON serializable")
        return real(step)

    monkeypatch.setattr(writing, "encode_step_line", encode)
    recorder = EpisodeRecorder(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(10):
        recorder.append(make_step_example(tick))
    path = recorder.close()
    steps = list(open_episode(path).steps(frames=True))
    lost = {"taken": [4], "held": [4, 5], "closing": [9]}[when]
    assert [step.tick for step in steps] == [tick for tick in range(10) if tick not in lost]
    assert recorder.dropped == _state(path).dropped == len(lost)
    assert "Brick" in recorder.fault
    assert "Brick" in _state(path).fault
    marked = sum(step.dropped_before for step in steps)
    undelivered = open_episode(path).metadata.provenance.get("undelivered_drops", 0)
    assert (marked, undelivered) == ((0, 1) if when == "closing" else (len(lost), 0))
    assert [finding for finding in examine(path) if finding.severity == ERROR] == []


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def test_a_last_step_that_found_no_room_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = EpisodeRecorder(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(10):
        recorder.append(make_step_example(tick))
    _until(lambda: recorder.acknowledged == 9)
    with monkeypatch.context() as patch:
        patch.setattr("continuonbrain.rlds.writer.os.write", full)
        patch.setattr(
            writing, "write_bytes_durably", lambda path, data: (path.unlink(), _write(path, data))[1]
        )
        recorder.append(make_step_example(10))
        path = recorder.close()
    assert len(list(open_episode(path).steps(frames=True))) == 9
    assert recorder.dropped == _state(path).dropped == 2
    assert open_episode(path).metadata.provenance["undelivered_drops"] == 2
    assert "No space left" in _state(path).fault
    assert [finding for finding in examine(path) if finding.severity == ERROR] == []


def _write(path: Path, data: bytes) -> None:
    with io.FileIO(path, "w") as file:
        file.write(data)


# ------------------------------------------------------------------------------------------------ opening


def test_between_its_name_and_its_lock_an_episode_cannot_be_closed_or_locked_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, shared, said = writing.sync_directory, [], []

    def sync(folder: Path) -> None:
        real(folder)
        if folder == tmp_path:
            said.append(recover_unfinished(tmp_path))
            fd = os.open(tmp_path / "e" / STEPS_FILE, os.O_RDONLY)
            shared.append(fd)
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    monkeypatch.setattr(writing, "sync_directory", sync)
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    assert said == [[]]
    os.close(shared[0])
    for tick in range(5):
        writer.write(make_step_example(tick))
    writer.abandon()
    assert recover_unfinished(tmp_path)[0].steps == 4


def test_of_two_that_open_one_id_the_slower_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(old: Path, new: Path) -> None:
        monkeypatch.setattr("continuonbrain.rlds.writer.os.rename", real)
        EpisodeWriter(tmp_path, metadata=make_metadata_example("e")).close()
        real(old, new)

    monkeypatch.setattr("continuonbrain.rlds.writer.os.rename", rename)
    with pytest.raises(EpisodeError, match="exists already"):
        EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


# ----------------------------------------------------------------------------------- the order of system calls


def test_frames_are_synced_before_the_lines_that_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    order: list[int] = []
    monkeypatch.setattr("continuonbrain.rlds.writer.os.fsync", order.append)
    writer.write(make_step_example(0))
    writer.sync()
    writer.abandon()
    assert order == [writer._blob_fd, writer._steps_fd]


def test_after_a_failed_sync_nothing_is_called_safe_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(3):
        writer.write(make_step_example(tick))
    writer.sync()
    assert writer.synced == 2
    writer.write(make_step_example(3))

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("continuonbrain.rlds.writer.os.fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            writer.sync()
    writer.write(make_step_example(4))
    writer.sync()
    assert (writer.synced, writer.written) == (2, 4)
    writer.abandon()


def test_a_frame_is_taken_back_when_the_line_before_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    writer.write(make_step_example(0))
    before, real = (writer.path / BLOB_FILE).stat().st_size, os.write

    def write(fd: int, data: bytes) -> int:
        if fd == writer._steps_fd:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr("continuonbrain.rlds.writer.os.write", write)
        with pytest.raises(OSError, match="No space"):
            writer.write(make_step_example(1))
    assert (writer.path / BLOB_FILE).stat().st_size == before
    writer.write(make_step_example(2))
    path = writer.close()
    assert [step.tick for step in open_episode(path).steps(frames=True)] == [0, 2]
    assert [finding for finding in examine(path) if finding.severity == ERROR] == []


def test_after_half_a_record_that_cannot_be_cut_nothing_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(3):
        writer.write(make_step_example(tick))
    real, room = os.write, [10]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.EIO, "Input/output error")
        room[0] = 0
        return real(fd, bytes(data[:10]))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("continuonbrain.rlds.writer.os.write", write)
        patch.setattr("continuonbrain.rlds.writer.os.ftruncate", broken)
        with pytest.raises(OSError, match="Input/output"):
            writer.write(make_step_example(3))
    size = (writer.path / BLOB_FILE).stat().st_size
    with pytest.raises(OSError, match="could not be undone"):
        writer.write(make_step_example(4))
    assert (writer.path / BLOB_FILE).stat().st_size == size
    writer.abandon()
    assert recover_unfinished(tmp_path)[0].steps == 2
