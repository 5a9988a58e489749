"""Export to a LeRobot dataset, format v3.0, that `LeRobotDataset(repo_id, root=...)` of lerobot >= 0.4 loads.

    meta/info.json                               features, rate, counts, where files lie
    meta/stats.json                              statistics over all steps (lerobot_stats.py)
    meta/tasks.parquet                           instruction (a pandas index named "task") -> task_index
    meta/episodes/chunk-000/file-000.parquet     one row an episode: length, tasks, its rows, its statistics
    data/chunk-000/file-000.parquet              one row a step, many episodes a file, one row group an episode

Source of the format: github.com/huggingface/lerobot at commit 7427f31, `docs/source/lerobot-dataset-v3.mdx` and
`src/lerobot/datasets/` (`utils.py` DatasetInfo and paths, `feature_utils.py` features, `dataset_metadata.py` episode
rows, `dataset_writer.py` data files, `io_utils.py` reading), and `utils/constants.py` DEFAULTFEATURES.

A camera of dtype "image" is a Parquet column of `struct<bytes, path>`: **the recorded JPEGs are copied, not encoded
again**. Video would be smaller and lossy; lerobot turns one into the other (`convert_image_to_video_dataset`).
What this writes was loaded by lerobot 0.4.4 and 0.6.1 and compared value by value (tests/rlds/test_lerobot.py does so
where lerobot is installed; elsewhere it reads the files with pyarrow).

What LeRobot sees differently:

* its time is a grid: `timestamp` is frame_index / fps, fps a whole number. The clock of the robot is in
  `monotonic_ns`, and where the recorder dropped steps `dropped_before` says how many;
* a policy takes every column whose name starts with "observation" or "action". So what it must not be fed
  (proposals, who drove, reasons) has other names;
* a value that the robot does not measure is 0 with `state_measured` False: LeRobot knows no missing number.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.lerobot_schema import (
    CAMERA,
    FEATURES,
    data_schema,
    features_json,
    load_pyarrow,
    write_tasks,
)
from continuonbrain.rlds.lerobot_stats import FeatureStats, ImageTotals, VectorTotals, vector_stats
from continuonbrain.rlds.reader import Episode, decode_image, open_episode
from continuonbrain.rlds.statistics import dropped_before
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.step_arrays import command_array, measured_array, proposed_array, state_array
from continuonbrain.storage.durable import new_directory_durably, remove_abandoned_staging, write_json_durably

VERSION: Final = "v3.0"
FILES_PER_CHUNK: Final = 1000
DATA_FILE_MB: Final = 100
VIDEO_FILE_MB: Final = 200
EPISODES_PER_FILE: Final = 10_000
_EPISODES_AT_ONCE: Final = 100
_STEP_BYTES: Final = 256
"""About what a row takes besides its picture."""
_RATE_APART: Final = 0.1
_USUAL_FPS: Final = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE: Final = "chunk-{chunk_index:03d}/file-{file_index:03d}"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LeRobotExport:
    """What was written: `path` is the dataset's root; episodes without a step are left out and named."""

    path: Path
    episodes: int
    steps: int
    bytes: int
    fps: int
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {**vars(self), "path": str(self.path), "left_out": list(self.left_out)}


def export_lerobot(
    episodes: Sequence[Path],
    out_dir: Path,
    *,
    name: str = "continuonbrain",
    progress: Progress | None = None,
) -> LeRobotExport:
    """Write `<out_dir>/<name>/`: whole, or not at all. One episode is in memory at a time.

    Args:
        episodes: folders that `open_episode` reads, in the order that the dataset will have.
        out_dir: created when absent.
        name: of the dataset's folder.
        progress: called with (episodes done, episodes in all).

    Raises:
        EpisodeError: pyarrow is not installed, an episode cannot be read, a step has no frame, frames differ in
            size, a number is too large for float32, episodes differ in rate by more than a tenth, or
            the folder exists already.
        OSError: the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise EpisodeError(
            f"{name!r} cannot name a folder", field="name", remedy="use letters, digits, . _ -"
        )
    target = out_dir / name
    if target.exists():
        raise EpisodeError("this dataset exists already", file=target, remedy="give another name or folder")
    load_pyarrow()
    surveys = [_survey(path) for path in episodes]
    kept = [survey for survey in surveys if survey.steps]
    if not kept:
        raise EpisodeError(f"none of {len(episodes)} episodes has a step", field="episodes")
    fps = _common_rate(kept)
    out_dir.mkdir(parents=True, exist_ok=True)
    remove_abandoned_staging(out_dir)
    with new_directory_durably(target) as staging:
        writer = _Writer(staging, fps)
        try:
            for number, survey in enumerate(kept):
                writer.add(survey.path)
                if progress is not None:
                    progress(number + 1, len(kept))
        finally:
            writer.close_files()
        writer.finish()
        size = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
    return LeRobotExport(
        path=target,
        episodes=len(kept),
        steps=writer.steps,
        bytes=size,
        fps=fps,
        left_out=tuple(survey.path.name for survey in surveys if not survey.steps),
    )


# ------------------------------------------------------------------------------------------------- rate


@dataclass(frozen=True)
class _Survey:
    path: Path
    steps: int
    interval_ns: float | None


def _survey(path: Path) -> _Survey:
    times = [step.monotonic_ns for step in open_episode(path)]
    gaps = sorted(after - before for before, after in pairwise(times))
    return _Survey(path, len(times), float(gaps[len(gaps) // 2]) if gaps else None)


def _common_rate(surveys: Sequence[_Survey]) -> int:
    """Steps a second, a whole number: the median over the episodes of their median."""
    known = sorted(s.interval_ns for s in surveys if s.interval_ns is not None and s.interval_ns > 0)
    if not known:
        return _USUAL_FPS
    middle = known[(len(known) - 1) // 2]
    for survey in surveys:
        own = survey.interval_ns
        if own is not None and abs(own - middle) > _RATE_APART * middle:
            raise EpisodeError(
                f"{own / 1e6:.1f} ms a step, the others {middle / 1e6:.1f} ms; a LeRobot dataset has one rate",
                file=survey.path,
                field="step_metadata.monotonic_ns",
                remedy="export episodes of each rate on their own",
            )
    return max(1, round(1e9 / middle))


# ---------------------------------------------------------------------------------------------- writing


class _Writer:
    """Writes a dataset episode by episode."""

    def __init__(self, root: Path, fps: int) -> None:
        self._pa = load_pyarrow()
        self._root = root
        self._fps = fps
        self._schema = data_schema(self._pa)
        self._data: Any = None
        self._data_file = -1
        self._data_bytes = 0
        self._rows: list[dict[str, Any]] = []
        self._meta: Any = None
        self._meta_schema: Any = None
        self._tasks: dict[str, int] = {}
        self._robots: set[str] = set()
        self._totals = {name: VectorTotals() for name, (dtype, _) in FEATURES.items() if dtype != "string"}
        self._pictures = ImageTotals()
        self._size: tuple[int, int] | None = None
        self.episodes = 0
        self.steps = 0

    def add(self, path: Path) -> None:
        """Append an episode that has at least one step."""
        episode = open_episode(path)
        steps = list(episode)
        pictures = ImageTotals()
        jpegs = []
        for jpeg, frame in self._frames(episode):
            jpegs.append(jpeg)
            pictures.add(frame)
        columns = self._columns(steps, path)
        self._write_data(columns, jpegs)
        stats: dict[str, FeatureStats] = {CAMERA: pictures.stats()}
        for name, totals in self._totals.items():
            values = np.asarray(columns[name], np.float64).reshape(len(steps), -1)
            totals.add(values)
            stats[name] = vector_stats(values)
        self._pictures.merge(pictures)
        self._robots.add(episode.metadata.robot_model)
        self._rows.append(
            {
                "episode_index": self.episodes,
                "tasks": list(dict.fromkeys(step.instruction for step in steps)),
                "length": len(steps),
                "data/chunk_index": self._data_file // FILES_PER_CHUNK,
                "data/file_index": self._data_file % FILES_PER_CHUNK,
                "dataset_from_index": self.steps,
                "dataset_to_index": self.steps + len(steps),
                # Not LeRobot's: where the episode came from.
                "episode_id": episode.episode_id,
                "environment_id": episode.metadata.environment_id,
                "metadata_json": json.dumps(episode.metadata.to_json()),
                **{f"stats/{name}/{what}": v for name, of in stats.items() for what, v in of.items()},
                "meta/episodes/chunk_index": self.episodes // EPISODES_PER_FILE // FILES_PER_CHUNK,
                "meta/episodes/file_index": self.episodes // EPISODES_PER_FILE % FILES_PER_CHUNK,
            }
        )
        self.episodes += 1
        self.steps += len(steps)
        if len(self._rows) == _EPISODES_AT_ONCE:
            self._write_rows()

    def _frames(self, episode: Episode) -> Iterator[tuple[bytes, NDArray[np.uint8]]]:
        for index in range(len(episode)):
            jpeg = episode.frame_jpeg(index)
            try:
                frame = decode_image(jpeg)
            except EpisodeError as error:
                raise error.at(file=episode.path, step=index) from error
            height, width = frame.shape[:2]
            with Image.open(io.BytesIO(jpeg)) as header:
                mode = header.mode
            self._size = self._size or (height, width)
            if (height, width) != self._size or mode != "RGB":
                raise EpisodeError(
                    f"the frame is {width}x{height} {mode}, the first one {self._size[1]}x{self._size[0]} RGB; "
                    "one dataset, one kind of frame",
                    file=episode.path,
                    step=index,
                    field="observation.frame",
                    remedy="export episodes of each camera on their own",
                )
            yield jpeg, frame

    def _columns(self, steps: Sequence[Step], path: Path) -> dict[str, Any]:
        count = len(steps)
        grid = np.arange(count, dtype=np.int64)
        for step in steps:
            self._tasks.setdefault(step.instruction, len(self._tasks))
        return {
            "observation.state": state_array(steps, file=path),
            "action": command_array(steps, file=path),
            "proposed_action": proposed_array(steps, file=path),
            "has_proposed_action": np.array([s.proposed is not None for s in steps]),
            "state_measured": measured_array(steps),
            "source": [s.source for s in steps],
            "safety_violations": [",".join(s.reasons) for s in steps],
            "adapter_sha256": [s.adapter_sha256 for s in steps],
            "dropped_before": np.array([dropped_before(s) for s in steps], np.int64),
            "monotonic_ns": np.array([s.monotonic_ns for s in steps], np.int64),
            "is_terminal": np.array([s.is_terminal for s in steps]),
            "timestamp": (grid / self._fps).astype(np.float32),
            "frame_index": grid,
            "episode_index": np.full(count, self.episodes, np.int64),
            "index": grid + self.steps,
            "task_index": np.array([self._tasks[s.instruction] for s in steps], np.int64),
        }

    def _write_data(self, columns: dict[str, Any], jpegs: list[bytes]) -> None:
        size = sum(map(len, jpegs)) + _STEP_BYTES * len(jpegs)
        if self._data is None or self._data_bytes + size >= DATA_FILE_MB << 20:
            if self._data is not None:
                self._data.close()
            self._data_file += 1
            self._data_bytes = 0
            self._data = self._open("data", self._data_file, self._schema)
        self._data_bytes += size
        pictures = [{"bytes": jpeg, "path": f"frame-{at:06d}.jpg"} for at, jpeg in enumerate(jpegs)]
        arrays = [self._pa.array(pictures, self._schema.field(CAMERA).type)]
        for name in FEATURES:
            values = columns[name]
            kind = self._schema.field(name).type
            if isinstance(values, np.ndarray) and values.ndim == 2:
                flat = self._pa.array(values.ravel(), kind.value_type)
                arrays.append(self._pa.FixedSizeListArray.from_arrays(flat, values.shape[1]))
            else:
                arrays.append(self._pa.array(values, kind))
        self._data.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def _write_rows(self) -> None:
        if not self._rows:
            return
        table = self._pa.Table.from_pylist(self._rows, schema=self._meta_schema)
        self._meta_schema = table.schema
        first = self._rows[0]["episode_index"]
        if first % EPISODES_PER_FILE == 0:
            if self._meta is not None:
                self._meta.close()
            self._meta = self._open("meta/episodes", first // EPISODES_PER_FILE, table.schema)
        self._meta.write_table(table)
        self._rows.clear()

    def _open(self, folder: str, number: int, schema: Any) -> Any:
        name = _FILE.format(chunk_index=number // FILES_PER_CHUNK, file_index=number % FILES_PER_CHUNK)
        path = self._root / folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._pa.parquet.ParquetWriter(path, schema, compression="snappy")

    def close_files(self) -> None:
        """Write what waits and close the Parquet files, whether or not all went well."""
        try:
            self._write_rows()
        finally:
            for writer in (self._data, self._meta):
                if writer is not None:
                    writer.close()

    def finish(self) -> None:
        """Write tasks, statistics and info, which need all of it."""
        meta = self._root / "meta"
        write_tasks(self._pa, meta / "tasks.parquet", self._tasks)
        stats = {CAMERA: self._pictures.stats()} | {name: t.stats() for name, t in self._totals.items()}
        write_json_durably(meta / "stats.json", stats)
        assert self._size is not None  # there is an episode with a step, and every step has a frame
        robots = sorted(robot for robot in self._robots if robot)
        info = {
            "codebase_version": VERSION,
            "robot_type": ",".join(robots) or None,
            "total_episodes": self.episodes,
            "total_frames": self.steps,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": f"data/{_FILE}.parquet",
            "video_path": None,
            "features": features_json(*self._size),
        }
        write_json_durably(meta / "info.json", info)
