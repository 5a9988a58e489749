"""Which verdict promotes which bytes, and what the hash of an adapter is made of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.small_verdict import small_verdict
from continuonbrain.storage.adapters import BEHAVIOURAL_FILES, adapter_sha256, promotion_refusal
from continuonbrain.storage.content_hash import sha256_of_contents, sha256_of_files
from continuonbrain.storage.promotion_rule import (
    VERDICT_VERSION,
    failed_checks,
    refusal_remedy,
    rival_refusal,
)
from continuonbrain.trainer.checks import Check
from continuonbrain.trainer.evidence import Evidence
from continuonbrain.trainer.verdict import Verdict

SHA = "a1" * 32
BASE = "b2" * 32


def test_a_passing_verdict_for_these_bytes_on_this_base_promotes() -> None:
    verdict = small_verdict(SHA, BASE)
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal is None


def test_what_the_judge_writes_has_all_that_the_rule_asks_for() -> None:
    check = Check("completion", 1.0, 0.5, True, "drives")
    written = Verdict(True, "", (check,), Evidence(SHA, BASE, "", 0)).to_json()
    for verdict in (written, json.loads(json.dumps(written))):
        assert promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE) is None
        assert rival_refusal(verdict, candidate_sha256=SHA, current_sha256="") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"passed": False}, "did not pass"),
        ({"passed": 1}, "did not pass"),
        ({"passed": "true"}, "did not pass"),
        ({"passed": None}, "did not pass"),
        ({"candidate_sha256": None}, "other bytes"),
        ({"candidate_sha256": BASE}, "other bytes"),
        ({"candidate_sha256": SHA[:8]}, "other bytes"),
        ({"base_sha256": None}, "another base"),
        ({"base_sha256": SHA}, "another base"),
        *(
            ({"checks": checks}, "its checks do not")
            for checks in ([{"passed": True}, {"passed": False}], [{}], ["yes"], [{"passed": 1}])
        ),
        *(({"checks": checks}, "no checks") for checks in ([], None, {}, "all passed", 1)),
        *(
            ({"version": version}, "of version")
            for version in (1, 2, VERDICT_VERSION + 1, 0, True, 3.0, "3", None)
        ),
        ({"reason": "completion: 0.1"}, "why it did not"),
        ({"reason": None}, "why it did not"),
        *(({"evidence": value}, "no evidence") for value in (None, {}, [])),
        *(({"hashes": value}, "no hashes") for value in (None, {}, [])),
        ({"hashes": {"candidate": BASE, "base": BASE, "current": ""}}, "contradicts itself"),
        ({"hashes": {"candidate": SHA, "base": SHA, "current": ""}}, "contradicts itself"),
        *(
            ({"hashes": {"candidate": SHA, "base": BASE, "current": value}}, "judged against")
            for value in (None, 0, "base", SHA.upper(), SHA[:8])
        ),
    ],
)
def test_any_other_verdict_does_not(changes: dict[str, object], reason: str) -> None:
    verdict = small_verdict(SHA, BASE) | changes
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (None, "no verdict"),
        ({}, "did not pass"),
        (
            {"version": VERDICT_VERSION, "passed": True, "candidate_sha256": SHA, "base_sha256": BASE},
            "no checks",
        ),
        ({"passed": True, "candidate_sha256": SHA, "base_sha256": BASE}, "only shown"),
    ],
)
def test_a_verdict_that_is_hardly_one_does_not(verdict: dict[str, object] | None, reason: str) -> None:
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("judged_against", "drives", "refused"),
    [
        ("", "", None),
        ("c3" * 32, "c3" * 32, None),
        ("c3" * 32, "d4" * 32, "judged against c3c3c3c3, d4d4d4d4 drives now"),
        ("", "d4" * 32, "judged against the base alone, d4d4d4d4 drives now"),
        ("c3" * 32, "", "judged against c3c3c3c3, the base alone drives now"),
        ("c3" * 32, SHA, None),  # itself: a promotion that came about
    ],
)
def test_what_drives_now_must_be_what_the_candidate_was_found_better_than(
    judged_against: str, drives: str, refused: str | None
) -> None:
    verdict = small_verdict(SHA, BASE, judged_against)
    found = rival_refusal(verdict, candidate_sha256=SHA, current_sha256=drives)
    assert found == (refused and f"it was {refused}")


@given(st.dictionaries(st.sampled_from([*BEHAVIOURAL_FILES, "card.json"]), st.binary(max_size=50)))
def test_only_behavioural_files_count_for_the_hash(files: dict[str, bytes]) -> None:
    assert adapter_sha256(files) == adapter_sha256(files | {"verdict.json": b"{}"})
    changed = files | {"adapter_model.safetensors": files.get("adapter_model.safetensors", b"") + b"\0"}
    assert adapter_sha256(changed) != adapter_sha256(files)


def test_the_hash_keeps_names_and_contents_apart() -> None:
    assert sha256_of_contents({"ab": b"c"}) != sha256_of_contents({"a": b"bc"})
    assert sha256_of_contents({"a": b"", "b": b"x"}) != sha256_of_contents({"a": b"x", "b": b""})


def test_the_hash_is_the_same_in_memory_and_on_disk(tmp_path: Path) -> None:
    files = {"b": os.urandom(3 << 20), "a": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert sha256_of_files(tmp_path, ["b", "a"]) == sha256_of_contents(files)


def test_a_verdict_that_says_no_says_which_checks_failed() -> None:
    checks = [{"name": f"check_{i}", "passed": i % 2 == 0} for i in range(6)]
    verdict = small_verdict(SHA, BASE) | {"passed": False, "checks": checks}
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal == "its verdict says that it did not pass (failed: check_1, check_3, check_5)"
    many = [{"name": "x" * 100, "passed": False}] * 7
    assert failed_checks({"checks": many}) == f" (failed: {', '.join(['x' * 40] * 5)} and 2 more)"
    for strange in (None, [], "no", [1, None], [{"passed": True}]):
        assert failed_checks({"checks": strange}) == ""


def test_what_is_to_be_done_is_for_what_speaks_against_it() -> None:
    version, root = Path("/brain/versions/000001-aa"), Path("/brain")
    good = small_verdict(SHA, BASE)
    train = "continuonbrain train --root /brain"

    def remedy(verdict: dict[str, Any] | None, *, whole: bool = True, is_candidate: bool = True) -> str:
        return refusal_remedy(verdict, version, root=root, whole=whole, is_candidate=is_candidate)

    judging = f"have it judged beside what drives now: {train}"
    assert remedy(None) == remedy(good | {"version": 2}) == judging
    again = f"train another one: {train} --again"
    assert remedy(None, is_candidate=False) == remedy(good) == again  # of another base, say
    no = remedy(good | {"passed": False})
    assert "continuonbrain adapters show 000001-aa --full --root /brain" in no
    assert "/brain/versions/000001-aa/verdict.json" in no
    assert remedy(good, whole=False).startswith("do not use it")
