"""Claims about the training job: it learns, it is repeatable, it stays inside its bounds, it ends well."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load as load_tensors  # noqa: E402

from continuonbrain.policy.prompt import PromptLayout  # noqa: E402
from continuonbrain.trainer import job, steps  # noqa: E402
from continuonbrain.trainer.dataset import Samples  # noqa: E402
from continuonbrain.trainer.job import JobSettings, train_adapter  # noqa: E402
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets  # noqa: E402
from continuonbrain.trainer.pool import Pool, Recall  # noqa: E402
from continuonbrain.trainer.steps import JobResult, Progress, Save  # noqa: E402
from continuonbrain.trainer.training_state import TrainingState, forget_state  # noqa: E402

if TYPE_CHECKING:
    from continuonbrain.model.driving import DrivingModel

BASE_SHA256 = "ba5e" * 16
QUICK = JobSettings(rank=2, alpha=4.0, batch_size=8, max_steps=6, max_wall_time_s=1e9)
Train = Callable[..., JobResult]


@pytest.fixture
def train(
    untrained_model: Callable[..., DrivingModel], prompt_layout: PromptLayout, recorded: Samples
) -> Train:
    """train(**settings) on 48 recorded samples and a fresh random base."""
    samples = recorded.select(np.arange(0, 96, 2))

    def run(
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        wait_until_allowed: Callable[[Save], float] = lambda _save: 0.0,
        state_path: Path | None = None,
        recall: Recall | None = None,
        model: DrivingModel | None = None,
        **settings: Any,
    ) -> JobResult:
        return train_adapter(
            model or untrained_model(),
            prompt_layout,
            samples,
            replace(QUICK, **settings),
            base_sha256=BASE_SHA256,
            on_progress=on_progress,
            wait_until_allowed=wait_until_allowed,
            state_path=state_path,
            recall=recall,
        )

    return run


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (job, steps):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def all_finite(result: JobResult) -> bool:
    tensors = load_tensors(result.files["adapter_model.safetensors"])
    return bool(tensors) and all(bool(torch.isfinite(t).all()) for t in tensors.values())


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


def test_the_job_ends_when_its_time_is_up(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = train(
        max_steps=100,
        max_wall_time_s=5.0,
        on_progress=lambda p: clock.passes(1.0 if p.phase == "train" else 0.0) and None,
    )
    assert result.ended == "wall time"
    assert result.steps == 6  # the one that was running when the time ended is finished
    assert all_finite(result)


def test_time_that_ends_while_caching_ends_the_job_there(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    result = train(max_wall_time_s=5.0, on_progress=lambda p: clock.passes(6.0) and None)
    assert (result.ended, result.steps, result.losses, result.files) == ("wall time", 0, [], {})


def test_a_pause_at_a_closed_gate_costs_neither_steps_nor_learning_rate(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    calls = []

    def closed_for_an_hour(_save: Save) -> float:
        calls.append(clock.now)
        return clock.passes(3600.0)

    paused = train(max_wall_time_s=5.0, wait_until_allowed=closed_for_an_hour)
    assert paused.ended == "steps"
    assert len(calls) >= paused.steps + 1  # before every step, and while caching
    straight = train(max_wall_time_s=5.0)
    assert paused.files == straight.files


def test_a_pause_that_raises_ends_the_job_with_nothing(train: Train) -> None:
    def stop(_save: Save) -> float:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        train(wait_until_allowed=stop)


def spoil(monkeypatch: pytest.MonkeyPatch, at_step: int, how: Callable[[Any, Any], Any]) -> None:
    calls = 0

    def spoiled(logits: Any, targets: Any, weights: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = action_loss(logits, targets, weights)
        return how(loss, logits) if calls > at_step else loss

    monkeypatch.setattr(job, "action_loss", spoiled)


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


def test_knots_without_weight_teach_nothing(prompt_layout: PromptLayout, recorded: Samples) -> None:
    samples = recorded.select(np.arange(4))
    logits = torch.randn(4, 10, prompt_layout.vocabulary, requires_grad=True)
    weights = torch.from_numpy(samples.weights) * query_weights()
    weights[:, 7] = 0.0
    targets = soft_targets(prompt_layout, samples.curvature, samples.speed_ahead)
    assert torch.allclose(targets.sum(-1), torch.ones(4, 10))
    action_loss(logits, targets, weights).backward()
    assert logits.grad is not None
    assert not logits.grad[:, 7].any()
    assert logits.grad[:, 1].any()


def test_a_perfect_answer_has_the_least_loss(prompt_layout: PromptLayout, recorded: Samples) -> None:
    samples = recorded.select(np.arange(4))
    targets = soft_targets(prompt_layout, samples.curvature, samples.speed_ahead)
    right = torch.log(targets + 1e-9)
    wrong = torch.log(soft_targets(prompt_layout, samples.curvature + 0.5, samples.speed_ahead) + 1e-9)
    assert action_loss(right, targets, query_weights()) < action_loss(wrong, targets, query_weights())


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


class Interrupted(Exception):
    """Stands for a SIGTERM."""


@pytest.mark.parametrize("at_step", [0, 7])
def test_an_interrupted_job_ends_with_the_bytes_of_one_that_was_not(
    train: Train, tmp_path: Path, at_step: int
) -> None:
    path = tmp_path / "state" / "job.safetensors"
    settings = {"max_steps": 20, "seed": 5, "weight_decay": 0.01}
    steps = 0

    def count(p: Progress) -> None:
        nonlocal steps
        steps += p.phase == "train"

    def stop(save: Save) -> float:
        if steps == at_step and caching.count("train"):
            save()
            raise Interrupted
        return 0.0

    caching: list[str] = []

    def watch(p: Progress) -> None:
        count(p)
        if p.phase == "cache" and p.step == p.steps:
            caching.append("train")

    with pytest.raises(Interrupted):
        train(on_progress=watch, wait_until_allowed=stop, state_path=path, **settings)
    assert path.exists() == (at_step > 0)  # before the first step there is nothing to put down
    torch.manual_seed(999)  # whatever else happened in between
    resumed = train(state_path=path, **settings)
    straight = train(**settings)
    assert resumed.losses == straight.losses
    assert resumed.files == straight.files
    assert resumed.resumed_at == at_step
    # The adapter may be lost before it is safe: asked once more, the job gives it without a step.
    again = train(state_path=path, **settings)
    assert (again.resumed_at, again.files) == (20, straight.files)
    assert again.train_s == pytest.approx(resumed.train_s, rel=0.1)  # what its steps took, whenever that was
    forget_state(path)
    forget_state(path)
    assert not path.exists()


def test_a_job_puts_itself_on_disk_now_and_then_so_that_a_power_cut_costs_little(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.safetensors"

    def cut(p: Progress) -> None:
        if p.phase == "train" and p.step == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(on_progress=cut, state_path=path)
    assert not path.exists()  # half a minute has not passed
    monkeypatch.setattr(steps, "_SAVE_EVERY_S", 0.0)
    with pytest.raises(Interrupted):
        train(on_progress=cut, state_path=path)
    assert train(state_path=path).resumed_at == 4


def interrupt_at(train: Train, path: Path, step: int, **settings: Any) -> None:
    """Put a job down before this step."""
    asked = 0

    def stop(save: Save) -> float:
        nonlocal asked
        before = path.exists()
        save()
        if not path.exists():
            return 0.0  # while caching there is nothing to put down
        asked += 1
        if asked > step:
            raise Interrupted
        if not before:
            path.unlink()
        return 0.0

    with pytest.raises(Interrupted):
        train(wait_until_allowed=stop, state_path=path, **settings)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "not a state": lambda path: path.write_bytes(b"\x00" * 64),
    "one bit of a number": lambda path: flip(path, path.stat().st_size // 2),
    "one bit of the paper": lambda path: flip(path, 200),
    "one bit of the digest": lambda path: flip(path, 3),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_not_gone_on_with(train: Train, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "job.safetensors"
    interrupt_at(train, path, 3)
    DAMAGES[damage](path)
    result = train(state_path=path)
    assert result.resumed_at == 0
    assert result.files == train().files


def test_a_state_of_another_job_is_not_gone_on_with(
    train: Train,
    untrained_model: Callable[..., DrivingModel],
    prompt_layout: PromptLayout,
    recorded: Samples,
    tmp_path: Path,
) -> None:
    path = tmp_path / "job.safetensors"
    interrupt_at(train, path, 3)
    state = path.read_bytes()
    samples = recorded.select(np.arange(0, 96, 2))

    def resumed(samples: Samples, base: str, **settings: Any) -> int:
        path.write_bytes(state)
        given = replace(QUICK, **settings)
        model = untrained_model()
        return train_adapter(
            model, prompt_layout, samples, given, base_sha256=base, state_path=path
        ).resumed_at

    assert resumed(samples, BASE_SHA256) == 3
    assert resumed(samples, "another base") == 0
    assert resumed(samples, BASE_SHA256, learning_rate=1e-4) == 0
    assert resumed(recorded.select(np.arange(1, 97, 2)), BASE_SHA256) == 0


def test_a_state_whose_streams_changed_meanwhile_is_not_gone_on_with(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.safetensors"
    interrupt_at(train, path, 3)
    grey = np.full((64, 120, 160, 3), 9, np.uint8)
    monkeypatch.setattr(Pool, "frames", lambda _pool, rows: grey[: rows.stop - rows.start])
    assert train(state_path=path).resumed_at == 0


@pytest.mark.parametrize("obstacle", ["a folder in its place", "a file as its folder"])
def test_a_state_that_cannot_be_written_costs_the_state_and_not_the_job(
    train: Train, tmp_path: Path, obstacle: str
) -> None:
    path = tmp_path / "state" / "job.safetensors"
    if obstacle == "a file as its folder":
        path.parent.write_text("")
    else:
        path.mkdir(parents=True)
        (path / "x").write_text("")
    result = train(state_path=path, wait_until_allowed=lambda save: save() or 0.0)
    assert result.ended == "steps"
    assert result.files == train().files
    forget_state(path)


def test_what_a_killed_save_left_is_cleared_by_the_next(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "job.safetensors"
    left = tmp_path / f".staging-deadbeef-{path.name}"
    left.write_bytes(b"half")
    interrupt_at(train, path, 1)
    assert not left.exists()


def test_the_memory_limit_ends_the_job_before_a_step(train: Train) -> None:
    result = train(max_memory_mib=256)  # torch alone takes more
    assert (result.ended, result.steps, result.files) == ("memory limit", 0, {})


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


def test_both_generators_go_on_where_they_were_when_the_step_began(tmp_path: Path) -> None:
    def fresh() -> TrainingState:
        parameter = torch.nn.Parameter(torch.zeros(2))
        return TrainingState(
            "job",
            {"p": parameter},
            torch.optim.AdamW([parameter]),
            np.random.default_rng(0),
            losses=[1.0],
            good=[torch.zeros(2)],
            samples=3,
            streams_sha256="",
            budget_s=1.0,
        )

    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = fresh()
        state.sampler.random(5)
        state.mark()
        expected = torch.rand(4), state.sampler.random(4)
        state.save(tmp_path / "job.state")  # in the middle of the step: its draws are drawn again
        torch.manual_seed(99)
        again = fresh()
        assert again.load(tmp_path / "job.state")
        assert torch.equal(torch.rand(4), expected[0])
        assert np.array_equal(again.sampler.random(4), expected[1])
