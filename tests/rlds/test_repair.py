"""What repair does with an episode: copies, splits, closes, and says so; metadata field by field."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_alteration
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.repair import repair
from continuonbrain.rlds.repair_rules import arrange, read_line
from continuonbrain.rlds.repair_survey import survey
from continuonbrain.rlds.stepline import seal_step_object
from continuonbrain.rlds.tfrecord import masked_crc32c
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE, EpisodeWriter, metadata_bytes
from tests.rlds.sick_episodes import (
    FILES,
    alter_lines,
    contents,
    gray_jpeg,
    is_sick,
    small_steps,
    ticks_of,
    write_episode,
)

RecordEpisode = Callable[..., Path]


def test_a_whole_episode_is_copied_byte_for_byte(tmp_path: Path, record: RecordEpisode) -> None:
    path = record(3)
    (result,) = repair(path, tmp_path / "out")
    assert (result.action, result.steps_kept, result.aside) == ("copied", 3, ())
    copied = {name: item[0] for name, item in contents(Path(result.episodes[0])).items()}
    assert copied == {name: item[0] for name, item in contents(path).items()}
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["episode"]


def test_a_gap_in_the_middle_splits_the_episode_and_says_so(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "memory", small_steps(5))
    alter_lines(path, lambda lines: [*lines[:2], lines[2].replace(b"keep left", b"keep lift"), *lines[3:]])
    (result,) = repair(path, tmp_path / "out")
    assert [Path(folder).name for folder in result.episodes] == ["e-a", "e-b"]
    assert [ticks_of(folder) for folder in result.episodes] == [[0, 1], [3, 4]]
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
    path = write_episode(tmp_path / "memory", small_steps(4))
    alter_lines(path, lambda lines: [lines[0], *lines[2:]])
    assert is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    assert [ticks_of(folder) for folder in result.episodes] == [[0], [2, 3]]
    assert "1 step of those that the metadata count left no trace" in result.done


def test_a_duplicate_is_kept_once_and_backward_time_and_a_terminal_step_split(tmp_path: Path) -> None:
    steps = small_steps(6)
    order = [steps[0], steps[1], steps[1], steps[3], steps[2], steps[4]]
    path = write_episode(tmp_path / "memory", order)
    (result,) = repair(path, tmp_path / "out")
    assert [ticks_of(folder) for folder in result.episodes] == [[0, 1, 3], [2, 4]]
    assert "left out as duplicates: 1 step" in result.done
    duplicate, frame = result.aside
    assert (duplicate.file, duplicate.step, duplicate.field) == (
        STEPS_FILE,
        2,
        "step_metadata.fast_loop_tick",
    )
    assert (frame.file, frame.end - frame.start) == (BLOB_FILE, len(gray_jpeg(60)) + 16)
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
    steps = small_steps(3)
    steps[1] = replace(
        steps[1], extra={"dropped_before": "4"}, frame_monotonic_ns=steps[1].monotonic_ns + 7_500_000
    )
    path = write_episode(tmp_path / "memory", steps)
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
    for step in small_steps(4):
        writer.write(step)
    writer.abandon()
    (result,) = repair(writer.path, tmp_path / "out")
    assert "closed: its recorder died and left it open" in result.done
    assert ticks_of(result.episodes[0]) == [0, 1, 2]
    assert examine(Path(result.episodes[0])) == []


def test_metadata_are_kept_field_by_field(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "memory", small_steps(2))
    value = json.loads((path / METADATA_FILE).read_text())
    value["control_role"] = 7
    value["tagz"] = value.pop("tags")
    (path / METADATA_FILE).write_text(json.dumps(value))
    assert is_sick(path)
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
    path = write_episode(tmp_path / "memory", small_steps(3))
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
        for step in small_steps(3):
            writer.write(step)
        writer.annotate({"undelivered_drops": 7})
    lines = (writer.path / STEPS_FILE).read_bytes().splitlines(True)
    (writer.path / STEPS_FILE).write_bytes(lines[0] + b"garbage\n" + lines[2])
    (result,) = repair(writer.path, tmp_path / "out")
    told = [open_episode(Path(e)).metadata.provenance.get("undelivered_drops") for e in result.episodes]
    assert told == [None, 7]


def test_a_frame_of_another_length_than_its_step_says_is_not_kept(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "memory", small_steps(3))
    value = json.loads((path / STEPS_FILE).read_bytes().splitlines()[1])
    del value["step_metadata"]["crc32c"]
    value["observation"]["frame"]["length"] += 1

    def swap(lines: list[bytes]) -> list[bytes]:
        return [lines[0], seal_step_object(value), lines[2]]

    alter_lines(path, swap)
    (finding,) = [f for f in examine(path) if f.severity == ERROR]
    assert (finding.step, finding.field) == (1, "observation.frame")
    (result,) = repair(path, tmp_path / "out")
    assert [ticks_of(folder) for folder in result.episodes] == [[0], [2]]
    assert any("were recorded" in item.problem for item in result.aside)


def test_a_changed_word_in_the_metadata_is_known_by_their_crc(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "memory", small_steps(2))
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
    path = write_episode(tmp_path / "memory", small_steps(2))
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
