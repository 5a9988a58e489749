from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.summary import sparkline, summarise
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE, EpisodeWriter

RecordEpisode = Callable[..., Path]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    with EpisodeWriter(tmp_path / "memory", metadata=make_metadata_example("small")) as writer:
        for tick in range(2):
            writer.write(make_step_example(tick, size=(8, 8)))
    return writer.path


def test_truncation_at_every_byte_of_the_steps_file_is_detected_and_whole_steps_stay_readable(
    small: Path,
) -> None:
    file = small / STEPS_FILE
    data = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for cut in range(len(data)):
        file.write_bytes(data[:cut])
        with pytest.raises(EpisodeError, match="episodes doctor") as caught:
            open_episode(small)
        assert caught.value.file is not None
        whole = open_episode(small, strict=False)
        assert len(whole) == sum(end <= cut for end in ends)
        assert whole.torn
        assert len(list(whole.steps(frames=cut % 64 == 0))) == len(whole)


def test_truncation_at_every_byte_of_the_frames_is_detected_and_whole_steps_stay_readable(
    small: Path,
) -> None:
    file = small / BLOB_FILE
    data = file.read_bytes()
    refs = [step.frame_ref for step in open_episode(small)]
    for cut in range(len(data)):
        file.write_bytes(data[:cut])
        with pytest.raises(EpisodeError, match="bytes of frames"):
            open_episode(small)
        whole = open_episode(small, strict=False)
        assert len(whole) == sum(ref is not None and ref.offset + ref.length <= cut for ref in refs)
        if cut % 64 == 0:
            assert len(list(whole.steps(frames=True))) == len(whole)


def test_truncation_at_every_byte_of_the_metadata_is_detected(small: Path) -> None:
    file = small / "metadata.json"
    data = file.read_bytes()
    for cut in range(len(data) - 1):  # the last byte is the final newline
        file.write_bytes(data[:cut])
        with pytest.raises(EpisodeError, match=r"metadata\.json"):
            open_episode(small)


def test_flipped_bits_in_steps_and_frames_are_detected_by_reader_and_doctor(small: Path) -> None:
    for name in (STEPS_FILE, BLOB_FILE):
        file = small / name
        data = file.read_bytes()
        for bit in range(0, len(data) * 8, 89):
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            file.write_bytes(bad)
            with pytest.raises(EpisodeError):
                list(open_episode(small).steps(frames=True))
            assert any(finding.severity == ERROR for finding in examine(small))
        file.write_bytes(data)
    assert examine(small) == []


def test_an_altered_line_is_named_by_file_step_and_field(small: Path) -> None:
    file = small / STEPS_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"keep left"', b'"keep lift"')
    file.write_bytes(b"".join(lines))
    episode = open_episode(small)
    assert episode.step(0).tick == 0
    with pytest.raises(EpisodeError, match=r"000000\.jsonl, step 1, crc32c: .*doctor") as caught:
        episode.step(1)
    assert (caught.value.step, caught.value.field) == (1, "crc32c")
    (finding,) = [f for f in examine(small) if f.severity == ERROR]
    assert (finding.step, finding.field) == (1, "crc32c")


def test_a_step_far_into_an_episode_is_read_without_those_before_it(record: RecordEpisode) -> None:
    episode = open_episode(record(40))
    assert episode.step(33).tick == episode.step(-7).tick == 33
    assert episode.frame(33).shape == (24, 32, 3)
    with pytest.raises(IndexError):
        episode.step(40)


def _flat() -> dict[str, Any]:
    steps = [make_step_example(tick).to_json() for tick in range(3)]
    for step in steps:
        del step["is_first"], step["is_last"]
    return {"metadata": make_metadata_example("flat").to_json(), "steps": steps}


def test_the_flat_json_of_the_ecosystem_is_read(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps(_flat()))
    episode = open_episode(path)
    assert [step.tick for step in episode] == [0, 1, 2]
    assert [step.is_last for step in episode] == [False, False, True]
    with pytest.raises(EpisodeError, match="no frame"):
        episode.frame(0)
    assert examine(path) == []


def test_a_bad_step_in_flat_json_is_named(tmp_path: Path) -> None:
    value = _flat()
    value["steps"][1]["action"]["command"] = [1.0]
    path = tmp_path / "flat.json"
    path.write_text(json.dumps(value))
    with pytest.raises(EpisodeError, match=r"step 1, action\.command: \[steering, throttle\] is needed"):
        open_episode(path).step(1)
    assert len(open_episode(path, strict=False)) == 1
    assert [finding.step for finding in examine(path)] == [1]


@given(data=st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_arbitrary_bytes_in_any_file_give_a_typed_error(small: Path, data: bytes) -> None:
    flat = small.parent / "flat.json"
    flat.write_bytes(data)
    with pytest.raises(EpisodeError):
        open_episode(flat)
    for name in ("metadata.json", STEPS_FILE, BLOB_FILE):
        kept = (small / name).read_bytes()
        (small / name).write_bytes(data)
        with pytest.raises(EpisodeError):
            list(open_episode(small).steps(frames=True))
        examine(small)
        (small / name).write_bytes(kept)


def test_listing_finds_our_folders_sorted_and_passes_over_everything_else(
    tmp_path: Path, record: RecordEpisode
) -> None:
    memory = tmp_path / "episodes"
    record(1, episode_id="b")
    record(1, episode_id="a")
    (memory / ".staging-1234-c").mkdir()
    (memory / "notes.txt").write_text("x")
    (memory / "empty").mkdir()
    shutil.copytree(memory / "a", memory / "._a")
    assert [path.name for path in list_episodes(memory)] == ["a", "b"]
    assert list_episodes(tmp_path / "absent") == []


def test_a_folder_of_another_recorder_without_crc_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    (folder / "steps").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(make_metadata_example().to_json()))
    lines = [json.dumps(make_step_example(tick).to_json()) for tick in range(2)]
    (folder / "steps" / "000000.jsonl").write_text("\n".join(lines) + "\n")
    assert [step.tick for step in open_episode(folder)] == [0, 1]


def test_a_missing_episode_names_the_way_to_find_one(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="episodes list"):
        open_episode(tmp_path / "nowhere")


def test_doctor_finds_time_that_runs_backwards_and_duplicate_steps(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, metadata=make_metadata_example("e")) as writer:
        for tick in (0, 1, 1, 0):
            writer.write(make_step_example(tick))
    problems = {(f.step, f.problem.split(",")[0].split(" ")[0]) for f in examine(writer.path)}
    assert problems == {(2, "the"), (3, "time")}


def test_the_summary_counts_and_draws(record: RecordEpisode) -> None:
    summary = summarise(open_episode(record(60)))
    assert (summary.steps, summary.frames, summary.step_ms) == (60, 60, 50.0)
    assert summary.reasons == {"slew": 20}
    assert summary.clamped == 20
    assert sparkline([0.0, None, 1.0]) == "▁ █"
    assert sparkline([None]) == " "
    assert set(sparkline([2.0] * 5)) == {"▄"}
    json.dumps(summary.to_json(), allow_nan=False)
