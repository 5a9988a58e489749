from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.reader import is_being_recorded, list_episodes, open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE, EpisodeWriter, metadata_bytes

RecordEpisode = Callable[..., Path]

REPO = Path(__file__).parents[2]


def _wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def test_everything_recorded_is_read_back(record: RecordEpisode) -> None:
    episode = open_episode(record(7, terminal=True))
    steps = list(episode.steps(frames=True))
    assert len(steps) == len(episode) == 7
    for tick, step in enumerate(steps):
        wanted = make_step_example(tick)
        assert (step.command, step.proposed, step.reasons) == (
            wanted.command,
            wanted.proposed,
            wanted.reasons,
        )
        assert (step.speed_mps, step.yaw_rate_rps, step.latency_ms) == (0.9, None, 7.25)
        assert step.extra == wanted.extra
        assert wanted.frame is not None
        assert step.frame is not None
        assert np.abs(step.frame.astype(int) - wanted.frame.astype(int)).mean() < 6  # JPEG
    assert [step.is_first for step in steps] == [True] + [False] * 6
    assert [step.is_last for step in steps] == [False] * 6 + [True]
    assert steps[-1].is_terminal
    assert episode.metadata.duration_ms == 300
    assert examine(episode.path) == []


def test_the_last_written_line_itself_says_is_last(record: RecordEpisode) -> None:
    lines = (record(3) / STEPS_FILE).read_text().splitlines()
    assert ['"is_last":true' in line for line in lines] == [False, False, True]


def test_an_unfinished_episode_is_recognisable_from_its_first_moment(
    tmp_path: Path, metadata: EpisodeMetadata
) -> None:
    with EpisodeRecorder(tmp_path, metadata=metadata) as recorder:
        assert list_episodes(tmp_path) == [recorder.path]
        assert list_episodes(tmp_path, finished_only=True) == []
        assert is_being_recorded(recorder.path)
        with pytest.raises(EpisodeError, match="unfinished"):
            open_episode(recorder.path)
    assert not is_being_recorded(recorder.path)
    assert len(open_episode(recorder.path)) == 0


def test_a_frame_buffer_may_be_reused_after_append(tmp_path: Path, metadata: EpisodeMetadata) -> None:
    buffer = np.zeros((24, 32, 3), np.uint8)
    with EpisodeRecorder(tmp_path, metadata=metadata) as recorder:
        step = replace(make_step_example(), frame=buffer)
        for value in (0, 200):
            buffer[:] = value
            recorder.append(step)
        buffer[:] = 99
    episode = open_episode(recorder.path)
    assert [int(episode.frame(i).mean()) for i in range(2)] == [0, 200]


def test_append_never_waits_for_a_disk_that_hangs_and_marks_what_it_drops(
    tmp_path: Path, metadata: EpisodeMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    real = os.write
    recorder = EpisodeRecorder(tmp_path, metadata=metadata, queue_size=4)
    monkeypatch.setattr(
        "continuonbrain.rlds.writer.os.write", lambda fd, data: (free.wait(), real(fd, data))[1]
    )
    worst, kept = 0.0, []
    for tick in range(30):
        started = time.perf_counter()
        kept.append(recorder.append(make_step_example(tick)))
        worst = max(worst, time.perf_counter() - started)
    assert worst < 0.1
    dropped = kept.count(False)
    assert dropped >= 24
    assert recorder.dropped == dropped
    free.set()
    _wait(lambda: recorder.acknowledged >= kept.count(True) - 1)
    assert recorder.append(make_step_example(30))
    steps = list(open_episode(recorder.close()))
    assert len(steps) == kept.count(True) + 1
    assert sum(int(step.extra.get("dropped_before", "0")) for step in steps) == dropped
    assert any("dropped" in finding.problem for finding in examine(recorder.path))


def test_the_loop_goes_on_when_the_disk_is_full_and_continues_when_there_is_room(
    tmp_path: Path, metadata: EpisodeMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if not full.is_set():
            return real(fd, data)
        if len(data) > 10:
            return real(fd, bytes(data[:-10]))  # most of a record reaches the disk first, as on a real one
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("continuonbrain.rlds.writer.os.write", write)
    recorder = EpisodeRecorder(tmp_path, metadata=metadata)
    for tick in range(5):
        recorder.append(make_step_example(tick))
    _wait(lambda: recorder.acknowledged == 4)
    full.set()
    for tick in range(5, 8):
        assert recorder.append(make_step_example(tick))
    _wait(lambda: recorder.dropped == 3)
    assert "No space left" in recorder.fault
    full.clear()
    for tick in range(8, 10):
        recorder.append(make_step_example(tick))
    episode = open_episode(recorder.close())
    assert [step.tick for step in episode] == [0, 1, 2, 3, 4, 8, 9]
    assert episode.step(5).extra["dropped_before"] == "3"
    assert [finding for finding in examine(episode.path) if finding.severity == ERROR] == []


def test_a_disk_that_stays_full_leaves_an_episode_that_recovery_closes(
    tmp_path: Path, metadata: EpisodeMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = EpisodeRecorder(tmp_path, metadata=metadata)
    for tick in range(4):
        recorder.append(make_step_example(tick))
    _wait(lambda: recorder.acknowledged == 3)
    with monkeypatch.context() as broken:
        broken.setattr("continuonbrain.rlds.writer.os.write", no_space)
        broken.setattr("continuonbrain.rlds.writer.write_bytes_durably", no_space)
        recorder.close()
    assert "No space left" in recorder.fault
    (recovered,) = recover_unfinished(tmp_path)
    assert recovered.steps == 3
    assert len(open_episode(recorder.path)) == 3


def test_sigkill_loses_no_acknowledged_step(tmp_path: Path) -> None:
    rng = random.Random(0)
    # Before what is there: an installation elsewhere stays found.
    paths = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    for round_number in range(4):
        folder = tmp_path / str(round_number)
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_me.py")), str(folder)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        for _ in range(rng.randrange(20, 120)):
            process.stdout.readline()
        process.kill()
        said = process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        acknowledged = int(said[-1]) if said else 0
        before = len(open_episode(folder / "killed", strict=False))
        assert before >= acknowledged
        (recovered,) = recover_unfinished(folder)
        assert recovered.problem == ""
        assert recovered.steps == before
        assert recovered.cut_lines == 0
        episode = open_episode(folder / "killed")
        assert [step.tick for step in episode.steps(frames=True)] == list(range(before))
        assert [finding for finding in examine(episode.path) if finding.severity == ERROR] == []
        state = RecordingState.of(episode.metadata)
        assert state is not None
        assert state.closed_by == "recovery"
        assert recover_unfinished(folder) == []


def test_recovery_leaves_an_episode_alone_that_is_being_recorded(
    tmp_path: Path, metadata: EpisodeMetadata
) -> None:
    with EpisodeRecorder(tmp_path, metadata=metadata) as recorder:
        for tick in range(3):
            recorder.append(make_step_example(tick))
        assert recover_unfinished(tmp_path) == []
    assert len(open_episode(recorder.path)) == 3


def test_recovery_keeps_every_whole_step_wherever_the_files_are_cut(tmp_path: Path) -> None:
    source = EpisodeWriter(tmp_path / "source", metadata=make_metadata_example("e"))
    for tick in range(4):
        source.write(make_step_example(tick, size=(8, 8)))
    source.abandon()  # three lines, four frames: what a SIGKILL leaves
    steps, blob = (source.path / STEPS_FILE).read_bytes(), (source.path / BLOB_FILE).read_bytes()
    ends = [at + 1 for at, byte in enumerate(steps) if byte == 10]
    for cut in range(0, len(steps) + 1, 29):
        target = tmp_path / f"cut-{cut}"
        (tmp_path / "source").rename(target)
        (target / "e" / STEPS_FILE).write_bytes(steps[:cut])
        (recovered,) = recover_unfinished(target)
        assert recovered.steps == sum(end <= cut for end in ends)
        assert len(list(open_episode(target / "e").steps(frames=True))) == recovered.steps
        assert examine(target / "e") == []
        target.rename(tmp_path / "source")
        _reopen(tmp_path / "source" / "e", steps, blob)


def _reopen(path: Path, steps: bytes, blob: bytes) -> None:
    (path / STEPS_FILE).write_bytes(steps)
    (path / BLOB_FILE).write_bytes(blob)
    (path / "metadata.json").write_bytes(metadata_bytes(RecordingState().into(make_metadata_example("e"))))


def test_a_step_whose_frame_never_reached_the_disk_is_cut_by_recovery(tmp_path: Path) -> None:
    source = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(4):
        source.write(make_step_example(tick))
    source.abandon()
    blob = source.path / BLOB_FILE
    third = open_episode(source.path, strict=False).step(2).frame_ref
    assert third is not None
    os.truncate(blob, third.offset + 5)
    (recovered,) = recover_unfinished(tmp_path)
    assert (recovered.steps, recovered.cut_lines) == (2, 1)
    assert examine(source.path) == []


def test_an_existing_episode_is_never_written_over(record: RecordEpisode) -> None:
    path = record(2)
    before = (path / STEPS_FILE).read_bytes()
    with pytest.raises(EpisodeError, match="exists already"):
        record(2)
    assert (path / STEPS_FILE).read_bytes() == before


@pytest.mark.parametrize("bad", ["../up", ".hidden", "a/b", "x" * 200])
def test_an_episode_id_must_be_a_file_name(tmp_path: Path, bad: str) -> None:
    with pytest.raises(EpisodeError, match="cannot name a folder"):
        EpisodeRecorder(tmp_path, metadata=make_metadata_example(bad))


def test_append_after_close_is_counted_and_refused(tmp_path: Path, metadata: EpisodeMetadata) -> None:
    recorder = EpisodeRecorder(tmp_path, metadata=metadata)
    recorder.close()
    assert not recorder.append(make_step_example())
    assert recorder.close() == recorder.path


def test_what_a_killed_opening_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".staging-aaaaaaaa-e", tmp_path / ".staging-bbbbbbbb-f"
    for folder in (old, young):
        (folder / "steps").mkdir(parents=True)
    os.utime(old / "steps", (1, 1))
    os.utime(old, (1, 1))
    assert recover_unfinished(tmp_path) == []
    assert (old.exists(), young.exists()) == (False, True)


def test_episodes_sort_by_when_they_began_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from continuonbrain.rlds import writer

    began = 1_795_000_000 * 10**9
    moments = [began + ms * 10**6 + 999_999 for ms in (0, 1, 9, 10, 255, 256, 998, 999, 1000, 2000)]
    names = []
    for moment in moments:
        monkeypatch.setattr(writer.time, "time_ns", lambda moment=moment: moment)
        names.append(writer.new_episode_id())
    assert names == sorted(names)
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", name) for name in names)
    assert len({writer.new_episode_id() for _ in range(100)}) == 100
