"""Real tensorflow-datasets, without TensorFlow, opens what is exported; every value of every step is compared."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import Episode, list_episodes, open_episode
from continuonbrain.rlds.tfds import export_tfds
from continuonbrain.rlds.tub import import_tub

tfds = pytest.importorskip("tensorflow_datasets", reason="the dev extra is not installed")

RecordEpisode = Callable[..., Path]
REAL_TUB = Path(__file__).parents[3] / "shared" / "data" / "donkeycar_tub" / "tub.tar.gz"


def _records(file: Path) -> Iterator[bytes]:
    """TFRecord framing read with nothing of ours; the CRCs have tests of their own."""
    data = file.read_bytes()
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def _loaded(folder: Path) -> Iterator[dict[str, Any]]:
    """The dataset's examples as tensorflow-datasets decodes them."""
    builder = tfds.builder_from_directory(str(folder))
    split = builder.info.splits["train"]
    found = 0
    for file in split.filepaths:
        for record in _records(Path(file)):
            yield builder.info.features.deserialize_example_np(record)
            found += 1
    assert found == split.num_examples


def _compare(example: dict[str, Any], episode: Episode) -> None:
    metadata = example["episode_metadata"]
    assert metadata["episode_id"].decode() == episode.episode_id
    assert metadata["environment_id"].decode() == episode.metadata.environment_id
    assert json.loads(metadata["metadata_json"]) == episode.metadata.to_json()
    steps = list(example["steps"])
    assert len(steps) == len(episode)
    for index, (got, want) in enumerate(zip(steps, episode, strict=True)):
        image = got["observation"]["image"]
        assert (image.dtype, image.shape) == (np.dtype(np.uint8), episode.frame(index).shape)
        np.testing.assert_array_equal(image, episode.frame(index))
        measured = (want.speed_mps, want.yaw_rate_rps)
        state, state_measured = got["observation"]["state"], got["observation"]["state_measured"]
        assert state.dtype == np.float32
        assert state_measured.dtype == np.bool_
        assert state_measured.tolist() == [value is not None for value in measured]
        np.testing.assert_array_equal(state, np.array([value or 0.0 for value in measured], np.float32))
        np.testing.assert_array_equal(got["action"], np.array(want.command, np.float32))
        np.testing.assert_array_equal(
            got["proposed_action"], np.array(want.proposed or (0.0, 0.0), np.float32)
        )
        assert got["has_proposed_action"] == (want.proposed is not None)
        texts = {
            "language_instruction": want.instruction,
            "source": want.source,
            "safety_violations": ",".join(want.reasons),
            "adapter_sha256": want.adapter_sha256,
        }
        assert {key: got[key].decode() for key in texts} == texts
        assert got["monotonic_ns"] == want.monotonic_ns
        assert got["is_first"] == (index == 0)
        assert got["is_last"] == (index == len(steps) - 1)
        assert got["is_terminal"] == want.is_terminal
        assert (got["reward"], got["discount"]) == (0.0, 1.0)
        assert set(got) == {"observation", "action", "proposed_action", "has_proposed_action", *texts} | {
            "monotonic_ns",
            "is_first",
            "is_last",
            "is_terminal",
            "reward",
            "discount",
        }


def test_tensorflow_datasets_reads_every_value_of_an_export(tmp_path: Path, record: RecordEpisode) -> None:
    paths = [record(4, episode_id="a"), record(6, episode_id="b", terminal=True), record(1, episode_id="c")]
    export = export_tfds(paths, tmp_path / "out", name="car", version="2.0.1")
    count = 0
    for path, example in zip(paths, _loaded(export.path), strict=True):
        _compare(example, open_episode(path))
        count += 1
    assert count == 3
    builder = tfds.builder_from_directory(str(export.path))
    assert (builder.name, str(builder.version)) == ("car", "2.0.1")
    assert builder.info.splits["train"].num_bytes == export.bytes
    assert "tensorflow" not in sys.modules


def test_features_json_is_byte_for_byte_what_tensorflow_datasets_saves(
    tmp_path: Path, record: RecordEpisode
) -> None:
    f = tfds.features
    robot = "speed in m/s, yaw rate in rad/s (counter-clockwise)"
    features = f.FeaturesDict(
        {
            "steps": f.Dataset(
                {
                    "observation": {
                        "image": f.Image(shape=(24, 32, 3), encoding_format="jpeg", doc="front camera, RGB"),
                        "state": f.Tensor(shape=(2,), dtype=np.float32, doc=robot),
                        "state_measured": f.Tensor(
                            shape=(2,),
                            dtype=np.bool_,
                            doc="False where the robot does not measure it: state is 0",
                        ),
                    },
                    "action": f.Tensor(
                        shape=(2,),
                        dtype=np.float32,
                        doc="steering (positive is left), throttle, as sent after the guard",
                    ),
                    "proposed_action": f.Tensor(
                        shape=(2,), dtype=np.float32, doc="what the policy proposed before the guard"
                    ),
                    "has_proposed_action": f.Scalar(
                        np.bool_, doc="False: nothing was proposed, proposed_action is 0"
                    ),
                    "language_instruction": f.Text(doc="what the robot was told"),
                    "source": f.Text(doc="who drove"),
                    "safety_violations": f.Text(doc="the guard's reason codes, joined by commas"),
                    "adapter_sha256": f.Text(doc="adapter that proposed"),
                    "monotonic_ns": f.Scalar(np.int64, doc="monotonic clock at the observation"),
                    "is_first": f.Scalar(np.bool_, doc="first step of the episode"),
                    "is_last": f.Scalar(np.bool_, doc="last step of the episode"),
                    "is_terminal": f.Scalar(np.bool_, doc="the task ended here, not only the recording"),
                    "reward": f.Scalar(np.float32, doc="always 0: these are demonstrations"),
                    "discount": f.Scalar(np.float32, doc="always 1"),
                }
            ),
            "episode_metadata": {
                "episode_id": f.Text(doc="name of the episode's folder"),
                "environment_id": f.Text(doc="where it was recorded"),
                "metadata_json": f.Text(doc="the episode's metadata.json"),
            },
        }
    )
    features.save_config(str(tmp_path))
    export = export_tfds([record(2)], tmp_path / "out")
    assert (export.path / "features.json").read_bytes() == (tmp_path / "features.json").read_bytes()


@pytest.mark.skipif(not REAL_TUB.exists(), reason=f"the real donkeycar tub is not at {REAL_TUB}")
def test_the_real_tub_survives_to_tensorflow_datasets_and_back(tmp_path: Path) -> None:
    with tarfile.open(REAL_TUB) as archive:
        archive.extractall(tmp_path, filter="data")
    tub = tmp_path / "tub"
    import_tub(tub, tmp_path / "memory", max_steps_per_episode=300)
    paths = list_episodes(tmp_path / "memory")
    export = export_tfds(paths, tmp_path / "out")
    source = [json.loads(line) for line in (tub / "catalog_0.catalog").read_text().splitlines()]
    memory = open_memory(export.path)
    index = 0
    for number, (path, example) in enumerate(zip(paths, _loaded(export.path), strict=True)):
        _compare(example, open_episode(path))
        for at, step in enumerate(example["steps"]):
            wanted = source[index]
            action = np.array([-wanted["user/angle"], wanted["user/throttle"]], np.float32)
            np.testing.assert_array_equal(step["action"], action)
            ours = memory.step(number, at)  # and our own reader of others' folders sees the same
            np.testing.assert_array_equal(ours.values["action"], action)
            np.testing.assert_array_equal(ours.values["observation/image"], step["observation"]["image"])
            index += 1
    assert index == 1000
