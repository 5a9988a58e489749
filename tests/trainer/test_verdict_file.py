"""Claims about the verdict's file: it names every number, threshold and hash, and the make of the rules."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from continuonbrain.storage.promotion_rule import VERDICT_VERSION, promotion_refusal
from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import GOOD


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
