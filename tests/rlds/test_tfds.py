from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds, features_json
from continuonbrain.rlds.writer import EpisodeWriter

RecordEpisode = Callable[..., Path]
Examples = Callable[[Path], Iterator[dict[str, Any]]]
SHARD = "train.tfrecord-00000-of-00001"


def test_every_value_survives_the_tfds_folder(
    tmp_path: Path, record: RecordEpisode, examples: Examples
) -> None:
    paths = [record(4, episode_id="a"), record(6, episode_id="b", terminal=True), record(0, episode_id="c")]
    export = export_tfds(paths, tmp_path / "out", name="car", version="2.0.1")
    assert (export.episodes, export.steps, export.left_out) == (2, 10, ("c",))
    assert export.path == tmp_path / "out" / "car" / "2.0.1"
    for path, example in zip(paths[:2], examples(export.path / f"car-{SHARD}"), strict=True):
        episode = open_episode(path)
        count = len(episode)
        assert example["episode_metadata/episode_id"] == [path.name.encode()]
        images = example["steps/observation/image"]
        assert list(images) == [episode.frame_jpeg(i) for i in range(count)]
        state = np.asarray(example["steps/observation/state"]).reshape(count, 2)
        measured = np.asarray(example["steps/observation/state_measured"]).reshape(count, 2)
        np.testing.assert_allclose(state, [[0.9, 0.0]] * count, rtol=1e-6)
        assert measured.tolist() == [[1, 0]] * count
        for name, want in (
            ("action", [step.command for step in episode]),
            ("proposed_action", [step.proposed for step in episode]),
        ):
            got = np.asarray(example[f"steps/{name}"]).reshape(count, 2)
            np.testing.assert_array_equal(got, np.array(want, np.float32))
        assert example["steps/language_instruction"] == [b"keep left"] * count
        assert list(example["steps/is_first"]) == [1] + [0] * (count - 1)
        assert list(example["steps/is_last"]) == [0] * (count - 1) + [1]
        assert list(example["steps/is_terminal"]) == [0] * (count - 1) + [int(path.name == "b")]
        assert list(example["steps/reward"]) == [0.0] * count
        assert list(example["steps/discount"]) == [1.0] * count
        assert list(example["steps/monotonic_ns"]) == [step.monotonic_ns for step in episode]


def test_the_features_file_describes_exactly_the_features_that_are_written(
    tmp_path: Path, record: RecordEpisode, examples: Examples
) -> None:
    export = export_tfds([record(2)], tmp_path / "out")
    features = json.loads((export.path / "features.json").read_text())
    assert features == features_json(24, 32)

    def flat(value: dict, prefix: str = "") -> list[str]:  # type: ignore[type-arg]
        if "sequence" in value:
            assert value["sequence"]["length"] == "-1"
            return flat(value["sequence"]["feature"], prefix)
        if "featuresDict" not in value:
            return [prefix]
        inner = value["featuresDict"]["features"]
        return [name for key in inner for name in flat(inner[key], f"{prefix}/{key}".lstrip("/"))]

    (example,) = examples(export.path / f"continuonbrain-{SHARD}")
    assert sorted(flat(features)) == sorted(example)
    info = json.loads((export.path / "dataset_info.json").read_text())
    assert info["splits"][0]["shardLengths"] == ["1"]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, record: RecordEpisode) -> None:
    good = record(2)
    with EpisodeWriter(tmp_path / "other", metadata=make_metadata_example("wide")) as writer:
        writer.write(make_step_example(0, size=(24, 48)))
    with pytest.raises(EpisodeError, match=r"48x24"):
        export_tfds([good, writer.path], tmp_path / "out")
    assert list((tmp_path / "out" / "continuonbrain").iterdir()) == []


@pytest.mark.parametrize(("mode", "shape"), [("L", (24, 32)), ("CMYK", (24, 32, 4))])
def test_frames_of_another_number_of_channels_are_refused(
    tmp_path: Path, mode: str, shape: tuple[int, ...]
) -> None:
    out = io.BytesIO()
    Image.fromarray(np.full(shape, 77, np.uint8), mode).save(out, "JPEG")
    with EpisodeWriter(tmp_path / "m", metadata=make_metadata_example("other")) as writer:
        writer.write(make_step_example(0, size=(24, 32)))
        writer.write(replace(make_step_example(1), frame=None, frame_jpeg=out.getvalue()))
    with pytest.raises(EpisodeError, match=f"32x24 {mode}") as caught:
        export_tfds([writer.path], tmp_path / "out")
    assert (caught.value.file, caught.value.step) == (writer.path, 1)
    assert list((tmp_path / "out" / "continuonbrain").iterdir()) == []


def test_a_dataset_appears_whole(
    tmp_path: Path, record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "continuonbrain" / "1.0.0"
    renamed = []

    def rename(source: Path, to: Path) -> None:
        assert not target.exists()
        renamed.append((sorted(os.listdir(source)), to))
        real(source, to)

    real = os.rename
    monkeypatch.setattr(os, "rename", rename)
    export = export_tfds([record(2)], tmp_path / "out")
    assert (sorted(os.listdir(export.path)), target) in renamed


def test_an_export_never_writes_over_another(tmp_path: Path, record: RecordEpisode) -> None:
    path = record(1)
    export_tfds([path], tmp_path / "out")
    with pytest.raises(EpisodeError, match="exists already"):
        export_tfds([path], tmp_path / "out")


def test_an_export_that_lost_or_gained_something_is_not_opened(tmp_path: Path, record: RecordEpisode) -> None:
    export = export_tfds([record(1), record(2, episode_id="b")], tmp_path / "out")
    assert [len(episode) for episode in open_memory(export.path).episodes] == [1, 2]
    info, shard = export.path / "dataset_info.json", export.path / f"continuonbrain-{SHARD}"
    declared, data = info.read_text(), shard.read_bytes()
    info.write_text(declared.replace('"2"', '"3"'))
    with pytest.raises(EpisodeError, match=r"shardLengths: 2 episodes are here, 3 are declared"):
        open_memory(export.path)
    info.write_text(declared)
    shard.write_bytes(data[:-1])
    with pytest.raises(EpisodeError, match="cut short"):
        open_memory(export.path)
    shard.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(EpisodeError, match="CRC of the record data"):
        list(open_memory(export.path).episodes)
    shard.unlink()
    with pytest.raises(EpisodeError, match="this shard is missing"):
        open_memory(export.path)


def test_the_ecosystems_record_per_step_holds_each_step(
    tmp_path: Path, record: RecordEpisode, examples: Examples
) -> None:
    episode = open_episode(record(3))
    out = tmp_path / "steps.tfrecord"
    assert export_step_records(episode, out) == 3
    found = list(examples(out))
    assert len(found) == 3
    for index, example in enumerate(found):
        assert list(example["step_index"]) == [index]
        assert list(example["is_last"]) == [index == 2]
        (action,) = example["action"]
        assert json.loads(action)["command"] == list(episode.step(index).command)
        (command,) = struct.unpack("<f", np.asarray(example["action_command"])[1:].tobytes())
        assert command == 0.5


def test_the_room_imports_neither_torch_nor_tensorflow() -> None:
    code = (
        "import sys, pkgutil, importlib, continuonbrain.rlds as room\n"
        "names = [m.name for m in pkgutil.iter_modules(room.__path__, room.__name__ + '.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print([m for m in ('torch', 'tensorflow', 'google.protobuf') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "[]"
