"""Judging an imported base beside what drives now; its verdict, and the servo that it was given with, beside it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from continuonbrain.loops.base_change import SwitchRefused, drives_sha256, require_trusted
from continuonbrain.loops.judging import rules_of, with_what_computed
from continuonbrain.loops.lessons import read_lessons
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.open_watch import open_watches
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.base_verdict_rule import BASE_VERDICT_VERSION
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.trainer.base_verdict import gather_base_evidence, judge_base
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.dataset import NoLabelsError
from continuonbrain.trainer.evaluate import Contender

if TYPE_CHECKING:
    from continuonbrain.loops.at_work import Sidecar

_SERVO = "calibration.json"


def judge_slot(mid: Sidecar, slot_id: str, *, course: Course | None = None) -> dict[str, Any]:
    """Measure the base of a slot beside what drives now, in the engine that serves; keep `verdict.json` beside it.

    Args:
        mid: of the base that drives now.
        slot_id: which base.
        course: instead of the robot's own; there is none for hardware.

    Raises:
        BrainError: a gate is closed, something is learned, the base is damaged, or one of the two cannot be opened.
    """
    layout, config = mid.layout, mid.config
    with mid.at_work(f"judge a base of {layout.root}"):
        slot = BaseSlots(layout).get(slot_id)
        there = mid.brain.on(slot_id)
        if slot_id == layout.base_slot:
            raise SwitchRefused(f"base {slot_id} drives already", remedy="nothing has to be judged")
        report = mid.poll_gates()
        if not report.open:
            closed = "; ".join(f"{s.name}: {s.reason}" for s in report.closed)
            raise SwitchRefused(
                f"base {slot_id} is not judged, gates are closed: {closed}", remedy="try again then"
            )
        require_trusted(mid.brain, slot)
        sha256 = base_sha256(slot.base)
        if sha256 != slot.base_sha256:
            raise SwitchRefused(
                f"base {slot_id} is damaged: its bytes hash to {sha256[:16]}",
                remedy=f"remove {slot.path}, then have it packed and import it again",
            )
        mid.check_current()
        # The servo is the robot's, whatever thinks.
        servo = Calibration.from_file(path) if (path := _servo_of(layout)) is not None else Calibration()
        current, own = _contender(mid.layout, servo), _contender(there.layout, servo)
        train, held, left_out = _recordings(mid)
        mid.say(phase="judge", candidate=slot_id, step=0, steps=0, loss=None, detail="judging a base")

        def judging(part: str, done: int, total: int) -> None:
            mid.wait_until_allowed()
            mid.say(force=False, phase="judge", detail=part, step=done, steps=total)

        def opened(where: BrainLayout) -> Engine:
            return open_engine(where.base_model_dir, config.policy)

        if course is None and config.robot.kind == "sim-donkey":
            course = Course(world(config.robot.shift))
        watch_with = None
        if config.heads.safety.enabled:
            watch_with = open_watches(layout.safety_dir, layout.manifest_path, acts=False)
        evidence = gather_base_evidence(
            lambda: opened(layout),
            lambda: opened(there.layout),
            current=current,
            own=own,
            train=train,
            held=held,
            limits=Limits.from_config(config.guards),
            course=course,
            decision_time_s=config.robot.decision_time_s,
            watch_with=watch_with,
            on_part=judging,
        )
        sources = with_what_computed(evidence.sources, config, there.layout.base_model_dir)
        verdict = judge_base(evidence, rules_of(config, layout.base_model_dir, needs_gain=False))
        told = verdict.to_json()
        calibration = servo.to_json()
        told = {
            **{name: told[name] for name in ("passed", "reason", "checks", "evidence", "rules", "bootstrap")},
            "version": BASE_VERDICT_VERSION,
            "kind": "base",
            "base_sha256": sha256,
            "adapter_sha256": own.sha256,
            "calibration_sha256": hashlib.sha256(calibration).hexdigest(),
            "against_base_sha256": evidence.base_sha256,
            "against_adapter_sha256": current.sha256,
            "evaluation_sha256": evidence.evaluation_sha256,
            "engine": sources.engine,
            "bundle_sha256": sources.bundle_sha256,
            "config_sha256": sources.config_sha256,
            "versions": dict(sources.versions),
            "left_out": left_out,
        }
        if current.sha256 != drives_sha256(mid.brain):  # minutes later
            raise SwitchRefused(
                "what drives changed while the base was judged", remedy="have it judged again"
            )
        slot.judged(told, calibration)
        mid.say(phase="judged", detail=verdict.reason)
    return told


def _recordings(mid: Sidecar) -> tuple[Any, Any, list[str]]:
    """Samples to compare with and held-out ones, None where nobody has driven."""
    episodes, _ = mid.new_episodes()
    if len(episodes) < mid.config.min_episodes:
        return None, None, []
    try:
        lessons = read_lessons(mid, episodes)
    except NoLabelsError as error:
        return None, None, [error.message]
    return lessons.train, lessons.held, lessons.left_out


def _servo_of(layout: BrainLayout) -> Any:
    current = AdapterStore(layout).current()
    return layout.base_calibration_path if current is None else current.path / _SERVO


def _contender(layout: BrainLayout, servo: Calibration) -> Contender:
    version = AdapterStore(layout).current()
    if version is None:
        return Contender(None, "", servo)
    sha256 = version.whole_sha256(root=layout.root)
    return Contender(version.path, sha256, Calibration.from_file(version.path / _SERVO))
