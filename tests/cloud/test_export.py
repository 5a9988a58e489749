"""Bundles on disk: what goes into them, what stays, and that others read them."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud import shards
from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud.errors import ExportRefused, NothingToExport
from continuonbrain.cloud.export import export_bundle
from continuonbrain.cloud.sinks import ZipSink
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.example_view import index_records
from continuonbrain.rlds.marking import mark
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.sharing import set_answer
from continuonbrain.rlds.tfrecord import read_record
from continuonbrain.storage.zip64 import Member

from .conftest import KEY, MakeRoot, Record, export, plan_of, public_key, set_config, tree, unpacked

# ------------------------------------------------------------------------------------------------- opting in


def test_without_opt_in_nothing_leaves(brain: BrainRoot, tmp_path: Path) -> None:
    refused = set_config(brain.layout.root, opt_in=False)
    before = tree(tmp_path)
    with pytest.raises(ExportRefused, match="opt_in is false") as caught:
        export(refused, tmp_path / "out.zip")
    assert '"opt_in": true' in caught.value.remedy
    assert tree(tmp_path) == before


def test_what_nobody_agreed_to_stays(brain: BrainRoot, tmp_path: Path) -> None:
    done = export(brain, tmp_path / "out.zip")
    assert tuple(done.contents) == ("20260101T080000Z-aaaa", "20260102T080000Z-bbbb", "20260103T080000Z-cccc")
    assert (done.episodes, done.steps) == (3, 15)
    unmarked = set_config(brain.layout.root, share_unmarked=True)
    assert list(export(unmarked, tmp_path / "all.zip").contents)[-1] == "20260105T080000Z-eeee"
    assert "20260104T080000Z-dddd" not in export(unmarked, tmp_path / "again.zip").contents


def test_what_a_person_marked_as_bad_stays_although_it_is_shared(brain: BrainRoot, tmp_path: Path) -> None:
    episodes = brain.layout.episodes_dir
    mark(episodes / "20260101T080000Z-aaaa", bad=True)
    plan = plan_of(brain)
    assert ("20260101T080000Z-aaaa", "a person marked it as bad") in [(s.name, s.reason) for s in plan.stays]
    mark(episodes / "20260102T080000Z-bbbb", bad=True)  # after the plan was made, before it is read
    done = export_bundle(brain, plan, tmp_path / "out.zip", as_zip=True, key_name=KEY)
    assert tuple(done.contents) == ("20260103T080000Z-cccc",)
    assert [s.name for s in done.left_out] == ["20260102T080000Z-bbbb"]
    assert "a person marked it as bad" in done.left_out[0].reason
    mark(episodes / "20260101T080000Z-aaaa", bad=False)
    assert "20260101T080000Z-aaaa" in export(brain, tmp_path / "again.zip").contents


def test_where_nothing_may_leave_nothing_is_written(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    brain = make_root()
    record(brain, "a", share=None)
    before = tree(tmp_path)
    with pytest.raises(NothingToExport, match="share says nothing"):
        export(brain, tmp_path / "out.zip")
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------ what is in a bundle


def test_the_members_of_a_bundle(brain: BrainRoot, tmp_path: Path) -> None:
    done = export(brain, tmp_path / "out.zip")
    dataset = "rlds/episodes_32x24/1.0.0"
    assert [m.name for m in done.members] == [
        f"{dataset}/episodes_32x24-train.tfrecord-00000-of-00001",
        f"{dataset}/dataset_info.json",
        f"{dataset}/features.json",
        "adapters/current/adapter_config.json",
        "adapters/current/adapter_model.safetensors",
        "base.json",
        "config.json",
        "doctor.json",
        "episodes.jsonl",
        "manifest.json",
        "bundle.json",
    ]
    found = check_bundle(done.path, public_key(brain))
    assert (found.counter, found.contents.episodes, found.contents.steps) == (1, 3, 15)
    assert found.contents.datasets == {dataset: {"height": 24, "width": 32, "episodes": 3, "steps": 15}}
    folder = unpacked(done.path, tmp_path / "unpacked")
    doctor = json.loads((folder / "doctor.json").read_text())
    assert doctor == {"schema": 1, "healthy": True, "pictures_decoded": True, "findings": []}
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [5, 7, 3]
    told = json.loads((folder / "manifest.json").read_text())["privacy"]
    assert {"robot_id", "start_time_unix_ms", "environment_id"} <= told["coarsened"].keys()
    assert any("GPS" in what for what in told["dropped"])
    assert "audio" in told["dropped"]
    if unzip := shutil.which("unzip"):
        subprocess.run([unzip, "-tqq", str(done.path)], check=True)


def test_what_the_projects_own_reader_reads(brain: BrainRoot, tmp_path: Path) -> None:
    folder = unpacked(export(brain, tmp_path / "out.zip").path, tmp_path / "unpacked")
    memory = open_memory(folder / "rlds" / "episodes_32x24")
    assert memory.format == "tfds"
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(memory) == 3
    for number, name in enumerate(
        ("20260101T080000Z-aaaa", "20260102T080000Z-bbbb", "20260103T080000Z-cccc")
    ):
        source, read = open_episode(brain.layout.episodes_dir / name), memory.episode(number)
        assert len(read) == len(source) == lines[number]["steps"]
        for index in range(len(source)):
            (frame,) = read.frames(index).values()
            np.testing.assert_array_equal(frame, source.frame(index))
            values = read.step(index).values
            np.testing.assert_array_equal(values["action"], np.float32(source.step(index).command))
            assert values["language_instruction"] == "keep left"
            began = source.step(0).monotonic_ns
            assert int(values["monotonic_ns"]) == source.step(index).monotonic_ns - began
        assert read.metadata["episode_metadata/episode_id"] == lines[number]["id"]


@pytest.mark.parametrize(("frames", "dataset"), [("none", "without_frames"), ("half", "16x12")])
def test_pictures_left_out_or_halved(brain: BrainRoot, tmp_path: Path, frames: Any, dataset: str) -> None:
    done = export(brain, tmp_path / "out", as_zip=False, frames=frames)
    memory = open_memory(done.path / "rlds" / f"episodes_{dataset}" / "1.0.0")
    pictures = list(memory.frames(0, 0).values())
    assert [p.shape for p in pictures] == ([] if frames == "none" else [(12, 16, 3)])
    assert len(memory.episode(1)) == 7
    check_bundle(done.path, public_key(brain))


def test_each_size_of_picture_is_a_dataset_of_its_own(
    brain: BrainRoot, record: Record, tmp_path: Path
) -> None:
    record(brain, "20260107T080000Z-wide", 2, size=(24, 48))
    record(
        brain,
        "20260108T080000Z-dark",
        2,
        change=lambda _t, s: replace(s, frame=None, frame_monotonic_ns=None),
    )
    done = export(brain, tmp_path / "out", as_zip=False)
    names = ("episodes_32x24", "episodes_48x24", "episodes_without_frames")
    assert [len(open_memory(done.path / "rlds" / name)) for name in names] == [3, 1, 1]


def test_a_long_episode_goes_in_parts(
    make_root: MakeRoot, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PART_STEPS", 4)
    brain = make_root()
    record(brain, "long", 10)
    done = export(brain, tmp_path / "out", as_zip=False)
    assert (done.episodes, done.steps, [*done.contents]) == (3, 10, ["long"])
    memory = open_memory(done.path / "rlds" / "episodes_32x24")
    assert [len(e) for e in memory.episodes] == [4, 4, 2]
    assert [memory.step(e, -1).is_terminal for e in range(3)] == [False, False, True]
    told = [
        json.loads(str(e.metadata["episode_metadata/metadata_json"]))
        for e in (memory.episode(0), memory.episode(2))
    ]
    assert [(t["duration_ms"], t["provenance"]["exported"]["steps"]) for t in told] == [(150, 4), (50, 2)]
    lines = [json.loads(line) for line in (done.path / "episodes.jsonl").read_text().splitlines()]
    assert [line["id"].partition(".")[2] for line in lines] == ["0", "1", "2"]


def test_a_damaged_episode_keeps_no_other_back(brain: BrainRoot, tmp_path: Path) -> None:
    blob = brain.layout.episodes_dir / "20260102T080000Z-bbbb" / "blobs" / "000000.tfrecord"
    data = bytearray(blob.read_bytes())
    data[-40] ^= 1
    blob.write_bytes(data)
    assert examine(blob.parent.parent)
    done = export(brain, tmp_path / "out", as_zip=False)
    assert [s.name for s in done.left_out] == ["20260102T080000Z-bbbb"]
    assert "CRC" in done.left_out[0].reason
    assert done.episodes == len(open_memory(done.path / "rlds" / "episodes_32x24")) == 2
    doctor = json.loads((done.path / "doctor.json").read_text())
    assert doctor["healthy"] is False
    assert [(f["step"], f["field"], f["left_out"]) for f in doctor["findings"]] == [
        (6, "observation.frame", True)
    ]


def test_a_no_that_comes_after_the_plan_is_heard(brain: BrainRoot, tmp_path: Path) -> None:
    plan = plan_of(brain)
    set_answer(brain.layout.episodes_dir / "20260102T080000Z-bbbb", yes=False)
    done = export_bundle(brain, plan, tmp_path / "out.zip", as_zip=True, key_name=KEY)
    assert tuple(done.contents) == ("20260101T080000Z-aaaa", "20260103T080000Z-cccc")
    assert [s.name for s in done.left_out] == ["20260102T080000Z-bbbb"]


@pytest.mark.parametrize("frames", ["keep", "none"])
def test_what_tensorflow_datasets_reads(brain: BrainRoot, tmp_path: Path, frames: Any) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    done = export(brain, tmp_path / "out", as_zip=False, frames=frames)
    name = "episodes_32x24" if frames == "keep" else "episodes_without_frames"
    folder = done.path / "rlds" / name / "1.0.0"
    builder = tfds.builder_from_directory(str(folder))
    assert builder.info.splits["train"].num_examples == 3
    assert [*map(int, builder.info.splits["train"].shard_lengths)] == [3]
    (file,) = folder.glob("*.tfrecord-*")
    for number, offset in enumerate(index_records(file)):
        with open(file, "rb") as opened:
            data = read_record(opened, path=file, offset=offset, size=file.stat().st_size)
        read = builder.info.features.deserialize_example_np(data)
        steps = list(read["steps"])
        assert len(steps) == (5, 7, 3)[number]
        assert all(("image" in step["observation"]) == (frames == "keep") for step in steps)


def test_where_nothing_can_be_read_nothing_is_left(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    brain = make_root()
    steps = record(brain, "a") / "steps" / "000000.jsonl"
    steps.write_bytes(steps.read_bytes().replace(b"keep left", b"keep lefu"))
    (tmp_path / "to").mkdir()
    for as_zip in (True, False):
        with pytest.raises(NothingToExport):
            export(brain, tmp_path / "to" / "out", as_zip=as_zip)
        assert list((tmp_path / "to").iterdir()) == []


# ------------------------------------------------------------------------------------------------------ sizes


def test_a_zip_beyond_four_gigabytes_is_one_that_others_read(tmp_path: Path) -> None:
    """Sparse: the zeros take no place on the disk."""
    path = tmp_path / "big.zip"
    sink = ZipSink(path)
    sink.keep([])
    sink.begin("big")
    file = sink._file
    start = file.tell()
    size = (4 << 30) + 12345
    file.seek(start + size - 1)
    file.write(b"\0")
    assert sink._growing is not None
    sink._growing.bytes = size
    big = sink.end()
    sink.begin("small")
    sink.write(b"behind it")
    small = sink.end()
    sink.finish([big, small], tmp_path / "done.zip")
    sink.close()
    with zipfile.ZipFile(tmp_path / "done.zip") as opened:
        assert [i.file_size for i in opened.infolist()] == [size, 9]
        assert opened.read("small") == b"behind it"
    assert isinstance(big, Member)


def test_who_takes_the_opt_in_back_while_it_is_exported_has_nothing_signed(
    brain: BrainRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain.cloud.export import _Job

    papers = _Job._papers

    def thinks_better(self: Any, *given: Any) -> Any:
        yield from papers(self, *given)
        set_config(brain.layout.root, opt_in=False)

    monkeypatch.setattr(_Job, "_papers", thinks_better)
    with pytest.raises(ExportRefused, match="opt_in is false"):
        export(brain, tmp_path / "a.zip")
    assert not [p for p in tmp_path.rglob("a.zip*") if p.is_file()]
