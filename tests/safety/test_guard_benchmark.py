"""The benchmark of the guard: nothing unsafe comes out, and its check would see it if it did."""

from __future__ import annotations

import math
import random

from benchmarks.guards import JERKY, PLAIN, breaks_a_rule, count_violations, hostile, unguarded
from continuonbrain.safety.guards import Guarded


def test_hostile_inputs_break_no_rule_and_the_check_can_fail() -> None:
    for limits in (JERKY, PLAIN):
        broken, explained = count_violations(limits, 3000, seed=1)
        assert broken == 0
        assert explained > 1000
        assert count_violations(limits, 3000, seed=1, step=unguarded)[0] > 1000


def test_each_rule_of_the_check_can_fail() -> None:
    rest = Guarded(0.0, 0.0, (), False)
    for wrong in (
        Guarded(math.nan, 0.0, (), False),
        Guarded(0.9, 0.0, (), False),
        Guarded(0.0, 0.6, (), False),
        Guarded(0.0, 0.49, (), False),
        Guarded(0.79, 0.0, (), False),
        Guarded(0.25, 0.0, (), False),
        Guarded(0.0, 0.0, ("no_path",), False),
        Guarded(0.0, 0.0, (), True),
        Guarded(0.0, 0.1, ("no_path",), True),
    ):
        assert breaks_a_rule(rest, wrong, JERKY, 0.05, 0.0), wrong
    assert not breaks_a_rule(rest, rest, JERKY, 0.05, 0.0)


def test_hostile_inputs_are_the_same_for_the_same_seed() -> None:
    def made() -> list[str]:
        rng = random.Random(5)
        return [repr(hostile(rng, 1.0)["proposed"]) for _ in range(20)]

    assert made() == made()
