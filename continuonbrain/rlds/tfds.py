"""Export to what the rest of the field opens: a TFDS/RLDS folder, and the ecosystem's per-step TFRecord.

A TFDS folder `<name>/<version>/` holds `features.json`, `dataset_info.json` and shards
`<name>-train.tfrecord-00000-of-0000N` with one tf.train.Example per *episode*; `tfds.builder_from_directory`
loads it. Nested steps are flattened keys (`steps/observation/image` is N JPEGs, `steps/action` is N*2 floats,
row-major), booleans are int64, every number in dataset_info.json is a string (tensorflow_datasets,
`core/features/dataset_feature.py`, `core/example_serializer.py`, `core/proto/dataset_info.proto`).

A value that the robot does not measure is written as 0 with `state_measured` False, never as NaN: one NaN in
a batch is enough to ruin a training run on the other side.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.reader import Episode, decode_image, open_episode
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.step_arrays import command_array, measured_array, proposed_array, state_array
from continuonbrain.rlds.tfrecord import FeatureIn, encode_example, frame_record
from continuonbrain.storage.durable import (
    new_directory_durably,
    remove_abandoned_staging,
    sync_directory,
    write_json_durably,
)

EPISODES_PER_SHARD: Final = 64
SPLIT: Final = "train"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_CLASSES = "tensorflow_datasets.core.features."
Progress = Callable[[int, int], None]


# ---------------------------------------------------------------------------------------- features.json


def _tensor(dtype: str, *shape: int, about: str) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    kind = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    return {
        "pythonClassName": _CLASSES + kind,
        "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"},
        "description": about,
    }


def _text(about: str) -> dict[str, Any]:
    return {"pythonClassName": _CLASSES + "text_feature.Text", "text": {}, "description": about}


def _image(height: int, width: int) -> dict[str, Any]:
    shape = {"dimensions": [str(height), str(width), "3"]}
    return {
        "pythonClassName": _CLASSES + "image_feature.Image",
        "image": {"shape": shape, "dtype": "uint8", "encodingFormat": "jpeg"},
        "description": "front camera, RGB",
    }


def _dict(**features: dict[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": _CLASSES + "features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def features_json(height: int, width: int, *, images: bool = True) -> dict[str, Any]:
    """The `features.json` of our export, as TFDS itself writes the same features; without `images`, of one that has
    none."""
    image = {"image": _image(height, width)} if images else {}
    step = _dict(
        observation=_dict(
            **image,
            state=_tensor("float32", 2, about="speed in m/s, yaw rate in rad/s (counter-clockwise)"),
            state_measured=_tensor("bool", 2, about="False where the robot does not measure it: state is 0"),
        ),
        action=_tensor("float32", 2, about="steering (positive is left), throttle, as sent after the guard"),
        proposed_action=_tensor("float32", 2, about="what the policy proposed before the guard"),
        has_proposed_action=_tensor("bool", about="False: nothing was proposed, proposed_action is 0"),
        language_instruction=_text("what the robot was told"),
        source=_text("who drove"),
        safety_violations=_text("the guard's reason codes, joined by commas"),
        adapter_sha256=_text("adapter that proposed"),
        monotonic_ns=_tensor("int64", about="monotonic clock at the observation"),
        is_first=_tensor("bool", about="first step of the episode"),
        is_last=_tensor("bool", about="last step of the episode"),
        is_terminal=_tensor("bool", about="the task ended here, not only the recording"),
        reward=_tensor("float32", about="always 0: these are demonstrations"),
        discount=_tensor("float32", about="always 1"),
    )
    metadata = _dict(
        episode_id=_text("name of the episode's folder"),
        environment_id=_text("where it was recorded"),
        metadata_json=_text("the episode's metadata.json"),
    )
    steps = {
        "pythonClassName": _CLASSES + "dataset_feature.Dataset",
        "sequence": {"feature": step, "length": "-1"},
    }
    return _dict(steps=steps, episode_metadata=metadata)


def episode_features(
    metadata: EpisodeMetadata, episode_id: str, steps: Sequence[Step], *, path: Path, first: int = 0
) -> dict[str, FeatureIn]:
    """One episode's flattened features, all but its images (`steps/observation/image`).

    Args:
        steps: all of it.
        path, first: the episode on disk, and the place of `steps[0]` in it, for the error.

    Raises:
        EpisodeError: a number is too large for float32.
    """
    return {
        "episode_metadata/episode_id": [episode_id.encode()],
        "episode_metadata/environment_id": [metadata.environment_id.encode()],
        "episode_metadata/metadata_json": [json.dumps(metadata.to_json()).encode()],
        "steps/observation/state": state_array(steps, file=path, first=first),
        "steps/observation/state_measured": measured_array(steps),
        "steps/action": command_array(steps, file=path, first=first),
        "steps/proposed_action": proposed_array(steps, file=path, first=first),
        "steps/has_proposed_action": np.array([step.proposed is not None for step in steps]),
        "steps/language_instruction": [step.instruction.encode() for step in steps],
        "steps/source": [step.source.encode() for step in steps],
        "steps/safety_violations": [",".join(step.reasons).encode() for step in steps],
        "steps/adapter_sha256": [step.adapter_sha256.encode() for step in steps],
        "steps/monotonic_ns": np.array([step.monotonic_ns for step in steps], np.int64),
        "steps/is_first": np.array([index == 0 for index in range(len(steps))]),
        "steps/is_last": np.array([index == len(steps) - 1 for index in range(len(steps))]),
        "steps/is_terminal": np.array([step.is_terminal for step in steps]),
        "steps/reward": np.zeros(len(steps), np.float32),
        "steps/discount": np.ones(len(steps), np.float32),
    }


# ----------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class TfdsExport:
    """What was written: `path` is the version folder; empty episodes are left out and named."""

    path: Path
    episodes: int
    steps: int
    bytes: int
    left_out: tuple[str, ...]


def export_tfds(
    episodes: Sequence[Path],
    out_dir: Path,
    *,
    name: str = "continuonbrain",
    version: str = "1.0.0",
    progress: Progress | None = None,
) -> TfdsExport:
    """Write `<out_dir>/<name>/<version>/`: whole, or not at all. JPEG bytes are copied, not encoded again.

    Args:
        episodes: folders that `open_episode` reads, in the order that the dataset will have.
        out_dir: created when absent.
        name, version: of the dataset (lower case and underscores; three numbers).
        progress: called with (episodes done, episodes in all).

    Raises:
        EpisodeError: an episode cannot be read, a step has no frame, frames differ in size, a number is too
            large for float32, or the folder exists already.
        OSError: the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise EpisodeError(f"{name!r} cannot name a dataset", field="name", remedy="use a-z, 0-9 and _")
    if not _VERSION.fullmatch(version):
        raise EpisodeError(f"{version!r} is not a version", field="version", remedy="write it as 1.0.0")
    target = out_dir / name / version
    if target.exists():
        raise EpisodeError(
            "this dataset exists already", file=target, remedy="give another version or folder"
        )
    lengths = {path: len(open_episode(path)) for path in episodes}
    kept = [path for path in episodes if lengths[path]]
    if not kept:
        raise EpisodeError(f"none of {len(episodes)} episodes has a step", field="episodes")
    shards = [kept[at : at + EPISODES_PER_SHARD] for at in range(0, len(kept), EPISODES_PER_SHARD)]
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned_staging(target.parent)
    with new_directory_durably(target) as staging:
        size = _first_size(kept[0])
        total = done = 0
        for number, shard in enumerate(shards):
            with open(staging / shard_name(name, number, len(shards)), "wb") as file:
                for path in shard:
                    example = _load_example(path, size)
                    file.write(frame_record(example))
                    total += len(example)
                    done += 1
                    if progress is not None:
                        progress(done, len(kept))
        text = json.dumps(features_json(*size), indent=4, sort_keys=True)  # byte for byte as TFDS writes it
        (staging / "features.json").write_text(text)
        info = dataset_info(name, version, total, [len(shard) for shard in shards])
        write_json_durably(staging / "dataset_info.json", info)
    return TfdsExport(
        path=target,
        episodes=len(kept),
        steps=sum(lengths.values()),
        bytes=total,
        left_out=tuple(path.name for path in episodes if not lengths[path]),
    )


def _first_size(path: Path) -> tuple[int, int]:
    height, width = open_episode(path).frame(0).shape[:2]
    return height, width


def _load_example(path: Path, size: tuple[int, int]) -> bytes:
    episode = open_episode(path)
    steps = list(episode)
    jpegs = []
    for index in range(len(steps)):
        jpeg = episode.frame_jpeg(index)
        height, width = decode_image(jpeg).shape[:2]
        with Image.open(io.BytesIO(jpeg), formats=("JPEG", "PNG")) as header:
            mode = header.mode
        if mode != "RGB":  # TFDS decodes the channels that the file has, and features.json says three
            raise EpisodeError(
                f"the frame is {width}x{height} {mode}, not RGB: a reader would find another number of channels",
                file=path,
                step=index,
                field="observation.frame",
                remedy="record or import colour frames; --format steps or json takes the others as they are",
            )
        if (height, width) != size:
            raise EpisodeError(
                f"the frame is {width}x{height}, those before it {size[1]}x{size[0]}; one dataset, one size",
                file=path,
                step=index,
                field="observation.frame",
                remedy="export episodes of each camera on their own",
            )
        jpegs.append(jpeg)
    features = episode_features(episode.metadata, episode.episode_id, steps, path=path)
    return encode_example({**features, "steps/observation/image": jpegs})


def shard_name(name: str, number: int, count: int) -> str:
    """The file of shard `number` of `count`."""
    return f"{name}-{SPLIT}.tfrecord-{number:05d}-of-{count:05d}"


def dataset_info(name: str, version: str, total: int, shard_lengths: Sequence[int]) -> dict[str, Any]:
    """The `dataset_info.json` of a dataset: its bytes, and the episodes of each shard."""
    return {
        "name": name,
        "version": version,
        "fileFormat": "tfrecord",
        "description": "Episodes of a robot that runs continuonbrain, in RLDS form.",
        "splits": [
            {
                "name": SPLIT,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(total),
                "shardLengths": [str(length) for length in shard_lengths],
            }
        ],
    }


# --------------------------------------------------------------------------------------------- per step


def export_step_records(episode: Episode, out_file: Path) -> int:
    """Write the ecosystem's TFRecord: one Example per step, structures as JSON bytes. Returns the steps.

    Keys: episode_id, step_index, reward, is_terminal, is_first, is_last; observation, action, step_metadata
    (JSON); observation_command and action_command (floats). A car observes no command of its own, so
    observation_command is the measured [speed_mps, yaw_rate_rps], empty where it measures neither.

    Raises:
        EpisodeError: a step cannot be read, or a number is too large for float32.
        OSError: the file cannot be written; nothing is left behind.
    """
    staging = out_file.with_name(f".staging-{secrets.token_hex(4)}-{out_file.name}")
    try:
        with open(staging, "wb") as file:
            for index, step in enumerate(episode):
                value = step.to_json()
                state = state_array([step], file=episode.path, first=index)[measured_array([step])]
                command = command_array([step], file=episode.path, first=index)[0]
                example = encode_example(
                    {
                        "episode_id": [episode.episode_id.encode()],
                        "step_index": [index],
                        "reward": [0.0],
                        "is_first": [step.is_first],
                        "is_last": [step.is_last],
                        "is_terminal": [step.is_terminal],
                        "observation": [json.dumps(value["observation"]).encode()],
                        "action": [json.dumps(value["action"]).encode()],
                        "step_metadata": [json.dumps(value["step_metadata"]).encode()],
                        "observation_command": state,
                        "action_command": command,
                    }
                )
                file.write(frame_record(example))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, out_file)
        sync_directory(out_file.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    return len(episode)
