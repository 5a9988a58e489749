"""Training a checkpoint on disk by its two halves: it learns, resumes to the bit, and says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import PeftModel  # noqa: E402
from safetensors.torch import load as load_tensors  # noqa: E402
from safetensors.torch import save as save_tensors  # noqa: E402

from benchmarks.e2b_shapes import write_checkpoint  # noqa: E402
from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.model.checkpoint import CheckpointError  # noqa: E402
from continuonbrain.model.lora import LoraError  # noqa: E402
from continuonbrain.model.phases import Precision, load_top  # noqa: E402
from continuonbrain.storage.lock import LockHeldError  # noqa: E402
from continuonbrain.trainer.language_job import train_language  # noqa: E402
from continuonbrain.trainer.steps import JobResult, Progress, Save  # noqa: E402
from continuonbrain.trainer.token_samples import LanguageSettings, TokenSample  # noqa: E402

BASE = "ba5e" * 16
QUICK = LanguageSettings(rank=4, batch_size=5, part=2, max_steps=6, learning_rate=1e-2, seed=3)


def tokens(count: int, seed: int) -> tuple[int, ...]:
    drawn = torch.randint(3, 4000, (count,), generator=torch.Generator().manual_seed(seed))
    return tuple(drawn.tolist())


SAMPLES = [TokenSample(tokens(20 + 7 * i, i), 1 + i % 4) for i in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, "small")
    return folder


@pytest.fixture
def train(folder: Path, tmp_path: Path) -> Callable[..., JobResult]:
    def run(**changes: Any) -> JobResult:
        calls = {
            k: changes.pop(k) for k in ("on_progress", "wait_until_allowed", "state_path") if k in changes
        }
        settings = replace(QUICK, **changes)
        return train_language(folder, SAMPLES, settings, base_sha256=BASE, cache=tmp_path / "cache", **calls)

    return run


def test_it_learns_its_samples_by_heart_and_caches_them_once(train: Callable[..., JobResult]) -> None:
    first = train(max_steps=25)
    assert first.ended == "steps"
    assert first.recalled == 0
    assert sum(first.losses[-5:]) < 0.5 * sum(first.losses[:5])
    again = train(max_steps=25)
    assert again.recalled == len(SAMPLES)
    assert again.losses == first.losses
    assert again.files == first.files
    tensors = load_tensors(first.files["adapter_model.safetensors"])
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    assert {int(n.split(".layers.")[1].split(".")[0]) for n in tensors} == set(range(10, 15))


def test_a_batch_in_parts_is_the_batch(train: Callable[..., JobResult]) -> None:
    whole, parts = train(part=5, int8=False), train(part=1, int8=False)
    # bf16 arithmetic, where the CPU has it, rounds a batch differently from its parts.
    assert parts.losses == pytest.approx(whole.losses, rel=0.05)
    assert parts.losses[0] == pytest.approx(whole.losses[0], rel=0.01)


class Interrupted(Exception):
    """Stands for a SIGTERM."""


class Looks:
    """Stands for the gates. done: at each look the steps done, None while nothing is trained yet; at the look of the
    number `ends` comes the SIGTERM."""

    def __init__(self, ends: int | None = None) -> None:
        self.done: list[int | None] = []
        self._ends, self._now = ends, None

    def told(self, progress: Progress) -> None:
        if progress.phase == "train":
            self._now = progress.step

    def __call__(self, save: Save) -> float:
        if len(self.done) == self._ends:
            save()
            raise Interrupted
        self.done.append(self._now)
        return 0.0


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(share, marks=() if share == 0.3 else pytest.mark.long)
        for share in (0.0, 0.3, 0.31, 0.6, 0.99)
    ],
)
def test_an_interruption_between_or_inside_steps_changes_nothing(
    train: Callable[..., JobResult], tmp_path: Path, share: float
) -> None:
    train(max_steps=1)  # all is cached
    looks = Looks()
    straight = train(wait_until_allowed=looks, on_progress=looks.told)
    path = tmp_path / "job.safetensors"
    ends = int(share * len(looks.done))
    with pytest.raises(Interrupted):
        train(wait_until_allowed=Looks(ends), state_path=path)
    torch.manual_seed(77)
    resumed = train(state_path=path)
    assert resumed.losses == straight.losses
    assert resumed.files == straight.files
    assert resumed.resumed_at == (looks.done[ends] or 0)


def test_every_layer_forward_and_back_and_every_tensor_that_is_read_looks_at_the_gates(
    train: Callable[..., JobResult],
) -> None:
    """A closed gate must not wait for more than one of them: on a slow machine each takes up to a second."""
    looks = Looks()
    train(wait_until_allowed=looks, on_progress=looks.told, max_steps=3)
    parts, layers = 3, 5
    for step in (
        1,
        2,
    ):  # by itself, every layer, behind every layer but the first, every part of the vocabulary
        assert looks.done.count(step) >= 1 + parts * (layers + layers - 1 + 1)
    tensors, below, samples = 60, 10, len(SAMPLES)
    assert looks.done.count(None) >= tensors + below * samples


def test_the_plus_one_layer_trains_too_and_its_cache_is_its_own(train: Callable[..., JobResult]) -> None:
    train()
    result = train(plus_one=True)
    assert result.recalled == 0
    tensors = load_tensors(result.files["adapter_model.safetensors"])
    assert {int(n.split(".layers.")[1].split(".")[0]) for n in tensors} == set(range(9, 15))


def test_the_adapter_opens_in_peft(train: Callable[..., JobResult], folder: Path, tmp_path: Path) -> None:
    from continuonbrain.model.checkpoint import Checkpoint
    from continuonbrain.model.phases import Precision

    result = train()
    out = tmp_path / "adapter"
    out.mkdir()
    for name, data in result.files.items():
        (out / name).write_bytes(data)
    model, _ = load_top(Checkpoint(folder), Precision(int8=False))
    opened = PeftModel.from_pretrained(model, str(out))
    names = {n.replace(".default.", ".") for n, _ in opened.named_parameters() if "lora_" in n}
    assert names == load_tensors(result.files["adapter_model.safetensors"]).keys()


def test_what_is_wrong_is_named_and_nothing_is_trained(
    train: Callable[..., JobResult], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BrainError, match="answer tokens"):
        TokenSample((1, 2, 3), 0)
    with pytest.raises(BrainError, match="no samples"):
        train_language(folder, [], QUICK, base_sha256=BASE, cache=tmp_path)
    with pytest.raises(LoraError) as error:
        train(targets=("k_proj",))
    assert "q_proj" in error.value.remedy
    with pytest.raises(BrainError, match="too little for 9 samples") as small:
        train_language(
            folder, SAMPLES, replace(QUICK, cache_mib=0), base_sha256=BASE, cache=tmp_path / "another"
        )
    assert "cache_mib" in small.value.remedy


def test_progress_tells_of_caching_then_of_every_step(train: Callable[..., JobResult]) -> None:
    seen: list[Progress] = []
    result = train(on_progress=seen.append)
    assert [p.step for p in seen if p.phase == "cache"] == list(range(10))
    assert [p.loss for p in seen if p.phase == "train"] == result.losses


@pytest.mark.long
def test_room_for_new_samples_may_cost_old_ones_that_are_then_computed_again(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "small"
    write_checkpoint(folder, "small")
    # Streams are kept in the numbers that this processor computes with.
    bytes_of_one = torch.finfo(Precision.of_this_machine().compute).bits // 8
    settings = replace(QUICK, max_steps=1, batch_size=2, cache_mib=bytes_of_one)

    def samples(first: int, count: int) -> list[TokenSample]:
        words = [tuple((7 * i + 11 * k) % 4000 + 3 for k in range(300)) for i in range(first, first + count)]
        return [TokenSample(w, 4) for w in words]

    run = {"base_sha256": BASE, "cache": tmp_path / "cache"}
    for batch in (samples(0, 4), samples(100, 4)):
        assert train_language(folder, batch, settings, **run).recalled == 0
    both = samples(0, 4) + samples(200, 3)  # of ten that fit
    assert train_language(folder, both, settings, **run).ended == "steps"
    with pytest.raises(BrainError, match="too little for 30 samples"):
        train_language(folder, samples(300, 30), settings, **run)


@pytest.mark.parametrize("change", [{"altup_active_idx": 1 << 40}, {"output_hidden_states": "x"}])
def test_a_config_that_describes_no_model_that_runs_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "small"
    write_checkpoint(folder, "small")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        train_language(folder, SAMPLES, QUICK, base_sha256=BASE, cache=tmp_path / "cache")


def test_a_model_without_shared_layers_trains_through_plain_peft_and_says_so(tmp_path: Path) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "gemma3")
    settings = replace(QUICK, max_steps=25, learning_rate=3e-2, rank=16)
    run = {"base_sha256": BASE, "cache": tmp_path / "cache"}
    result = train_language(tmp_path / "gemma3", SAMPLES, settings, **run)
    assert "plain PEFT" in result.route
    assert sum(result.losses[-5:]) < 0.98 * sum(
        result.losses[:5]
    )  # a random model of two layers learns little
    names = load_tensors(result.files["adapter_model.safetensors"]).keys()
    assert {int(n.split(".layers.")[1].split(".")[0]) for n in names} == {0, 1}
    with pytest.raises(LoraError, match="plus_one"):
        train_language(tmp_path / "gemma3", SAMPLES, replace(settings, plus_one=True), **run)
    for targets in (("no_such_layer",), ("q_proj", "no_such_layer")):
        with pytest.raises(LoraError, match="'no_such_layer' is no linear layer of a gemma3_text") as error:
            train_language(tmp_path / "gemma3", SAMPLES, replace(settings, targets=targets), **run)
        assert "q_proj" in error.value.remedy
    weights = tmp_path / "gemma3" / "model.safetensors"
    tensors = load_tensors(weights.read_bytes())
    lost = next(n for n in tensors if n.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[lost]  # transformers would train on random numbers in its place
    weights.write_bytes(save_tensors(tensors, metadata={"format": "pt"}))
    with pytest.raises(CheckpointError, match=rf"gemma3 lacks the tensor {lost}"):
        train_language(tmp_path / "gemma3", SAMPLES, settings, **run)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("targets", [("q_proj", "nonsense"), ("nonsense",), ("q_proj", "nonsense", "k_proj")])
def test_one_target_that_cannot_be_trained_is_refused_with_those_that_can(
    train: Callable[..., JobResult], targets: tuple[str, ...], plus_one: bool
) -> None:
    with pytest.raises(LoraError, match="'nonsense'") as error:
        train(targets=targets, plus_one=plus_one)
    assert ("'k_proj'" in error.value.message) == ("k_proj" in targets)
    assert "down_proj" in error.value.remedy
    assert "k_proj" not in error.value.remedy


def test_two_jobs_on_one_cache_or_one_state_are_refused(
    train: Callable[..., JobResult], folder: Path, tmp_path: Path
) -> None:
    other: list[str] = []

    def while_it_runs(_save: Save) -> float:
        for name, state in (("cache", "mine"), ("elsewhere", "job.state")):
            with pytest.raises(LockHeldError) as error:
                train_language(
                    folder,
                    SAMPLES,
                    QUICK,
                    base_sha256=BASE,
                    cache=tmp_path / name,
                    state_path=tmp_path / state,
                )
            other.append(error.value.message)
        raise Interrupted

    with pytest.raises(Interrupted):
        train(wait_until_allowed=while_it_runs, state_path=tmp_path / "job.state")
    assert len(other) == 2
    train(max_steps=1, state_path=tmp_path / "job.state")  # and afterwards it goes on


def test_a_tensor_that_only_the_steps_need_is_missed_before_anything_is_cached(
    folder: Path, tmp_path: Path
) -> None:
    lame = tmp_path / "lame"
    shutil.copytree(folder, lame)
    for weights in lame.glob("*.safetensors"):
        tensors = load_tensors(weights.read_bytes())
        lost = [n for n in tensors if n.endswith("layers.14.mlp.up_proj.weight")]
        kept = {n: t for n, t in tensors.items() if n not in lost}
        if lost:
            weights.write_bytes(save_tensors(kept, metadata={"format": "pt"}))
            index = lame / "model.safetensors.index.json"
            if index.exists():
                listed = json.loads(index.read_text())
                del listed["weight_map"][lost[0]]
                index.write_text(json.dumps(listed))
            break
    seen: list[Progress] = []
    run = {"base_sha256": BASE, "cache": tmp_path / "cache", "on_progress": seen.append}
    with pytest.raises(CheckpointError, match=r"layers\.14\.mlp\.up_proj"):
        train_language(lame, SAMPLES, QUICK, **run)
    assert not seen


@pytest.mark.long
def test_the_state_of_other_settings_is_not_gone_on_with(
    train: Callable[..., JobResult], tmp_path: Path
) -> None:
    path = tmp_path / "job.state"
    train(state_path=path, max_steps=3)
    assert train(state_path=path, max_steps=3).resumed_at == 3
    for change in ({"learning_rate": 2e-2}, {"seed": 4}, {"weight_decay": 0.1}):
        assert train(state_path=path, max_steps=3, **change).resumed_at == 0


def test_a_rank_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(BrainError, match="rank is 100000"):
        replace(QUICK, rank=100_000)


def test_a_job_takes_the_threads_that_it_is_given(train: Callable[..., JobResult]) -> None:
    before, seen = torch.get_num_threads(), []
    try:
        train(max_steps=1, threads=before + 1, on_progress=lambda _: seen.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before + 1}


@pytest.mark.parametrize("name", ["batch_size", "part", "max_steps", "rank", "threads", "max_memory_mib"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, 2**80])
def test_settings_that_train_nothing_are_refused(name: str, value: object) -> None:
    with pytest.raises(BrainError, match=f"{name} is ") as error:
        replace(QUICK, **{name: value})
    assert name in error.value.remedy


@pytest.mark.parametrize("name", ["learning_rate", "alpha", "max_wall_time_s", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "1"])
def test_settings_that_are_no_numbers_are_refused(name: str, value: object) -> None:
    with pytest.raises(BrainError, match=f"{name} is "):
        replace(QUICK, **{name: value})


@pytest.mark.parametrize("targets", [(), "q_proj", (3,)])
def test_targets_that_name_nothing_are_refused(targets: Any) -> None:
    with pytest.raises(BrainError, match="targets is "):
        replace(QUICK, targets=targets)


def test_the_state_of_other_samples_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.state"
    call = {"base_sha256": BASE, "cache": tmp_path / "cache", "state_path": path}
    train_language(folder, SAMPLES[:4], replace(QUICK, batch_size=2), **call)
    other = train_language(folder, SAMPLES[1:5], replace(QUICK, batch_size=2), **call)
    assert other.resumed_at == 0


@pytest.mark.parametrize("text", [None, [], "gemma", {"model_type": ["gemma3n_text"]}])
def test_a_config_without_a_language_model_is_named(folder: Path, tmp_path: Path, text: Any) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    config = json.loads((bad / "config.json").read_text()) | {"text_config": text}
    (bad / "config.json").write_text(json.dumps(config))
    with pytest.raises(BrainError, match="model_type"):
        train_language(bad, SAMPLES[:1], QUICK, base_sha256=BASE, cache=tmp_path / "cache")
