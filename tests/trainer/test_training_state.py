"""Claims about a training job that was interrupted: it goes on where it was, and never with what is not its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from continuonbrain.policy.prompt import PromptLayout  # noqa: E402
from continuonbrain.trainer import steps  # noqa: E402
from continuonbrain.trainer.dataset import Samples  # noqa: E402
from continuonbrain.trainer.job import train_adapter  # noqa: E402
from continuonbrain.trainer.pool import Pool  # noqa: E402
from continuonbrain.trainer.steps import Progress, Save  # noqa: E402
from continuonbrain.trainer.training_state import TrainingState, forget_state  # noqa: E402
from tests.trainer.quick_job import BASE_SHA256, QUICK, Train  # noqa: E402

if TYPE_CHECKING:
    from continuonbrain.model.driving import DrivingModel


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
