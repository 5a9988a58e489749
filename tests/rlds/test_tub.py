from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from continuonbrain.cli import episodes
from continuonbrain.rlds import tub as tub_module
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.retention import finished_episodes
from continuonbrain.rlds.tfds import export_tfds
from continuonbrain.rlds.tub import import_tub
from continuonbrain.rlds.tub_drives import load_jpeg
from continuonbrain.rlds.tub_records import TubReport
from continuonbrain.storage.layout import init_brain_root

REAL_TUB = Path(__file__).parents[3] / "shared" / "data" / "donkeycar_tub" / "tub.tar.gz"


def _jpeg(value: int, size: tuple[int, int] = (160, 120), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value % 256, 10, 20)).save(out, "JPEG")
    return out.getvalue()


def _make_tub(
    tub: Path,
    count: int = 30,
    *,
    spacing_ms: int = 50,
    deleted: tuple[int, ...] = (),
    **per_index: dict[int, Any],
) -> Path:
    """A v2 tub; `angle`, `session`, `record` and `image` override single indexes (None removes)."""
    (tub / "images").mkdir(parents=True)
    lines = []
    for index in range(count):
        name = f"{index}_cam_image_array_.jpg"
        record: Any = {
            "_index": index,
            "_session_id": per_index.get("session", {}).get(index, "s0"),
            "_timestamp_ms": 1_700_000_000_000 + index * spacing_ms,
            "cam/image_array": name,
            "user/angle": per_index.get("angle", {}).get(index, 0.25),
            "user/mode": "user",
            "user/throttle": 0.5,
        }
        record |= per_index.get("record", {}).get(index, {})
        lines.append(json.dumps(record))
        image = per_index.get("image", {}).get(index, _jpeg(index))
        if image is not None:
            (tub / "images" / name).write_bytes(image)
    half = count // 2
    (tub / "catalog_0.catalog").write_text("\n".join(lines[:half]) + "\n")
    (tub / "catalog_1.catalog").write_text("\n".join(lines[half:]) + "\n")
    (tub / "._catalog_0.catalog").write_bytes(b"\x00\x05\x16\x07")
    paths = {"paths": ["catalog_0.catalog", "catalog_1.catalog"], "current_index": count, "max_len": half}
    manifest = [["cam/image_array"], ["image_array"], {}, {}, {**paths, "deleted_indexes": list(deleted)}]
    (tub / "manifest.json").write_text("\n".join(json.dumps(line) for line in manifest) + "\n")
    return tub


def test_steering_is_negated_and_the_jpeg_bytes_are_kept(tmp_path: Path) -> None:
    tub = _make_tub(tmp_path / "tub", angle={3: -1.0})
    report = import_tub(tub, tmp_path / "memory")
    (path,) = list_episodes(tmp_path / "memory")
    episode = open_episode(path)
    assert (report.steps, report.timestamps, report.sessions) == (30, "tub", 1)
    assert episode.step(0).command == (-0.25, 0.5)
    assert episode.step(3).command == (1.0, 0.5)
    assert episode.step(0).source == "human_teleop_xr"
    assert episode.step(0).speed_mps is None
    assert episode.frame_jpeg(7) == _jpeg(7)
    assert episode.step(2).monotonic_ns == 100_000_000
    assert "negated" in episode.metadata.provenance["steering"]
    assert examine(path) == []


def test_deleted_missing_corrupt_and_unusable_records_are_skipped_and_counted(tmp_path: Path) -> None:
    tub = _make_tub(
        tmp_path / "tub",
        deleted=(1, 2),
        image={4: None, 6: _jpeg(6)[:200], 8: b"", 9: _jpeg(9, (320, 240)), 10: _jpeg(10, mode="L")},
        angle={12: None, 13: "left", 14: 1.5},
    )
    catalog = tub / "catalog_1.catalog"
    catalog.write_text(catalog.read_text() + "{torn\n")
    report = import_tub(tub, tmp_path / "memory")
    assert (report.records, report.deleted, report.missing_images, report.corrupt_images) == (31, 2, 1, 2)
    assert (report.bad_records, report.resized, report.clipped) == (3, 2, 1)
    steps = [step for path in list_episodes(tmp_path / "memory") for step in open_episode(path)]
    skipped = {1, 2, 4, 6, 8, 12, 13}
    assert [step.tick for step in steps] == [index for index in range(30) if index not in skipped]
    assert report.steps == len(steps)
    assert {step.tick: step.command for step in steps}[14] == (-1.0, 0.5)
    assert open_episode(list_episodes(tmp_path / "memory")[0]).frame(4).shape == (120, 160, 3)


def test_sessions_holes_and_long_drives_become_episodes(tmp_path: Path) -> None:
    tub = _make_tub(
        tmp_path / "tub",
        60,
        session=dict.fromkeys(range(20, 60), "s1"),
        deleted=tuple(range(30, 45)),
    )
    import_tub(tub, tmp_path / "memory", max_steps_per_episode=15)
    found = [[step.tick for step in open_episode(path)] for path in list_episodes(tmp_path / "memory")]
    assert found == [[*range(15)], [*range(15, 20)], [*range(20, 30)], [*range(45, 60)]]


def test_timestamps_that_are_not_real_time_are_replaced_and_reported(tmp_path: Path) -> None:
    report = import_tub(_make_tub(tmp_path / "tub", spacing_ms=3), tmp_path / "memory")
    assert report.timestamps == "assumed 50 ms"
    assert report.median_spacing_ms == 3
    (path,) = list_episodes(tmp_path / "memory")
    episode = open_episode(path)
    assert episode.step(2).monotonic_ns == 100_000_000
    assert episode.metadata.provenance["timestamps"] == "assumed 50 ms"


def test_records_driven_by_the_pilot_say_so(tmp_path: Path) -> None:
    pilot = {"user/mode": "local", "pilot/angle": -0.5, "pilot/throttle": 0.3}
    tub = _make_tub(tmp_path / "tub", record={5: pilot})
    import_tub(tub, tmp_path / "memory")
    step = open_episode(list_episodes(tmp_path / "memory")[0]).step(5)
    assert (step.source, step.command, step.proposed) == ("autopilot", (0.5, 0.3), (0.5, 0.3))


@pytest.mark.parametrize("mode", ["pilot", "ai_launch", "", "User", 7])
@pytest.mark.parametrize("noted", [{}, {"pilot/angle": -0.5, "pilot/throttle": 0.3}])
def test_a_mode_of_which_nothing_is_known_is_no_persons(
    tmp_path: Path, mode: object, noted: dict[str, float]
) -> None:
    tub = _make_tub(tmp_path / "tub", record={5: {"user/mode": mode} | noted})
    import_tub(tub, tmp_path / "memory")
    steps = list(open_episode(list_episodes(tmp_path / "memory")[0]))
    assert [s.source == "autopilot" for s in steps] == [i == 5 for i in range(len(steps))]
    if noted:
        assert steps[5].command == (0.5, 0.3)


def test_importing_again_adds_nothing_and_a_killed_import_is_completed(tmp_path: Path) -> None:
    tub, memory = _make_tub(tmp_path / "tub"), tmp_path / "memory"
    import_tub(tub, memory, max_steps_per_episode=10)
    first = {path: (path / "metadata.json").stat().st_ino for path in list_episodes(memory)}
    again = import_tub(tub, memory, max_steps_per_episode=10)
    assert (again.steps, again.already_imported, again.episodes) == (0, 30, [])
    damaged = sorted(first)[1]
    (damaged / "steps" / "000000.jsonl").write_bytes(b"{")
    repaired = import_tub(tub, memory, max_steps_per_episode=10)
    assert repaired.episodes == [str(damaged)]
    assert (repaired.steps, repaired.already_imported) == (10, 20)


def _killed_import(tub: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """What SIGKILL leaves: an open episode that nobody holds."""
    left = images

    def load(path: Path, report: TubReport) -> bytes | None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return load_jpeg(path, report)

    with monkeypatch.context() as patch:
        patch.setattr(tub_module, "load_jpeg", load)
        patch.setattr(tub_module.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            import_tub(tub, memory)


def test_half_a_drive_that_recovery_closed_is_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tub, memory = _make_tub(tmp_path / "tub"), tmp_path / "memory"
    _killed_import(tub, memory, monkeypatch, 12)
    (recovered,) = recover_unfinished(memory)
    assert recovered.steps == len(open_episode(recovered.path)) == 11
    (held,) = finished_episodes(memory)
    assert not held.own  # or retention would delete it as a drive of the robot
    report = import_tub(tub, memory)
    assert (report.steps, report.already_imported, report.replaced) == (30, 0, 1)
    assert "imported again" in report.notes[0]
    (path,) = list_episodes(memory)
    assert len(open_episode(path)) == 30
    again = import_tub(tub, memory)
    assert (again.steps, again.already_imported, again.replaced, again.notes) == (0, 30, 0, [])


def test_half_a_drive_that_is_the_last_copy_of_a_picture_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tub, memory = _make_tub(tmp_path / "tub"), tmp_path / "memory"
    _killed_import(tub, memory, monkeypatch, 12)
    (recovered,) = recover_unfinished(memory)
    (tub / "images" / "4_cam_image_array_.jpg").unlink()
    report = import_tub(tub, memory)
    assert open_episode(recovered.path).frame_jpeg(4) == _jpeg(4)
    assert (report.steps, report.replaced) == (29, 0)
    assert recovered.path.name in report.notes[0]


def test_what_nothing_says_an_import_wrote_is_left_alone(tmp_path: Path) -> None:
    tub, memory = _make_tub(tmp_path / "tub"), tmp_path / "memory"
    first = Path(import_tub(tub, memory).episodes[0])
    data = (first / "metadata.json").read_bytes()
    for altered in (data.replace(b"donkeycar tub", b"donkeycar bub"), b"{}", b"garbage"):
        (first / "metadata.json").write_bytes(altered)
        shutil.rmtree(memory / f"{first.name[:-4]}0001", ignore_errors=True)
        report = import_tub(tub, memory)
        assert (first / "metadata.json").read_bytes() == altered
        assert report.steps == len(open_episode(Path(report.episodes[0]))) == 30
        assert first.name in report.notes[0]


def _counts(report: TubReport) -> tuple[int, ...]:
    skipped = report.deleted + report.bad_records + report.missing_images + report.corrupt_images
    assert report.steps + report.already_imported + skipped == report.records
    return report.steps, report.already_imported, report.missing_images, report.corrupt_images


def test_a_second_import_counts_what_it_wrote(tmp_path: Path) -> None:
    tub = _make_tub(tmp_path / "tub", image={3: b"", 9: b"\xff\xd8", 10: None})
    memory = tmp_path / "memory"
    assert _counts(import_tub(tub, memory, max_steps_per_episode=10)) == (27, 0, 1, 2)
    assert _counts(import_tub(tub, memory, max_steps_per_episode=10)) == (0, 27, 1, 2)
    (tub / "images" / "5_cam_image_array_.jpg").unlink()  # now the drives are cut elsewhere
    assert _counts(import_tub(tub, memory, max_steps_per_episode=10)) == (0, 26, 2, 2)
    assert sum(len(open_episode(path)) for path in list_episodes(memory)) == 27


def test_images_that_came_later_are_added_beside_what_is_there(tmp_path: Path) -> None:
    tub = _make_tub(tmp_path / "tub", image={3: b"", 10: None})
    memory = tmp_path / "memory"
    import_tub(tub, memory, max_steps_per_episode=10)
    before = {path: path.stat().st_ino for path in list_episodes(memory)}
    for index in (3, 10):
        (tub / "images" / f"{index}_cam_image_array_.jpg").write_bytes(_jpeg(index))
    assert _counts(import_tub(tub, memory, max_steps_per_episode=10)) == (2, 28, 0, 0)
    assert {path: path.stat().st_ino for path in before} == before
    ticks = sorted(step.tick for path in list_episodes(memory) for step in open_episode(path))
    assert ticks == list(range(30))
    assert _counts(import_tub(tub, memory, max_steps_per_episode=10)) == (0, 30, 0, 0)


def test_a_manifest_that_names_only_absent_catalogs_says_which(tmp_path: Path) -> None:
    tub = _make_tub(tmp_path / "tub")
    for file in tub.glob("catalog_*"):
        file.unlink()
    with pytest.raises(EpisodeError, match=r"catalog_0\.catalog is named by manifest\.json but missing"):
        import_tub(tub, tmp_path / "memory")


def test_two_imports_of_one_tub_at_a_time_do_not_destroy_each_other(tmp_path: Path) -> None:
    tub = _make_tub(tmp_path / "tub", 100)
    refused: list[EpisodeError] = []

    def start_another(done: int, total: int) -> None:
        if list_episodes(tmp_path / "memory") and not refused:
            with pytest.raises(EpisodeError, match="another import") as caught:
                import_tub(tub, tmp_path / "memory", max_steps_per_episode=100)
            refused.append(caught.value)

    report = import_tub(tub, tmp_path / "memory", max_steps_per_episode=100, progress=start_another)
    assert len(refused) == 1
    assert report.steps == len(open_episode(Path(report.episodes[0]))) == 100


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_tub(
            _make_tub(tmp_path / "tub"), tmp_path / "memory", max_steps_per_episode=10, progress=interrupt
        )
    assert list_episodes(tmp_path / "memory") == []


def test_a_tub_of_the_first_format_is_imported(tmp_path: Path) -> None:
    tub = tmp_path / "old"
    tub.mkdir()
    for index in range(1, 13):
        image = f"{index}_cam-image_array_.jpg"
        (tub / image).write_bytes(_jpeg(index))
        record = {"cam/image_array": image, "user/angle": 0.1, "user/throttle": 0.2, "user/mode": "user"}
        (tub / f"record_{index}.json").write_text(json.dumps(record | {"milliseconds": index * 50}))
    (tub / "meta.json").write_text("{}")
    report = import_tub(tub, tmp_path / "memory")
    assert (report.version, report.steps, report.timestamps) == (1, 12, "tub")
    assert [step.tick for step in open_episode(Path(report.episodes[0]))] == list(range(1, 13))


def test_what_is_not_a_tub_is_refused_with_the_way_out(tmp_path: Path) -> None:
    _make_tub(tmp_path / "outer" / "inner")
    with pytest.raises(EpisodeError, match=r"did you mean .*inner"):
        import_tub(tmp_path / "outer", tmp_path / "memory")
    with pytest.raises(EpisodeError, match="no such folder"):
        import_tub(tmp_path / "absent", tmp_path / "memory")
    (tmp_path / "tub.tar.gz").write_bytes(b"")
    with pytest.raises(EpisodeError, match="unpack it first"):
        import_tub(tmp_path / "tub.tar.gz", tmp_path / "memory")
    empty = _make_tub(tmp_path / "noimages", image=dict.fromkeys(range(30)))
    with pytest.raises(EpisodeError, match="all 30 images are missing"):
        import_tub(empty, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


@pytest.mark.skipif(not REAL_TUB.exists(), reason=f"the real donkeycar tub is not at {REAL_TUB}")
def test_the_real_tub_survives_tub_to_rlds_to_tfds(
    tmp_path: Path, examples: Callable[[Path], Iterator[dict[str, Any]]]
) -> None:
    with tarfile.open(REAL_TUB) as archive:
        archive.extractall(tmp_path, filter="data")
    tub = tmp_path / "tub"
    report = import_tub(tub, tmp_path / "memory")
    assert (report.records, report.steps, report.timestamps) == (1000, 1000, "assumed 50 ms")
    assert report.wall_s < 3 * 10  # the goal is 20,000 records a minute; this leaves a slow machine tenfold
    source = [json.loads(line) for line in (tub / "catalog_0.catalog").read_text().splitlines()]
    paths = list_episodes(tmp_path / "memory")
    assert sum(len(open_episode(path)) for path in paths) == 1000
    assert examine(paths[0]) == []
    export = export_tfds(paths, tmp_path / "out")
    index = 0
    (shard,) = export.path.glob("*.tfrecord-*")
    for example in examples(shard):
        actions = np.asarray(example["steps/action"]).reshape(-1, 2)
        for action, image in zip(actions, example["steps/observation/image"], strict=True):
            wanted = source[index]
            np.testing.assert_array_equal(
                action, np.array([-wanted["user/angle"], wanted["user/throttle"]], np.float32)
            )
            assert image == (tub / "images" / wanted["cam/image_array"]).read_bytes()
            index += 1
    assert index == 1000


def test_driving_beyond_the_guards_bounds_is_counted_and_said_with_what_to_do(tmp_path: Path) -> None:
    fast = {index: {"user/throttle": 0.8} for index in range(10)}
    tub = _make_tub(tmp_path / "tub", record=fast)
    report = import_tub(tub, tmp_path / "memory", throttle_bounds=(0.0, 0.5))
    assert (report.with_image, report.beyond_bounds, report.fastest) == (30, 10, 0.8)
    assert import_tub(tub, tmp_path / "other").beyond_bounds == 0

    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    said = CliRunner().invoke(episodes.app, ["import-tub", str(tub), "--root", str(layout.root)])
    assert said.exit_code == 0, said.output
    assert "guards.throttle_bounds 0 .. 0.5: 33% of the records, up to 0.80" in said.output
    assert str(layout.config_path) in said.output
    calm = init_brain_root(tmp_path / "sim", "sim-donkey")
    said = CliRunner().invoke(episodes.app, ["import-tub", str(tub), "--root", str(calm.root)])
    assert "throttle_bounds" not in said.output
