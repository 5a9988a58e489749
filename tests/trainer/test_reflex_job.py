"""Claims about teaching a reflex head: it learns, repeats itself, keeps its probes, and ends where it must."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.reflex import INTENT, REFLEX_FILE, Reflex, ReflexError
from continuonbrain.trainer import reflex_job
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.look import Look, unwatched
from continuonbrain.trainer.pool import Pool
from continuonbrain.trainer.reflex_job import ReflexSettings, TaughtReflex, teach_reflex
from continuonbrain.trainer.steps import Progress

START = (tiny_base_folder() / REFLEX_FILE).read_bytes()


def meant(instructions: Sequence[str], _look: Look = unwatched) -> Any:
    return np.zeros((len(instructions), INTENT), np.float32)


def taught(samples: Samples, settings: ReflexSettings, start: bytes = START, **more: Any) -> TaughtReflex:
    pool = Pool([samples], np.arange(len(samples)))
    chances = np.full(len(samples), 1 / len(samples))
    return teach_reflex(start, pool, chances, meant, settings, **more)


def error(data: bytes, samples: Samples) -> float:
    found = Reflex(data).curvatures(samples.frames, meant(samples.instructions))
    known = samples.weights[:, :8] > 0
    return float(np.abs(found - samples.curvature)[known].mean())


def test_it_learns_what_is_new_and_keeps_its_probes(recorded: Samples) -> None:
    told: list[Progress] = []
    result = taught(recorded, ReflexSettings(max_steps=60, batch_size=24), on_progress=told.append)
    assert (result.ended, len(result.losses)) == ("steps", 60)
    assert error(result.data, recorded) < 0.6 * error(START, recorded)
    assert np.array_equal(Reflex(result.data).probes, Reflex(START).probes)
    assert {p.phase for p in told} == {"reflex"}
    assert told[-1].step == told[-1].steps == 60


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(recorded: Samples) -> None:
    settings = ReflexSettings(max_steps=3, batch_size=8, max_wall_time_s=60)
    once = taught(recorded, settings).data
    assert taught(recorded, settings).data == once
    assert (
        taught(recorded, ReflexSettings(max_steps=3, batch_size=8, max_wall_time_s=60, seed=1)).data != once
    )


def test_the_clock_ends_it_and_no_time_at_all_leaves_no_head(recorded: Samples) -> None:
    assert (
        taught(recorded, ReflexSettings(max_steps=10**6, batch_size=8, max_wall_time_s=0.5)).ended
        == "wall time"
    )
    nothing = taught(recorded, ReflexSettings(max_wall_time_s=0.0))
    assert (nothing.data, nothing.losses) == (b"", [])


@pytest.mark.parametrize("gate_closed", [False, True])
def test_a_slow_machine_leaves_time_for_steps_after_it_knows_what_is_meant(
    recorded: Samples, monkeypatch: pytest.MonkeyPatch, gate_closed: bool
) -> None:
    """Learning what is meant takes longer than all of the stage, or a gate closes meanwhile."""
    late_s = 0.0

    def intents(instructions: Sequence[str], look: Look) -> Any:
        nonlocal late_s
        if not gate_closed:
            late_s += 100.0
        look()
        return meant(instructions)

    def wait(_save: Any) -> float:
        nonlocal late_s
        late_s += 100.0 if gate_closed and not late_s else 0.0
        return 100.0 if gate_closed else 0.0

    real = reflex_job.time.monotonic
    monkeypatch.setattr(reflex_job, "time", SimpleNamespace(monotonic=lambda: real() + late_s))
    pool, chances = Pool([recorded], np.arange(len(recorded))), np.full(len(recorded), 1 / len(recorded))
    settings = ReflexSettings(max_steps=2, batch_size=8, max_wall_time_s=60)
    result = teach_reflex(START, pool, chances, intents, settings, wait_until_allowed=wait)
    assert (result.ended, len(result.losses)) == ("steps", 2)
    assert result.data


def test_labels_that_nobody_knows_teach_nothing(recorded: Samples) -> None:
    from dataclasses import replace

    blind = replace(
        recorded, weights=np.zeros_like(recorded.weights), curvature=np.full_like(recorded.curvature, 9.0)
    )
    result = taught(blind, ReflexSettings(max_steps=5, batch_size=8))
    assert max(result.losses) == 0.0


def test_a_closed_gate_holds_it_still_and_costs_no_time_of_its_own(recorded: Samples) -> None:
    waits: list[float] = []

    def wait(_save: Any) -> float:
        waits.append(100.0)
        return 100.0  # seconds that passed at the gate

    result = taught(recorded, ReflexSettings(max_steps=4, batch_size=8), wait_until_allowed=wait)
    assert result.ended == "steps"
    assert len(waits) == 4


def test_it_does_not_start_from_garbage(recorded: Samples) -> None:
    with pytest.raises(ReflexError):
        taught(recorded, ReflexSettings(), START[:1000])


def test_numbers_that_are_none_end_it_with_the_head_it_had(recorded: Samples) -> None:
    from dataclasses import replace

    wild = replace(recorded, curvature=np.full_like(recorded.curvature, np.nan))
    result = taught(wild, ReflexSettings(max_steps=5, batch_size=8))
    assert (result.data, result.ended) == (b"", "loss not finite")


def test_what_is_meant_decides_where_the_picture_does_not(recorded: Samples) -> None:
    """Left and right of the same pictures: a head that does not listen cannot tell them apart."""
    from dataclasses import replace

    half = recorded.select(np.arange(48))
    sides = [
        replace(half, instructions=[name] * 48, curvature=np.full_like(half.curvature, bend))
        for name, bend in (("left", 0.8), ("right", -0.8))
    ]

    def side(instructions: Sequence[str], _look: Look = unwatched) -> Any:
        signs = np.array([1.0 if i == "left" else -1.0 for i in instructions], np.float32)
        return np.repeat(signs[:, None], INTENT, 1)

    pool = Pool(sides, np.arange(96))
    result = teach_reflex(
        START,
        pool,
        np.full(96, 1 / 96),
        side,
        ReflexSettings(max_steps=40, batch_size=24, max_wall_time_s=60),
    )
    head = Reflex(result.data)
    left = head.curvatures(half.frames, side(["left"] * 48))
    right = head.curvatures(half.frames, side(["right"] * 48))
    assert (left - right).mean() > 1.0


def test_only_what_may_be_drawn_is_learned(recorded: Samples) -> None:
    from dataclasses import replace

    wild = replace(recorded.select(np.arange(10)), curvature=np.full((10, 8), np.nan, np.float32))
    pool = Pool([wild, recorded], np.arange(10 + len(recorded)))
    chances = np.concatenate([np.zeros(10), np.full(len(recorded), 1 / len(recorded))])
    result = teach_reflex(START, pool, chances, meant, ReflexSettings(max_steps=5, batch_size=16))
    assert result.ended == "steps"


def test_near_knots_count_more_than_far_ones() -> None:
    import torch

    from continuonbrain.trainer.reflex_job import curvature_loss

    def loss(knot: int) -> float:
        found = torch.zeros(1, 8)
        found[0, knot] = 0.5
        return float(curvature_loss(found, torch.zeros(1, 8), torch.ones(1, 8)))

    losses = [loss(k) for k in range(8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 3 * losses[-1]
