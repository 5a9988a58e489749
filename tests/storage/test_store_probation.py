"""The store on probation: one at a time, confirmed, taken back, over reboots, clocks and signals."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from continuonbrain.storage.adapters import (
    AdapterError,
    AdapterStore,
    AdapterVersion,
    OnProbation,
    PromotionRefused,
)
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.driving_record import DrivingRecord, read_record, write_record
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.probation_rule import Terms
from tests.storage.probation import BASE, TERMS, sha256


def test_one_at_a_time_and_the_candidate_waits(store: AdapterStore, try_out: Callable[..., object]) -> None:
    first = try_out("a")
    with pytest.raises(OnProbation, match="is on probation") as caught:
        try_out("b")
    assert "adapters confirm" in caught.value.remedy
    assert store.current() == first
    waiting = store.candidate()
    assert waiting is not None
    store.confirm(sha256=sha256(store), about={"reason": "drove_well"})
    assert store.standing().kind == "confirmed"
    assert try_out("b") is not None
    assert [e.event for e in store.history()] == ["promote", "confirm", "promote"]
    assert store.history()[1].sha256 == store.history()[0].sha256
    assert store.history()[1].about == {"reason": "drove_well"}
    assert store.verify_history().ok


def test_a_revert_is_done_once_and_keeps_the_same_bytes_away(
    store: AdapterStore, adapters: type, try_out: Callable[..., object]
) -> None:
    older, old = adapters.promoted(store, "older"), adapters.promoted(store, "old")
    try_out("bad")
    bad = sha256(store)
    entry = store.revert(sha256=bad, about={"reason": "off_road"})
    assert entry is not None
    assert entry.about["reverted_sha256"] == bad
    assert store.revert(sha256=bad) is None  # two who watch take back one
    assert (store.current(), store.previous()) == (old, older)
    with pytest.raises(PromotionRefused, match="taken back while on probation"):
        try_out("bad")  # staged anew: other number, same bytes
    assert store.current() == old
    try_out("bad", again=True)
    assert store.history()[-1].about["again"] is True
    assert store.standing().kind == "probation"


def test_what_was_taken_back_stays_away_whatever_calibration_it_comes_with(
    store: AdapterStore, adapters: type
) -> None:
    """The servo's calibration is this robot's own, and fitted anew with every round."""

    def offered(
        gain: bytes | None, *, again: bool = False, tag: str = "fleet", terms: Terms | None = TERMS
    ) -> None:
        calibration = {} if gain is None else {"calibration.json": b'{"steering_gain": %s}' % gain}
        files = {n: d for n, d in adapters.files(tag).items() if n != "calibration.json"}
        version = store.stage(files | calibration)
        verdict = adapters.verdict(version)
        base = {"base_sha256": BASE, "terms": terms}
        store.may_promote(version, verdict, base_sha256=BASE, again=again)
        store.promote(version.version_id, verdict, again=again, **base)

    offered(b"1.3")
    store.revert(sha256=sha256(store))
    for gain in (b"1.3", b"1.3001", None):
        with pytest.raises(PromotionRefused, match="taken back while on probation"):
            offered(gain)
    with pytest.raises(PromotionRefused, match=r"what it learned \([0-9a-f]{8}\) was taken back"):
        offered(b"1.2")
    offered(b"1.2", again=True)
    store.confirm()  # it has proved itself since, and with it what it learned
    offered(b"1.1", terms=None)
    offered(b"1.3", tag="another", terms=None)


def test_what_learned_the_same_and_came_without_a_calibration_stays_away(
    store: AdapterStore, adapters: type
) -> None:
    files = {n: d for n, d in adapters.files("fleet").items() if n != "calibration.json"}
    version = store.stage(files)
    store.promote(version.version_id, adapters.verdict(version), base_sha256=BASE, terms=TERMS)
    assert "learned_sha256" not in store.history()[-1].about
    store.revert(sha256=sha256(store))
    version = store.stage(files | {"calibration.json": b"{}"})
    with pytest.raises(PromotionRefused, match="what it learned"):
        store.promote(version.version_id, adapters.verdict(version), base_sha256=BASE, terms=TERMS)


def test_by_hand_it_goes_back_in_every_state(
    store: AdapterStore, adapters: type, try_out: Callable[..., object]
) -> None:
    first = adapters.promoted(store, "a")
    try_out("b")
    assert store.rollback() == first  # on probation
    with pytest.raises(PromotionRefused, match="taken back"):
        try_out("b")
    assert store.rollback() is None  # confirmed
    assert store.rollback() == first  # base
    try_out("c")
    store.confirm()
    assert store.rollback() == first


def test_where_the_one_before_is_damaged_the_base_drives(
    store: AdapterStore, adapters: type, try_out: Callable[..., object]
) -> None:
    first = adapters.promoted(store, "a")
    try_out("b")
    (first.path / "adapter_model.safetensors").write_bytes(b"bit rot")
    entry = store.revert(sha256=sha256(store))
    assert entry is not None
    assert entry.about["instead_of"] == first.version_id
    assert store.current() is None
    assert store.standing().kind == "base"


def test_where_the_one_before_is_another_of_the_same_short_name_the_base_drives(
    store: AdapterStore, adapters: type, try_out: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adapters.promoted(store, "a")
    try_out("b")
    # Other bytes whose hash begins alike: what the history bound is the whole hash.
    monkeypatch.setattr(AdapterVersion, "whole_sha256", lambda version, **_: version.sha8 + "0" * 56)
    entry = store.revert(sha256=sha256(store))
    assert entry is not None
    assert (entry.to_version, entry.about["instead_of"]) == (None, first.version_id)
    assert store.current() is None


def test_bytes_that_changed_on_probation_are_not_confirmed(
    store: AdapterStore, try_out: Callable[..., object]
) -> None:
    version = try_out("a")
    (version.path / "calibration.json").write_bytes(b"{}")  # type: ignore[attr-defined]
    with pytest.raises(AdapterError, match="not those that were promoted"):
        store.confirm()
    assert store.standing().kind == "probation"


def test_a_start_of_the_machine_takes_back_what_was_not_confirmed(
    store: AdapterStore, layout: BrainLayout, try_out: Callable[..., object]
) -> None:
    try_out("a")
    assert store.revert_after_boot("boot-1") is None
    again = AdapterStore(layout)
    entry = again.revert_after_boot("boot-2")
    assert entry is not None
    assert entry.about["reason"] == "boot"
    assert again.current() is None
    assert again.revert_after_boot("boot-3") is None
    with pytest.raises(PromotionRefused):
        try_out("a")


def test_a_confirmed_one_outlives_the_start(store: AdapterStore, try_out: Callable[..., object]) -> None:
    version = try_out("a")
    store.confirm()
    assert store.revert_after_boot("boot-2") is None
    assert store.current() == version


def test_the_kernel_names_this_start(tmp_path: Path) -> None:
    assert boot_id() == boot_id()
    assert boot_id(tmp_path / "none") == ""


def test_a_clock_that_jumps_back_a_day_breaks_nothing(
    store: AdapterStore, adapters: type, try_out: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters.promoted(store, "a")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 86_400.0)
    store._journal._wall_clock = time.time
    try_out("b")
    assert store.revert(sha256=sha256(store)) is not None
    first, *_, last = store.history()
    assert last.time_unix_s < first.time_unix_s - 86_000
    assert store.verify_history().ok
    assert not store.recover()


def test_driving_records_outlive_everything_and_a_torn_copy_costs_only_itself(layout: BrainLayout) -> None:
    name = "ab" * 32
    write_record(layout.driving_dir, name, DrivingRecord(ticks=100, seconds=5.0))
    write_record(layout.driving_now_dir, name, DrivingRecord(ticks=120, seconds=6.0), durably=False)
    assert read_record(layout.driving_dir, name, now=layout.driving_now_dir).ticks == 120
    (layout.driving_now_dir / f"{name}.json").write_bytes(b"")
    assert read_record(layout.driving_dir, name, now=layout.driving_now_dir).ticks == 100
    with pytest.raises(ValueError, match="hexadecimal"):
        read_record(layout.driving_dir, "../evil")


# Several at once.


def _promote(root: Path, version_id: str) -> None:
    store = AdapterStore(BrainLayout(root))
    verdict = store.get(version_id).verdict()
    try:
        store.promote(version_id, verdict, base_sha256=BASE, terms=TERMS)
    except OnProbation:
        sys.exit(3)


def test_of_two_promoters_at_once_one_gets_its_way(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    names = []
    for tag in "ab":
        version = store.stage(adapters.files(tag))
        store.attach(version, "verdict.json", json.dumps(adapters.verdict(version)).encode())
        names.append(version.version_id)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_promote, args=(layout.root, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(process.exitcode or 0 for process in processes) == [0, 3]
    assert [e.event for e in store.history()] == ["promote"]
    assert store.standing().kind == "probation"
    assert store.verify_history().ok


CHANGE = """
import signal, sys, time
from pathlib import Path
from continuonbrain.storage import durable
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.probation_rule import Terms
got = []
def end(number, frame):
    got.append(number)
    raise SystemExit(128 + number)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
real = durable.sync_directory
def slow(folder):
    print("in the middle", flush=True)
    time.sleep(0.2)
    real(folder)
durable.sync_directory = slow
store = AdapterStore(BrainLayout(Path(sys.argv[1])))
version = store.candidate()
store.promote(version.version_id, version.verdict(), base_sha256="ba5e" * 16, terms=Terms(400, 0.0, "boot-1"))
"""


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGUSR1), (signal.SIGTERM, signal.SIGTERM)])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_two_signals_in_the_middle_of_a_promotion_leave_it_whole(
    store: AdapterStore, layout: BrainLayout, adapters: type, signals: tuple[int, ...], after: int
) -> None:
    old = adapters.promoted(store, "old")
    new = store.stage(adapters.files("new"))
    store.attach(new, "verdict.json", json.dumps(adapters.verdict(new)).encode())
    process = subprocess.Popen(
        [sys.executable, "-c", CHANGE, str(layout.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(after):
        assert process.stdout.readline() == "in the middle\n"
    for number in signals:
        os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert store.verify_history().ok
    assert store.current() in (old, new)
    store.recover()
    assert not store.recover()
    state = store.standing()
    current = store.current()
    assert current is not None
    assert (state.version_id, state.kind) == (
        current.version_id,
        "probation" if current == new else "confirmed",
    )
    if current == old:
        store.promote(new.version_id, new.verdict(), base_sha256=BASE, terms=TERMS)
    assert store.standing().kind == "probation"


def test_a_history_that_was_moved_away_does_not_send_a_revert_to_the_base(
    store: AdapterStore, layout: BrainLayout, adapters: type, try_out: Callable[..., object]
) -> None:
    old = adapters.promoted(store, "old")
    layout.history_path.rename(layout.history_path.with_suffix(".damaged"))
    with pytest.raises(AdapterError, match="cut off"):  # it alone: that may be an accident
        store.standing()
    layout.history_head_path.unlink()
    assert (store.standing().kind, store.standing().version_id) == ("confirmed", old.version_id)
    try_out("new")
    assert store.revert(sha256=sha256(store)) is not None
    assert store.current() == old


def test_a_history_that_lost_its_versions_does_not_lend_their_place(
    store: AdapterStore, try_out: Callable[..., object]
) -> None:
    version = try_out("a")
    shutil.rmtree(version.path)  # type: ignore[attr-defined]
    assert store.revert(sha256=sha256(store)) is not None
    assert store.current() is None
