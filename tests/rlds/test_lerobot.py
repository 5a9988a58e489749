"""The LeRobot writer: against the documented format with pyarrow, and against lerobot itself where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds import lerobot
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.lerobot import export_lerobot
from continuonbrain.rlds.lerobot_schema import CAMERA, features_json
from continuonbrain.rlds.lerobot_stats import ImageTotals, VectorTotals, vector_stats
from continuonbrain.rlds.reader import Episode, open_episode
from continuonbrain.rlds.writer import EpisodeWriter

RecordEpisode = Callable[..., Path]
STATS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
LEROBOTS_OWN = {"timestamp", "frame_index", "episode_index", "index", "task_index"}


@pytest.fixture
def parquet() -> Any:
    return pytest.importorskip("pyarrow.parquet", reason="needs the extra lerobot (pyarrow)")


@pytest.fixture
def memory(tmp_path: Path, record: RecordEpisode) -> list[Path]:
    """Three episodes, one of them without a step; two instructions; a dropped step."""
    second = tmp_path / "episodes"
    paths = [record(7, episode_id="a"), record(0, episode_id="c")]
    with EpisodeWriter(second, metadata=make_metadata_example("b")) as writer:
        for tick in range(5):
            step = make_step_example(tick)
            if tick == 2:
                step = replace(step, proposed=None, speed_mps=None, extra={"dropped_before": "2"})
            if tick > 2:
                step = replace(step, instruction="drive slowly", yaw_rate_rps=-0.25)
            writer.write(step)
        writer.close(terminal=True)
    return [paths[0], writer.path, paths[1]]


def want(episode: Episode, index: int) -> dict[str, Any]:
    """What the dataset has to say of a step, besides where it stands."""
    step = episode.step(index)
    return {
        "observation.state": [np.float32(step.speed_mps or 0.0), np.float32(step.yaw_rate_rps or 0.0)],
        "action": [np.float32(number) for number in step.command],
        "proposed_action": [np.float32(number) for number in step.proposed or (0.0, 0.0)],
        "has_proposed_action": step.proposed is not None,
        "state_measured": [step.speed_mps is not None, step.yaw_rate_rps is not None],
        "source": step.source,
        "safety_violations": ",".join(step.reasons),
        "adapter_sha256": step.adapter_sha256,
        "dropped_before": int(step.extra.get("dropped_before", "0")),
        "monotonic_ns": step.monotonic_ns,
        "is_terminal": step.is_terminal,
    }


def test_every_value_and_every_jpeg_is_in_the_parquet_files(
    parquet: Any, tmp_path: Path, memory: list[Path]
) -> None:
    export = export_lerobot(memory, tmp_path / "out", name="car")
    assert (export.episodes, export.steps, export.fps, export.left_out) == (2, 12, 20, ("c",))
    root = export.path
    assert export.bytes == sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    table = parquet.read_table(root / "data/chunk-000/file-000.parquet")
    rows = table.to_pylist()
    assert table.column_names == list(features_json(24, 32))
    tasks = {
        row["task"]: row["task_index"] for row in parquet.read_table(root / "meta/tasks.parquet").to_pylist()
    }
    assert tasks == {"keep left": 0, "drive slowly": 1}
    at = 0
    for number, path in enumerate(memory[:2]):
        episode = open_episode(path)
        for index in range(len(episode)):
            row = rows[at]
            assert row[CAMERA]["bytes"] == episode.frame_jpeg(index)
            for name, value in want(episode, index).items():
                assert row[name] == value, name
            assert row["timestamp"] == np.float32(index / 20)
            assert (row["frame_index"], row["episode_index"], row["index"]) == (index, number, at)
            assert row["task_index"] == tasks[episode.step(index).instruction]
            at += 1
    assert at == len(rows)
    assert parquet.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 2


def test_the_metadata_are_those_of_format_v3(parquet: Any, tmp_path: Path, memory: list[Path]) -> None:
    root = export_lerobot(memory, tmp_path / "out").path
    assert {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()} == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    }
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 20, 2)
    assert (info["total_frames"], info["total_tasks"], info["splits"]) == (12, 2, {"train": "0:2"})
    assert info["video_path"] is None
    assert (root / info["data_path"].format(chunk_index=0, file_index=0)).is_file()
    assert info["features"] == features_json(24, 32)
    assert set(info["features"]) >= LEROBOTS_OWN
    assert info["features"][CAMERA] == {
        "dtype": "image",
        "shape": [24, 32, 3],
        "names": ["height", "width", "channels"],
    }
    rows = parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"], r["length"]) for r in rows] == [
        (0, 7, 7),
        (7, 12, 5),
    ]
    assert [r["tasks"] for r in rows] == [["keep left"], ["keep left", "drive slowly"]]
    assert [r["episode_id"] for r in rows] == ["a", "b"]
    numeric = {name for name, f in info["features"].items() if f["dtype"] != "string"}
    stats = json.loads((root / "meta/stats.json").read_text())
    assert set(stats) == numeric
    for name in numeric:
        assert set(stats[name]) == STATS
        assert stats[name]["count"] == [12]
        assert {
            key.removeprefix(f"stats/{name}/") for key in rows[0] if key.startswith(f"stats/{name}/")
        } == STATS


def test_the_statistics_are_those_of_the_values(parquet: Any, tmp_path: Path, memory: list[Path]) -> None:
    root = export_lerobot(memory, tmp_path / "out").path
    stats = json.loads((root / "meta/stats.json").read_text())
    episodes = [open_episode(path) for path in memory[:2]]
    action = np.array([step.command for episode in episodes for step in episode])
    for name, of in (
        ("min", action.min(0)),
        ("max", action.max(0)),
        ("mean", action.mean(0)),
        ("std", action.std(0)),
    ):
        np.testing.assert_allclose(stats["action"][name], of, atol=1e-6)
    frames = np.concatenate([[e.frame(i) for i in range(len(e))] for e in episodes]) / 255.0
    for name, of in (
        ("min", frames.min((0, 1, 2))),
        ("max", frames.max((0, 1, 2))),
        ("mean", frames.mean((0, 1, 2))),
        ("std", frames.std((0, 1, 2))),
        ("q50", np.quantile(frames, 0.5, axis=(0, 1, 2))),
        ("q99", np.quantile(frames, 0.99, axis=(0, 1, 2))),
    ):
        np.testing.assert_allclose(np.array(stats[CAMERA][name]), of.reshape(3, 1, 1), atol=1 / 255)


def test_totals_are_merged_without_losing_digits() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e9, 1.0, (n, 2)) for n in (1, 40, 300)]
    totals = VectorTotals()
    for part in parts:
        totals.add(part)
    whole = np.concatenate(parts)
    found = totals.stats()
    np.testing.assert_allclose(found["std"], whole.std(0), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], whole.mean(0), rtol=1e-12)
    assert found["count"] == [341]
    assert vector_stats(whole)["q50"] == pytest.approx(np.median(whole, 0))
    one, two = ImageTotals(), ImageTotals()
    one.add(np.zeros((2, 2, 3), np.uint8))
    two.add(np.full((2, 2, 3), 255, np.uint8))
    one.merge(two)
    assert one.stats()["mean"] == [[[0.5]], [[0.5]], [[0.5]]]
    assert one.stats()["count"] == [2]


def test_many_episodes_take_several_files(
    parquet: Any, tmp_path: Path, record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot, "DATA_FILE_MB", 0)  # every episode needs a file of its own
    monkeypatch.setattr(lerobot, "FILES_PER_CHUNK", 2)
    monkeypatch.setattr(lerobot, "EPISODES_PER_FILE", 4)
    monkeypatch.setattr(lerobot, "_EPISODES_AT_ONCE", 2)
    paths = [record(2, episode_id=f"e{number}") for number in range(5)]
    root = export_lerobot(paths, tmp_path / "out").path
    files = sorted(str(file.relative_to(root)) for file in root.glob("*/chunk-*/*.parquet"))
    assert files == [f"data/chunk-{n // 2:03d}/file-{n % 2:03d}.parquet" for n in range(5)]
    rows = [
        row
        for file in sorted((root / "meta/episodes").glob("*/*.parquet"))
        for row in parquet.read_table(file).to_pylist()
    ]
    assert [row["episode_index"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        name = f"data/chunk-{row['data/chunk_index']:03d}/file-{row['data/file_index']:03d}.parquet"
        assert set(parquet.read_table(root / name)["episode_index"].to_pylist()) == {row["episode_index"]}
        name = (
            f"chunk-{row['meta/episodes/chunk_index']:03d}/file-{row['meta/episodes/file_index']:03d}.parquet"
        )
        held = parquet.read_table(root / "meta/episodes" / name)["episode_index"].to_pylist()
        assert row["episode_index"] in held


def test_what_one_dataset_cannot_hold_is_refused_and_leaves_nothing(
    parquet: Any, tmp_path: Path, record: RecordEpisode
) -> None:
    good = record(3)

    def other(name: str, **changes: Any) -> Path:
        with EpisodeWriter(tmp_path / "other", metadata=make_metadata_example(name)) as writer:
            for tick in range(3):
                writer.write(replace(make_step_example(tick), **{k: v(tick) for k, v in changes.items()}))
        return writer.path

    wide = other("wide", frame=lambda tick: make_step_example(tick, size=(24, 48)).frame)
    slow = other("slow", monotonic_ns=lambda tick: tick * 100_000_000)
    blind = other("blind", frame=lambda tick: None)
    huge = other("huge", speed_mps=lambda tick: 1e300)
    cases = (
        (wide, "48x24"),
        (slow, r"100\.0 ms a step"),
        (blind, "no frame"),
        (huge, "too large for 32 bits"),
    )
    for path, words in cases:
        with pytest.raises(EpisodeError, match=words) as caught:
            export_lerobot([good, path], tmp_path / "out")
        assert caught.value.file is not None
        assert list((tmp_path / "out").glob("*")) == []
        assert list((tmp_path / "out").glob(".*")) == []
    with pytest.raises(EpisodeError, match="cannot name a folder"):
        export_lerobot([good], tmp_path / "out", name="../up")
    export_lerobot([good], tmp_path / "out")
    with pytest.raises(EpisodeError, match="exists already"):
        export_lerobot([good], tmp_path / "out")


def test_a_grey_frame_is_refused(parquet: Any, tmp_path: Path) -> None:
    import io

    out = io.BytesIO()
    Image.new("L", (32, 24)).save(out, "JPEG")
    with EpisodeWriter(tmp_path / "grey", metadata=make_metadata_example("grey")) as writer:
        writer.write(replace(make_step_example(0), frame=None, frame_jpeg=out.getvalue()))
    with pytest.raises(EpisodeError, match="32x24 L"):
        export_lerobot([writer.path], tmp_path / "out")


def test_without_pyarrow_the_error_says_what_to_install(
    tmp_path: Path, record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EpisodeError, match="pyarrow") as caught:
        export_lerobot([record(2)], tmp_path / "out")
    assert "[lerobot]" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_dataset(parquet: Any, tmp_path: Path, record: RecordEpisode) -> None:
    memory = record(3).parent
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["export", str(memory), str(out), "--format", "lerobot", "--name", "car", "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["path"], told["episodes"], told["steps"], told["fps"]) == (str(out / "car"), 1, 3, 20)


def test_lerobot_itself_loads_it_and_every_value_is_equal(
    parquet: Any, tmp_path: Path, memory: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="lerobot is not installed")
    root = export_lerobot(memory, tmp_path / "out").path
    dataset = module.LeRobotDataset("local/car", root=root)
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (12, 2, 20)
    at = 0
    for number, path in enumerate(memory[:2]):
        episode = open_episode(path)
        assert dataset.meta.episodes[number]["episode_id"] == episode.episode_id
        for index in range(len(episode)):
            item = dataset[at]
            assert item["task"] == episode.step(index).instruction
            assert (int(item["frame_index"]), int(item["episode_index"]), int(item["index"])) == (
                index,
                number,
                at,
            )
            assert float(item["timestamp"]) == pytest.approx(index / 20)
            for name, value in want(episode, index).items():
                got = item[name]
                assert (got if isinstance(got, str) else got.tolist()) == value, name
            frame = np.round(item[CAMERA].numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
            np.testing.assert_array_equal(frame, episode.frame(index))
            at += 1
    windows = module.LeRobotDataset("local/car", root=root, delta_timestamps={"action": [0.0, 0.05]})
    assert windows[0]["action"].shape == (2, 2)
    assert dataset.meta.stats[CAMERA]["mean"].shape == (3, 1, 1)
