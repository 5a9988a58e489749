"""Judging an imported base: when it is not judged, what its verdict names, and that this verdict lets it drive.

What the verdict weighs: tests/trainer/test_base_verdict.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.loops import at_work, base_judging, base_probation, promotion
from continuonbrain.loops.at_work import GaveUp
from continuonbrain.loops.base_change import SwitchRefused, switch_base
from continuonbrain.loops.base_judging import judge_slot
from continuonbrain.loops.mid import MidLoop
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.base_verdict_rule import BASE_VERDICT_VERSION
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from continuonbrain.storage.trusted_keys import TrustedKeys
from continuonbrain.trainer.evidence import Evidence
from tests.loops.test_base_change import BOOT, Robot
from tests.trainer.test_base_verdict import DRIVEN


class Measuring:
    """What would be driven for minutes: evidence that passes. meanwhile: what happens in that time."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, open_current: Any, open_new: Any, **asked: Any) -> Evidence:
        self.asked.append(asked)
        self.meanwhile()
        asked["on_part"]("current: laps", 1, 2)  # as every tick of a rollout does
        return replace(DRIVEN, base_sha256=base_sha256(tiny_base_folder()))


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Measuring:
    found = Measuring()
    monkeypatch.setattr(base_judging, "gather_base_evidence", found)
    return found


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    monkeypatch.setattr(base_probation, "boot_id", lambda: BOOT)
    return Robot(tmp_path)


def judged(
    robot: Robot, host: SimulatedHost | None = None, *, patience_s: float | None = None
) -> dict[str, Any]:
    mid = MidLoop(robot.brain, host=host or SimulatedHost())
    mid.patience_s = patience_s
    return judge_slot(mid, robot.slot)


def test_a_passed_verdict_names_what_was_measured_and_lets_exactly_that_drive(
    robot: Robot, measuring: Measuring
) -> None:
    servo = Calibration(steering_trim_rad=0.05)
    robot.adapter("drives", servo=servo)
    current = AdapterStore(robot.brain.layout).current()
    assert current is not None
    told = judged(robot)
    assert told["passed"]
    assert told == robot.entry.verdict()
    assert (told["version"], told["kind"]) == (BASE_VERDICT_VERSION, "base")
    assert told["base_sha256"] == robot.sha256
    assert told["adapter_sha256"] == ""
    assert told["against_base_sha256"] == base_sha256(tiny_base_folder())
    assert told["against_adapter_sha256"] == current.compute_sha256()
    # The servo is the robot's, whatever thinks.
    assert told["calibration_sha256"] == hashlib.sha256(servo.to_json()).hexdigest()
    assert (robot.entry.path / "calibration.json").read_bytes() == servo.to_json()
    (asked,) = measuring.asked
    assert (asked["current"].folder, asked["current"].sha256) == (current.path, current.compute_sha256())
    assert (asked["own"].folder, asked["own"].sha256) == (None, "")
    assert asked["current"].calibration == asked["own"].calibration == servo
    assert asked["course"] is not None
    assert (asked["train"], asked["held"]) == (None, None)  # nobody has driven
    switch_base(robot.brain, robot.slot, boot=BOOT)
    assert robot.brain.layout.base_slot == robot.slot


def test_while_a_gate_is_closed_nothing_is_judged(robot: Robot, measuring: Measuring) -> None:
    host = SimulatedHost()
    host.set(battery_fraction=0.1)
    with pytest.raises(SwitchRefused, match="gates are closed: battery") as told:
        judged(robot, host, patience_s=0.0)
    assert told.value.remedy
    assert measuring.asked == []
    assert robot.entry.verdict() is None


def test_a_gate_that_closes_meanwhile_is_waited_for(
    robot: Robot, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_work, "_GATES_EVERY_S", 0.0)
    host = SimulatedHost()
    measuring.meanwhile = lambda: host.set(battery_fraction=0.1)
    with pytest.raises(GaveUp, match="battery"):
        judged(robot, host, patience_s=0.0)
    assert robot.entry.verdict() is None


def test_what_drives_may_not_change_while_a_base_is_judged(robot: Robot, measuring: Measuring) -> None:
    measuring.meanwhile = lambda: robot.adapter("newer")
    with pytest.raises(SwitchRefused, match="what drives changed while the base was judged") as told:
        judged(robot)
    assert told.value.remedy == "have it judged again"
    assert robot.entry.verdict() is None
    measuring.meanwhile = lambda: None
    current = AdapterStore(robot.brain.layout).current()
    assert current is not None
    assert judged(robot)["against_adapter_sha256"] == current.compute_sha256()


def test_what_drives_already_what_is_not_there_and_what_is_damaged_is_not_judged(
    robot: Robot, measuring: Measuring
) -> None:
    weights = robot.entry.base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SwitchRefused, match=f"base {robot.slot} is damaged"):
        judged(robot)
    weights.write_bytes(whole)
    robot.adapter("drives")
    current = AdapterStore(robot.brain.layout).current()
    assert current is not None
    file = current.path / "adapter_model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept + b"x")
    with pytest.raises(BrainError, match="nothing can be judged against it"):
        judged(robot)
    file.write_bytes(kept)
    with pytest.raises(BrainError, match="there is no base"):
        judge_slot(MidLoop(robot.brain, host=SimulatedHost()), "0" * 16)
    robot.switched()
    with pytest.raises(SwitchRefused, match="drives already"):
        judged(robot)
    assert measuring.asked == []


def test_nothing_is_judged_while_something_is_learned(robot: Robot, measuring: Measuring) -> None:
    with ProcessLock(robot.brain.layout.trainer_lock_path, purpose="train"), pytest.raises(LockHeldError):
        judged(robot)
    assert measuring.asked == []
    assert BaseSlots(robot.brain.layout).get(robot.slot).verdict() is None


def test_a_base_whose_key_was_revoked_is_not_opened(robot: Robot, measuring: Measuring) -> None:
    imported = robot.entry.about["imported"]
    TrustedKeys(robot.brain.layout).revoke(imported["key_id"])
    with pytest.raises(BrainError, match="revoked"):
        judged(robot)
    assert robot.entry.verdict() is None
