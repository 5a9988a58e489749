from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_alteration
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.repair import repair
from continuonbrain.rlds.repair_rules import arrange, part_names, read_line
from continuonbrain.rlds.repair_survey import survey
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.stepline import seal_step_object
from continuonbrain.rlds.tfrecord import masked_crc32c
from continuonbrain.rlds.writer import (
    BLOB_FILE,
    METADATA_FILE,
    STEPS_FILE,
    EpisodeWriter,
    metadata_bytes,
)

RecordEpisode = Callable[..., Path]
runner = CliRunner()
FILES = (METADATA_FILE, STEPS_FILE, BLOB_FILE)


def _jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), shade).save(out, "JPEG", optimize=True)
    return out.getvalue()


def _steps(count: int) -> list[Step]:
    return [
        replace(make_step_example(tick, size=(1, 1)), frame=None, frame_jpeg=_jpeg(40 * tick + 20))
        for tick in range(count)
    ]


def _write(memory: Path, steps: list[Step], episode_id: str = "e") -> Path:
    with EpisodeWriter(memory, metadata=make_metadata_example(episode_id)) as writer:
        for step in steps:
            writer.write(step)
    return writer.path


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
        before = _contents(self.path)
        out = self.path.parent.parent / f"out-{self.rounds}"
        self.rounds += 1
        (result,) = repair(self.path, out)
        assert _contents(self.path) == before
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


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {
        file.relative_to(folder).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns) for file in files
    } | {"": (b"", folder.stat().st_mtime_ns)}


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
    path = _write(disk / "memory", _steps(3))
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


def _is_sick(path: Path) -> bool:
    errors = [finding for finding in examine(path) if finding.severity == ERROR]
    assert all(finding.file and finding.field and finding.problem and finding.remedy for finding in errors)
    return bool(errors)


@pytest.mark.parametrize("name", FILES)
def test_truncation_at_every_byte_is_detected_and_repair_keeps_every_whole_step(
    patient: Patient, name: str
) -> None:
    data = patient.pristine[name]
    for cut in range(len(data)):
        damaged = {name: data[:cut]}
        patient.damage(damaged)
        assert _is_sick(patient.path), cut
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
        assert _is_sick(patient.path), at
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
        assert _is_sick(patient.path)
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


# ---------------------------------------------------------------------------------------- what is done


def _alter_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    file = path / STEPS_FILE
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def _ticks(folder: str | Path) -> list[int]:
    return [step.tick for step in open_episode(Path(folder)).steps(frames=True)]


def test_a_whole_episode_is_copied_byte_for_byte(tmp_path: Path, record: RecordEpisode) -> None:
    path = record(3)
    (result,) = repair(path, tmp_path / "out")
    assert (result.action, result.steps_kept, result.aside) == ("copied", 3, ())
    copied = {name: item[0] for name, item in _contents(Path(result.episodes[0])).items()}
    assert copied == {name: item[0] for name, item in _contents(path).items()}
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["episode"]


def test_a_gap_in_the_middle_splits_the_episode_and_says_so(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(5))
    _alter_lines(path, lambda lines: [*lines[:2], lines[2].replace(b"keep left", b"keep lift"), *lines[3:]])
    (result,) = repair(path, tmp_path / "out")
    assert [Path(folder).name for folder in result.episodes] == ["e-a", "e-b"]
    assert [_ticks(folder) for folder in result.episodes] == [[0, 1], [3, 4]]
    assert (result.steps_kept, result.steps_aside) == (4, 1)
    assert "split: between steps 1 and 3 something is lost" in result.done
    assert "is_last is now true at step 1 of the source" in result.done
    assert "is_first is now true at step 3 of the source" in result.done
    step, frame = sorted(result.aside, key=lambda item: item.file, reverse=True)
    assert (step.file, step.step, step.field) == (STEPS_FILE, 2, "crc32c")
    assert (frame.file, frame.field) == (BLOB_FILE, "observation.frame")
    metadata = open_episode(Path(result.episodes[1])).metadata
    assert metadata.episode_id == "e-b"
    assert metadata.start_time_unix_ms == 1_700_000_000_150
    state = RecordingState.of(metadata)
    assert state is not None
    assert (state.closed_by, state.steps) == ("repair", 2)
    told = metadata.provenance["repair"]
    assert (told["of"], told["first_step"], told["last_step"], told["steps_aside"]) == ("e", 3, 4, 1)
    assert set(told["source_files"]) == set(FILES)


def test_a_line_that_vanished_without_a_trace_is_known_by_its_frame(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(4))
    _alter_lines(path, lambda lines: [lines[0], *lines[2:]])
    assert _is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    assert [_ticks(folder) for folder in result.episodes] == [[0], [2, 3]]
    assert "1 step of those that the metadata count left no trace" in result.done


def test_a_duplicate_is_kept_once_and_backward_time_and_a_terminal_step_split(tmp_path: Path) -> None:
    steps = _steps(6)
    order = [steps[0], steps[1], steps[1], steps[3], steps[2], steps[4]]
    path = _write(tmp_path / "memory", order)
    (result,) = repair(path, tmp_path / "out")
    assert [_ticks(folder) for folder in result.episodes] == [[0, 1, 3], [2, 4]]
    assert "left out as duplicates: 1 step" in result.done
    duplicate, frame = result.aside
    assert (duplicate.file, duplicate.step, duplicate.field) == (
        STEPS_FILE,
        2,
        "step_metadata.fast_loop_tick",
    )
    assert (frame.file, frame.end - frame.start) == (BLOB_FILE, len(_jpeg(60)) + 16)
    assert all(examine(Path(folder)) == [] for folder in result.episodes)
    line = {"observation": {}, "action": {"command": [0, 0], "source": "x"}, "is_terminal": True}
    found = [
        item
        for index, at in enumerate((5, 9))
        for item in read_line(
            json.dumps(line | {"step_metadata": {"monotonic_ns": str(at)}}).encode(),
            index=index,
            file="f",
            start=0,
            end=9,
            sealed=False,
        )
    ]
    assert arrange(found, contiguous=False).cuts == (
        "between steps 0 and 1 the task ended: step 0 is terminal",
    )


def test_marks_of_the_recorder_and_the_time_of_a_frame_stay(tmp_path: Path) -> None:
    steps = _steps(3)
    steps[1] = replace(
        steps[1], extra={"dropped_before": "4"}, frame_monotonic_ns=steps[1].monotonic_ns + 7_500_000
    )
    path = _write(tmp_path / "memory", steps)
    os.truncate(path / BLOB_FILE, (path / BLOB_FILE).stat().st_size - 1)
    (result,) = repair(path, tmp_path / "out")
    (folder,) = result.episodes
    step = open_episode(Path(folder)).step(1)
    assert step.extra["dropped_before"] == "4"
    assert step.frame_monotonic_ns == steps[1].frame_monotonic_ns
    state = RecordingState.of(open_episode(Path(folder)).metadata)
    assert state is not None
    assert state.dropped == 4
    assert [finding.step for finding in examine(Path(folder)) if "younger" in finding.problem] == [1]


def test_an_episode_that_its_recorder_left_open_is_closed(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "memory", metadata=make_metadata_example("e"))
    for step in _steps(4):
        writer.write(step)
    writer.abandon()
    (result,) = repair(writer.path, tmp_path / "out")
    assert "closed: its recorder died and left it open" in result.done
    assert _ticks(result.episodes[0]) == [0, 1, 2]
    assert examine(Path(result.episodes[0])) == []


def test_metadata_are_kept_field_by_field(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(2))
    value = json.loads((path / METADATA_FILE).read_text())
    value["control_role"] = 7
    value["tagz"] = value.pop("tags")
    (path / METADATA_FILE).write_text(json.dumps(value))
    assert _is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    metadata = open_episode(Path(result.episodes[0])).metadata
    assert (metadata.environment_id, metadata.control_role, metadata.tags) == ("test/bench", "unknown", ())
    fields = {item.field for item in result.aside}
    assert {"metadata.control_role", "metadata.tags", "metadata"} <= fields
    assert (Path(result.aside_path) / "metadata.json.raw").read_bytes() == (path / METADATA_FILE).read_bytes()


def test_empty_metadata_keep_no_step_from_being_repaired(tmp_path: Path, record: RecordEpisode) -> None:
    for name in "abc":
        record(2, episode_id=name)
    memory = tmp_path / "episodes"
    (memory / "b" / METADATA_FILE).write_text("{}")
    results = repair(memory, tmp_path / "out")
    assert [(r.action, r.steps_kept) for r in results] == [("copied", 2), ("repaired", 2), ("copied", 2)]
    missing = {item.field for item in results[1].aside}
    assert {"metadata.xr_mode", "metadata.tags", "metadata.software"} <= missing


def test_a_record_that_promises_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(3))
    blob, size = path / BLOB_FILE, 300 << 20
    head = struct.pack("<Q", size)
    with open(blob, "r+b") as file:
        file.write(head + struct.pack("<I", masked_crc32c(head)))
        file.truncate(size + 16)
    tracemalloc.start()
    try:
        found = survey(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert "is too long" in found.bad_frames[BLOB_FILE][0][1]


def test_drops_after_the_last_step_are_told_of_the_last_part_only(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "memory", metadata=make_metadata_example("e")) as writer:
        for step in _steps(3):
            writer.write(step)
        writer.annotate({"undelivered_drops": 7})
    lines = (writer.path / STEPS_FILE).read_bytes().splitlines(True)
    (writer.path / STEPS_FILE).write_bytes(lines[0] + b"garbage\n" + lines[2])
    (result,) = repair(writer.path, tmp_path / "out")
    told = [open_episode(Path(e)).metadata.provenance.get("undelivered_drops") for e in result.episodes]
    assert told == [None, 7]


def test_a_frame_of_another_length_than_its_step_says_is_not_kept(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(3))
    value = json.loads((path / STEPS_FILE).read_bytes().splitlines()[1])
    del value["step_metadata"]["crc32c"]
    value["observation"]["frame"]["length"] += 1

    def swap(lines: list[bytes]) -> list[bytes]:
        return [lines[0], seal_step_object(value), lines[2]]

    _alter_lines(path, swap)
    (finding,) = [f for f in examine(path) if f.severity == ERROR]
    assert (finding.step, finding.field) == (1, "observation.frame")
    (result,) = repair(path, tmp_path / "out")
    assert [_ticks(folder) for folder in result.episodes] == [[0], [2]]
    assert any("were recorded" in item.problem for item in result.aside)


def test_a_changed_word_in_the_metadata_is_known_by_their_crc(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(2))
    file = path / METADATA_FILE
    file.write_bytes(file.read_bytes().replace(b"test/bench", b"test/banch"))
    with pytest.raises(
        EpisodeError, match=r"metadata\.json, metadata\.provenance\.recording\.metadata_crc32c"
    ):
        open_episode(path)
    assert "CRC of the metadata" in open_episode(path, strict=False).torn
    (finding,) = examine(path)
    assert (finding.severity, finding.field) == (ERROR, "metadata.provenance.recording.metadata_crc32c")
    (result,) = repair(path, tmp_path / "out")
    assert result.steps_kept == 2
    assert open_episode(Path(result.episodes[0])).metadata.environment_id == "test/banch"
    assert "metadata.json is damaged" in " ".join(result.done)


def test_metadata_from_before_there_was_a_crc_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(2))
    value = json.loads((path / METADATA_FILE).read_text())
    del value["provenance"]["recording"]["metadata_crc32c"]
    (path / METADATA_FILE).write_text(json.dumps(value, indent=2) + "\n")
    assert examine(path) == []
    assert len(open_episode(path)) == 2


def test_metadata_are_sealed_whatever_others_put_into_their_provenance() -> None:
    recording = {"recording": {"metadata_crc32c": "00000000"}, '"metadata_crc32c": "12345678"': "x"}
    metadata = RecordingState().into(replace(make_metadata_example("e"), provenance=recording))
    metadata = replace(metadata, provenance={**metadata.provenance, "zz": {"metadata_crc32c": "11111111"}})
    data = metadata_bytes(metadata)
    assert EpisodeMetadata.from_json(json.loads(data)).provenance["zz"] == {"metadata_crc32c": "11111111"}

    assert metadata_alteration(data, EpisodeMetadata.from_json(json.loads(data))) is None
    assert metadata_alteration(data.replace(b"bench", b"bonch"), metadata) is not None


# --------------------------------------------------------------------------------- what others have written


def _theirs(tmp_path: Path, lines: list[str]) -> Path:
    folder = tmp_path / "theirs"
    (folder / "steps").mkdir(parents=True)
    (folder / METADATA_FILE).write_text(json.dumps(make_metadata_example().to_json()))
    (folder / STEPS_FILE).write_text("".join(lines))
    return folder


def _their_step(tick: int, **more: Any) -> str:
    value = {
        "observation": {"headset_pose": {"x": tick}, "robot_state": {"timestamp_nanos": 100 + tick}},
        "action": {"command": [0.5, 0.25], "source": "human_teleop_xr", "annotation": "é"},
        "is_terminal": False,
        "reward": 0.5,
        **more,
    }
    return json.dumps(value, ensure_ascii=False) + "\n"


def test_keys_of_other_recorders_and_ticks_that_were_line_numbers_stay(tmp_path: Path) -> None:
    path = _theirs(tmp_path, [_their_step(0), "{broken\n", _their_step(2), _their_step(3)[:-1]])
    (result,) = repair(path, tmp_path / "out")
    assert [_ticks(folder) for folder in result.episodes] == [[0], [2, 3]]
    line = json.loads((Path(result.episodes[1]) / STEPS_FILE).read_text().splitlines()[1])
    assert line["observation"]["headset_pose"] == {"x": 3}
    assert (line["reward"], line["action"]["annotation"]) == (0.5, "é")
    assert (line["is_first"], line["is_last"]) == (False, True)
    assert [step.monotonic_ns for step in open_episode(Path(result.episodes[1]))] == [102, 103]


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
@pytest.mark.parametrize("key", ["reward", "command"])
def test_numbers_that_are_not_finite_cannot_be_kept(tmp_path: Path, number: str, key: str) -> None:
    bad = _their_step(1).replace(
        '"reward": 0.5' if key == "reward" else "0.25", f'"reward": {number}' if key == "reward" else number
    )
    path = _theirs(tmp_path, [_their_step(0), bad, _their_step(2)])
    assert _is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    assert [_ticks(folder) for folder in result.episodes] == [[0], [2]]


def _flat(steps: list[Any], metadata: Any = None) -> str:
    shown = make_metadata_example("flat").to_json() if metadata is None else metadata
    return json.dumps({"metadata": shown, "steps": steps})


def test_a_flat_json_is_repaired_into_a_folder_from_whatever_is_left(tmp_path: Path) -> None:
    steps = [make_step_example(tick).to_json() for tick in range(4)]
    text = _flat(steps)
    starts = [text.index('{"observation"', 0)]
    while (at := text.find('{"observation"', starts[-1] + 1)) > 0:
        starts.append(at)
    file = tmp_path / "some.json"
    cuts = [*range(0, len(text), 61), *(at + extra for at in starts[1:] for extra in (-3, -2, -1, 0, 1))]
    for number, cut in enumerate(cuts):
        file.write_text(text[:cut])
        whole = sum(end - 2 <= cut for end in starts[1:]) + (cut >= len(text) - 2)
        (result,) = repair(file, tmp_path / f"out-{number}")
        assert result.steps_kept == whole, cut
        assert [len(open_episode(Path(folder))) for folder in result.episodes] == [whole] * bool(whole)
        assert all(not _is_sick(Path(folder)) for folder in result.episodes)
    damaged = text.replace('"fast_loop_tick": "1"', '"fast_loop_tick: "1"')
    file.write_text(damaged)
    (result,) = repair(file, tmp_path / "out")
    assert [_ticks_only(folder) for folder in result.episodes] == [[0], [2, 3]]
    (bad,) = [item for item in result.aside if item.step is not None]
    assert (bad.step, bad.start) == (1, damaged.index('{"observation"', starts[0] + 1))


def _ticks_only(folder: str) -> list[int]:
    return [step.tick for step in open_episode(Path(folder))]


def test_garbage_that_nests_and_garbage_without_end_are_put_aside_in_bounded_work(tmp_path: Path) -> None:
    file = tmp_path / "garbage.json"
    file.write_text('{"metadata": 1, "steps": [' + '{"action": [1, ' * 40_000)
    (result,) = repair(file, tmp_path / "flat")
    assert result.action == "nothing kept"
    path = _theirs(tmp_path, ["\x00\n" * 30_000, "x" * (3 << 20), "\n", _their_step(7)])
    (result,) = repair(path, tmp_path / "out")
    assert result.steps_kept == 1
    assert len(result.aside) < 1100
    assert sum(item.lines for item in result.aside) == 30_001
    findings = examine(path)
    assert len(findings) < 1100
    assert any("more lines from here on are no steps" in finding.problem for finding in findings)


def test_a_pipe_in_place_of_frames_is_not_waited_for(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(2))
    (path / BLOB_FILE).unlink()
    os.mkfifo(path / BLOB_FILE)
    assert _is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    assert result.action == "nothing kept"


# --------------------------------------------------------------------------------------- memories and OUT


def test_a_memory_is_repaired_episode_by_episode_and_one_in_use_is_left_alone(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    _write(memory, _steps(2), "whole")
    torn = _write(memory, _steps(3), "torn")
    os.truncate(torn / STEPS_FILE, (torn / STEPS_FILE).stat().st_size - 9)
    (_write(memory, _steps(1), "bare") / METADATA_FILE).unlink()
    with EpisodeWriter(memory, metadata=make_metadata_example("live")) as live:
        live.write(_steps(1)[0])
        results = {Path(result.source).name: result for result in repair(memory, tmp_path / "out")}
        with pytest.raises(EpisodeError, match="being recorded"):
            repair(live.path, tmp_path / "single")
    assert not (tmp_path / "single").exists()
    assert {name: result.action for name, result in results.items()} == {
        "bare": "repaired",
        "live": "in use",
        "torn": "repaired",
        "whole": "copied",
    }
    assert [path.name for path in list_episodes(tmp_path / "out")] == ["bare", "torn", "whole"]
    assert [finding for finding in examine(tmp_path / "out") if finding.severity == ERROR] == []
    assert any(finding.file == str(memory / "bare" / METADATA_FILE) for finding in examine(memory))
    again = repair(tmp_path / "out", tmp_path / "again")
    assert {result.action for result in again} == {"copied"}


def test_names_of_parts_keep_out_of_each_others_way() -> None:
    assert part_names("e", 1, set()) == ["e"]
    assert part_names("e", 2, {"e-b"}) == ["e-r-a", "e-r-b"]
    assert part_names("aside", 1, {"aside"}) == ["aside-a"]
    many = part_names("e" * 128, 30, set())
    assert many == sorted(many)
    assert len(set(many)) == 30
    assert {len(name) for name in many} == {128}


def test_out_must_be_new_and_outside_of_the_source(tmp_path: Path, record: RecordEpisode) -> None:
    path = record(2)
    before = _contents(path.parent)
    with pytest.raises(EpisodeError, match="exists already"):
        repair(path, tmp_path)
    with pytest.raises(EpisodeError, match="inside the source"):
        repair(path, path / "out")
    with pytest.raises(EpisodeError, match="inside the source"):
        repair(path.parent, path.parent / "out")
    (tmp_path / "link").symlink_to(path)
    for out in (tmp_path / "link" / "out", path.parent / ".." / path.parent.name / path.name / "out"):
        with pytest.raises(EpisodeError, match="inside the source"):
            repair(path, out)
    with pytest.raises(EpisodeError, match="no such episode"):
        repair(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EpisodeError, match="no episode in it"):
        repair(tmp_path / "empty", tmp_path / "out")
    assert _contents(path.parent) == before


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "memory", _steps(2))
    os.truncate(path / BLOB_FILE, (path / BLOB_FILE).stat().st_size - 1)
    before = _contents(path)

    def no_space(*_: object, **__: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("continuonbrain.rlds.repair.rewritten", no_space)
    with pytest.raises(OSError, match="No space"):
        repair(path, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    assert _contents(path) == before


def test_the_command_says_what_it_did_and_its_exit_code_whether_a_step_was_kept(tmp_path: Path) -> None:
    path = _write(tmp_path / "memory", _steps(3))
    os.truncate(path / STEPS_FILE, (path / STEPS_FILE).stat().st_size - 9)
    told = runner.invoke(app, ["repair", str(path), str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "2 steps kept, 1 set aside" in told.output
    assert f"aside: {STEPS_FILE}, step 2, bytes " in told.output
    assert "is_last is now true at step 1" in told.output
    assert runner.invoke(app, ["doctor", str(tmp_path / "out"), "--json"]).exit_code == 0
    as_json = runner.invoke(app, ["repair", str(path), str(tmp_path / "out2"), "--json"])
    (entry,) = json.loads(as_json.stdout)["episodes"]
    assert (entry["action"], entry["steps_kept"], entry["steps_aside"]) == ("repaired", 2, 1)
    assert entry["aside"][0]["field"] == "crc32c"
    (path / STEPS_FILE).write_bytes(b"")
    nothing = runner.invoke(app, ["repair", str(path), str(tmp_path / "out3"), "--json"])
    assert nothing.exit_code == 1
    assert json.loads(nothing.stdout)["steps_kept"] == 0


def test_a_survey_of_a_whole_episode_finds_nothing_to_put_aside(tmp_path: Path) -> None:
    found = survey(_write(tmp_path / "memory", _steps(3)))
    assert (found.aside, found.notes, found.lines, found.sealed) == ([], [], 3, True)
