"""Claims about the training job: it learns, it is repeatable, and what it is given is what it learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from continuonbrain.policy.prompt import PromptLayout  # noqa: E402
from continuonbrain.trainer.dataset import Samples  # noqa: E402
from continuonbrain.trainer.job import train_adapter  # noqa: E402
from continuonbrain.trainer.steps import JobResult, Progress  # noqa: E402
from tests.trainer.quick_job import BASE_SHA256, QUICK, Train, all_finite  # noqa: E402

if TYPE_CHECKING:
    from continuonbrain.model.driving import DrivingModel


def test_the_loss_falls_on_a_random_base(train: Train) -> None:
    # Random features say little, so LoRA above them learns slowly: a rank and steps enough for a clear fall.
    result = train(max_steps=120, batch_size=16, learning_rate=1e-2, rank=16, alpha=32.0, mirror=False)
    assert result.ended == "steps"
    assert result.steps == len(result.losses) == 120
    assert np.mean(result.losses[-10:]) < 0.9 * np.mean(result.losses[:5])
    assert all_finite(result)
    assert result.trainable_parameters > 0
    assert result.peak_rss_mib > 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(train: Train) -> None:
    first, again, other = train(seed=3), train(seed=3), train(seed=4)
    assert first.files == again.files
    assert first.losses == again.losses
    assert first.files["adapter_model.safetensors"] != other.files["adapter_model.safetensors"]


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_any_number_of_steps_runs_to_its_end(train: Train, steps: int) -> None:
    """Ten used to divide by zero: a warm-up of exactly one step."""
    result = train(max_steps=steps, batch_size=1)
    assert (result.steps, result.ended) == (steps, "steps")


def test_the_base_is_not_touched(train: Train, untrained_model: Callable[..., DrivingModel]) -> None:
    model, clean = untrained_model(), untrained_model()
    train(model=model)
    model.language_model = model.language_model.unload()
    for (name, a), (other, b) in zip(model.named_parameters(), clean.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


def test_progress_tells_of_caching_then_of_every_step(train: Train) -> None:
    seen: list[Progress] = []
    result = train(on_progress=seen.append)
    phases = [p.phase for p in seen]
    assert phases == sorted(phases)  # "cache" before "train"
    cached = [p for p in seen if p.phase == "cache"]
    assert cached[-1].step == cached[-1].steps == result.samples
    assert [(p.step, p.loss) for p in seen if p.phase == "train"] == list(enumerate(result.losses, 1))


def test_replay_is_part_of_what_is_trained_on_and_keeps_the_job_repeatable(
    untrained_model: Callable[..., DrivingModel], prompt_layout: PromptLayout, recorded: Samples
) -> None:
    lessons, known = recorded.select(np.arange(32)), recorded.select(np.arange(64, 96))

    def run(replay: Samples | None, share: float = 0.34) -> JobResult:
        settings = replace(QUICK, replay_share=share)
        return train_adapter(
            untrained_model(), prompt_layout, lessons, settings, base_sha256=BASE_SHA256, replay=replay
        )

    assert run(known).files == run(known).files
    assert run(known).files != run(None).files
    assert run(known, share=0.0).files == run(None).files


def test_what_was_kept_while_acting_spares_the_pass_and_teaches_the_same(
    train: Train,
    untrained_model: Callable[..., DrivingModel],
    prompt_layout: PromptLayout,
    recorded: Samples,
) -> None:
    model, samples = untrained_model(), recorded.select(np.arange(0, 96, 2))
    ids = prompt_layout.ids(samples.instructions, samples.speeds)
    with torch.inference_mode():
        streams = model.encode(torch.from_numpy(ids), torch.from_numpy(samples.frames)).split()
    # Episodes of the fleet all begin at time 0: the frame tells them apart, as in the real cache.
    row_of = {
        (int(t), ids[i].tobytes(), samples.frames[i].tobytes()): i for i, t in enumerate(samples.stamps)
    }
    asked = []

    def recall(stamp: int, tokens: Any, frame: Any) -> Any:
        row = row_of.get((stamp, tokens.tobytes(), frame.tobytes()))
        asked.append(row)
        return None if row is None or row % 3 == 0 else streams[row]

    with_cache = train(recall=recall)
    without = train()
    assert with_cache.recalled == sum(r is not None and r % 3 != 0 for r in asked) > 20
    assert without.recalled == 0
    assert with_cache.losses == pytest.approx(without.losses, rel=1e-4)
