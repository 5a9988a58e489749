"""Claims about fetching reflex heads: the loop never waits, and only the file that was named is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from continuonbrain.loops import reflex_keeper
from continuonbrain.loops.reflex_keeper import ReflexKeeper, ReflexName
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex

DATA = (tiny_base_folder() / REFLEX_FILE).read_bytes()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[ReflexKeeper]:
    for name in ("base", "one", "torn"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / REFLEX_FILE).write_bytes(DATA)
    (tmp_path / "torn" / REFLEX_FILE).write_bytes(DATA[:-1])
    keeper = ReflexKeeper(lambda version: tmp_path / (version or "base"))
    yield keeper
    keeper.close()


def fetched(
    keeper: ReflexKeeper, name: ReflexName, ready: Callable[[], bool] = lambda: False
) -> Reflex | None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        head = keeper.get(name)
        if head is not None or ready():
            return head
        time.sleep(0.005)
    raise AssertionError("nothing came")


def test_the_head_comes_later_and_asking_does_not_wait(keeper: ReflexKeeper) -> None:
    name = ReflexName("", Reflex(DATA).sha256)
    started = time.perf_counter()
    keeper.get(name)
    assert time.perf_counter() - started < 0.25  # a busy machine may put this test aside, too
    head = fetched(keeper, name)
    assert head is not None
    assert head.sha256 == name.sha256
    assert keeper.get(name) is head


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (ReflexName("", "0" * 64), "is not the file that the policy process has"),
        (ReflexName("one", "0" * 64), "cannot be read"),
        (ReflexName("torn", "0" * 64), "no reflex head"),
    ],
)
def test_another_a_missing_and_a_torn_file_are_not_used_and_the_next_one_is(
    keeper: ReflexKeeper, name: ReflexName, said: str
) -> None:
    assert fetched(keeper, name, lambda: bool(keeper.problem)) is None
    assert said in keeper.problem
    assert keeper.get(name) is None
    good = ReflexName("", Reflex(DATA).sha256)
    assert fetched(keeper, good) is not None
    assert keeper.problem == ""
    assert keeper.get(name) is None


def test_a_head_that_could_not_be_read_is_tried_again(
    keeper: ReflexKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflex_keeper, "_RETRY_S", 0.05)
    name = ReflexName("one", Reflex(DATA).sha256)
    assert fetched(keeper, name, lambda: bool(keeper.problem)) is None
    (tmp_path / "one" / REFLEX_FILE).write_bytes(DATA)
    assert fetched(keeper, name) is not None


def test_no_error_ends_the_thread(keeper: ReflexKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> Reflex:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Reflex, "from_file", fail)
        assert fetched(keeper, ReflexName("", "0" * 64), lambda: bool(keeper.problem)) is None
    assert fetched(keeper, ReflexName("", Reflex(DATA).sha256)) is not None
