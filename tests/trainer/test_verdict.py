"""Claims about the verdict: each rule refuses for its own reason, and what is not a number never passes."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.storage.promotion_rule import VERDICT_VERSION, promotion_refusal
from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import (
    Closed,
    Evidence,
    Exam,
    HeldOut,
    Imitation,
    Laps,
    Replay,
    Slow,
    Sources,
    contradictions,
)
from continuonbrain.trainer.verdict import judge

TRACKS, TRIALS = 8, 16


def spread(mean: float, n: int = TRACKS) -> tuple[float, ...]:
    """n values around a mean, so that an interval has a width."""
    return tuple(mean + 0.01 * (i - (n - 1) / 2) / n for i in range(n))


def trials(share: float, n: int = TRIALS) -> tuple[float, ...]:
    """n instructions of which a share was obeyed."""
    return tuple(float(i < round(share * n)) for i in range(n))


def driven(completion: float, following: float = 15 / 16, guard: float = 0.02, **more: Any) -> Closed:
    given = {
        "lateral_error_m": 0.03,
        "stop": 1.0,
        "stop_model": 0.5,
        "completions": spread(completion),
        "guard_shares": spread(guard),
        "head_shares": (0.0,) * TRACKS,
        "obeyed": trials(following),
    }
    return Closed(completion=completion, guard_share=guard, following=following, **(given | more))


def slow(completion: float, following: float = 7 / 8) -> Slow:
    return Slow(completion, following, spread(completion, 4), trials(following, 8))


def laps(completion: float) -> Laps:
    return Laps(completion, spread(completion, 6))


def recorded(
    candidate: float, current: float, mean: float = 0.25, *, episodes: int = 4, **more: Any
) -> HeldOut:
    """Four blocks of an episode each, errors that differ by episode alike for all."""
    n = 4 * episodes
    same = [0.01 * ((i // 4) - (episodes - 1) / 2) / episodes for i in range(n)]
    given = {
        "guard_candidate": (0.01,) * n,
        "guard_current": (0.01,) * n,
        "head_candidate": (0.0,) * n,
        "head_current": (0.0,) * n,
        "speed_candidate": tuple(0.02 + s for s in same),
        "speed_current": tuple(0.05 + s for s in same),
    }
    return HeldOut(
        tuple(i // 4 for i in range(n)),
        (40.0,) * n,
        *(tuple(of + s for s in same) for of in (candidate, current, mean)),
        **(given | more),
    )


def remembered(candidate: float, base: float = 0.03, *, speed: float = 0.02) -> Replay:
    """Frozen states on 24 tracks; speed: error of the candidate's, where the base's is 0.02."""
    given = (spread(m, 24) for m in (candidate, base, speed, 0.02))
    return Replay("f" * 64, (10.0,) * 24, *given)


def exam(
    candidate: float = 0.1, current: float = 0.1, *, speed: float = 0.03, lessons: int = 4, **more: Any
) -> Exam:
    """Four episodes of each lesson, errors that differ by episode alike for all; speed: the candidate's error of
    speeds, where that of what drives now is 0.03."""
    n = 4 * lessons
    given = {
        "trained": (False,) * n,
        "names": tuple(f"question {i}" for i in range(n)),
    }
    return Exam(
        "9" * 64,
        tuple(i // 4 + 1 for i in range(n)),
        (50.0,) * n,
        *(spread(m, n) for m in (candidate, current, speed, 0.03)),
        **(given | more),
    )


CLOSED = driven(0.95)
GOOD = Evidence(
    candidate_sha256="c" * 64,
    base_sha256="b" * 64,
    evaluation_sha256="e" * 64,
    held_out_steps=640,
    candidate=Imitation(0.05, 0.04),
    current=Imitation(0.20, 0.10),
    base=Imitation(0.20, 0.10),
    mean=Imitation(0.25, 0.20),
    repeat=Imitation(0.02, 0.05),
    distance=0.05,
    difference=0.2,
    held=recorded(0.05, 0.20),
    closed_candidate=CLOSED,
    closed_current=driven(0.4),
    unshifted_candidate=laps(0.99),
    unshifted_base=laps(1.0),
    replay=remembered(0.04),
    has_reflex=True,
    reflex=Imitation(0.06, None),
    reflex_current=Imitation(0.06, None),
    slow_candidate=slow(0.98),
    slow_current=slow(0.9),
    slow_path=Laps(0.7, spread(0.7, 4)),
)


def steering(candidate: float, current: float = 0.20, **more: Any) -> dict[str, Any]:
    """Changes to `GOOD`: another held-out error."""
    return {
        "candidate": Imitation(candidate, 0.04),
        "current": Imitation(current, 0.1),
        "held": recorded(candidate, current, **more),
    }


def with_value(evidence: Any, path: tuple[str, ...], value: object) -> Any:
    if len(path) == 1:
        return replace(evidence, **{path[0]: value})
    return replace(evidence, **{path[0]: with_value(getattr(evidence, path[0]), path[1:], value)})


def numbers(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner) and not isinstance(inner, Sources):
            found += numbers(inner, (*prefix, field.name))
        elif isinstance(inner, float):
            found.append((*prefix, field.name))
    return found


def test_good_evidence_passes_every_check() -> None:
    verdict = judge(GOOD, Rules())
    assert verdict.passed
    assert verdict.reason == ""
    assert all(c.passed for c in verdict.checks)
    assert len({c.name for c in verdict.checks}) == len(verdict.checks)


RECORDED = replace(
    GOOD,
    closed_candidate=None,
    closed_current=None,
    unshifted_candidate=None,
    unshifted_base=None,
    replay=None,
    slow_candidate=None,
    slow_current=None,
    slow_path=None,
)
"""Of a robot without a simulator."""


@pytest.mark.parametrize(("mean", "passed"), [(0.25, True), (0.049, False), (0.051, True), (None, False)])
def test_where_recordings_are_all_there_is_a_constant_must_be_beaten(
    mean: float | None, passed: bool
) -> None:
    given = {} if mean is None else {"mean": mean}
    evidence = replace(
        RECORDED,
        mean=None if mean is None else Imitation(mean, 0.2),
        held=recorded(0.05, 0.20, **given),  # type: ignore[arg-type]
    )
    verdict = judge(evidence, Rules())
    assert verdict.passed is passed, verdict.reason
    if not passed:
        assert verdict.reason.startswith("mean_command")
    # Where it was driven, driving decides.
    assert judge(replace(GOOD, held=recorded(0.05, 0.20, 0.049)), Rules()).passed


REFUSALS: list[tuple[str, dict[str, object]]] = [
    ("loads", {"refused": "adapter x holds numbers that are not finite"}),
    ("differs_from_base", {"difference": 0.0}),
    ("measured", {"closed_candidate": replace(CLOSED, completion=0.96)}),
    ("measured", {"candidate": Imitation(0.04, 0.04)}),
    ("held_out_steps", {"held_out_steps": 49}),
    ("held_out_steps", {"held_out_steps": 0}),
    ("held_out_episodes", {"held": recorded(0.05, 0.20, episodes=1)}),
    ("held_out_episodes imitation_steering imitation_speed", {"held": None}),
    ("imitation_steering", steering(0.205)),
    ("action_distance", {"distance": 0.26}),
    ("recorded_guard", {"held": recorded(0.05, 0.2, guard_candidate=(0.07,) * 16)}),
    ("gain", {**steering(0.2), "closed_current": CLOSED}),
    ("gain", {**steering(0.199), "closed_current": CLOSED}),
    ("completion", {"closed_candidate": driven(0.39)}),
    ("completion", {"closed_candidate": None}),
    ("completion following guard_rise", {"closed_current": None}),
    ("following", {"closed_candidate": driven(0.95, following=13 / 16)}),
    ("stop_obeyed", {"closed_candidate": replace(CLOSED, stop=0.99)}),
    (
        "guard_share",
        {"closed_candidate": driven(0.95, guard=0.26), "closed_current": driven(0.4, guard=0.25)},
    ),
    ("guard_rise", {"closed_candidate": driven(0.95, guard=0.08)}),
    ("forgetting", {"unshifted_candidate": laps(0.97)}),
    ("forgetting", {"unshifted_candidate": None}),
    ("replay", {"replay": remembered(0.09)}),
    ("replay_speed", {"replay": remembered(0.04, speed=0.08)}),
    ("replay_speed", {"replay": replace(remembered(0.04), speed_candidate=())}),
    ("imitation_speed", {"held": recorded(0.05, 0.20, speed_candidate=(0.07,) * 16)}),
    ("imitation_speed", {"held": recorded(0.05, 0.20, speed_candidate=(), speed_current=())}),
    ("imitation_steering imitation_speed", {"current": None}),
    ("imitation_steering imitation_speed", {"candidate": None}),
    ("action_distance", {"distance": None}),
    ("differs_from_base", {"difference": None}),
]


@pytest.mark.parametrize(("name", "change"), REFUSALS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_each_rule_refuses_for_its_own_reason(name: str, change: dict[str, Any]) -> None:
    verdict = judge(replace(GOOD, **change), Rules())
    assert not verdict.passed
    assert [c.name for c in verdict.checks if not c.passed] == name.split()
    assert verdict.reason.startswith(f"{name.split()[0]}: ")


# --------------------------------------------------------------------- a consolidation

LESSONS = Rules(needs_gain=False)
CONSOLIDATED = replace(
    GOOD,
    **steering(0.2),  # no better at anything
    closed_current=CLOSED,
    exam=exam(),
)


def on_one(mean: float, other: float, lesson: int = 2, lessons: int = 4) -> tuple[float, ...]:
    """Errors by episode that are `other` on one lesson and `mean` on all others."""
    return tuple(other if i // 4 + 1 == lesson else mean for i in range(4 * lessons))


def test_a_consolidation_needs_no_gain_and_must_have_forgotten_nothing() -> None:
    verdict = judge(CONSOLIDATED, LESSONS)
    assert verdict.passed, verdict.reason
    assert not judge(CONSOLIDATED, Rules()).passed
    assert not judge(replace(CONSOLIDATED, exam=None), LESSONS).passed


@pytest.mark.parametrize(
    ("names", "change"),
    [
        ("lessons", {"candidate": spread(0.115, 16)}),
        ("lessons_speed", {"speed_candidate": spread(0.045, 16)}),
        ("lessons worst_lesson", {"candidate": (math.nan,) * 16}),
        ("lessons worst_lesson", {"candidate": (*(0.1,) * 8, math.nan, *(0.1,) * 7)}),
        ("lessons worst_lesson", {"candidate": on_one(0.1, 0.16), "current": (0.1,) * 16}),
        (
            "lessons_speed worst_lesson",
            {"speed_candidate": on_one(0.03, 0.09), "speed_current": (0.03,) * 16},
        ),
        # All others were learned better meanwhile.
        ("worst_lesson", {"candidate": on_one(0.07, 0.16), "current": (0.1,) * 16}),
        ("worst_lesson", {"speed_candidate": on_one(0.0, 0.09), "speed_current": (0.03,) * 16}),
        ("worst_lesson", {"best": on_one(0.1, 0.04), "speed_best": (0.03,) * 16}),
        ("worst_lesson", {"best": (0.1,) * 16, "speed_best": (*(None,) * 12, *(0.0,) * 3, -0.2)}),
        ("lessons_unread", {"unread": (3,)}),
    ],
)
def test_what_was_forgotten_is_seen_in_steering_and_in_speed(names: str, change: dict[str, Any]) -> None:
    verdict = judge(replace(CONSOLIDATED, exam=replace(exam(), **change)), LESSONS)
    failed = [c.name for c in verdict.checks if not c.passed and c.name != "measured"]
    assert set(names.split()) <= set(failed)
    assert set(failed) <= {*names.split(), "worst_lesson"}


def test_an_adapter_that_has_unlearned_to_drive_slowly_does_not_pass_with_its_steering() -> None:
    """One of sixteen episodes says "drive slowly", 0.5 m/s: it drives 1 m/s there, and steers better than before."""
    speeds = (0.03,) * 16
    fast = (*speeds[:5], 0.03 + 0.5 / 2.0, *speeds[6:])
    deaf = replace(exam(0.07), speed_candidate=fast, speed_current=speeds)
    failed = [c.name for c in judge(replace(CONSOLIDATED, exam=deaf), LESSONS).checks if not c.passed]
    assert failed == ["lessons_speed", "worst_lesson"]
    (worst,) = (
        c for c in judge(replace(CONSOLIDATED, exam=deaf), LESSONS).checks if c.name == "worst_lesson"
    )
    assert worst.value == pytest.approx(0.25 / 4)
    assert "number 2, speed, against what drives now" in worst.meaning


def test_a_lesson_without_an_exam_is_looked_at_by_what_was_trained_on_and_told_so() -> None:
    trained = tuple(i // 4 + 1 == 2 for i in range(16))
    lost = replace(exam(), trained=trained, candidate=on_one(0.1, 0.2), current=(0.1,) * 16)
    verdict = judge(replace(CONSOLIDATED, exam=lost), LESSONS)
    assert [c.name for c in verdict.checks if not c.passed] == ["worst_lesson"]
    assert "number 2, steering, against what drives now, by episodes that it was trained on" in verdict.reason
    # They are no evidence of what nobody trained on.
    (lessons,) = (c for c in verdict.checks if c.name == "lessons")
    assert lessons.n == 12
    everything = replace(CONSOLIDATED, exam=replace(exam(), trained=(True,) * 16))
    assert [c.name for c in judge(everything, LESSONS).checks if not c.passed] == ["lessons", "lessons_speed"]


# --------------------------------------------------------------------- how much evidence is enough


def test_too_few_held_out_episodes_are_refused_with_what_to_do() -> None:
    few = replace(RECORDED, held=recorded(0.05, 0.2, episodes=3))
    verdict = judge(few, Rules())
    assert verdict.reason.startswith("held_out_episodes: 3 against 4 ")
    assert "record at least 16 episodes" in verdict.reason
    assert judge(few, Rules(min_eval_episodes=3)).passed
    # On a course tracks carry the evidence: two drives are enough to show harm, and no gain by themselves.
    driven_too = replace(GOOD, held=recorded(0.05, 0.2, episodes=2))
    assert judge(driven_too, Rules()).passed
    assert {c.unit for c in judge(driven_too, Rules()).checks if c.name == "imitation_steering"} == {
        "2 s blocks"
    }
    assert judge(replace(driven_too, closed_current=CLOSED), Rules()).reason.startswith("gain: ")
    assert judge(replace(GOOD, closed_current=CLOSED), Rules()).passed


def test_an_estimate_within_the_slack_is_not_enough_where_the_interval_reaches_harm() -> None:
    """A third of a lap lost on one track, a quarter won on another: about even, and what comes next is unknown."""
    now = driven(0.96875, completions=(0.75, *(1.0,) * 7))
    own = driven(0.95625, completions=(1.0, 0.65, *(1.0,) * 6))
    unsure = replace(GOOD, closed_current=now, closed_candidate=own)
    (check,) = (c for c in judge(unsure, Rules(max_completion_loss=0.02)).checks if c.name == "completion")
    assert check.value == pytest.approx(-0.0125)
    assert check.low is not None
    assert -0.3 < check.low < -0.1
    assert (check.n, check.unit, check.limit, check.passed) == (TRACKS, "tracks", -0.1, False)
    kinder = Rules(max_completion_loss=0.02, max_harm=0.3)
    assert all(c.passed for c in judge(unsure, kinder).checks if c.name == "completion")
    # A seventh of a lap lost on one track of eight, and nothing else: within the slack, and surely no more.
    lost = replace(GOOD, closed_current=driven(1.0, completions=(1.0,) * 8))
    lost = replace(lost, closed_candidate=driven(0.98125, completions=(0.85, *(1.0,) * 7)))
    assert judge(lost, Rules(max_completion_loss=0.02)).passed
    assert judge(lost, Rules()).reason.startswith("completion: -0.01875 against 0, between ")


@pytest.mark.parametrize("measure", ["completion", "imitation"])
def test_what_is_equal_is_promoted_no_oftener_than_the_level_says_and_what_is_better_is(measure: str) -> None:
    """The rule of gain over whole evaluations: an equal candidate with the noise of tracks and of episodes."""
    rng = np.random.default_rng(3)

    def passes(better: float) -> bool:
        own, now = rng.normal(0.8, 0.05, (2, TRACKS)), rng.normal(0.2, 0.02, (2, 4))
        if measure == "completion":
            own[0] += better
        else:
            now[0] -= better / 2
        blocks = [np.repeat(row, 4) for row in now]
        evidence = replace(
            GOOD,
            evaluation_sha256=f"{rng.integers(1 << 60):064x}",
            candidate=Imitation(float(blocks[0].mean()), 0.1),
            current=Imitation(float(blocks[1].mean()), 0.1),
            held=replace(GOOD.held, candidate=tuple(blocks[0]), current=tuple(blocks[1])),  # type: ignore[type-var]
            closed_candidate=driven(float(own[0].mean()), completions=tuple(own[0])),
            closed_current=driven(float(own[1].mean()), completions=tuple(own[1])),
        )
        (gain,) = (c for c in judge(evidence, Rules()).checks if c.name == "gain")
        return gain.passed

    assert np.mean([passes(0.0) for _ in range(200)]) <= 0.06
    assert np.mean([passes(0.15) for _ in range(60)]) >= 0.9


def test_the_safety_heads_figures_are_compared_where_a_head_is_installed() -> None:
    blocked = driven(0.95, head_shares=(0.2,) * TRACKS)
    held = recorded(0.05, 0.2, head_candidate=(0.3,) * 16)
    with_head = Sources(safety_head_sha256="a" * 64)
    for change, name in (({"closed_candidate": blocked}, "head_rise"), ({"held": held}, "recorded_head")):
        assert judge(replace(GOOD, **change), Rules()).passed  # no head: nothing blocked anything
        verdict = judge(replace(GOOD, sources=with_head, **change), Rules())  # type: ignore[arg-type]
        assert [c.name for c in verdict.checks if not c.passed] == [name]
    assert judge(replace(GOOD, sources=with_head), Rules()).passed


@given(st.sampled_from(numbers(GOOD)), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_number_that_is_not_finite_never_passes_wherever_it_stands(
    path: tuple[str, ...], bad: float
) -> None:
    verdict = judge(with_value(GOOD, path, bad), Rules())
    assert not verdict.passed
    assert any(".".join(path) in c.meaning for c in verdict.checks if c.name == "measured")


@given(
    st.sampled_from(
        [
            "candidate",
            "current",
            "distance",
            "difference",
            "closed_candidate",
            "closed_current",
            "unshifted_candidate",
            "unshifted_base",
        ]
    )
)
def test_what_was_not_measured_never_passes(field: str) -> None:
    assert not judge(replace(GOOD, **{field: None}), Rules()).passed


@given(st.dictionaries(st.sampled_from(list(numbers(GOOD))), st.floats(), max_size=6))
def test_what_passes_obeys_every_threshold(changes: dict[tuple[str, ...], float]) -> None:
    evidence = GOOD
    for path, value in changes.items():
        evidence = with_value(evidence, path, value)
    if judge(evidence, Rules()).passed:
        assert evidence.closed_candidate is not None
        assert evidence.closed_current is not None
        assert evidence.candidate is not None
        assert evidence.current is not None
        assert evidence.distance is not None
        assert evidence.closed_candidate.stop >= 1.0
        assert evidence.closed_candidate.completion >= evidence.closed_current.completion - 1e-6
        assert evidence.candidate.steering <= evidence.current.steering * 1.02 + 1e-6
        assert evidence.distance <= 0.25


def test_a_robot_without_a_simulator_is_judged_by_imitation_alone() -> None:
    assert judge(RECORDED, Rules()).passed
    assert not judge(replace(RECORDED, distance=0.3), Rules()).passed


def test_without_held_out_steps_only_the_owner_may_allow_it() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("candidate", "current", "base", "mean", "repeat", "distance", "held")
    )
    blind = replace(GOOD, held_out_steps=0, **nothing)
    assert not judge(blind, Rules()).passed
    assert judge(blind, Rules(allow_promotion_without_eval=True)).passed
    # It waives the missing evaluation, not the result of one that was made.
    assert not judge(replace(GOOD, distance=0.3), Rules(allow_promotion_without_eval=True)).passed
    still_driven = replace(blind, closed_candidate=replace(CLOSED, stop=0.0))
    assert not judge(still_driven, Rules(allow_promotion_without_eval=True)).passed


def test_the_rules_move_with_the_config() -> None:
    worse = replace(GOOD, closed_candidate=driven(0.35))
    assert not judge(worse, Rules()).passed
    assert judge(worse, Rules(max_completion_loss=0.1)).passed


def test_the_file_names_every_number_threshold_and_hash_in_strict_json() -> None:
    for evidence in (GOOD, replace(GOOD, current=None, difference=math.nan)):
        verdict = judge(evidence, Rules())
        text = json.dumps(verdict.to_json(), allow_nan=False)
        read = json.loads(text)
        assert read["passed"] is verdict.passed
        assert read["candidate_sha256"] == "c" * 64
        assert read["base_sha256"] == "b" * 64
        assert read["evaluation_sha256"] == "e" * 64
        assert [c["name"] for c in read["checks"]] == [c.name for c in verdict.checks]
        assert read["evidence"]["closed_candidate"]["completion"] == 0.95
        assert read["version"] == VERDICT_VERSION
        assert read["hashes"]["replay"] == "f" * 64
        assert {"candidate", "base", "current", "evaluation", "bundle", "config", "rules"} <= read[
            "hashes"
        ].keys()
        assert read["hashes"]["safety_head"] is None  # none is installed
        assert (
            judge(evidence, Rules()).to_json() == verdict.to_json()
        )  # intervals too: the seed is the evaluation's


def test_verdicts_of_this_make_may_promote_and_those_of_another_may_not() -> None:
    bound = {"candidate_sha256": "c" * 64, "staged_sha8": "c" * 8, "base_sha256": "b" * 64}
    new = judge(GOOD, Rules()).to_json()
    assert promotion_refusal(new, **bound) is None
    for unknown in (1, 2, VERDICT_VERSION + 1, 0, "3", None, 3.0, True):
        assert "version" in str(promotion_refusal(new | {"version": unknown}, **bound))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        # The driver, the model (1.5 times 0.05) and the head before it (1.25 times 0.06).
        ({"reflex": Imitation(0.26, None), "candidate": None, "reflex_current": None}, "reflex_steering"),
        ({"reflex": Imitation(0.076, None), "reflex_current": None}, "reflex_steering"),
        ({"reflex": Imitation(0.0751, None), "candidate": Imitation(0.2, 0.04)}, "reflex_steering"),
        ({"slow_candidate": slow(0.89)}, "slow_completion"),
        ({"slow_candidate": slow(0.95), "slow_path": Laps(0.96, spread(0.96, 4))}, "slow_reflex"),
        ({"slow_candidate": slow(0.98, 5 / 8)}, "slow_following"),
        ({"slow_candidate": None}, "slow_completion"),
        ({"slow_current": None}, "slow_completion"),
    ],
)
def test_a_head_that_steers_otherwise_drives_less_far_or_is_deaf_is_refused(change: Any, check: str) -> None:
    verdict = judge(replace(GOOD, **change), Rules())
    assert check in [c.name for c in verdict.checks if not c.passed]
    assert not verdict.passed


def test_a_head_that_was_to_be_taught_and_is_not_there_is_missed() -> None:
    lost = replace(GOOD, has_reflex=False, reflex=None, slow_path=None)
    assert judge(lost, Rules(needs_reflex=False)).passed
    verdict = judge(lost, Rules(needs_reflex=True))
    assert [c.name for c in verdict.checks if not c.passed] == ["reflex"]
    assert judge(GOOD, Rules(needs_reflex=True)).passed


def test_an_adapter_without_a_head_may_not_replace_one_that_drives_further_when_slow() -> None:
    headless = replace(
        GOOD,
        has_reflex=False,
        reflex=None,
        slow_path=None,
        slow_candidate=slow(0.6),
        slow_current=slow(1.0),
    )
    assert judge(headless, Rules()).reason.startswith("slow_completion")


def test_a_win_on_one_road_does_not_make_up_for_a_loss_on_another() -> None:
    now = driven(0.4, completions=(0.1,) * 6 + (1.0, 1.0, 1.0, 1.0), guard_shares=(0.02,) * 10)
    now = replace(now, completion=0.46)
    own = replace(now, completion=0.95, completions=(1.0,) * 9 + (0.5,))
    verdict = judge(replace(GOOD, closed_candidate=own, closed_current=now), Rules())
    assert [c.name for c in verdict.checks if not c.passed] == ["completion"]
    assert judge(
        replace(
            GOOD, closed_candidate=replace(own, completion=1.0, completions=(1.0,) * 10), closed_current=now
        ),
        Rules(),
    ).passed


def test_large_wins_that_differ_do_not_hide_that_nothing_was_lost() -> None:
    """Four tracks, all driven further, by very different lengths: the spread is of the gain."""
    before, after = (0.9, 0.4, 0.1, 0.05), (1.0,) * 4
    changed = replace(GOOD, slow_current=Slow(0.3625, 7 / 8, before, trials(7 / 8, 8)))
    assert judge(replace(changed, slow_candidate=Slow(1.0, 7 / 8, after, trials(7 / 8, 8))), Rules()).passed


def off(of: Any, **means: float) -> Any:
    return replace(of, **means)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("closed_candidate.completion", {"closed_candidate": off(CLOSED, completion=0.99)}),
        ("closed_candidate.guard_share", {"closed_candidate": off(CLOSED, guard_share=0.0)}),
        ("closed_current.completion", {"closed_current": off(driven(0.4), completion=0.1)}),
        ("closed_current.guard_share", {"closed_current": off(driven(0.4), guard_share=0.9)}),
        ("unshifted_candidate.completion", {"unshifted_candidate": off(laps(0.9), completion=1.0)}),
        ("unshifted_base.completion", {"unshifted_base": off(laps(1.0), completion=0.5)}),
        ("slow_candidate.completion", {"slow_candidate": off(slow(0.9), completion=1.0)}),
        ("slow_current.completion", {"slow_current": off(slow(0.9), completion=0.1)}),
        ("slow_path.completion", {"slow_path": Laps(0.1, spread(0.7, 4))}),
        ("candidate.steering", {"candidate": Imitation(0.01, 0.04)}),
        ("current.steering", {"current": Imitation(0.9, 0.1)}),
    ],
)
def test_a_mean_that_does_not_follow_from_its_values_is_named_and_refused(
    name: str, change: dict[str, Any]
) -> None:
    assert contradictions(GOOD) == []
    assert contradictions(replace(GOOD, **change)) == [name]
    verdict = judge(replace(GOOD, **change), Rules())
    assert not verdict.passed
    assert name in verdict.reason


def test_a_mean_over_recordings_is_weighted_by_their_steps() -> None:
    assert GOOD.held is not None
    n = len(GOOD.held.steps)
    steps = (400.0, *GOOD.held.steps[1:])
    errors = (0.5, *(0.05,) * (n - 1))
    mean = sum(s * e for s, e in zip(steps, errors, strict=True)) / sum(steps)
    held = replace(GOOD.held, steps=steps, candidate=errors)
    for told, wrong in (
        (mean, []),
        (sum(errors) / n, ["candidate.steering"]),
        (mean + 0.01, ["candidate.steering"]),
    ):
        found = contradictions(replace(GOOD, held=held, candidate=Imitation(told, 0.04)))
        assert [name for name in found if name.startswith("candidate")] == wrong
