"""The ways of learning that are compared. All see the same pool, draw the same batches and take the same steps.

| learner | what is trained |
|---|---|
| shared | LoRA in the KV-shared layers, from cached streams: what the robot does |
| shared-1, shared-2 | the same in the last one or two of them |
| plus-one | the same, and the layer below them |
| all | LoRA in all layers of the language model |
| connector | the image connector alone: what the camera's picture becomes before the language model reads it |
| full | every weight, the image connector's too |
| conv | a convolution policy that was pretrained on the base's own states |
| conv-scratch | the same convolution policy from random weights |
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import lora_config
from continuonbrain.policy import codec
from continuonbrain.policy.engine import Decisions
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.policy.torch_engine import read_answers
from continuonbrain.study.convolution import ConvolutionPolicy
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.job import JobSettings
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets
from continuonbrain.trainer.pool import Pool, encode, mix
from continuonbrain.trainer.steps import StepLoop
from continuonbrain.trainer.training_state import TrainingState

LEARNERS = ("shared", "shared-1", "shared-2", "plus-one", "all", "connector", "full", "conv", "conv-scratch")
_ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class ForwardEngine:
    """An `Engine` over any network from prompts and frames to logits; it has no adapters."""

    adapter_sha256 = ""
    reflex = None

    def __init__(
        self, layout: PromptLayout, network: Callable[[Tensor, Tensor], Tensor], sha256: str
    ) -> None:
        self._layout, self._network, self.base_sha256 = layout, network, sha256

    def decide(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> Decisions:
        with torch.inference_mode():
            ids = torch.from_numpy(self._layout.ids(instructions, speeds_mps))
            return read_answers(self._layout, self._network(ids, torch.from_numpy(frames)))

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        raise NotImplementedError("what a study has trained is judged where it is")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A learner after its steps. cache_cpu_s, train_cpu_s: this process's computing time; trainable: parameters that
    were trained."""

    engine: ForwardEngine
    steps: int
    cache_cpu_s: float
    train_cpu_s: float
    trainable: int
    ended: str


Logits = Callable[[NDArray[np.int64]], Tensor]


def untrained(base: Path) -> ForwardEngine:
    """The base alone."""
    return ForwardEngine(PromptLayout.from_folder(base), load_base(base), base_sha256(base))


def fit(
    learner: str,
    base: Path,
    samples: Samples,
    replay: Samples,
    settings: JobSettings,
    *,
    convolution: Path | None = None,
) -> Fitted:
    """Train one learner on the samples. convolution: weights of the pretrained convolution policy.

    The time in settings.max_wall_time_s bounds caching and steps together. It is this process's computing time, which
    on one thread of an idle machine is the wall time, and which other work on the machine does not change.
    """
    started = time.process_time()
    torch.manual_seed(settings.seed)
    sampler = np.random.default_rng(settings.seed)
    layout = PromptLayout.from_folder(base)
    pool, chances = mix(samples, replay, settings, sampler)
    network, logits = _prepare(learner, base, layout, pool, settings, convolution)
    parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    cache_cpu_s = time.process_time() - started
    weights = torch.from_numpy(pool.weights) * query_weights()
    state = TrainingState(
        fingerprint="",
        parameters=parameters,
        optimiser=torch.optim.AdamW(
            parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay
        ),
        sampler=sampler,
        losses=[],
        good=[p.detach().clone() for p in parameters.values()],
        samples=len(pool),
        streams_sha256="",
        budget_s=settings.max_wall_time_s - cache_cpu_s,
    )

    def backward_of_batch(_pause: Callable[[], None]) -> float:
        rows = state.sampler.choice(len(pool), size=settings.batch_size, p=chances)
        targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
        loss = action_loss(logits(rows), targets, weights[torch.from_numpy(rows)])
        loss.backward()
        return float(loss.detach())

    began = time.process_time()
    ended = StepLoop(
        state, settings, backward_of_batch, None, lambda _: None, lambda _: 0.0, clock=time.process_time
    ).run()
    network.eval()
    return Fitted(
        ForwardEngine(layout, network, base_sha256(base)),
        state.step,
        cache_cpu_s,
        time.process_time() - began,
        sum(p.numel() for p in parameters.values()),
        ended,
    )


def _prepare(
    learner: str,
    base: Path,
    layout: PromptLayout,
    pool: Pool,
    settings: JobSettings,
    convolution: Path | None,
) -> tuple[nn.Module, Logits]:
    """The network with what is trained requiring gradients, and its logits of the pool's rows."""
    if learner.startswith("conv"):
        policy = ConvolutionPolicy(layout, queries=codec.QUERIES)
        if learner == "conv":
            assert convolution is not None
            policy.load_state_dict(load_file(convolution))
        return policy, _from_frames(policy, layout, pool)
    model = load_base(base)
    if learner in ("full", "connector"):
        (model if learner == "full" else model.connector).requires_grad_(True)
        return model, _from_frames(model, layout, pool)
    if learner == "all":
        wanted = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT annotates int; it only divides
            target_modules=list(_ALL_TARGETS),
        )
        model.language_model = get_peft_model(model.causal_lm, wanted)
        return model, _from_soft_tokens(model, layout, pool)
    model.plus_one = learner == "plus-one"
    streams, _ = encode(model, layout, pool, lambda _done, _total: True)
    model.language_model = get_peft_model(model.causal_lm, _suffix_lora(model, learner, settings))
    return model, lambda rows: model.decode(streams.select(torch.from_numpy(rows)))


def _suffix_lora(model: DrivingModel, learner: str, settings: JobSettings) -> LoraConfig:
    wanted = lora_config(
        model.causal_lm,
        settings.targets,
        rank=settings.rank,
        alpha=settings.alpha,
        plus_one=model.plus_one,
    )
    last = learner.removeprefix("shared-")
    if last.isdigit():
        first = model.decoder.layers.stop - int(last)
        names: Any = wanted.target_modules
        wanted.target_modules = [n for n in names if (found := _LAYER.search(n)) and int(found[1]) >= first]
    return wanted


def _from_frames(network: nn.Module, layout: PromptLayout, pool: Pool) -> Logits:
    ids = torch.from_numpy(layout.ids(pool.instructions, pool.speeds))

    def logits(rows: NDArray[np.int64]) -> Tensor:
        out: Tensor = network(ids[torch.from_numpy(rows)], torch.from_numpy(pool.frames_at(rows)))
        return out

    return logits


def _from_soft_tokens(model: DrivingModel, layout: PromptLayout, pool: Pool) -> Logits:
    """The connector is frozen: its soft tokens are computed once."""
    ids = torch.from_numpy(layout.ids(pool.instructions, pool.speeds))
    with torch.no_grad():
        parts = [
            model.connector(torch.from_numpy(pool.frames(slice(i, min(i + 64, len(pool))))))
            for i in range(0, len(pool), 64)
        ]
    soft = torch.cat(parts)

    def logits(rows: NDArray[np.int64]) -> Tensor:
        index = torch.from_numpy(rows)
        return model.decode(model.encode_soft(ids[index], soft[index]))

    return logits
