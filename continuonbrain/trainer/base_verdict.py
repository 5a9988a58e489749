"""The verdict on a new base: may it drive in place of what drives now? Measured one engine after the other.

The new base, with the adapter of its own slot where it has one, and what drives now, its base with its adapter, are
driven over the same course and asked the same held-out steps, and the adapters' rules that ask for no harm are applied
(`verdict.py`): completion, instructions, "stop", the guard's and the safety head's share, slow decisions and the reflex
head, the roads that the old base knew without an adapter; imitation where there are recordings. A gain is not asked
for: a merged base is what drove before, in other bytes. Without a course recordings have to carry it, without
either nothing passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from continuonbrain.policy.engine import AdapterError, Engine
from continuonbrain.policy.watch import Watch
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.checks import Check, Court, Rules, at_least
from continuonbrain.trainer.course import Course, CourseDriver, OnPart
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evaluate import (
    Contender,
    Measured,
    answers,
    grids_of,
    reflex_imitation,
    with_recordings,
)
from continuonbrain.trainer.evidence import Evidence, Sources
from continuonbrain.trainer.forgetting import knows_the_roads
from continuonbrain.trainer.recorded import name_of
from continuonbrain.trainer.verdict import (
    Verdict,
    driving_checks,
    in_words,
    measured_check,
    recordings_checks,
    reflex_checks,
)


def judge_base(evidence: Evidence, rules: Rules) -> Verdict:
    """Apply the rules to the evidence. Pure."""
    rules = replace(rules, needs_gain=False)
    court = Court(evidence, rules)
    if evidence.refused:
        meaning = f"the engine that serves takes it: {evidence.refused}"
        court.checks.append(Check("loads", 0.0, 1.0, False, meaning))
    else:
        measured_check(court)
        measures = float(court.on_course) + float(evidence.held_out_steps > 0)
        meaning = "was driven on a course, or asked held-out steps of a person's driving"
        court.checks.append(at_least("measures", measures, 1.0, meaning))
        if evidence.held_out_steps > 0 or not court.on_course:
            recordings_checks(court)
        driving_checks(court)
        knows_the_roads(court)
        reflex_checks(court)
    failed = [c for c in court.checks if not c.passed]
    return Verdict(not failed, in_words(failed[0]) if failed else "", tuple(court.checks), evidence, rules)


def gather_base_evidence(
    open_current: Callable[[], Engine],
    open_new: Callable[[], Engine],
    *,
    current: Contender,
    own: Contender,
    train: Samples | None,
    held: Samples | None,
    limits: Limits,
    course: Course | None,
    decision_time_s: float = 0.0,
    watch_with: Callable[[], Watch] | None = None,
    on_part: OnPart,
) -> Evidence:
    """Measure what drives now, then the new base. Two bases at once would not fit into a robot's memory.

    Args:
        open_current, open_new: the engine that serves, of each base.
        current, own: the adapter on each, None for the base alone, and the servo that it drives with.
        train, held: samples of recordings, None where there are none. The others: as `gather_evidence`.
    """
    steps = 0 if held is None or train is None else len(held)
    sources = Sources(
        current_sha256=current.sha256,
        safety_head_sha256=None if watch_with is None else watch_with().head.sha256,
        held_out_sha256="" if held is None else held.sha256(lambda: on_part("recorded steps", 0, steps)),
        course_sha256="" if course is None else course.sha256,
    )
    base, now, mine = (
        Measured("base", Contender(None, "", current.calibration)),
        Measured("current", current),
        Measured("new base", own),
    )

    def measure(engine: Engine, run: Measured) -> None:
        engine.use_adapter(run.of.folder, sha256=run.of.sha256)
        run.has_reflex = engine.reflex is not None
        if held is not None:
            run.answered = answers(engine, held, f"{run.label}: recorded steps", on_part)
            if engine.reflex is not None:
                part = f"{run.label}: the reflex head"
                head = engine.reflex
                run.head = reflex_imitation(
                    engine, head, held, run.of.calibration, part=part, on_part=on_part
                )
        if course is None:
            return
        driver = CourseDriver(engine, course, limits, decision_time_s, on_part, watch_with)
        if run is not base:
            run.slow = driver.slow(run.label, run.of.calibration)
            run.closed = driver.closed(run.label, run.of.calibration)
        if run is mine and run.has_reflex:
            run.slow_path = driver.slow_by_paths(run.label, run.of.calibration)
        if run is not now:
            run.unshifted = driver.unshifted(run.label)

    engine = open_current()
    evidence = Evidence(
        candidate_sha256=own.sha256,
        base_sha256=engine.base_sha256,
        evaluation_sha256=name_of(sources.held_out_sha256, sources.course_sha256, ""),
        held_out_steps=steps,
        sources=sources,
    )
    for run in (base, now):
        measure(engine, run)
    del engine
    try:
        engine = open_new()
        measure(engine, mine)
    except AdapterError as error:
        return replace(evidence, refused=error.message)
    sources = replace(sources, reflex_sha256="" if engine.reflex is None else engine.reflex.sha256)
    evidence = replace(
        evidence,
        sources=sources,
        closed_candidate=mine.closed,
        closed_current=now.closed,
        unshifted_candidate=mine.unshifted,
        unshifted_base=base.unshifted,
        has_reflex=mine.has_reflex,
        reflex=mine.head,
        reflex_current=now.head,
        slow_candidate=mine.slow,
        slow_current=now.slow,
        slow_path=mine.slow_path,
    )
    if held is None or train is None:
        return evidence
    watch = None if watch_with is None else (watch_with, grids_of(watch_with().head, held, on_part))
    return with_recordings(evidence, base, now, mine, train, held, limits, on_part, watch)
