"""Bundles on disk: what is in them, that they are the same bytes each time, and that a killed export goes on."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cloud import shards
from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud.errors import ExportRefused, NothingToExport
from continuonbrain.cloud.export import export_bundle, journal_of
from continuonbrain.cloud.sinks import ZipSink
from continuonbrain.cloud.zip64 import Member
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.example_view import index_records
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.sharing import set_answer
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.tfrecord import read_record
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.public_key import PublicKey, parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys

from .conftest import KEY, MakeRoot, Record, export, files_in, plan_of, set_config


def public_key(brain: BrainRoot) -> PublicKey:
    path = PrivateKeys(brain.layout).public_path(KEY)
    return parse_public_key(path.read_bytes(), what=str(path))


def unpacked(bundle: Path, into: Path) -> Path:
    with zipfile.ZipFile(bundle) as opened:
        assert opened.testzip() is None
        opened.extractall(into)
    return into


def commented(step: Step, comment: bytes) -> bytes:
    """The frame of a step as a JPEG of a camera that writes more than pixels."""
    assert step.frame is not None
    out = io.BytesIO()
    Image.fromarray(step.frame).save(out, "JPEG", comment=comment)
    assert comment in out.getvalue()
    return out.getvalue()


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(root.rglob("*"))}


# ------------------------------------------------------------------------------------------------- opting in


def test_without_opt_in_nothing_leaves(brain: BrainRoot, tmp_path: Path) -> None:
    refused = set_config(brain.layout.root, opt_in=False)
    before = tree(tmp_path)
    with pytest.raises(ExportRefused, match="opt_in is false") as caught:
        export(refused, tmp_path / "out.zip")
    assert '"opt_in": true' in caught.value.remedy
    assert tree(tmp_path) == before


def test_what_nobody_agreed_to_stays(brain: BrainRoot, tmp_path: Path) -> None:
    done = export(brain, tmp_path / "out.zip")
    assert done.names == ("20260101T080000Z-aaaa", "20260102T080000Z-bbbb", "20260103T080000Z-cccc")
    assert (done.episodes, done.steps) == (3, 15)
    unmarked = set_config(brain.layout.root, share_unmarked=True)
    assert export(unmarked, tmp_path / "all.zip").names[-1] == "20260105T080000Z-eeee"
    assert "20260104T080000Z-dddd" not in export(unmarked, tmp_path / "again.zip").names


def test_where_nothing_may_leave_nothing_is_written(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    brain = make_root()
    record(brain, "a", share=None)
    before = tree(tmp_path)
    with pytest.raises(NothingToExport, match="share says nothing"):
        export(brain, tmp_path / "out.zip")
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------ what is in a bundle


def test_the_members_of_a_bundle(brain: BrainRoot, tmp_path: Path) -> None:
    done = export(brain, tmp_path / "out.zip")
    dataset = "rlds/episodes_32x24/1.0.0"
    assert [m.name for m in done.members] == [
        f"{dataset}/episodes_32x24-train.tfrecord-00000-of-00001",
        f"{dataset}/dataset_info.json",
        f"{dataset}/features.json",
        "adapters/current/adapter_config.json",
        "adapters/current/adapter_model.safetensors",
        "base.json",
        "config.json",
        "doctor.json",
        "episodes.jsonl",
        "manifest.json",
        "bundle.json",
    ]
    found = check_bundle(done.path, public_key(brain))
    assert (found.counter, found.contents.episodes, found.contents.steps) == (1, 3, 15)
    assert found.contents.datasets == {dataset: {"height": 24, "width": 32, "episodes": 3, "steps": 15}}
    folder = unpacked(done.path, tmp_path / "unpacked")
    doctor = json.loads((folder / "doctor.json").read_text())
    assert doctor == {"schema": 1, "healthy": True, "pictures_decoded": False, "findings": []}
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [5, 7, 3]
    told = json.loads((folder / "manifest.json").read_text())["privacy"]
    assert {"robot_id", "start_time_unix_ms", "environment_id"} <= told["coarsened"].keys()
    assert any("GPS" in what for what in told["dropped"])
    assert "audio" in told["dropped"]
    if unzip := shutil.which("unzip"):
        subprocess.run([unzip, "-tqq", str(done.path)], check=True)


def test_what_the_projects_own_reader_reads(brain: BrainRoot, tmp_path: Path) -> None:
    folder = unpacked(export(brain, tmp_path / "out.zip").path, tmp_path / "unpacked")
    memory = open_memory(folder / "rlds" / "episodes_32x24")
    assert memory.format == "tfds"
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(memory) == 3
    for number, name in enumerate(
        ("20260101T080000Z-aaaa", "20260102T080000Z-bbbb", "20260103T080000Z-cccc")
    ):
        source, read = open_episode(brain.layout.episodes_dir / name), memory.episode(number)
        assert len(read) == len(source) == lines[number]["steps"]
        for index in range(len(source)):
            (frame,) = read.frames(index).values()
            np.testing.assert_array_equal(frame, source.frame(index))
            values = read.step(index).values
            np.testing.assert_array_equal(values["action"], np.float32(source.step(index).command))
            assert values["language_instruction"] == "keep left"
            began = source.step(0).monotonic_ns
            assert int(values["monotonic_ns"]) == source.step(index).monotonic_ns - began
        assert read.metadata["episode_metadata/episode_id"] == lines[number]["id"]


@pytest.mark.parametrize(("frames", "dataset"), [("none", "without_frames"), ("half", "16x12")])
def test_pictures_left_out_or_halved(brain: BrainRoot, tmp_path: Path, frames: Any, dataset: str) -> None:
    done = export(brain, tmp_path / "out", as_zip=False, frames=frames)
    memory = open_memory(done.path / "rlds" / f"episodes_{dataset}" / "1.0.0")
    pictures = list(memory.frames(0, 0).values())
    assert [p.shape for p in pictures] == ([] if frames == "none" else [(12, 16, 3)])
    assert len(memory.episode(1)) == 7
    check_bundle(done.path, public_key(brain))


def test_each_size_of_picture_is_a_dataset_of_its_own(
    brain: BrainRoot, record: Record, tmp_path: Path
) -> None:
    record(brain, "20260107T080000Z-wide", 2, size=(24, 48))
    record(
        brain,
        "20260108T080000Z-dark",
        2,
        change=lambda _t, s: replace(s, frame=None, frame_monotonic_ns=None),
    )
    done = export(brain, tmp_path / "out", as_zip=False)
    names = ("episodes_32x24", "episodes_48x24", "episodes_without_frames")
    assert [len(open_memory(done.path / "rlds" / name)) for name in names] == [3, 1, 1]


def test_a_long_episode_goes_in_parts(
    make_root: MakeRoot, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PART_STEPS", 4)
    brain = make_root()
    record(brain, "long", 10)
    done = export(brain, tmp_path / "out", as_zip=False)
    assert (done.episodes, done.steps, done.names) == (3, 10, ("long",))
    memory = open_memory(done.path / "rlds" / "episodes_32x24")
    assert [len(e) for e in memory.episodes] == [4, 4, 2]
    assert [memory.step(e, -1).is_terminal for e in range(3)] == [False, False, True]
    told = [
        json.loads(str(e.metadata["episode_metadata/metadata_json"]))
        for e in (memory.episode(0), memory.episode(2))
    ]
    assert [(t["duration_ms"], t["provenance"]["exported"]["steps"]) for t in told] == [(150, 4), (50, 2)]
    lines = [json.loads(line) for line in (done.path / "episodes.jsonl").read_text().splitlines()]
    assert [line["id"].partition(".")[2] for line in lines] == ["0", "1", "2"]


def test_a_damaged_episode_keeps_no_other_back(brain: BrainRoot, tmp_path: Path) -> None:
    blob = brain.layout.episodes_dir / "20260102T080000Z-bbbb" / "blobs" / "000000.tfrecord"
    data = bytearray(blob.read_bytes())
    data[-40] ^= 1
    blob.write_bytes(data)
    assert examine(blob.parent.parent)
    done = export(brain, tmp_path / "out", as_zip=False)
    assert [s.name for s in done.left_out] == ["20260102T080000Z-bbbb"]
    assert "CRC" in done.left_out[0].reason
    assert done.episodes == len(open_memory(done.path / "rlds" / "episodes_32x24")) == 2
    doctor = json.loads((done.path / "doctor.json").read_text())
    assert doctor["healthy"] is False
    assert [(f["step"], f["field"], f["left_out"]) for f in doctor["findings"]] == [
        (6, "observation.frame", True)
    ]


def test_a_no_that_comes_after_the_plan_is_heard(brain: BrainRoot, tmp_path: Path) -> None:
    plan = plan_of(brain)
    set_answer(brain.layout.episodes_dir / "20260102T080000Z-bbbb", yes=False)
    done = export_bundle(brain, plan, tmp_path / "out.zip", as_zip=True, key_name=KEY)
    assert done.names == ("20260101T080000Z-aaaa", "20260103T080000Z-cccc")
    assert [s.name for s in done.left_out] == ["20260102T080000Z-bbbb"]


@pytest.mark.parametrize("frames", ["keep", "none"])
def test_what_tensorflow_datasets_reads(brain: BrainRoot, tmp_path: Path, frames: Any) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    done = export(brain, tmp_path / "out", as_zip=False, frames=frames)
    name = "episodes_32x24" if frames == "keep" else "episodes_without_frames"
    folder = done.path / "rlds" / name / "1.0.0"
    builder = tfds.builder_from_directory(str(folder))
    assert builder.info.splits["train"].num_examples == 3
    assert [*map(int, builder.info.splits["train"].shard_lengths)] == [3]
    (file,) = folder.glob("*.tfrecord-*")
    for number, offset in enumerate(index_records(file)):
        with open(file, "rb") as opened:
            data = read_record(opened, path=file, offset=offset, size=file.stat().st_size)
        read = builder.info.features.deserialize_example_np(data)
        steps = list(read["steps"])
        assert len(steps) == (5, 7, 3)[number]
        assert all(("image" in step["observation"]) == (frames == "keep") for step in steps)


def test_where_nothing_can_be_read_nothing_is_left(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    brain = make_root()
    steps = record(brain, "a") / "steps" / "000000.jsonl"
    steps.write_bytes(steps.read_bytes().replace(b"keep left", b"keep lefu"))
    (tmp_path / "to").mkdir()
    for as_zip in (True, False):
        with pytest.raises(NothingToExport):
            export(brain, tmp_path / "to" / "out", as_zip=as_zip)
        assert list((tmp_path / "to").iterdir()) == []


# ----------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("as_zip", [True, False])
def test_the_same_memory_gives_the_same_bytes(brain: BrainRoot, tmp_path: Path, as_zip: bool) -> None:
    export(brain, tmp_path / "first", as_zip=as_zip)
    shutil.copytree(brain.layout.root, tmp_path / "copy", symlinks=True)
    time.sleep(0.01)
    export(brain, tmp_path / "second", as_zip=as_zip)
    export(open_brain(tmp_path / "copy"), tmp_path / "third", as_zip=as_zip)
    read: Callable[[Path], Any] = Path.read_bytes if as_zip else files_in
    assert read(tmp_path / "first") == read(tmp_path / "second") == read(tmp_path / "third")


def test_folder_and_zip_hold_the_same_files(brain: BrainRoot, tmp_path: Path) -> None:
    folder = export(brain, tmp_path / "folder", as_zip=False).path
    assert files_in(folder) == files_in(
        unpacked(export(brain, tmp_path / "a.zip").path, tmp_path / "unpacked")
    )


def test_other_content_has_another_counter(brain: BrainRoot, record: Record, tmp_path: Path) -> None:
    export(brain, tmp_path / "first.zip")
    record(brain, "20260109T080000Z-new")
    export(brain, tmp_path / "second.zip")
    assert check_bundle(tmp_path / "second.zip", public_key(brain)).counter == 2


# ----------------------------------------------------------------------------------------------------- killed


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing catches it."""


@pytest.mark.parametrize("as_zip", [True, False])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_killed_between_any_two_writes_it_ends_with_the_same_bytes(
    brain: BrainRoot, tmp_path_factory: pytest.TempPathFactory, as_zip: bool, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("killed")
    read: Callable[[Path], Any] = Path.read_bytes if as_zip else files_in
    export(brain, place / "whole", as_zip=as_zip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("continuonbrain.cloud.plan.SHARD_BYTES", 8000)  # several shards
        export(brain, place / "whole.several", as_zip=as_zip)
        for _ in range(data.draw(st.integers(1, 3))):
            left = data.draw(st.integers(0, 60))

            def one_less(*_: Any) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed

            with pytest.MonkeyPatch.context() as killer:
                for target in (
                    "continuonbrain.cloud.journal.append_line_durably",
                    "continuonbrain.cloud.sinks.ZipSink.write",
                    "continuonbrain.cloud.sinks.ZipSink.finish",
                    "continuonbrain.cloud.sinks.FolderSink.write",
                    "continuonbrain.cloud.sinks.FolderSink.finish",
                    "continuonbrain.cloud.journal.remove_durably",
                    "continuonbrain.cloud.ledger.append_line_durably",
                ):
                    killer.setattr(target, _after(one_less, target))
                try:
                    export(brain, place / "out", as_zip=as_zip)
                    break
                except Killed:
                    assert not (place / "out").exists() or journal_of(place / "out").path.exists()
        else:
            export(brain, place / "out", as_zip=as_zip)
        assert read(place / "out") == read(place / "whole.several")
        assert sorted(p.name for p in place.iterdir()) == ["out", "whole", "whole.several"]


def _after(one_less: Callable[..., None], target: str) -> Callable[..., Any]:
    """The function that `target` names, which dies now and then before it works."""
    import importlib

    module_name, _, rest = target.partition(".cloud.")
    parts = rest.split(".")
    owner: Any = importlib.import_module(f"{module_name}.cloud.{parts[0]}")
    for name in parts[1:-1]:
        owner = getattr(owner, name)
    inner = getattr(owner, parts[-1])

    def run(*args: Any, **how: Any) -> Any:
        one_less()
        return inner(*args, **how)

    return run


def test_a_killed_process_is_gone_on_with(make_root: MakeRoot, record: Record, tmp_path: Path) -> None:
    """A real SIGKILL at random moments of the command."""
    brain = make_root()
    rng = random.Random(4)
    noise = np.random.default_rng(0).integers(0, 255, (200, 320, 3), np.uint8)

    def noisy(_tick: int, step: Step) -> Step:
        return replace(step, frame=noise)

    for number in range(12):
        record(brain, f"e{number:02d}", 30, change=noisy)
    whole = export(brain, tmp_path / "whole.zip")
    program = (
        "import continuonbrain.cloud.plan as plan; plan.SHARD_BYTES = 4 << 20; "
        "from continuonbrain.cli.main import run; run()"
    )
    command = [sys.executable, "-c", program, "cloud", "export", "--root", str(brain.layout.root), "--out"]
    subprocess.run([*command, str(tmp_path / "wanted.zip")], check=True, timeout=120, capture_output=True)
    out, kills, began = tmp_path / "out.zip", 0, 0
    for _ in range(6):
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part, grown = out.with_name("out.zip.part"), rng.randrange(0, whole.bytes)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if part.exists() and part.stat().st_size >= grown:
                break
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(30)
        began += part.exists()
        if out.exists():
            break
    if not out.exists():
        subprocess.run([*command, str(out)], check=True, timeout=120, capture_output=True)
    assert kills
    assert began
    assert out.read_bytes() == (tmp_path / "wanted.zip").read_bytes()
    assert not out.with_name("out.zip.part").exists()
    assert not out.with_name("out.zip.journal").exists()


@pytest.mark.parametrize("as_zip", [True, False])
def test_what_is_on_the_disk_is_not_written_again(
    brain: BrainRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_zip: bool
) -> None:
    monkeypatch.setattr("continuonbrain.cloud.plan.SHARD_BYTES", 1)  # an episode, a shard
    read: list[str] = []

    def dies_at_the_third(path: Path) -> Any:
        read.append(path.name)
        if len(read) == 3:
            raise Killed
        return open_episode(path)

    monkeypatch.setattr(shards, "open_episode", dies_at_the_third)
    with pytest.raises(Killed):
        export(brain, tmp_path / "out", as_zip=as_zip)
    done = export(brain, tmp_path / "out", as_zip=as_zip)
    assert done.resumed == 2
    names = [c.name for c in plan_of(brain).going]
    assert read == [*names, names[2]]
    check_bundle(done.path, public_key(brain))


def test_with_another_memory_it_begins_anew(
    brain: BrainRoot, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.zip"

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ZipSink, "finish", killed)
        with pytest.raises(Killed):
            export(brain, out)
    # It may lie on somebody's stick.
    assert "20260101T080000Z" not in journal_of(out).path.read_text()
    assert str(tmp_path) not in journal_of(out).path.read_text()
    record(brain, "20260109T080000Z-new")
    done = export(brain, out)
    assert (done.resumed, done.episodes) == (0, 4)
    check_bundle(out, public_key(brain))


# --------------------------------------------------------------------------------------------------- no leaks


def test_nothing_of_this_machine_is_in_a_bundle(make_root: MakeRoot, record: Record, tmp_path: Path) -> None:
    brain = make_root("annas-own-brain")
    canaries = ("Anna-Lena", "Berlin-52.5200", "annas-own-brain", "voice-of-anna", "20260101T080000Z")
    path = record(
        brain,
        "20260101T080000Z-aaaa",
        robot_id="Anna-Lena",
        environment_id="Berlin-52.5200",
        tags=("Anna-Lena", "drive"),
        start_time_unix_ms=1_767_254_399_999,
        share={"cloud": True, "author": "Anna-Lena"},
        provenance={"path": str(brain.layout.root), "gps": "Berlin-52.5200"},
        change=lambda tick, step: replace(
            step,
            extra={"note": "voice-of-anna"},
            source="Anna-Lena" if tick else step.source,
            frame=None,
            frame_jpeg=commented(step, b"Berlin-52.5200"),
        ),
    )
    # What others write into an observation.
    steps = path / "steps" / "000000.jsonl"
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    for line in lines:
        line["observation"] |= {
            "gps": [52.52, "Berlin-52.5200"],
            "audio": "voice-of-anna",
            "headset_pose": [1, 2],
        }
        del line["step_metadata"]["crc32c"]
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metadata = path / "metadata.json"
    value = json.loads(metadata.read_text())
    value["provenance"]["recording"] |= {"step_crc": "", "metadata_crc32c": ""}
    metadata.write_text(json.dumps(value))
    for as_zip in (True, False):
        done = export(brain, tmp_path / f"out-{as_zip}", as_zip=as_zip)
        assert done.episodes == 1
        files = {"zip": done.path.read_bytes()} if as_zip else files_in(done.path)
        layout = brain.layout
        private = json.loads((layout.private_keys_dir / f"{KEY}.json").read_text())["private"]
        forbidden = [
            str(layout.root), str(tmp_path), os.path.expanduser("~") + "/", *canaries, "the name of an episode",
            private, bytes.fromhex(private), layout.pseudonyms_path.read_bytes(),
            layout.pseudonyms_path.read_bytes().hex(), "1767254399999",
        ]  # fmt: skip
        forbidden += [name for name in (socket.gethostname(), os.environ.get("USER", "")) if len(name) > 4]
        for name, data in files.items():
            for word in forbidden:
                assert (word if isinstance(word, bytes) else word.encode()) not in data, (name, word)
    memory = open_memory(tmp_path / "out-False" / "rlds" / "episodes_32x24")
    read = memory.episode(0)
    told = json.loads(str(read.metadata["episode_metadata/metadata_json"]))
    assert told["robot_id"].startswith("robot-")
    assert told["environment_id"].startswith("place-")
    assert told["start_time_unix_ms"] == 1_767_254_399_999 // 86_400_000 * 86_400_000
    assert told["tags"] == ["drive"]
    assert told["share"] == {"cloud": True}
    assert [read.step(i).values["source"] for i in range(2)] == ["autopilot", "other"]


def test_the_secret_is_private_and_two_robots_have_two_names(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    robots = set()
    for name in ("one", "two"):
        brain = make_root(name)
        record(brain, "e", robot_id="the same")
        robots.add(export(brain, tmp_path / f"{name}.zip").robot)
        assert brain.layout.pseudonyms_path.stat().st_mode & 0o777 == 0o600
        assert PrivateKeys(brain.layout).names() == (KEY,)
    assert len(robots) == 2


def test_the_slow_adapter_below_travels_too(brain: BrainRoot, tmp_path: Path) -> None:
    layout = brain.layout
    store = AdapterStore(layout)
    config = b'{"r": 8}'
    slow = store.stage(
        {"adapter_model.safetensors": b"s", "adapter_config.json": config, "card.json": b'{"kind": "slow"}'}
    )
    card = json.dumps({"kind": "fast", "slow": slow.version_id}).encode()
    fast = store.stage({"adapter_model.safetensors": b"f", "adapter_config.json": config, "card.json": card})
    layout.current.unlink()
    layout.current.symlink_to(Path("versions") / fast.version_id)
    done = export(brain, tmp_path / "out", as_zip=False)
    told = check_bundle(done.path, public_key(brain)).contents.adapters
    assert {slot: (a["version"], a["kind"]) for slot, a in told.items()} == {
        "current": (fast.version_id, "fast"),
        "slow": (slow.version_id, "slow"),
    }
    assert (done.path / "adapters" / "slow" / "adapter_model.safetensors").read_bytes() == b"s"
    assert not list(done.path.rglob("card.json"))


def test_an_adapter_that_names_a_folder_of_this_machine_stays(brain: BrainRoot, tmp_path: Path) -> None:
    layout = brain.layout
    version = AdapterStore(layout).stage(
        {
            "adapter_model.safetensors": b"w",
            "adapter_config.json": json.dumps({"at": str(layout.root)}).encode(),
        }
    )
    layout.current.unlink()
    layout.current.symlink_to(Path("versions") / version.version_id)
    with pytest.raises(ExportRefused, match="names a folder of this machine"):
        export(brain, tmp_path / "out.zip")


def test_no_connection_is_opened(brain: BrainRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was attempted")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, blocked)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, blocked)
    with pytest.raises(AssertionError):
        socket.create_connection(("127.0.0.1", 9))
    with socket.socket() as opened, pytest.raises(AssertionError):
        opened.connect(("127.0.0.1", 9))
    done = export_bundle(
        brain, plan_of(brain, frames="half"), tmp_path / "out.zip", as_zip=True, key_name=KEY
    )
    check_bundle(done.path, public_key(brain))


# ------------------------------------------------------------------------------------------------------ sizes


def test_a_zip_beyond_four_gigabytes_is_one_that_others_read(tmp_path: Path) -> None:
    """Sparse: the zeros take no place on the disk."""
    path = tmp_path / "big.zip"
    sink = ZipSink(path)
    sink.keep([])
    sink.begin("big")
    file = sink._file
    start = file.tell()
    size = (4 << 30) + 12345
    file.seek(start + size - 1)
    file.write(b"\0")
    assert sink._growing is not None
    sink._growing.bytes = size
    big = sink.end()
    sink.begin("small")
    sink.write(b"behind it")
    small = sink.end()
    sink.finish([big, small], tmp_path / "done.zip")
    sink.close()
    with zipfile.ZipFile(tmp_path / "done.zip") as opened:
        assert [i.file_size for i in opened.infolist()] == [size, 9]
        assert opened.read("small") == b"behind it"
    assert isinstance(big, Member)
