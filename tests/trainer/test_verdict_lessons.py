"""Claims about the verdict on a consolidation: it needs no gain, and must have forgotten no lesson."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import CONSOLIDATED, LESSONS, exam, spread


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
