"""Damage at any byte is detected; repair keeps every whole step and invents none."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.repair import repair
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE
from tests.rlds.sick_episodes import FILES, contents, is_sick, small_steps, write_episode


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for ten thousand small writes: in memory where there is one, and never synced."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@dataclass
class Patient:
    """A small episode with its pristine bytes, and where its steps lie in them."""

    path: Path
    pristine: dict[str, bytes]
    lines: list[tuple[int, int]]
    frames: list[tuple[int, int]]
    jpegs: list[bytes]
    rounds: int = 0
    looked_at: dict[tuple[bytes, ...], list[int]] = field(default_factory=dict)

    def damage(self, damaged: dict[str, bytes]) -> None:
        for name, data in self.pristine.items():
            (self.path / name).write_bytes(damaged.get(name, data))

    def whole(self, damaged: dict[str, bytes]) -> list[int]:
        """The steps whose line and frame still stand where they stood, byte for byte."""
        return [
            tick
            for tick in range(len(self.lines))
            if all(
                damaged.get(name, self.pristine[name])[start:end] == self.pristine[name][start:end]
                for name, (start, end) in ((STEPS_FILE, self.lines[tick]), (BLOB_FILE, self.frames[tick]))
            )
        ]

    def repaired(self, *, in_place: bool = False) -> list[list[int]]:
        """Repair; the ticks of each episode that came of it, after everything about them was checked.

        in_place: no byte was moved, so that every one can be accounted for: in an episode, or aside.
        """
        before = contents(self.path)
        out = self.path.parent.parent / f"out-{self.rounds}"
        self.rounds += 1
        (result,) = repair(self.path, out)
        assert contents(self.path) == before
        found = []
        for folder in map(Path, result.episodes):
            episode = open_episode(folder)  # its metadata, counts and sizes, every time
            assert len(episode) > 0
            data = tuple((folder / name).read_bytes() for name in (STEPS_FILE, BLOB_FILE))
            if data not in self.looked_at:  # the same few outcomes come again a thousand times
                self.looked_at[data] = self._ticks_of(folder)
            found.append(self.looked_at[data])
        if result.aside_path:
            _check_report(Path(result.aside_path), before)
        if in_place:
            ticks = [tick for run in found for tick in run]
            kept = {STEPS_FILE: [self.lines[t] for t in ticks], BLOB_FILE: [self.frames[t] for t in ticks]}
            for name in (STEPS_FILE, BLOB_FILE):
                aside = [(item.start, item.end) for item in result.aside if item.file == name]
                data = bytearray(before[name][0])
                for start, end in kept[name] + aside:
                    data[start:end] = b"\n" * len(data[start:end])
                assert not data.strip(b"\n"), "bytes that are neither kept nor set aside"
        shutil.rmtree(out)
        return found

    def _ticks_of(self, folder: Path) -> list[int]:
        """The ticks of an episode that is healthy and in which every value is what was recorded."""
        assert [finding for finding in examine(folder) if finding.severity == ERROR] == []
        episode = open_episode(folder)
        steps = list(episode.steps(frames=True))
        for place, step in enumerate(steps):
            wanted = make_step_example(step.tick, size=(1, 1))
            ends = {"is_first": place == 0, "is_last": place == len(steps) - 1}
            assert step == replace(wanted, **ends)
            assert episode.frame_jpeg(place) == self.jpegs[step.tick]
        return [step.tick for step in steps]


def _check_report(folder: Path, source: dict[str, tuple[bytes, int]]) -> None:
    report = json.loads((folder / "report.json").read_text())
    for entry in report["aside"]:
        assert entry["file"]
        assert entry["field"]
        assert entry["problem"]
        if entry["end"] > entry["start"]:
            raw = (folder / entry["raw"]).read_bytes()[entry["raw_offset"] :]
            wanted = source[entry["file"]][0][entry["start"] : entry["end"]]
            assert raw[: len(wanted)] == wanted


@pytest.fixture
def patient(disk: Path) -> Patient:
    path = write_episode(disk / "memory", small_steps(3))
    pristine = {name: (path / name).read_bytes() for name in FILES}
    ends = [at for at, byte in enumerate(pristine[STEPS_FILE]) if byte == 10]
    starts = [0, *(end + 1 for end in ends)]
    episode = open_episode(path)
    refs = [step.frame_ref for step in episode]
    return Patient(
        path,
        pristine,
        list(zip(starts, ends, strict=False)),
        [(ref.offset, ref.offset + ref.length) for ref in refs if ref is not None],
        [episode.frame_jpeg(i) for i in range(3)],
    )


def _in_runs(ticks: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for tick in ticks:
        if runs and runs[-1][-1] == tick - 1:
            runs[-1].append(tick)
        else:
            runs.append([tick])
    return runs


@pytest.mark.parametrize("name", FILES)
def test_truncation_at_every_byte_is_detected_and_repair_keeps_every_whole_step(
    patient: Patient, name: str
) -> None:
    data = patient.pristine[name]
    for cut in range(len(data)):
        damaged = {name: data[:cut]}
        patient.damage(damaged)
        assert is_sick(patient.path), cut
        assert patient.repaired() == _in_runs(patient.whole(damaged)), cut


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_byte_is_detected_and_repair_keeps_every_whole_step(
    patient: Patient, name: str
) -> None:
    rng = random.Random(5)
    for at in range(len(patient.pristine[name])):
        data = bytearray(patient.pristine[name])
        data[at] ^= 1 << rng.randrange(8)
        damaged = {name: bytes(data)}
        patient.damage(damaged)
        assert is_sick(patient.path), at
        assert patient.repaired() == _in_runs(patient.whole(damaged)), at


_DAMAGE = st.tuples(
    st.sampled_from(FILES), st.integers(0, 4000), st.binary(min_size=1, max_size=40), st.booleans()
)


@given(damages=st.lists(_DAMAGE, min_size=1, max_size=6))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=300,
    deadline=None,
)
def test_any_combination_of_overwritten_and_cut_bytes_costs_only_the_steps_that_it_touches(
    patient: Patient, damages: list[tuple[str, int, bytes, bool]]
) -> None:
    damaged: dict[str, bytes] = {}
    for name, place, noise, cut in damages:
        data = damaged.get(name, patient.pristine[name])
        at = place % (len(data) + 1)
        damaged[name] = data[:at] if cut else (data[:at] + noise + data[at + len(noise) :])[: len(data)]
    patient.damage(damaged)
    if any(data != patient.pristine[name] for name, data in damaged.items()):
        assert is_sick(patient.path)
    assert [tick for run in patient.repaired(in_place=True) for tick in run] == patient.whole(damaged)


_EDIT = st.tuples(st.sampled_from(FILES), st.integers(0, 4000), st.integers(0, 900), st.integers(0, 4000))


@given(edits=st.lists(_EDIT, min_size=1, max_size=4), removed=st.sampled_from(["", *FILES]))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
    deadline=None,
)
def test_moved_repeated_and_missing_bytes_never_make_an_untrue_or_unreadable_episode(
    patient: Patient, edits: list[tuple[str, int, int, int]], removed: str
) -> None:
    damaged = dict(patient.pristine)
    for name, start, length, to in edits:
        data = damaged[name]
        piece = data[start : start + length]
        rest = data[:start] + data[start + length :] if length % 2 else data
        at = to % (len(rest) + 1)
        damaged[name] = rest[:at] + piece + rest[at:]
    patient.damage(damaged)
    if removed:
        (patient.path / removed).unlink()
    for run in patient.repaired():  # which checks every step against what was recorded
        assert run == sorted(set(run))
    patient.damage({})
