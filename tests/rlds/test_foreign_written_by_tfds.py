"""Everything that tensorflow-datasets' own serializer writes is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuonbrain.rlds.foreign_tfds import TfdsEpisode
from continuonbrain.rlds.memory import open_memory
from tests.rlds.foreign_datasets import RNG, png, same, write_dataset


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
        front, wrist = png(8, 10, 3), png(3, 4 + i, 1)
        pictures = [png(4, 4, 3) for _ in range(i)]
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
    memory = open_memory(write_dataset(tmp_path / "arm", saved, {"train": [examples]}))
    for number, episode in enumerate(memory.episodes):
        assert isinstance(episode, TfdsEpisode)
        assert (len(episode), episode.missing) == (len(wanted[number]), ())
        for index, want in enumerate(wanted[number]):
            values = episode.step(index).values
            assert sorted(values) == sorted(want)
            for key in want:
                same(values[key], want[key])
        assert sorted(episode.frames(1)) == ["observation/deep/raw", "observation/front", "observation/wrist"]
        assert episode.metadata["episode_metadata/file"] == "f"
        same(episode.metadata["episode_metadata/numbers"], np.array([1, 2, 3], np.int32))
        same(episode.metadata["episode_metadata/nested"], [np.array(n, np.int32) for n in ([1], [], [2, 3])])
        same(episode.metadata["episode_metadata/count"], np.int32(9))
