"""The crash harness: it finds nothing in what the store does, and does find what is done in the wrong order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import crash_points
from benchmarks.crash_reader import faults, unsettled
from benchmarks.ptraced import trace
from continuonbrain.loops import promotion
from continuonbrain.storage.adapters import AdapterStore

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    try:
        trace(lambda: None)
    except OSError as error:
        pytest.skip(str(error))


def test_a_kill_before_a_call_keeps_the_kernel_from_doing_it(tmp_path: Path) -> None:
    def act() -> None:
        descriptor = os.open(tmp_path / "f", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"0123456789")

    calls = trace(act).calls
    assert [call.name for call in calls] == ["openat", "write"]
    for number, when, left in (
        (0, "before", None),
        (0, "after", b""),
        (1, "before", b""),
        (1, "torn", b"01234"),
        (1, "after", b"0123456789"),
    ):
        (tmp_path / "f").unlink(missing_ok=True)
        assert trace(act, kill_at=number, when=when).killed  # type: ignore[arg-type]
        assert ((tmp_path / "f").read_bytes() if (tmp_path / "f").exists() else None) == left


def operation(name: str) -> crash_points.Operation:
    return next(o for o in crash_points.OPERATIONS if o.name == name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) for name in ("confirm", "stage")]
)
def test_killed_at_every_call_nothing_is_ever_half_done(tmp_path: Path, name: str) -> None:
    found = crash_points.crash(operation(name), tmp_path)
    assert found.violations == []
    assert found.crash_points >= 2 * found.calls >= 40


def test_what_drives_without_an_entry_is_found_out_also_where_nothing_was_written_yet(tmp_path: Path) -> None:
    brain = crash_points.new_root(tmp_path / "b")
    version = crash_points.staged(brain, "new")
    assert faults(brain.layout.root, {None, version}) == []
    brain.layout.current.symlink_to(f"versions/{version}")
    assert any("the history ends with" in told for told in faults(brain.layout.root, {None, version}))
    assert any("the links are" in told for told in unsettled(brain.layout.root, 0))


def test_a_head_that_lags_is_found_out(tmp_path: Path) -> None:
    brain = crash_points.new_root(tmp_path / "b")
    for tag in "abc":
        crash_points.driving(brain, tag)
    layout, names = brain.layout, {v.version_id for v in AdapterStore(brain.layout).list()}
    before = AdapterStore(layout).history()[-2]
    assert faults(layout.root, names) == []
    layout.history_head_path.write_text(json.dumps({"seq": before.seq, "hash": before.hash}))
    assert faults(layout.root, names) == []
    assert any("history.head" in told for told in unsettled(layout.root, 3))
    layout.history_head_path.unlink()
    assert any("history.head" in told for told in faults(layout.root, names))


@pytest.mark.long
def test_a_link_before_its_history_is_found_out(tmp_path: Path) -> None:
    found = crash_points.crash(crash_points.CONTROL, tmp_path)
    assert any("current is None" in violation for violation in found.violations)
