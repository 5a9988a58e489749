"""The store on probation on disks that are full or read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from continuonbrain.storage import durable
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout
from tests.storage.probation import BASE, TERMS, sha256


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(layout: BrainLayout) -> Iterator[Path]:
    """The adapters on a disk of one MiB of their own."""
    folder = layout.adapters_dir
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        pytest.skip("this user may not mount a file system")
    layout.versions_dir.mkdir()
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


def test_a_full_disk_leaves_the_old_or_the_new_one_and_the_next_attempt_finishes(
    disk: Path, store: AdapterStore, adapters: type, try_out: Callable[..., object]
) -> None:
    old = adapters.promoted(store, "old")
    try_out("new")
    new = store.current()
    filler = disk / "filler"
    for act in (lambda: store.confirm(), lambda: store.revert(sha256=sha256(store))):
        with filler.open("wb", buffering=0) as file:  # until not a byte more
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        # What still finds room in the last page of the history is done, whole.
        try:
            act()
        except OSError:
            assert store.standing().kind == "probation"
        filler.unlink()
        assert store.verify_history().ok
        assert store.current() in (old, new)
        store.recover()
    for _ in range(2):
        if store.standing().kind == "probation":
            store.revert(sha256=sha256(store))
    assert store.current() in (old, new)
    assert store.verify_history().ok


class FullOs:
    """Stands in for `os` inside `durable`: from the chosen call on, nothing new fits on the disk."""

    def __init__(self, call: int) -> None:
        self.left = call
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in ("open", "write", "symlink", "mkdir", "fsync", "replace"):
            return real

        def act(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left < 0 and (name != "open" or int(args[1]) & os.O_CREAT):  # type: ignore[call-overload]
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return act


@pytest.mark.parametrize("act", ["promote", "confirm", "revert"])
def test_a_disk_that_fills_up_at_any_call_leaves_the_old_or_the_new_one(
    store: AdapterStore, layout: BrainLayout, adapters: type, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    old = adapters.promoted(store, "old")
    version = store.stage(adapters.files("new"))
    verdict = adapters.verdict(version)

    def promote() -> None:
        store.promote(version.version_id, verdict, base_sha256=BASE, terms=TERMS)

    if act != "promote":
        promote()
    pristine = layout.root.with_name("pristine")
    shutil.copytree(layout.root, pristine, symlinks=True)

    def do() -> None:
        if act == "promote":
            promote()
        elif store.standing().kind == "probation":
            store.confirm() if act == "confirm" else store.revert(sha256=version.compute_sha256())

    for call in range(100):
        shutil.rmtree(layout.root)
        shutil.copytree(pristine, layout.root, symlinks=True)
        full = FullOs(call)
        monkeypatch.setattr(durable, "os", full)
        with contextlib.suppress(OSError):
            do()
        monkeypatch.undo()
        assert store.verify_history().ok
        assert store.current() in (old, version)
        store.recover()
        do()
        assert store.standing().kind == {"promote": "probation"}.get(act, "confirmed")
        assert store.current() == (old if act == "revert" else version)
        if not full.refused:
            break
    assert 3 <= call < 99


def test_a_read_only_disk_changes_nothing_and_says_so(
    disk: Path, store: AdapterStore, adapters: type, try_out: Callable[..., object]
) -> None:
    adapters.promoted(store, "old")
    version = try_out("new")
    name = sha256(store)
    assert mount("-o", "remount,ro", str(disk))
    for act in (
        lambda: store.confirm(),
        lambda: store.revert(sha256=name),
        lambda: store.rollback(),
        lambda: store.revert_after_boot("boot-2"),
    ):
        with pytest.raises((OSError, Exception), match=r"Read-only file system|cannot be taken"):
            act()
    assert store.current() == version
    assert store.standing().kind == "probation"
    assert mount("-o", "remount,rw", str(disk))
    assert store.revert_after_boot("boot-2") is not None
