"""Patterns of strangers: what is taken cannot take long, and means what PEFT means by it."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.model.peft_patterns import by_pattern, fault_of, is_target

NAMES = [
    f"model.language_model.layers.{layer}.{module}"
    for layer in (4, 14, 29)
    for module in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "altup.modality_router")
]


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        r".*\.layers\.(4|5)\.self_attn\.q_proj",
        r"layers\.\d+\.mlp\.(up|down)_proj",
        r".*(q_proj|o_proj)",
        r".*?layers\.[4567]\..*?(q_proj|o_proj)",
        "model.layers.4.self_attn.q_proj",
    ],
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert fault_of(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        "(.*)*x",
        "(q|.)+x",
        "(q_proj)?",
        ".*.*.*.*.*x",
        ".?" * 5,
        "(a|b)(a|b)(a|b)(a|b)(a|b)",
        "(?:a|b)(?:a|b)(?:a|b)(?:a|b)(?:a|b)",
        "a" * 301,
        "(",
        "[",
        7,
        None,
        "x{2}" * 5,
        "(?x:(.|.) *z)",
        "(?i)x",
        r"(.*)(.*)\2z",
    ],
)
def test_what_may_take_long_or_is_no_pattern_is_not(pattern: object) -> None:
    assert fault_of(pattern)


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="qo_.*+?()|{}[]\\dprojx35: ", max_size=300))
def test_whatever_is_taken_matches_every_name_in_no_time(pattern: str) -> None:
    if fault_of(pattern):
        return
    began = time.perf_counter()
    for name in (*NAMES, "x" * 80, "q_proj." * 12):
        re.match(rf"(.*\.)?({pattern})$", name)
        re.fullmatch(pattern, name)
    assert time.perf_counter() - began < 1.0


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.sampled_from([r".*\.(q_proj|o_proj)", r".*mlp.*", "q_proj", r".*layers\.4\..*"]),
        st.lists(st.sampled_from(["q_proj", "up_proj", "mlp.up_proj", "proj", *NAMES]), max_size=4),
    ),
    st.sampled_from(NAMES),
)
def test_targets_are_those_that_peft_takes(targets: str | list[str], module: str) -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists

    config = peft.LoraConfig(target_modules=targets)
    assert is_target(targets, module) is bool(check_target_module_exists(config, module))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["q_proj", r"layers\.4\..*", "mlp.up_proj", ".*o_proj", "proj", "^model.*"]),
        st.integers(1, 9),
        max_size=4,
    ),
    st.sampled_from(NAMES),
)
def test_the_value_of_a_pattern_is_the_one_that_peft_takes(patterns: dict[str, int], module: str) -> None:
    pytest.importorskip("peft")
    from peft.utils.other import get_pattern_key

    key = get_pattern_key(patterns.keys(), module)
    assert by_pattern(patterns, module, 8) == patterns.get(key, 8)
