"""Killed at every change of the file system, an import and an export are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.loops.adapter_import import (
    export_adapter,
    import_adapter,
)
from continuonbrain.storage import durable
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.trusted_keys import OldCounterError
from tests.loops.import_pair import Pair, adapter, one_base, refused


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    one_base(monkeypatch)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


class KillingOs:
    """Stands in for `os` inside `durable`: SIGKILL before or after the n-th change of the file system."""

    CHANGES = frozenset({"open", "write", "fsync", "replace", "rename", "symlink", "unlink", "mkdir"})

    def __init__(self, change: int, *, after: bool) -> None:
        self.change, self.after, self.seen = change, after, 0

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            number, self.seen = self.seen, self.seen + 1
            if number == self.change and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*args, **kwargs)
            if number == self.change:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call


def killed_in(work: Callable[[], object], change: int, *, after: bool) -> bool:
    """Do the work in a child that is killed at that change; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        durable.os = KillingOs(change, after=after)  # type: ignore[attr-defined]
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def changes(limit: int = 80) -> Iterator[int]:
    yield from range(limit)
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
def test_killed_anywhere_an_import_is_whole_or_absent_and_a_newer_one_works(
    tmp_path: Path, after: bool
) -> None:
    pair = Pair(tmp_path)
    import_adapter(pair.here, pair.export("before"))
    outcomes = set()
    for change in changes():
        path = pair.export(f"new {change}")
        before, last = pair.store.candidate(), pair.last()
        assert last is not None
        killed = killed_in(lambda path=path: import_adapter(pair.here, path), change, after=after)
        candidate, counted = pair.store.candidate(), pair.last() == last + 1
        arrived = candidate != before
        assert candidate is not None
        assert candidate.whole_sha256()
        assert pair.last() in (last, last + 1)
        assert counted or not arrived, "never a candidate whose counter was not noted"
        outcomes.add((counted, arrived))
        if counted:
            refused(pair.here, path, OldCounterError)
        else:
            import_adapter(pair.here, path)
        newer = import_adapter(pair.here, pair.export(f"newer {change}"))
        assert pair.store.candidate() == newer.version
        assert pair.store.current() is None
        if not killed:
            break
    assert outcomes == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
def test_killed_anywhere_no_counter_is_signed_twice(tmp_path: Path, after: bool) -> None:
    pair = Pair(tmp_path)
    AdapterStore(pair.there.layout).stage(adapter())
    seen: set[int] = set()
    for change in changes():
        out = tmp_path / f"e{change}"
        killed = killed_in(
            lambda out=out: export_adapter(pair.there, "candidate", out, key_name="shop"), change, after=after
        )
        counters = [export_adapter(pair.there, "candidate", tmp_path / f"f{change}", key_name="shop").counter]
        if out.exists():
            with zipfile.ZipFile(out) as zipped:
                counters.append(json.loads(zipped.read("bundle.json"))["document"]["counter"])
        assert not seen & set(counters)
        seen.update(counters)
        if not killed:
            break
    assert len(seen) > 5
