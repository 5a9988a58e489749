"""The same memory gives the same bytes, and an export that was killed goes on to them."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cloud import shards
from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud.export import journal_of
from continuonbrain.cloud.sinks import ZipSink
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.step import Step

from .conftest import MakeRoot, Record, export, files_in, plan_of, public_key, unpacked

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
