"""The language graphs of the talking base: what is read once is not read again, and nothing half read is believed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from continuonbrain.errors import BrainError
from continuonbrain.model.serving.known_answer import check_known_words, live_words
from continuonbrain.model.serving.spec import SPEC_FILE
from continuonbrain.model.serving.words import Words
from continuonbrain.policy.litert_words import LiteRTWords

BASE = Path(__file__).parents[1] / "talking_base" / "base"
BUNDLE = BASE / "language" / "fp32"


@pytest.fixture
def words() -> Words:
    return Words(BUNDLE, BASE)


def ids(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, 60, count)]


def steps_of(words: Words, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(graph, first place) of every step from now on."""
    seen: list[tuple[str, int]] = []
    real = Words._step

    def step(self: Words, graph: str, tokens: Any, start: int) -> None:
        seen.append((graph, start))
        real(self, graph, tokens, start)

    monkeypatch.setattr(Words, "_step", step)
    return seen


def test_of_a_longer_conversation_only_what_is_new_is_read(
    words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ids(40)
    words.logits(read)
    seen = steps_of(words, monkeypatch)
    words.logits([*read, 7])
    assert seen == [("next", 40)]
    seen.clear()
    words.logits([*read, 7, 8, 9])  # two more to read, then one to answer
    assert seen == [("prefill", 41), ("next", 42)]
    seen.clear()
    words.logits([*read[:10], 5, 6])  # they part at the eleventh
    assert seen == [("prefill", 10), ("next", 11)]


def test_what_broke_off_while_it_was_read_is_read_again(
    words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ids(40), ids(20, seed=1) + ids(20, seed=2)
    right = Words(BUNDLE, BASE).logits(first)
    words.logits(first)
    runs = 0
    real = words._run.run

    def breaks(*arguments: Any) -> None:
        nonlocal runs
        runs += 1
        real(*arguments)
        if runs == 1:
            raise RuntimeError("the engine broke off")

    monkeypatch.setattr(words._run, "run", breaks)
    with pytest.raises(RuntimeError, match="broke off"):
        words.logits(second)
    assert np.array_equal(words.logits(first), right)


@pytest.mark.parametrize("change", [lambda n: 2 * n, lambda n: n + 1, lambda n: 2**31])
def test_a_number_in_bundle_json_that_is_not_the_graphs_is_refused(
    tmp_path: Path,
    with_other_numbers: Callable[[Path, Callable[[float], float]], Iterator[tuple[str | int, ...]]],
    change: Callable[[float], float],
) -> None:
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle")
    for place in with_other_numbers(bundle / SPEC_FILE, change):
        if place[0] == "end" and change(0) < 2**31:
            continue  # another token that the base has ends answers elsewhere, and nothing else
        try:
            LiteRTWords(BASE, bundle)
        except BrainError:
            continue
        pytest.fail(f"{place} was not looked at")


def test_a_module_of_words_whose_inputs_reach_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = Words(BUNDLE.with_name("int8"), BASE)
    site = next(s for s in int8.spec.lora.sites if s.endswith("q_proj"))
    real = Words.adapter

    def dead(self: Words, inputs: dict[str, Any]) -> object:
        key = site.replace(".", "_")
        gone = {n: np.zeros_like(v) if n.startswith(f"{key}_") else v for n, v in inputs.items()}
        return real(self, gone)

    check_known_words(BUNDLE.with_name("int8"), int8)
    monkeypatch.setattr(Words, "adapter", dead)
    with pytest.raises(BrainError, match=rf"inputs of {site} change nothing"):
        live_words(BUNDLE.with_name("int8"), int8)


def test_the_whole_context_can_be_asked_and_not_a_token_more(words: Words) -> None:
    assert words.logits(ids(words.spec.context)).shape == (words.spec.vocabulary,)
    with pytest.raises(ValueError, match="holds 1 to"):
        words.logits(ids(words.spec.context + 1))
    with pytest.raises(ValueError, match="token ids"):
        words.logits([1, words.spec.vocabulary])
