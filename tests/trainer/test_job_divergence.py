"""Claims about a training job that goes wrong: it ends with the last good adapter, and no number that is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from continuonbrain.trainer import steps  # noqa: E402
from tests.trainer.quick_job import Train, all_finite, spoil  # noqa: E402


def test_a_loss_that_is_not_finite_ends_with_the_last_good_adapter(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 3, lambda loss, _logits: loss * math.nan)
    result = train()
    assert result.ended == "loss not finite"
    assert result.steps == 3
    assert all_finite(result)


def test_a_gradient_that_is_not_finite_never_reaches_the_adapter(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The square root of zero has a finite value and an infinite slope.
    spoil(monkeypatch, 5, lambda loss, logits: loss + (logits * 0).sum().sqrt())
    result = train()
    assert result.ended == "gradient not finite"
    assert result.steps == 5
    assert all_finite(result)
    assert all(math.isfinite(x) for x in result.losses)


def test_a_loss_that_explodes_ends_with_the_last_good_adapter(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 14, lambda loss, _logits: loss * 30)
    result = train(max_steps=30)
    assert result.ended == "loss exploded"
    assert result.steps == 14
    assert max(result.losses) < 2 * np.mean(result.losses[:10])
    assert all_finite(result)


@pytest.mark.parametrize("steps_asked", [1, 3])
def test_a_last_step_that_leaves_no_numbers_is_taken_back(
    train: Train, monkeypatch: pytest.MonkeyPatch, steps_asked: int
) -> None:
    done = 0
    real = torch.optim.AdamW.step

    def step(self: Any, *rest: Any) -> Any:
        nonlocal done
        out = real(self, *rest)
        done += 1
        if done == steps_asked:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(math.inf)
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    result = train(max_steps=steps_asked)
    assert (result.ended, result.steps) == ("adapter not finite", steps_asked)
    assert all_finite(result)


@pytest.mark.parametrize(
    ("losses", "at"),
    [
        ([1.0] * 5 + [30.0] * 20, 5),  # at once, and among the first ten
        ([1.35, 1.71, 2.82, 5.79, 6.14, 6.0, 6.0, 6.0], 5),
        ([1.0] * 14 + [3.1], 14),  # batches that hardly differ
        ([1.0, 1.2, 0.8] * 5 + [2.3] * 20, 21),  # slowly: eight that are too high on average
        # One sample a step, of a sound run: what differs is the samples.
        (
            [
                4.0,
                1.8,
                2.9,
                0.7,
                3.9,
                5.1,
                3.3,
                0.9,
                1.7,
                1.2,
                0.9,
                1.1,
                6.7,
                0.4,
                0.9,
                2.4,
                4.8,
                1.2,
                3.9,
                0.8,
            ],
            None,
        ),
        ([0.66, 1.3, 0.5, 2.84, 0.9, 3.1, 1.2, 0.8, 0.6, 1.2, 2.84, 0.7, 3.2, 1.1], None),
        ([9.0, 7.0, 8.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.3], None),  # learns by heart
        (
            [1.0, 1.6, 0.7, 1.9, 1.1, 0.8, 1.5, 1.2, 0.9, 1.4, 1.7, 1.8, 0.6],
            None,
        ),  # hard batches and easy ones
        ([2.0], None),
    ],
)
def test_an_explosion_is_seen_whenever_it_comes(losses: list[float], at: int | None) -> None:
    seen = next((i for i, value in enumerate(losses) if steps.exploded(losses[:i], value)), None)
    assert seen == at


def test_the_last_good_adapter_is_the_one_of_the_last_snapshot(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A gradient that is not finite leaves the parameters as they are: of twenty steps, the snapshot's.
    spoil(monkeypatch, 20, lambda loss, logits: loss + (logits * 0).sum().sqrt())
    twenty = train(max_steps=30)
    assert (twenty.ended, twenty.steps) == ("gradient not finite", 20)
    for how, why in (
        (lambda loss, _: loss * 30, "loss exploded"),
        (lambda loss, _: loss * math.nan, "loss not finite"),
    ):
        monkeypatch.undo()
        spoil(monkeypatch, 25, how)
        broken = train(max_steps=30)
        assert (broken.ended, broken.steps) == (why, 25)
        assert broken.files == twenty.files
    monkeypatch.undo()
    spoil(monkeypatch, 25, lambda loss, logits: loss + (logits * 0).sum().sqrt())
    assert train(max_steps=30).files != twenty.files
