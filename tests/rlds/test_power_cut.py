"""After a power cut: at most the steps of the last sync interval are gone, and what is left opens and reads."""

from __future__ import annotations

import errno
import importlib.util
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.rlds import writer as writing
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.writer import EpisodeWriter


def _disk_module() -> Any:
    spec = importlib.util.spec_from_file_location("power_cut", Path(__file__).with_name("power_cut.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["power_cut"] = module
    spec.loader.exec_module(module)
    return module


Disk = _disk_module().Disk
HZ = 20.0
JPEGS = [writing.encode_jpeg(make_step_example(tick).frame, quality=90) for tick in range(24)]


def test_damage_further_up_than_what_may_be_unsynced_cuts_nothing(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, metadata=make_metadata_example("e"))
    for tick in range(24):
        spaced = replace(make_step_example(tick), monotonic_ns=tick * 5_000_000_000)
        writer.write(replace(spaced, frame=None, frame_jpeg=JPEGS[tick]))
    writer.sync()
    writer.abandon()
    steps = tmp_path / "e" / writing.STEPS_FILE
    lines = steps.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"0", b"1", 1)
    steps.write_bytes(b"\n".join(lines))
    (done,) = recover_unfinished(tmp_path)
    assert (done.steps, done.cut_lines) == (23, 0)
    assert [f.step for f in examine(tmp_path / "e") if f.severity == ERROR] == [2]


def check_after(folder: Path, path: Path, *, written: int, safe: int) -> int:
    """Recover as a start does; the episode must open, read to its end, and hold what was synced. Steps left."""
    (done,) = recover_unfinished(folder) or [None]
    assert done is None or not done.problem
    episode = open_episode(path)
    assert safe <= len(episode) <= written
    for index, step in enumerate(episode):
        assert step.tick == index
        assert episode.frame_jpeg(index) == JPEGS[index]
    assert [f for f in examine(path) if f.severity == ERROR] == []
    return len(episode)


@settings(max_examples=150, deadline=None)
@given(steps=st.integers(0, 24), every=st.integers(1, 30), seed=st.integers(0, 2**32), at_close=st.booleans())
def test_a_power_cut_costs_at_most_what_was_not_synced(
    tmp_path_factory: pytest.TempPathFactory, steps: int, every: int, seed: int, at_close: bool
) -> None:
    folder, disk, chance = tmp_path_factory.mktemp("cut"), Disk(), random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "os", disk)
        writer = EpisodeWriter(folder, metadata=make_metadata_example("e"))
        for tick in range(steps):
            writer.write(replace(make_step_example(tick), frame=None, frame_jpeg=JPEGS[tick]))
            if (tick + 1) % every == 0:
                writer.sync()
        if at_close:

            def power_goes(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(writing, "write_bytes_durably", power_goes)
            with pytest.raises(KeyboardInterrupt):
                writer.close()
        safe, written = writer.synced, writer.written
        writer.abandon()
        disk.cut(chance)
    left = check_after(folder, folder / "e", written=written, safe=safe)
    if not at_close:
        # The newest step is held back: `every` unsynced ones and that one at most are gone.
        assert steps - left <= every + 1


def test_the_shim_itself_loses_what_was_not_synced(tmp_path: Path) -> None:
    """Otherwise the test above shows nothing."""
    lost = 0
    for seed in range(20):
        disk = Disk()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "os", disk)
            writer = EpisodeWriter(tmp_path / str(seed), metadata=make_metadata_example("e"))
            for tick in range(24):
                writer.write(replace(make_step_example(tick), frame=None, frame_jpeg=JPEGS[tick]))
            writer.abandon()
            disk.cut(random.Random(seed))
        assert writer.synced == 0
        lost += writer.written - check_after(
            tmp_path / str(seed), tmp_path / str(seed) / "e", written=writer.written, safe=0
        )
    assert lost > 20 * 5


def test_a_step_that_was_synced_is_not_there_when_the_sync_is_left_out(tmp_path: Path) -> None:
    """A control: a writer that only says that it has synced is found out."""
    caught = 0
    for seed in range(10):
        disk = Disk()
        folder = tmp_path / str(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "os", disk)
            writer = EpisodeWriter(folder, metadata=make_metadata_example("e"))
            patch.setattr(disk, "fsync", lambda _fd: None)
            for tick in range(24):
                writer.write(replace(make_step_example(tick), frame=None, frame_jpeg=JPEGS[tick]))
                writer.sync()
            safe, written = writer.synced, writer.written
            writer.abandon()
            disk.cut(random.Random(seed))
        try:
            check_after(folder, folder / "e", written=written, safe=safe)
        except AssertionError:
            caught += 1
    assert caught == 10


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@settings(max_examples=40, deadline=None)
@given(
    good=st.integers(0, 8),
    room=st.integers(0, 3000),
    bad=st.integers(1, 5),
    after=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_a_disk_that_refuses_costs_only_the_steps_meanwhile(
    tmp_path_factory: pytest.TempPathFactory, code: int, good: int, room: int, bad: int, after: int, seed: int
) -> None:
    """Full in the middle of a record, broken, or read-only from one moment on; then the power goes."""
    folder, disk = tmp_path_factory.mktemp("refuses"), Disk()
    kept: list[int] = []
    refused: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "os", disk)
        writer = EpisodeWriter(folder, metadata=make_metadata_example("e"))

        def take(tick: int) -> None:
            try:
                writer.write(replace(make_step_example(tick), frame=None, frame_jpeg=JPEGS[tick]))
                kept.append(tick)
            except OSError:
                refused.append(tick)

        for tick in range(good):
            take(tick)
        writer.sync()
        safe = writer.synced
        disk.fail, disk.fail_after = OSError(code, "the disk refuses"), room
        for tick in range(good, good + bad):
            take(tick)
        with pytest.raises(OSError, match="refuses"):
            writer.sync() if disk.fail and writer._unsynced else disk.write(0, b"")
        disk.fail = None
        for tick in range(good + bad, good + bad + after):
            take(tick)
        written = writer.written
        writer.abandon()
        disk.cut(random.Random(seed))
    recover_unfinished(folder)
    episode = open_episode(folder / "e")
    assert not set(refused) & set(range(good))
    assert safe <= len(episode) <= written
    assert [step.tick for step in episode] == kept[: len(episode)]
    for index, step in enumerate(episode):
        assert episode.frame_jpeg(index) == JPEGS[step.tick]
