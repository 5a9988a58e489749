"""TFDS datasets that others wrote, made by hand where tensorflow-datasets' own serializer cannot."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.feature_spec import parse_features
from continuonbrain.rlds.foreign_tfds import TfdsMemory
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.tfrecord import FeatureIn, encode_example
from tests.rlds.foreign_datasets import features_json, same, tensor_spec, write_dataset

runner = CliRunner()


def _example(count: int, start: float = 0.0) -> bytes:
    return encode_example(
        {
            "steps/action": np.arange(count * 7, dtype=np.float32) + start,
            "steps/observation/state": np.arange(count * 2, dtype=np.float32),
            "steps/is_last": np.arange(count) == count - 1,
            "steps/nobody/declared/this": [b"x"] * count,
        }
    )


FEATURES = features_json(
    {
        "action": tensor_spec("float32", 7),
        "observation": {"featuresDict": {"features": {"state": tensor_spec("float32", 2)}}},
        "is_last": tensor_spec("bool"),
        "reward": tensor_spec("float32"),
    }
)


def test_splits_shards_and_templates_are_put_in_order(tmp_path: Path) -> None:
    splits = {"train": [[_example(2), _example(3)], [], [_example(4)]], "val-1": [[_example(5)]]}
    for name, template in (
        ("default", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"),
        ("own", "{SPLIT}/part_{SHARD_INDEX}.{FILEFORMAT}"),
    ):
        memory = open_memory(write_dataset(tmp_path / name, FEATURES, splits, template=template))
        assert isinstance(memory, TfdsMemory)
        assert [len(episode) for episode in memory.episodes] == [2, 3, 4, 5]
        assert memory.splits == {"train": range(3), "val-1": range(3, 4)}
        assert memory.episode(3).episode_id == "val-1-000000"
        same(memory.step(2, 3).values["action"], np.arange(21, 28, dtype=np.float32))
        assert [memory.step(-1, at).is_last for at in (0, -1)] == [False, True]
        assert memory.episode(0).missing == ("reward",)  # type: ignore[attr-defined]
        assert "reward" not in memory.step(0, 0).values
        assert [memory.step(0, at).is_first for at in range(2)] == [True, False]
        with pytest.raises(IndexError):
            memory.step(0, 2)
        with pytest.raises(IndexError):
            memory.episode(4)


def test_opening_reads_no_data_and_reading_checks_the_crc(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, FEATURES, {"train": [[_example(2), _example(3)]]})
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
    folder = write_dataset(tmp_path / "d", FEATURES, {"train": [[_example(2)], [_example(2)]]})
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
    new = features_json(
        {
            "action": tensor_spec("float32", 7),
            "image": {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}},
            "is_last": tensor_spec("bool"),
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
    features = features_json(
        {
            "a": tensor_spec("bfloat16"),
            "b": tensor_spec("bfloat16", encoding="zlib"),
            "is_last": tensor_spec("bool"),
        }
    )
    example = encode_example(
        {
            "steps/a": values,
            "steps/b": [zlib.compress(half.tobytes()) for half in halves],
            "steps/is_last": [0, 0, 1],
        }
    )
    memory = open_memory(write_dataset(tmp_path, features, {"train": [[example]]}))
    for index in range(3):
        for key in "ab":
            same(memory.step(0, index).values[key], values[index])


@pytest.mark.parametrize(
    ("spec", "columns", "problem"),
    [
        (tensor_spec("float32", 2), {"x": np.ones(3, np.float32)}, "multiple of 2"),
        (tensor_spec("float32"), {"x": np.ones(3, np.float32)}, "3 steps are here, 2"),
        (tensor_spec("uint8"), {"x": [1, 300]}, "300 does not fit uint8"),
        (tensor_spec("float32"), {"x": [1, 2]}, "a list of float is needed, not of int"),
        (tensor_spec("int32"), {"x": [b"1", b"2"]}, "bytes"),
        (tensor_spec("int32", encoding="zlib"), {"x": [b"no", b"no"]}, "not zlib"),
        (tensor_spec("int32", 2, encoding="bytes"), {"x": [b"1234", b"1234"]}, "shape"),
        (tensor_spec("int32", encoding="bytes"), {"x": [b"123", b"123"]}, "multiple of 4"),
        ({"image": {"dtype": "uint8"}}, {"x": [b"no", b"no"]}, "cannot be decoded"),
        (
            {"sequence": {"feature": tensor_spec("int32"), "length": "-1"}},
            {"x/ragged_flat_values": [1, 2, 3], "x/ragged_row_lengths_0": [1, 1]},
            "3 values are here, 2 are declared",
        ),
        (
            {"sequence": {"feature": tensor_spec("int32"), "length": "-1"}},
            {"x/ragged_flat_values": [1, 2, 3], "x/ragged_row_lengths_0": [5, -2]},
            "negative",
        ),
    ],
)
def test_what_is_not_as_declared_is_named(
    tmp_path: Path, spec: dict[str, Any], columns: dict[str, FeatureIn], problem: str
) -> None:
    features = features_json({"is_last": tensor_spec("bool"), "x": spec})
    flat = {f"steps/{key}": value for key, value in columns.items()}
    example = encode_example({"steps/is_last": [0, 1], **flat})
    folder = write_dataset(tmp_path, features, {"train": [[example]]})

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
    features = features_json(
        {
            "z": tensor_spec("uint8", 1 << 26, encoding="zlib"),
            "i": {"image": {"dtype": "uint8"}},
            "is_last": tensor_spec("bool"),
        }
    )
    example = encode_example({"steps/z": [bomb], "steps/i": [out.getvalue()], "steps/is_last": [1]})
    step = open_memory(write_dataset(tmp_path, features, {"train": [[example]]})).step(0, 0)
    with pytest.raises(EpisodeError, match="larger than"):
        print(step.values["z"])
    with pytest.raises(EpisodeError, match="8000x8000 is too large"):
        print(step.values["i"])


def test_show_lists_a_dataset_and_sums_up_one_of_its_episodes(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path, FEATURES, {"train": [[_example(2), _example(3)]], "val": [[_example(4)]]}
    )
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
