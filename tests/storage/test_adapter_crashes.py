"""A crash, a kill or another process at the same moment never halves an adapter store."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.small_verdict import judged
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout

BASE = "b2" * 32


def check_whole(layout: BrainLayout) -> str | None:
    """The store is sound: current is a whole version or absent, the history verifies. Returns its id."""
    store = AdapterStore(layout)
    assert store.verify_history().ok
    current = store.current()
    for version in store.list():
        assert version.compute_sha256().startswith(version.sha8)
    if current is None:
        return None
    assert (layout.current / "lora_adapters.pt").is_file()
    return current.version_id


@pytest.mark.parametrize("after", [False, True], ids=["before_call", "after_call"])
@pytest.mark.parametrize("act", ["stage", "promote", "rollback"])
@pytest.mark.parametrize("drives_already", [False, True], ids=["from_base", "from_adapter"])
def test_killed_at_any_file_system_call_keeps_the_old_adapter_or_the_new_one_whole(
    store: AdapterStore,
    layout: BrainLayout,
    adapters: type,
    dying_os: Callable[..., object],
    act: str,
    after: bool,
    drives_already: bool,
) -> None:
    if drives_already:
        adapters.promoted(store, "older")
        adapters.promoted(store, "old")
    if act == "rollback":
        adapters.promoted(store, "bad")
    waiting = store.stage(adapters.files("new"))
    verdict = adapters.verdict(waiting)
    old = check_whole(layout)

    def do(on: AdapterStore) -> None:
        if act == "stage":
            on.stage(adapters.files("newer"))
        elif act == "promote":
            on.promote(waiting.version_id, verdict, base_sha256=adapters.BASE_SHA256)
        elif check_whole(layout) == old:  # once: a second rollback would undo the first
            on.rollback()

    pristine = layout.root.with_name("pristine")
    shutil.copytree(layout.root, pristine, symlinks=True)
    do(store)
    new = check_whole(layout)
    assert (new == old) == (act == "stage")

    seen: set[str | None] = set()
    for change in range(200):
        shutil.rmtree(layout.root)
        shutil.copytree(pristine, layout.root, symlinks=True)
        dying = dying_os(change, after=after)
        with contextlib.suppress(adapters.SimulatedDeathError):
            do(AdapterStore(layout))
        dying_os()
        found = check_whole(layout)
        seen.add(found)
        assert found in (old, new)
        # The next process finishes what was begun, once.
        reopened = AdapterStore(layout)
        reopened.recover()
        settled = check_whole(layout)
        assert found != new or settled == new
        assert not reopened.recover()
        do(reopened)
        assert check_whole(layout) == new
        if not dying.dead:
            break
    assert change >= 8
    assert seen == {old, new}


def test_recovery_stays_with_what_drives_when_the_new_one_was_lost(
    store: AdapterStore, layout: BrainLayout, adapters: type, dying_os: Callable[..., object]
) -> None:
    first = adapters.promoted(store, "a")
    second = store.stage(adapters.files("b"))
    verdict = adapters.verdict(second)
    # Die right after the intent is on disk: find that call by its line in the history.
    for change in range(50):
        dying_os(change)
        with contextlib.suppress(adapters.SimulatedDeathError):
            store.promote(second.version_id, verdict, base_sha256=adapters.BASE_SHA256)
        dying_os()
        if len(store.history()) == 2:
            break
    assert store.current() == first
    shutil.rmtree(second.path)
    assert store.recover()
    assert store.current() == first
    assert store.history()[-1].event == "abandon"
    assert store.verify_history().ok
    assert not store.recover()


FLIP = """
import sys
from pathlib import Path
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout
store = AdapterStore(BrainLayout(Path(sys.argv[1])))
print("ready", flush=True)
while True:
    store.rollback()
"""


def test_sigkill_while_adapters_change_never_leaves_a_broken_store(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    ids = {adapters.promoted(store, "a").version_id, adapters.promoted(store, "b").version_id}
    for round_number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", FLIP, str(layout.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.013 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert check_whole(layout) in ids
        store.recover()
        assert {store.current().version_id, store.previous().version_id} == ids  # type: ignore[union-attr]
    assert len(store.history()) > 6


def _promote_one(root: Path, tag: str) -> None:
    store = AdapterStore(BrainLayout(root))
    version = store.stage({"adapter_model.safetensors": tag.encode(), "adapter_config.json": b"{}"})
    verdict = judged(version, BASE)
    store.promote(version.version_id, verdict, base_sha256=BASE)


def test_promotions_at_the_same_moment_lose_none(store: AdapterStore, layout: BrainLayout) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_promote_one, args=(layout.root, tag)) for tag in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(store.list()) == 3
    assert len(store.history()) == 3
    assert store.verify_history().ok
