"""What is drawn, and how often: lessons, their mirror image, and what must not be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("torch")

from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.pool import mix


@dataclass(frozen=True)
class Mix:
    mirror: bool = False
    balance: bool = False
    replay_share: float = 0.25


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("balance", [False, True])
def test_replay_is_drawn_as_often_as_was_asked_whatever_the_numbers(
    recorded: Samples, mirror: bool, balance: bool
) -> None:
    lessons, replay = recorded.select(np.arange(40)), recorded.select(np.arange(50, 55))
    settings = Mix(mirror, balance)
    pool, chances = mix(lessons, replay, settings, np.random.default_rng(0))
    assert len(pool) == len(chances) == 40 * (1 + mirror) + 5
    assert chances.sum() == pytest.approx(1.0)
    # The same draw without an order tells which are replay: the last part.
    order = np.random.default_rng(0).permutation(len(chances))
    assert chances[order >= len(chances) - 5].sum() == pytest.approx(0.25)
    alone, of_alone = mix(lessons, None, settings, np.random.default_rng(0))
    assert len(alone) == 40 * (1 + mirror)
    assert of_alone.sum() == pytest.approx(1.0)
