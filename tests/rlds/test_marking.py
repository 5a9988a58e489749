"""A person's word about an episode: bad, or of another instruction."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.rlds import marking
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.marking import bad_episodes, instruction_of, is_bad, mark, relabel
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE, metadata_bytes

RecordEpisode = Callable[..., Path]


def test_a_mark_comes_and_goes_and_the_episode_stays_whole(record: RecordEpisode) -> None:
    path = record(3)
    os.utime(path / METADATA_FILE, ns=(1_000, 2_000))
    before = open_episode(path).metadata.tags
    assert mark(path, bad=True)
    assert not mark(path, bad=True)
    assert is_bad(open_episode(path).metadata)
    assert bad_episodes(path.parent) == [path.name]
    assert (path / METADATA_FILE).stat().st_mtime_ns == 2_000  # by it the memory knows its age
    assert mark(path, bad=False)
    assert open_episode(path).metadata.tags == before
    assert bad_episodes(path.parent) == []
    assert examine(path) == []


def test_every_step_says_the_new_label_and_nothing_else_changed(record: RecordEpisode) -> None:
    path = record(5)
    before = list(open_episode(path).steps(frames=True))
    assert relabel(path, "  keep right, slowly ") == 5
    after = open_episode(path)
    assert [replace(s, instruction="keep left") for s in after] == [replace(s) for s in before]
    assert {s.instruction for s in after} == {"keep right, slowly"}
    assert instruction_of(after.metadata) == "keep right, slowly"
    assert [after.frame(i).tobytes() for i in range(5)] == [
        s.frame.tobytes() for s in before if s.frame is not None
    ]
    assert examine(path) == []


def test_a_crash_between_the_files_leaves_two_whole_ones(
    record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = record(3), marking.write_bytes_durably

    def killed(file: Path, data: bytes, *, mode: int) -> None:
        if file.name == METADATA_FILE:
            raise OSError("no power")
        real(file, data, mode=mode)

    monkeypatch.setattr(marking, "write_bytes_durably", killed)
    with pytest.raises(OSError, match="no power"):
        relabel(path, "stop")
    monkeypatch.undo()
    assert examine(path) == []
    assert {s.instruction for s in open_episode(path)} == {"stop"}
    relabel(path, "drive")
    assert instruction_of(open_episode(path).metadata) == "drive"


@pytest.mark.parametrize("words", ["", "   ", "x" * 201])
def test_words_that_are_none(record: RecordEpisode, words: str) -> None:
    path = record(2)
    before = (path / STEPS_FILE).read_bytes()
    with pytest.raises(EpisodeError, match="characters"):
        relabel(path, words)
    assert (path / STEPS_FILE).read_bytes() == before


def test_what_is_damaged_or_in_use_is_left_as_it_is(record: RecordEpisode) -> None:
    path = record(4)
    with open(path / STEPS_FILE, "rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        with pytest.raises(EpisodeError, match="reads or writes"):
            relabel(path, "stop")
    data = (path / STEPS_FILE).read_bytes()
    (path / STEPS_FILE).write_bytes(data.replace(b"keep left", b"keep lefd", 1))
    with pytest.raises(EpisodeError, match="CRC"):
        relabel(path, "stop")
    assert (path / STEPS_FILE).read_bytes() == data.replace(b"keep left", b"keep lefd", 1)


def test_an_unfinished_episode_keeps_every_byte(record: RecordEpisode) -> None:
    """And who asks is told to wait: what is half written is no damage that a doctor should see."""
    path = record(4)
    closed = open_episode(path).metadata
    (path / METADATA_FILE).write_bytes(metadata_bytes(RecordingState().into(closed)))
    whole = (path / STEPS_FILE).read_bytes()
    for torn in (0, 7):  # the last line is under way
        (path / STEPS_FILE).write_bytes(before := whole[: len(whole) - torn])
        with pytest.raises(EpisodeError, match="unfinished") as refused:
            relabel(path, "stop")
        assert "again when it is closed" in str(refused.value)
        assert "doctor" not in str(refused.value)
        with pytest.raises(EpisodeError, match="unfinished"):
            mark(path, bad=True)
        assert (path / STEPS_FILE).read_bytes() == before
    (path / STEPS_FILE).write_bytes(whole)
    (path / METADATA_FILE).write_bytes(metadata_bytes(closed))
    assert relabel(path, "stop") == 4


def test_two_marks_at_once_lose_none(record: RecordEpisode) -> None:
    path = record(3)
    for number in range(20):
        words = f"keep left {number}"
        threads = [
            threading.Thread(target=mark, args=(path,), kwargs={"bad": number % 2 == 0}),
            threading.Thread(target=relabel, args=(path, words)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        metadata = open_episode(path).metadata
        assert (is_bad(metadata), instruction_of(metadata)) == (number % 2 == 0, words)
