"""A new base in a brain: no verdict, no switch; what is switched is watched, taken back whole, and told."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.small_verdict import judged, small_base_verdict
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import base_change, base_probation, promotion
from continuonbrain.loops.base_change import (
    SwitchRefused,
    announce_base,
    confirm_base,
    roll_back_base,
    switch_base,
)
from continuonbrain.loops.base_import import import_base
from continuonbrain.loops.base_probation import base_progress, look_after_base, open_to_serve, take_base_back
from continuonbrain.loops.base_watch import BaseMoved, BaseWatch
from continuonbrain.loops.policy_process import _load, run_policy
from continuonbrain.loops.promotion import promote_candidate, roll_back
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.adapters import AdapterStore, OnProbation
from continuonbrain.storage.base_slot_rule import BaseState
from continuonbrain.storage.base_slots import BaseSlot, BaseSlotError, BaseSlots
from continuonbrain.storage.driving_record import DrivingRecord, write_record
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.probation_look import Look
from continuonbrain.storage.probation_rule import Terms
from continuonbrain.storage.trusted_keys import TrustedKeys
from tests.loops.base_bundles import BasePair

BOOT = "boot-1"


class Robot:
    """A robot with an imported base that has passed, and an adapter that drives, or none."""

    def __init__(self, folder: Path) -> None:
        pair = BasePair(folder)
        taken = import_base(pair.here, pair.packed())
        self.root = pair.here.layout.root
        self.slot = taken.slot
        self.sha256 = taken.base_sha256

    @property
    def brain(self) -> BrainRoot:
        return open_brain(self.root)

    @property
    def entry(self) -> BaseSlot:
        return BaseSlots(self.brain.layout).get(self.slot)

    def passes(self, **changes: Any) -> None:
        calibration = Calibration().to_json()
        current = AdapterStore(self.brain.layout).current()
        verdict = small_base_verdict(
            self.sha256,
            base_sha256(tiny_base_folder()),
            calibration,
            against_adapter_sha256="" if current is None else current.compute_sha256(),
        )
        self.entry.judged(verdict | changes, calibration)

    def adapter(self, tag: str, *, terms: Terms | None = None, servo: Calibration | None = None) -> str:
        store = AdapterStore(self.brain.layout)
        version = store.stage(
            {
                "adapter_model.safetensors": tag.encode() * 9,
                "adapter_config.json": b"{}",
                "calibration.json": (servo or Calibration()).to_json(),
            }
        )
        base = base_sha256(self.brain.layout.base_model_dir)
        current = store.current()
        verdict = judged(version, base)
        verdict["hashes"]["current"] = "" if current is None else current.compute_sha256()
        store.attach(version, "verdict.json", json.dumps(verdict).encode())
        store.promote(version.version_id, version.verdict(), base_sha256=base, terms=terms)
        return version.version_id

    def switched(self) -> None:
        self.passes()
        switch_base(self.brain, self.slot, boot=BOOT)

    def drove(self, ticks: int, **incidents: int) -> None:
        layout = self.brain.layout
        write_record(layout.driving_dir, None, DrivingRecord(ticks, ticks / 20.0, incidents))


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    monkeypatch.setattr(base_probation, "boot_id", lambda: BOOT)
    return Robot(tmp_path)


def test_without_a_verdict_of_these_two_nothing_is_switched(robot: Robot) -> None:
    for prepare, match in (
        (lambda: None, "it has no verdict"),
        (lambda: robot.passes(passed=False), "did not pass"),
        (lambda: robot.passes(against_adapter_sha256="9" * 64), "stale"),
        (lambda: robot.passes(base_sha256="9" * 64), "another base"),
        (lambda: (robot.entry.path / "calibration.json").write_bytes(b"{}"), "another"),
    ):
        prepare()
        with pytest.raises(SwitchRefused, match=match) as told:
            switch_base(robot.brain, robot.slot)
        assert "base verdict" in told.value.remedy
        assert robot.brain.layout.base_slot == ""
        assert not robot.brain.layout.base_slot_path.exists()


def test_after_a_no_it_is_told_which_checks_failed_and_where_the_verdict_is(robot: Robot) -> None:
    checks = [{"name": "completion", "passed": True}, {"name": "slow_reflex", "passed": False}]
    robot.passes(passed=False, checks=checks)
    with pytest.raises(SwitchRefused, match=r"did not pass \(failed: slow_reflex\)") as told:
        switch_base(robot.brain, robot.slot)
    assert str(robot.entry.path / "verdict.json") in told.value.remedy
    assert "only when something else drives, or more was recorded" in told.value.remedy


def test_a_verdict_grows_stale_when_another_adapter_drives(robot: Robot) -> None:
    robot.passes()
    robot.adapter("newer")
    with pytest.raises(SwitchRefused, match="stale: it was judged against another adapter"):
        switch_base(robot.brain, robot.slot)


def test_damaged_bytes_a_revoked_key_a_probation_and_a_training_are_refused(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.passes()
    monkeypatch.setattr(base_change, "_TRAINING_S", 0.0)
    with (
        ProcessLock(robot.brain.layout.trainer_lock_path, purpose="train"),
        pytest.raises(SwitchRefused, match="something is learned"),
    ):
        switch_base(robot.brain, robot.slot)
    weights = robot.entry.base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SwitchRefused, match="is damaged"):
        switch_base(robot.brain, robot.slot)
    weights.write_bytes(whole)
    robot.adapter("new", terms=Terms(400, 0.0, BOOT))
    with pytest.raises(SwitchRefused, match="on probation"):
        switch_base(robot.brain, robot.slot)
    AdapterStore(robot.brain.layout).rollback()
    TrustedKeys(robot.brain.layout).revoke("shop")
    with pytest.raises(BrainError, match="revoked"):
        switch_base(robot.brain, robot.slot)
    assert robot.brain.layout.base_slot == ""


def test_a_switch_is_told_to_apps_and_followers(robot: Robot) -> None:
    before = robot.brain
    watch = BaseWatch(before.layout, clock=iter(range(0, 100, 2)).__next__)
    assert not watch.moved()
    robot.switched()
    assert watch.moved()
    layout = robot.brain.layout
    assert layout.base_slot == robot.slot
    manifest = json.loads(layout.manifest_path.read_bytes())
    assert manifest["paths"]["base_model"] == str(robot.entry.base)
    assert manifest["paths"]["adapter_dir"] == str(robot.entry.path / "adapters" / "current")
    (event,) = [e for e in EventLog(layout.events_dir).after(0) if e.kind == "base"]
    assert event.data["slot"] == robot.slot
    announce_base(robot.brain)
    assert len([e for e in EventLog(layout.events_dir).after(0) if e.kind == "base"]) == 1


def test_going_back_brings_the_old_base_with_its_adapter_exactly(robot: Robot) -> None:
    name = robot.adapter("learned")
    store = robot.brain.layout.adapters_dir

    def kept() -> dict[str, bytes]:
        return {
            str(p.relative_to(store)): p.read_bytes()
            for p in sorted(store.rglob("*"))
            if p.is_file() and p.suffix != ".lock" and p.name != ".lock"
        }

    before = kept()
    stale = robot.brain
    robot.switched()
    assert AdapterStore(robot.brain.layout).current() is None
    # Who has not noticed yet changes nothing on the base that no longer drives.
    with pytest.raises(BaseMoved), promotion.changing(stale, timeout_s=1.0):
        pass
    roll_back_base(robot.brain)
    current = AdapterStore(robot.brain.layout).current()
    assert current is not None
    assert current.version_id == name
    assert kept() == before


def test_a_base_that_drives_well_is_confirmed(robot: Robot) -> None:
    robot.switched()
    assert look_after_base(robot.brain, boot=BOOT) is None
    robot.drove(4000)
    told = look_after_base(robot.brain, boot=BOOT)
    assert told is not None
    assert told.event == "confirm"
    assert base_progress(robot.brain)["state"] == "confirmed"
    assert robot.brain.layout.base_slot == robot.slot


def test_a_base_that_leaves_the_road_is_taken_back_and_stays_away(robot: Robot) -> None:
    robot.switched()
    robot.drove(400, off_road=20)
    told = look_after_base(robot.brain, boot=BOOT)
    assert told is not None
    assert told.event == "revert"
    assert robot.brain.layout.base_slot == ""
    (event,) = [e for e in BaseSlots(robot.brain.layout).state().events if e["event"] == "revert"]
    assert event["reason"] == "off_road"
    robot.passes()
    with pytest.raises(BaseSlotError, match="taken back while on probation") as again:
        switch_base(robot.brain, robot.slot, boot=BOOT)
    assert "--again" in again.value.remedy
    switch_base(robot.brain, robot.slot, again=True, boot=BOOT)


def test_what_it_drove_before_the_switch_excuses_and_blames_nobody(robot: Robot) -> None:
    there = robot.brain.on(robot.slot).layout
    write_record(there.driving_dir, None, DrivingRecord(4000, 200.0, {"off_road": 60}))
    robot.switched()
    assert look_after_base(robot.brain, boot=BOOT) is None


def test_a_start_of_the_machine_takes_it_back_before_anything_loads_it(robot: Robot) -> None:
    robot.switched()
    served = open_to_serve(open_brain(robot.root, slot=""), boot="boot-2")
    assert served.layout.base_slot == ""
    assert robot.brain.layout.base_slot == ""


def test_a_start_of_the_machine_takes_back_what_is_not_even_there_any_more(robot: Robot) -> None:
    import shutil

    robot.switched()
    shutil.rmtree(robot.brain.layout.bases_dir)
    with pytest.raises(BaseSlotError):
        open_brain(robot.root)
    assert open_to_serve(open_brain(robot.root, slot=""), boot="boot-2").layout.base_slot == ""


def test_too_many_starts_of_the_policy_process_take_it_back(robot: Robot) -> None:
    robot.switched()
    most = robot.brain.config.promotion.probation_restarts
    for _ in range(1 + most):  # the switch itself asks for the first
        assert open_to_serve(open_brain(robot.root, slot=""), boot=BOOT).layout.base_slot == robot.slot
    assert open_to_serve(open_brain(robot.root, slot=""), boot=BOOT).layout.base_slot == ""


def test_a_base_that_ends_the_policy_process_again_and_again_is_not_confirmed_between_two_ends(
    robot: Robot,
) -> None:
    robot.switched()
    most = robot.brain.config.promotion.probation_restarts
    for start in range(1 + most):
        assert open_to_serve(open_brain(robot.root, slot=""), boot=BOOT).layout.base_slot == robot.slot
        robot.drove(400 * (start + 1) - 1)  # not quite its terms, each time
        assert look_after_base(robot.brain, boot=BOOT) is None
    assert open_to_serve(open_brain(robot.root, slot=""), boot=BOOT).layout.base_slot == ""
    assert BaseSlots(robot.brain.layout).state().events[-1]["reason"] == "restarts"


def test_a_base_that_cannot_be_loaded_or_is_another_is_taken_back_at_once(robot: Robot) -> None:
    class Engine:
        def __init__(self, sha256: str) -> None:
            self.base_sha256 = sha256

    def load(brain: BrainRoot) -> Any:
        return Engine("9" * 64 if brain.layout.base_slot else base_sha256(tiny_base_folder()))

    robot.switched()
    brain, engine = _load(robot.brain, load)
    assert brain.layout.base_slot == ""
    assert engine.base_sha256 == base_sha256(tiny_base_folder())
    assert take_base_back(robot.brain, "unusable", "") is None


@pytest.mark.parametrize("name", ["calibration.json", "adapters/history.jsonl"])
def test_a_servo_or_a_store_that_cannot_be_read_takes_the_base_on_probation_back_at_the_start(
    robot: Robot, name: str
) -> None:
    robot.switched()
    (robot.entry.path / name).write_bytes(b"{ torn\n")

    class Engine:
        adapter_sha256 = ""

        def __init__(self, brain: BrainRoot) -> None:
            self.base_sha256 = base_sha256(brain.layout.base_model_dir)

    def load(brain: BrainRoot) -> Any:
        return Engine(brain)

    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert run_policy(robot.root, load_engine=load)  # started anew it serves the base before
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert robot.brain.layout.base_slot == ""
    assert BaseSlots(robot.brain.layout).state().events[-1]["reason"] == "unusable"


def test_confirmed_it_is_not_taken_back_but_nothing_drives(robot: Robot) -> None:
    robot.switched()
    confirm_base(robot.brain)

    def load(brain: BrainRoot) -> Any:
        raise BrainError(f"{brain.layout.base_model_dir} is damaged")

    with pytest.raises(BrainError, match="is damaged"):
        _load(robot.brain, load)
    assert robot.brain.layout.base_slot == robot.slot


def test_while_the_base_is_on_probation_no_adapter_is_promoted(robot: Robot) -> None:
    robot.switched()
    layout = robot.brain.layout
    store = AdapterStore(layout)
    version = store.stage(
        {
            "adapter_model.safetensors": b"w",
            "adapter_config.json": b"{}",
            "calibration.json": Calibration().to_json(),
        }
    )
    verdict = judged(version, robot.sha256)
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    with pytest.raises(OnProbation, match="the base is on probation"):
        promote_candidate(robot.brain, boot=BOOT)
    with pytest.raises(
        OnProbation, match="the base is on probation"
    ) as told:  # what is watched stays what it is
        roll_back(robot.brain)
    assert "base rollback" in told.value.remedy
    confirm_base(robot.brain)
    promote_candidate(robot.brain, boot=BOOT)
    assert AdapterStore(layout).current_id() == version.version_id


def test_what_drives_already_is_not_judged_by_its_old_verdict(robot: Robot) -> None:
    robot.switched()
    change = switch_base(robot.brain, robot.slot, boot=BOOT)
    assert (change.slot, change.event) == (robot.slot, "switch")
    assert BaseSlots(robot.brain.layout).state().change == 1


def test_starts_under_an_earlier_switch_are_not_held_against_the_next(robot: Robot) -> None:
    robot.switched()
    most = robot.brain.config.promotion.probation_restarts
    for _ in range(1 + most):
        open_to_serve(open_brain(robot.root, slot=""), boot=BOOT)
    assert base_progress(robot.brain)["restarts"] == most
    assert base_progress(robot.brain)["of_ticks"] == 400 * (1 + most)
    roll_back_base(robot.brain)
    robot.passes()
    switch_base(robot.brain, robot.slot, again=True, boot=BOOT)
    assert base_progress(robot.brain)["restarts"] == 0
    assert open_to_serve(open_brain(robot.root, slot=""), boot=BOOT).layout.base_slot == robot.slot


def test_of_two_who_watch_the_later_does_nothing_to_what_was_switched_to_since(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked at the first probation must not take back, or confirm, the second."""
    for do in ("revert", "confirm"):
        robot.passes()
        switch_base(robot.brain, robot.slot, again=True, boot=BOOT)

        def meanwhile(_brain: BrainRoot, _state: BaseState, do: Any = do) -> Look:
            roll_back_base(robot.brain)
            switch_base(robot.brain, robot.slot, again=True, boot=BOOT)
            return Look(do, "off_road", "")

        with monkeypatch.context() as patched:
            patched.setattr(base_probation, "judge_base_probation", meanwhile)
            assert look_after_base(robot.brain, boot=BOOT) is None
        told = base_progress(robot.brain)
        assert (told["slot"], told["state"]) == (robot.slot, "probation")
        roll_back_base(robot.brain)
