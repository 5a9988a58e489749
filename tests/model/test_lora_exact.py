"""Cached-suffix LoRA gives PEFT's gradients, also for ragged, padded, windowed and image batches of both families.

A few cases of `python -m benchmarks.lora_exact`, which holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from benchmarks.lora_exact import CASES, CONTROL, CONTROLS, GOAL, fp64_all_the_way, relative_error

SOME = (
    "gemma3n 10/5 window 16 pad left",
    "plus one, window 16 pad right",
    "every module that can carry LoRA",
    "weight-decomposed (DoRA)",
    "images, pad left",
    "gemma4 10/5 window 16 pad right",
    "gemma4, plus one",
)


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with fp64_all_the_way():
        yield


@pytest.mark.parametrize("name", SOME)
def test_every_gradient_is_that_of_peft(name: str) -> None:
    (case,) = (c for c in CASES if c.name == name)
    assert relative_error(case) <= GOAL


@pytest.mark.parametrize("case", CONTROLS, ids=lambda c: c.name)
def test_what_must_not_be_trained_this_way_is_found_wrong(case: object) -> None:
    assert relative_error(case) > CONTROL  # type: ignore[arg-type]
