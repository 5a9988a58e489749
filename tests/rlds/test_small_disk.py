"""A real disk that is full or becomes read-only: a tmpfs of one MiB, where this machine lets us mount one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from continuonbrain.loops.episode_keeper import EpisodeKeeper
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.recovery import recover_unfinished


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def test_a_full_disk_is_named_the_loop_goes_on_and_nothing_earlier_is_lost(disk: Path) -> None:
    filler = disk / "filler"
    filler.write_bytes(bytes(700 << 10))
    recorder = EpisodeRecorder(disk / "episodes", metadata=make_metadata_example("e"), sync_interval_s=0.02)
    tick = 0
    while not recorder.fault and tick < 5000:
        assert recorder.append(make_step_example(tick))
        tick += 1
        time.sleep(0.0005)
    assert "No space left" in recorder.fault
    safe = recorder.synced
    assert safe > 10
    worst = 0.0
    for _ in range(20):
        began = time.perf_counter()
        recorder.append(make_step_example(tick))
        worst = max(worst, time.perf_counter() - began)
        tick += 1
    assert worst < 0.05
    filler.unlink()
    until(lambda: recorder._queue.empty())
    kept = recorder.acknowledged
    for _ in range(5):
        assert recorder.append(make_step_example(tick))
        tick += 1
    until(lambda: recorder.acknowledged >= kept + 4)
    episode = open_episode(recorder.close())
    ticks = [step.tick for step in episode]
    assert ticks[:safe] == list(range(safe))
    assert ticks[-5:] == list(range(tick - 5, tick))
    dropped = sum(int(step.extra.get("dropped_before", "0")) for step in episode)
    assert len(ticks) + dropped == tick
    assert [f for f in examine(episode.path) if f.severity == ERROR] == []


def test_a_disk_that_stays_full_keeps_what_it_has_until_the_next_start(disk: Path) -> None:
    recorder = EpisodeRecorder(disk / "episodes", metadata=make_metadata_example("e"), sync_interval_s=0.02)
    tick = 0
    while not recorder.fault and tick < 5000:
        recorder.append(make_step_example(tick))
        tick += 1
        time.sleep(0.0005)
    safe = recorder.synced
    recorder.close()
    assert "No space left" in recorder.fault
    recover_unfinished(disk / "episodes")
    (path,) = list_episodes(disk / "episodes")
    episode = open_episode(path, strict=False)
    assert [step.tick for step in episode][:safe] == list(range(safe))


def test_a_disk_that_becomes_read_only_is_named_and_used_again_when_it_is_not(disk: Path) -> None:
    folder = disk / "episodes"
    folder.mkdir()
    keeper = EpisodeKeeper(
        lambda instruction, _source, _kind: EpisodeRecorder(
            folder, metadata=make_metadata_example(instruction.replace(" ", "-"))
        )
    )
    try:
        assert mount("-o", "remount,ro", str(disk))
        keeper.append(make_step_example(0))
        until(lambda: bool(keeper.fault))
        assert "Read-only file system" in keeper.fault
        assert keeper.dropped == 1
        assert mount("-o", "remount,rw", str(disk))
        deadline = time.monotonic() + 10
        while not keeper.recorded:
            assert time.monotonic() < deadline
            keeper.append(make_step_example(1))
            time.sleep(0.05)
    finally:
        keeper.close()
    (path,) = list_episodes(folder)
    assert len(open_episode(path)) == keeper.recorded
