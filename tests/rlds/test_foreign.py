"""Datasets that others wrote: made by tensorflow-datasets' own serializer where it can, by hand where it cannot."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.feature_spec import parse_features
from continuonbrain.rlds.foreign_steps import StepRecordEpisode
from continuonbrain.rlds.foreign_tfds import TfdsEpisode, TfdsMemory
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds
from continuonbrain.rlds.tfrecord import FeatureIn, encode_example, frame_record

RecordEpisode = Callable[..., Path]
runner = CliRunner()
RNG = np.random.default_rng(7)


def _png(height: int, width: int, channels: int) -> tuple[bytes, np.ndarray[Any, Any]]:
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(out, "PNG")
    return out.getvalue(), pixels


def _tensor(dtype: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {
        "pythonClassName": "somebody.else.Tensor",
        "tensor": {"dtype": dtype, "shape": {"dimensions": [str(size) for size in shape]}, **more},
    }


def _features(step: Mapping[str, Any], **episode: Any) -> dict[str, Any]:
    inner = {"pythonClassName": "FeaturesDict", "featuresDict": {"features": dict(step)}}
    steps = {"pythonClassName": "Sequence", "sequence": {"feature": inner, "length": "-1"}}
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": {"steps": steps, **episode}}}


def _dataset(
    folder: Path,
    features: Mapping[str, Any],
    splits: Mapping[str, Sequence[Sequence[bytes]]],
    *,
    template: str = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
) -> Path:
    """A version folder; `splits` is split -> shards -> serialised Examples."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(features))
    entries = []
    for split, shards in splits.items():
        for number, examples in enumerate(shards):
            name = (
                template.replace("{DATASET}", "arm")
                .replace("{SPLIT}", split)
                .replace("{FILEFORMAT}", "tfrecord")
                .replace("{SHARD_X_OF_Y}", f"{number:05d}-of-{len(shards):05d}")
                .replace("{SHARD_INDEX}", f"{number:05d}")
            )
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"".join(frame_record(example) for example in examples))
        lengths = [str(len(examples)) for examples in shards]
        entries.append({"name": split, "shardLengths": lengths, "filepathTemplate": template})
    info = {"name": "arm", "version": "1.0.0", "fileFormat": "tfrecord", "splits": entries}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


# ------------------------------------------------------------------------- written by tensorflow-datasets


def test_everything_that_tensorflow_datasets_writes_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="the dev extra is not installed")
    from tensorflow_datasets.core.features import feature as feature_lib

    # Lists in lists ask for TensorFlow's name of a type only to hand it back as numpy's.
    monkeypatch.setattr(feature_lib.TensorInfo, "dtype", property(lambda self: self.np_dtype))
    f = tfds.features
    features = f.FeaturesDict(
        {
            "steps": f.Dataset(
                {
                    "observation": {
                        "front": f.Image(shape=(8, 10, 3), encoding_format="png"),
                        "wrist": f.Image(shape=(None, None, 1)),
                        "joints": f.Tensor(shape=(7,), dtype=np.float64),
                        "deep": {"count": np.int32, "raw": f.Tensor(shape=(4, 5, 3), dtype=np.uint8)},
                    },
                    "action": f.Tensor(shape=(2,), dtype=np.float32, encoding="zlib"),
                    "packed": f.Tensor(shape=(2, 2), dtype=np.int16, encoding="bytes"),
                    "numbers": f.Sequence(np.int32),
                    "nested": f.Sequence(f.Sequence(np.float32)),
                    "parts": f.Sequence({"at": f.Tensor(shape=(2,), dtype=np.int64), "name": f.Text()}),
                    "any_shape": f.Tensor(shape=(None, None), dtype=np.uint8, encoding="zlib"),
                    "open": f.Tensor(shape=(None,), dtype=np.float32),
                    "label": f.ClassLabel(num_classes=3),
                    "box": f.BBoxFeature(),
                    "plain_text": np.str_,
                    "text": f.Text(),
                    "two_texts": f.Tensor(shape=(2,), dtype=np.str_),
                    "flag": np.bool_,
                    "huge": np.uint64,
                    "maybe": f.Tensor(shape=(), dtype=np.int32, optional=True),
                    "pictures": f.Sequence(f.Image(shape=(4, 4, 3))),
                    "is_first": np.bool_,
                    "is_last": np.bool_,
                    "is_terminal": np.bool_,
                }
            ),
            "episode_metadata": {
                "file": f.Text(),
                "numbers": f.Sequence(np.int32),
                "nested": f.Sequence(f.Sequence(np.int32)),
                "count": np.int32,
            },
        }
    )

    def step(i: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what is written, what must be read)."""
        front, wrist = _png(8, 10, 3), _png(3, 4 + i, 1)
        pictures = [_png(4, 4, 3) for _ in range(i)]
        plain = {
            "action": np.array([i, 0.5], np.float32),
            "packed": np.full((2, 2), -i, np.int16),
            "numbers": np.arange(i, dtype=np.int32),
            "nested": [np.full(n, 1.5, np.float32) for n in range(i)],
            "any_shape": RNG.integers(0, 9, (i + 1, 2), dtype=np.uint8),
            "open": np.arange(3, dtype=np.float32) + i,
            "label": np.int64(i % 3),
            "plain_text": f"s{i}",
            "text": f"ü{i}",
            "two_texts": ["a", f"b{i}"],
            "flag": np.bool_(i % 2 == 0),
            "huge": np.uint64(2**64 - 1 - i),
            "maybe": np.int32(i),
            "is_first": np.bool_(i == 0),
            "is_last": np.bool_(i == count - 1),
            "is_terminal": np.bool_(False),
        }
        joints = RNG.normal(size=7).astype(np.float32).astype(np.float64)  # tf.train.Example holds float32
        raw = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        written = plain | {
            "observation": {
                "front": front[0],
                "wrist": wrist[0],
                "joints": joints,
                "deep": {"count": i - 3, "raw": raw},
            },
            "parts": [{"at": [i, n], "name": f"t{n}"} for n in range(2)],
            "box": f.BBox(0.0, 0.25, 0.5, 1.0),
            "pictures": [data for data, _ in pictures],
        }
        read = plain | {
            "observation/front": front[1],
            "observation/wrist": wrist[1],
            "observation/joints": joints,
            "observation/deep/count": np.int32(i - 3),
            "observation/deep/raw": raw,
            "parts/at": np.array([[i, 0], [i, 1]], np.int64),
            "parts/name": ["t0", "t1"],
            "box": np.array([0.0, 0.25, 0.5, 1.0], np.float32),
            "pictures": [pixels for _, pixels in pictures],
        }
        return written, read

    wanted, examples = [], []
    for count in (3, 5):
        steps = [step(i, count) for i in range(count)]
        metadata = {"file": "f", "numbers": [1, 2, 3], "nested": [[1], [], [2, 3]], "count": 9}
        examples.append(
            features.serialize_example({"steps": [w for w, _ in steps], "episode_metadata": metadata})
        )
        wanted.append([read for _, read in steps])
    features.save_config(str(tmp_path))
    saved = json.loads((tmp_path / "features.json").read_text())
    memory = open_memory(_dataset(tmp_path / "arm", saved, {"train": [examples]}))
    for number, episode in enumerate(memory.episodes):
        assert isinstance(episode, TfdsEpisode)
        assert (len(episode), episode.missing) == (len(wanted[number]), ())
        for index, want in enumerate(wanted[number]):
            values = episode.step(index).values
            assert sorted(values) == sorted(want)
            for key in want:
                _same(values[key], want[key])
        assert sorted(episode.frames(1)) == ["observation/deep/raw", "observation/front", "observation/wrist"]
        assert episode.metadata["episode_metadata/file"] == "f"
        _same(episode.metadata["episode_metadata/numbers"], np.array([1, 2, 3], np.int32))
        _same(episode.metadata["episode_metadata/nested"], [np.array(n, np.int32) for n in ([1], [], [2, 3])])
        _same(episode.metadata["episode_metadata/count"], np.int32(9))


def _same(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert isinstance(got, list)
        assert len(got) == len(want)
        for inner, wanted in zip(got, want, strict=True):
            _same(inner, wanted)
    elif isinstance(want, str):
        assert got == want
    else:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


# ----------------------------------------------------------------------------------------- made by hand


def _example(count: int, start: float = 0.0) -> bytes:
    return encode_example(
        {
            "steps/action": np.arange(count * 7, dtype=np.float32) + start,
            "steps/observation/state": np.arange(count * 2, dtype=np.float32),
            "steps/is_last": np.arange(count) == count - 1,
            "steps/nobody/declared/this": [b"x"] * count,
        }
    )


FEATURES = _features(
    {
        "action": _tensor("float32", 7),
        "observation": {"featuresDict": {"features": {"state": _tensor("float32", 2)}}},
        "is_last": _tensor("bool"),
        "reward": _tensor("float32"),
    }
)


def test_splits_shards_and_templates_are_put_in_order(tmp_path: Path) -> None:
    splits = {"train": [[_example(2), _example(3)], [], [_example(4)]], "val-1": [[_example(5)]]}
    for name, template in (
        ("default", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"),
        ("own", "{SPLIT}/part_{SHARD_INDEX}.{FILEFORMAT}"),
    ):
        memory = open_memory(_dataset(tmp_path / name, FEATURES, splits, template=template))
        assert isinstance(memory, TfdsMemory)
        assert [len(episode) for episode in memory.episodes] == [2, 3, 4, 5]
        assert memory.splits == {"train": range(3), "val-1": range(3, 4)}
        assert memory.episode(3).episode_id == "val-1-000000"
        _same(memory.step(2, 3).values["action"], np.arange(21, 28, dtype=np.float32))
        assert [memory.step(-1, at).is_last for at in (0, -1)] == [False, True]
        assert memory.episode(0).missing == ("reward",)  # type: ignore[attr-defined]
        assert "reward" not in memory.step(0, 0).values
        assert [memory.step(0, at).is_first for at in range(2)] == [True, False]
        with pytest.raises(IndexError):
            memory.step(0, 2)
        with pytest.raises(IndexError):
            memory.episode(4)


def test_opening_reads_no_data_and_reading_checks_the_crc(tmp_path: Path) -> None:
    folder = _dataset(tmp_path, FEATURES, {"train": [[_example(2), _example(3)]]})
    shard = folder / "arm-train.tfrecord-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    memory = open_memory(folder)
    assert len(memory.episode(1)) == 3
    with pytest.raises(CorruptRecordError, match="CRC"):
        memory.episode(0)
    shard.write_bytes(data[:-1])
    with pytest.raises(CorruptRecordError, match="cut short"):
        open_memory(folder)
    shard.write_bytes(b"")
    with pytest.raises(EpisodeError, match="0 episodes are here, 2 are declared"):
        open_memory(folder)
    shard.unlink()
    with pytest.raises(EpisodeError, match="missing"):
        open_memory(folder)


@pytest.mark.parametrize(
    "template",
    ["../{SPLIT}", "/etc/passwd", "{SPLIT}/../../x", "{HOME}", "a//b", "..", "x\0y", "all-in-one.tfrecord"],
)
def test_a_template_leads_nowhere_else(tmp_path: Path, template: str) -> None:
    folder = _dataset(tmp_path / "d", FEATURES, {"train": [[_example(2)], [_example(2)]]})
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["filepathTemplate"] = template
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(EpisodeError, match=r"dataset_info\.json"):
        open_memory(folder)


def test_the_two_older_generations_of_features_json_say_the_same() -> None:
    c = "tensorflow_datasets.core.features."
    tensor = {"shape": [7], "dtype": "float32", "encoding": "none"}
    leaves = {
        "action": {"type": c + "tensor_feature.Tensor", "content": tensor},
        "image": {
            "type": c + "image_feature.Image",
            "content": {"shape": [None, None, 3], "dtype": "uint8", "encoding_format": "png"},
        },
        "is_last": {"type": c + "feature.Tensor", "content": {"shape": [], "dtype": "bool"}},
        "text": {"type": c + "text_feature.Text", "content": {}},
    }
    step = {"type": c + "features_dict.FeaturesDict", "content": leaves}
    steps = {"type": c + "dataset_feature.Dataset", "content": {"feature": step, "length": None}}
    oldest = {"type": c + "features_dict.FeaturesDict", "content": {"steps": steps}}
    new = _features(
        {
            "action": _tensor("float32", 7),
            "image": {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}},
            "is_last": _tensor("bool"),
            "text": {"pythonClassName": c + "text_feature.Text", "text": {}},
        }
    )
    between = {
        "type": c + "features_dict.FeaturesDict",
        "content": json.dumps(new["featuresDict"]),
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }
    assert parse_features(oldest) == parse_features(new) == parse_features(between)
    assert [spec.key for spec in parse_features(new).steps] == ["action", "image", "is_last", "text"]


def test_bfloat16_is_widened_stored_as_floats_or_as_bytes(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.140625], np.float32)  # whole in bfloat16
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    features = _features(
        {"a": _tensor("bfloat16"), "b": _tensor("bfloat16", encoding="zlib"), "is_last": _tensor("bool")}
    )
    example = encode_example(
        {
            "steps/a": values,
            "steps/b": [zlib.compress(half.tobytes()) for half in halves],
            "steps/is_last": [0, 0, 1],
        }
    )
    memory = open_memory(_dataset(tmp_path, features, {"train": [[example]]}))
    for index in range(3):
        for key in "ab":
            _same(memory.step(0, index).values[key], values[index])


@pytest.mark.parametrize(
    ("spec", "columns", "problem"),
    [
        (_tensor("float32", 2), {"x": np.ones(3, np.float32)}, "multiple of 2"),
        (_tensor("float32"), {"x": np.ones(3, np.float32)}, "3 steps are here, 2"),
        (_tensor("uint8"), {"x": [1, 300]}, "300 does not fit uint8"),
        (_tensor("float32"), {"x": [1, 2]}, "a list of float is needed, not of int"),
        (_tensor("int32"), {"x": [b"1", b"2"]}, "bytes"),
        (_tensor("int32", encoding="zlib"), {"x": [b"no", b"no"]}, "not zlib"),
        (_tensor("int32", 2, encoding="bytes"), {"x": [b"1234", b"1234"]}, "shape"),
        (_tensor("int32", encoding="bytes"), {"x": [b"123", b"123"]}, "multiple of 4"),
        ({"image": {"dtype": "uint8"}}, {"x": [b"no", b"no"]}, "cannot be decoded"),
        (
            {"sequence": {"feature": _tensor("int32"), "length": "-1"}},
            {"x/ragged_flat_values": [1, 2, 3], "x/ragged_row_lengths_0": [1, 1]},
            "3 values are here, 2 are declared",
        ),
        (
            {"sequence": {"feature": _tensor("int32"), "length": "-1"}},
            {"x/ragged_flat_values": [1, 2, 3], "x/ragged_row_lengths_0": [5, -2]},
            "negative",
        ),
    ],
)
def test_what_is_not_as_declared_is_named(
    tmp_path: Path, spec: dict[str, Any], columns: dict[str, FeatureIn], problem: str
) -> None:
    features = _features({"is_last": _tensor("bool"), "x": spec})
    flat = {f"steps/{key}": value for key, value in columns.items()}
    example = encode_example({"steps/is_last": [0, 1], **flat})
    folder = _dataset(tmp_path, features, {"train": [[example]]})

    def read() -> None:
        print(open_memory(folder).step(0, 1).values["x"])

    with pytest.raises(EpisodeError, match=problem) as caught:
        read()
    assert caught.value.file == folder / "arm-train.tfrecord-00000-of-00001"
    assert "x" in caught.value.field


def test_a_deflated_bomb_and_a_picture_too_large_stop_early(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    out = io.BytesIO()
    Image.new("L", (8000, 8000)).save(out, "PNG")
    features = _features(
        {
            "z": _tensor("uint8", 1 << 26, encoding="zlib"),
            "i": {"image": {"dtype": "uint8"}},
            "is_last": _tensor("bool"),
        }
    )
    example = encode_example({"steps/z": [bomb], "steps/i": [out.getvalue()], "steps/is_last": [1]})
    step = open_memory(_dataset(tmp_path, features, {"train": [[example]]})).step(0, 0)
    with pytest.raises(EpisodeError, match="larger than"):
        print(step.values["z"])
    with pytest.raises(EpisodeError, match="8000x8000 is too large"):
        print(step.values["i"])


# ------------------------------------------------------------------------------- one Example for each step


def _step_record(episode: str, index: int | None, **more: FeatureIn) -> bytes:
    """As another robot of the ecosystem writes it: no is_first, no is_last, seven joints."""
    example: dict[str, FeatureIn] = {
        "episode_id": [episode.encode()],
        "reward": [0.5],
        "is_terminal": [False],
        "observation": [b'{"robot_state": {"joint_positions": [0.1, 0.2]}, "task": "pick", "gone": null}'],
        "action": [b'{"command": [1, 2, 3, 4, 5, 6, 7], "source": "arm"}'],
        "step_metadata": [b'{"surprise": "0.1"}'],
        "action_command": np.full(7, index or 0, np.float32),
        **more,
    }
    if index is not None:
        example["step_index"] = [index]
    return frame_record(encode_example(example))


def test_steps_of_several_episodes_in_several_files_are_gathered(tmp_path: Path) -> None:
    order = [("b", 1), ("a", 0), ("b", 0), ("a", 2)]
    (tmp_path / "0.tfrecord").write_bytes(b"".join(_step_record(*entry) for entry in order))
    (tmp_path / "1.tfrecord").write_bytes(_step_record("a", 1) + _step_record("c", None) * 2)
    memory = open_memory(tmp_path)
    assert memory.format == "step-records"
    assert [(e.episode_id, len(e)) for e in memory.episodes] == [("b", 2), ("a", 3), ("c", 2)]
    for index, step in enumerate(memory.episode(1)):
        assert (step.is_first, step.is_last, step.is_terminal) == (index == 0, index == 2, False)
        _same(step.values["action_command"], np.full(7, index, np.float32))
        _same(step.values["observation/robot_state/joint_positions"], np.array([0.1, 0.2]))
        assert step.values["observation/task"] == "pick"
        assert "observation/gone" not in step.values
        assert step.recorded is None  # seven joints are no car
    (tmp_path / "2.tfrecord").write_bytes(_step_record("a", 1))
    with pytest.raises(EpisodeError, match="step_index 1 of episode 'a' is there twice"):
        open_memory(tmp_path)


def test_our_own_step_records_come_back_as_steps(tmp_path: Path, record: RecordEpisode) -> None:
    episode = open_episode(record(4, terminal=True))
    export_step_records(episode, tmp_path / "x.tfrecord")
    (view,) = open_memory(tmp_path / "x.tfrecord").episodes
    assert isinstance(view, StepRecordEpisode)
    assert view.gaps == 0
    assert view.episode_id == "episode"
    assert [step.recorded for step in view] == list(episode)


def test_a_camera_in_a_step_record_is_a_frame(tmp_path: Path) -> None:
    data, pixels = _png(6, 5, 3)
    (tmp_path / "x.tfrecord").write_bytes(_step_record("a", 0, cam=[data], note=[b"\xff"]))
    memory = open_memory(tmp_path / "x.tfrecord")
    (frame,) = memory.frames(0, 0).values()
    _same(frame, pixels)
    assert memory.step(0, 0).values["note"] == b"\xff"


# ------------------------------------------------------------------------------------ one call for all


def test_one_call_opens_every_kind_and_all_say_the_same(tmp_path: Path, record: RecordEpisode) -> None:
    folder = record(4, terminal=True)
    original = open_episode(folder)
    export_tfds([folder], tmp_path / "tfds")
    export_step_records(original, tmp_path / "steps.tfrecord")
    out = tmp_path / "json"
    result = runner.invoke(app, ["export", str(folder), str(out), "--format", "json", "--json"])
    assert result.exit_code == 0, result.output
    paths = {
        "folder": folder,
        "memory": folder.parent,
        "flat-json": out / "episode.json",
        "tfds": tmp_path / "tfds",
        "step-records": tmp_path / "steps.tfrecord",
    }
    for form, path in paths.items():
        memory = open_memory(path)
        assert (memory.format, len(memory), len(memory.episode(0))) == (form, 1, 4)
        for index, want in enumerate(original):
            step = memory.step(0, index)
            assert (step.is_first, step.is_last, step.is_terminal) == (index == 0, index == 3, index == 3)
            if step.recorded is not None:
                assert step.recorded == want
            key = "action_command" if form == "step-records" else "action"
            _same(step.values[key], np.array(want.command, np.float32))
            if form != "step-records":  # that format has no room for them
                assert step.values["language_instruction"] == "keep left"
                (frame,) = memory.frames(0, index).values()
                np.testing.assert_array_equal(frame, original.frame(index))
        shown = runner.invoke(app, ["show", str(path), "--episode", "0", "--json"])
        assert shown.exit_code == 0, shown.output
        assert json.loads(shown.stdout)["steps"] == 4


def test_flat_json_with_its_frames_round_trips(tmp_path: Path, record: RecordEpisode) -> None:
    folder = record(3)
    original = open_episode(folder)
    for _ in range(2):
        result = runner.invoke(app, ["export", str(folder), str(tmp_path / "out"), "--format", "json"])
    assert result.exit_code == 1  # never over another
    path = tmp_path / "out" / "episode.json"
    value = json.loads(path.read_text())
    assert [s["observation"]["video_frame_id"] for s in value["steps"]] == [
        f"episode.frames/{n:06d}.jpg" for n in range(3)
    ]
    copy = open_episode(path)
    assert copy.metadata == original.metadata
    assert list(copy) == list(original)
    assert [copy.frame_jpeg(n) for n in range(3)] == [original.frame_jpeg(n) for n in range(3)]
    path.write_text(json.dumps(value, indent=3))  # a tool that formats it anew
    assert list(open_episode(path)) == list(original)
    (tmp_path / "out" / "episode.frames" / "000001.jpg").write_bytes(b"")
    with pytest.raises(EpisodeError, match="0 bytes are here"):
        copy.frame(1)
    assert sorted(child.name for child in (tmp_path / "out").iterdir()) == ["episode.frames", "episode.json"]


def test_what_cannot_be_opened_says_what_to_give(tmp_path: Path, record: RecordEpisode) -> None:
    shard = export_tfds([record(1)], tmp_path / "a").path
    export_tfds([record(1, episode_id="x")], tmp_path / "a", version="2.0.0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.bin").write_bytes(b"x")
    for path, problem in (
        (tmp_path / "nothing", "nothing to open"),
        (tmp_path / "empty", "no episodes are in this folder"),
        (tmp_path / "x.bin", "neither a flat JSON"),
        (tmp_path / "a", "2 datasets are in this folder"),
        (next(shard.glob("*.tfrecord*")), "one shard of a TFDS dataset"),
    ):
        with pytest.raises(EpisodeError, match=problem) as caught:
            open_memory(path)
        assert caught.value.remedy
    assert open_memory(shard / "features.json").format == "tfds"
    with pytest.raises(EpisodeError, match="not one of episodes"):
        parse_features({"featuresDict": {"features": {"image": {"image": {"dtype": "uint8"}}}}})


def test_show_lists_a_dataset_and_sums_up_one_of_its_episodes(tmp_path: Path) -> None:
    folder = _dataset(tmp_path, FEATURES, {"train": [[_example(2), _example(3)]], "val": [[_example(4)]]})
    text = runner.invoke(app, ["show", str(folder)])
    assert text.exit_code == 0, text.output
    assert "train (2), val (1)" in text.stdout
    assert "observation/state" in text.stdout
    value = json.loads(runner.invoke(app, ["show", str(folder), "--episode", "2", "--json"]).stdout)
    assert (value["steps"], value["missing"]) == (4, ["reward"])
    assert {"key": "action", "kind": "tensor", "dtype": "float32", "shape": [7], "lists": []} in value[
        "signals"
    ]
    assert "declared, but not" in runner.invoke(app, ["show", str(folder), "--episode", "0"]).stdout
    shard = folder / "arm-train.tfrecord-00000-of-00001"
    shard.write_bytes(bytes([*shard.read_bytes()[:40], 77, *shard.read_bytes()[41:]]))
    damaged = json.loads(runner.invoke(app, ["show", str(folder), "--json"]).stdout)["first_episodes"]
    assert [entry["steps"] for entry in damaged] == [0, 3, 4]
    assert "CRC" in damaged[0]["problem"]
    missing = runner.invoke(app, ["show", str(folder), "--episode", "3"])
    assert missing.exit_code == 1
    assert "there is no episode 3: it has 3" in str(missing.exception)
