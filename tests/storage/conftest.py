"""What the store's tests share: a brain root, adapters to put in, and a way to die in the middle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.small_verdict import judged
from continuonbrain.storage import durable
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.probation_rule import Terms
from tests.storage.probation import BASE, TERMS

BASE_SHA256 = "ba5e" * 16


class SimulatedDeathError(BaseException):
    """The process is gone. Not an Exception, so that no handler mistakes it for one."""


class DyingOs:
    """Stands in for `os` inside `durable`: from the chosen change on, nothing reaches the disk.

    Args:
        change: at which change of the file system to die, counted from 0; None never dies.
        after: die after that change has happened instead of before. A write that dies is half done.
    """

    CHANGES = frozenset(
        {"open", "write", "fsync", "replace", "rename", "symlink", "unlink", "mkdir", "ftruncate"}
    )

    def __init__(self, change: int | None = None, *, after: bool = False) -> None:
        self.change = change
        self.after = after
        self.log: list[tuple[str, Any]] = []
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise SimulatedDeathError
            number = len(self.log)
            self.log.append((name, args))
            if number != self.change:
                return real(*args, **kwargs)
            self.dead = True
            if name == "write" and not self.after:
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif self.after:
                real(*args, **kwargs)
            raise SimulatedDeathError

        return call


class DyingShutil:
    """Stands in for `shutil`: the dead clean up nothing."""

    def __init__(self, dying: DyingOs) -> None:
        self._dying = dying

    def __getattr__(self, name: str) -> Any:
        if self._dying.dead:
            raise SimulatedDeathError
        import shutil

        return getattr(shutil, name)


@pytest.fixture
def dying_os(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DyingOs]:
    """Install a `DyingOs` in the durable primitives; call again to replace it."""

    def install(change: int | None = None, *, after: bool = False) -> DyingOs:
        dying = DyingOs(change, after=after)
        monkeypatch.setattr(durable, "os", dying)
        monkeypatch.setattr(durable, "shutil", DyingShutil(dying))
        return dying

    return install


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    return init_brain_root(tmp_path / "brain", "sim-donkey")


@pytest.fixture
def store(layout: BrainLayout) -> AdapterStore:
    return AdapterStore(layout)


def adapter_files(tag: str) -> dict[str, bytes]:
    return {
        "adapter_model.safetensors": f"weights of {tag}".encode() * 50,
        "adapter_config.json": b'{"r": 8}',
        "calibration.json": b'{"steering_trim": 0.0}',
        "lora_adapters.pt": f"torch weights of {tag}".encode(),
        "card.json": b'{"episodes": 16}',
    }


def passing_verdict(version: AdapterVersion, **changes: object) -> dict[str, object]:
    return judged(version, BASE_SHA256) | changes


def stage_and_promote(store: AdapterStore, tag: str) -> AdapterVersion:
    version = store.stage(adapter_files(tag))
    return store.promote(version.version_id, passing_verdict(version), base_sha256=BASE_SHA256)


class Adapters:
    """The helpers above for test modules (which cannot import a conftest)."""

    BASE_SHA256 = BASE_SHA256
    SimulatedDeathError = SimulatedDeathError
    files = staticmethod(adapter_files)
    verdict = staticmethod(passing_verdict)
    promoted = staticmethod(stage_and_promote)


@pytest.fixture
def adapters() -> type[Adapters]:
    return Adapters


@pytest.fixture
def try_out(store: AdapterStore, adapters: type) -> Callable[..., object]:
    """Stage an adapter and begin its probation."""

    def do(tag: str, *, again: bool = False, terms: Terms | None = TERMS) -> object:
        version = store.stage(adapters.files(tag))
        verdict = adapters.verdict(version)
        return store.promote(version.version_id, verdict, base_sha256=BASE, terms=terms, again=again)

    return do
