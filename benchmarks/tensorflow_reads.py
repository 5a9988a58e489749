"""The slow check: TensorFlow itself opens what `episodes export` writes, and every value is compared.

TensorFlow is no dependency of this project, not even of its tests (CI compares through tensorflow-datasets alone). Run
this in an environment of its own, after a change to `rlds/tfds.py` or `rlds/tfrecord.py`:

    python -m venv tf && tf/bin/pip install tensorflow-cpu tensorflow-datasets .
    tf/bin/python -m benchmarks.tensorflow_reads [EPISODES] [--json]

EPISODES is an episode or a folder of them; without it, three small ones are made. Checked, with TensorFlow's own code:
the framing and CRCs (`tf.data.TFRecordDataset`), the Examples and nested steps (`as_dataset` of tensorflow-datasets,
which is how every RLDS trainer reads), and the per-step records (`tf.io.parse_single_example`). A difference is a
traceback that names it.

Keys: episodes, steps, values_compared, step_records_compared, seconds; tensorflow, tensorflow_datasets (versions).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.reader import Episode, list_episodes, open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds
from continuonbrain.rlds.writer import EpisodeWriter


def _made(folder: Path) -> list[Path]:
    for number, steps in enumerate((1, 5, 70)):
        with EpisodeWriter(folder, metadata=make_metadata_example(f"made-{number}")) as writer:
            for tick in range(steps):
                writer.write(make_step_example(tick))
    return list_episodes(folder)


def _check_episode(got: Any, episode: Episode) -> int:
    """Compared values; AssertionError names the first that differs."""
    compared = 0

    def same(name: str, index: int, value: Any, want: Any) -> None:
        nonlocal compared
        compared += 1
        if not np.array_equal(np.asarray(value), np.asarray(want)):
            raise AssertionError(f"{episode.episode_id}, step {index}, {name}: {value!r} is not {want!r}")

    assert got["episode_metadata"]["episode_id"].numpy().decode() == episode.episode_id
    count = -1
    for count, (read, want) in enumerate(zip(got["steps"].as_numpy_iterator(), episode, strict=True)):
        measured = (want.speed_mps, want.yaw_rate_rps)
        pixels = read["observation"]["image"].astype(int) - episode.frame(count)
        # TensorFlow's JPEG decoder and Pillow's round differently; the encoded bytes are compared elsewhere.
        same("image", count, np.abs(pixels).max() <= 8, True)
        state = np.array([value or 0.0 for value in measured], np.float32)
        same("state", count, read["observation"]["state"], state)
        same(
            "state_measured", count, read["observation"]["state_measured"], [v is not None for v in measured]
        )
        same("action", count, read["action"], np.array(want.command, np.float32))
        same("proposed", count, read["proposed_action"], np.array(want.proposed or (0, 0), np.float32))
        same("has_proposed_action", count, read["has_proposed_action"], want.proposed is not None)
        same("instruction", count, read["language_instruction"].decode(), want.instruction)
        same("source", count, read["source"].decode(), want.source)
        same("reasons", count, read["safety_violations"].decode(), ",".join(want.reasons))
        same("adapter", count, read["adapter_sha256"].decode(), want.adapter_sha256)
        same("monotonic_ns", count, read["monotonic_ns"], want.monotonic_ns)
        flags = (count == 0, count == len(episode) - 1, want.is_terminal)
        same("flags", count, [read["is_first"], read["is_last"], read["is_terminal"]], flags)
        same("reward", count, [read["reward"], read["discount"]], [0.0, 1.0])
    assert count == len(episode) - 1
    return compared


def _check_records(tf: Any, episode: Episode, file: Path) -> int:
    export_step_records(episode, file)
    spec = {
        "step_index": tf.io.FixedLenFeature((), tf.int64),
        "action": tf.io.FixedLenFeature((), tf.string),
        "action_command": tf.io.FixedLenFeature((2,), tf.float32),
        "is_last": tf.io.FixedLenFeature((), tf.int64),
    }
    count = 0
    for data, want in zip(tf.data.TFRecordDataset(str(file)), episode, strict=True):
        read = tf.io.parse_single_example(data, spec)
        assert int(read["step_index"]) == count
        assert json.loads(read["action"].numpy())["command"] == list(want.command)
        np.testing.assert_array_equal(read["action_command"], np.array(want.command, np.float32))
        assert bool(read["is_last"]) == (count == len(episode) - 1)
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("episodes", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        import tensorflow as tf  # type: ignore[import-not-found]
        import tensorflow_datasets as tfds  # type: ignore[import-untyped]
    except ImportError as error:
        sys.exit(f"{error}: install tensorflow-cpu and tensorflow-datasets in an environment of its own")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given = arguments.episodes
        paths = _made(folder / "made") if given is None else list_episodes(given) or [given]
        export = export_tfds(paths, folder / "out")
        dataset = tfds.builder_from_directory(str(export.path)).as_dataset(split="train", shuffle_files=False)
        episodes = [open_episode(path) for path in paths if len(open_episode(path))]
        values = sum(_check_episode(got, want) for got, want in zip(dataset, episodes, strict=True))
        records = sum(_check_records(tf, want, folder / "steps.tfrecord") for want in episodes)
    result = {
        "tensorflow": tf.__version__,
        "tensorflow_datasets": tfds.__version__,
        "episodes": len(episodes),
        "steps": export.steps,
        "values_compared": values,
        "step_records_compared": records,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, indent=2) if arguments.json else f"all values agree: {result}")


if __name__ == "__main__":
    main()
