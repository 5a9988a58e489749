"""Builds the world head from counterfactual states of the simulator, and its card.

    continuonbrain model build-world OUT        (some half an hour on two busy cores; seeded)

It is taught on the grids of one safety head and belongs to it (`policy/open_world.py` refuses another). The scores in
the card are on tracks that were not trained on, in the base's own world and in every named shift, none of which was
trained on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from continuonbrain.model.world_net import WorldNet, world_bytes
from continuonbrain.policy.open_world import SAFETY_SHA256, SHA256
from continuonbrain.policy.safety_head import POINTS, SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.world_head import (
    CELLS,
    CONTEXT,
    FEATURE_HIDDEN,
    GRID_SCALE,
    RISK_HIDDEN,
    RISK_INPUTS,
    WORLD_HEAD_FILE,
    bounded,
    context_of,
    later_ways,
    moved_grids,
)
from continuonbrain.storage.adapter_version import CARD_FILE
from continuonbrain.storage.durable import replace_file
from continuonbrain.trainer.build_safety import along_ways
from continuonbrain.trainer.counterfactual import AnyWorlds
from continuonbrain.trainer.foresight import Foresights, foresee_states
from continuonbrain.trainer.steps import one_cycle
from continuonbrain.trainer.world_scores import SCORED_STATES, score_world_head

Report = Callable[[str, int, int, float], None]
_CARS = 384
_RISK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class WorldRecipe:
    """How the head is made. Chunks are 384 states each, less those that stand off the road."""

    seed: int = 0
    parts: int = 24
    chunks: int = 8
    epochs: int = 20
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    threads: int = 2


def _draw_part(data: bytes, seed: int, chunks: int) -> Foresights:
    safety = SafetyHead(data)
    source = AnyWorlds(700_000 + seed, chunk=_CARS)
    parts = []
    for _ in range(chunks):
        tracks, cameras, drawn = source.next_world()
        parts.append(foresee_states(safety, tracks, _CARS, seed=drawn, cameras=cameras))
    return Foresights.join(parts)


def new_net() -> WorldNet:
    """A net of the shape that `policy.world_head` serves."""
    return WorldNet(
        cells=CELLS,
        context=CONTEXT,
        hidden=FEATURE_HIDDEN,
        risk=(RISK_INPUTS, RISK_HIDDEN),
        scale=GRID_SCALE,
    )


def mirrored(states: Foresights) -> Foresights:
    """The same in the mirror."""
    turn = np.array([1, -1, -1], np.float32)
    bends = np.array([-1] * (states.chunks.shape[1] - 2) + [1, 1], np.float32)
    return Foresights(
        states.grids[:, :, ::-1],
        states.plans * turn,
        states.motions * np.array([1, -1], np.float32),
        states.chunks * bends,
        states.later_off[:, :, ::-1],
        states.driven * turn,
        states.left_road,
    )


def tensors_of(states: Foresights) -> dict[str, Tensor]:
    """What the net reads and what it should say."""
    seen = bounded(states.grids)
    found = {
        "seen": seen,
        "moved": moved_grids(seen, states.plans[:, POINTS - 1]),
        "context": context_of(states.plans, states.motions, states.chunks),
        "along": along_ways(torch.from_numpy(seen), torch.from_numpy(states.plans[..., :2])).numpy(),
        "later_ways": later_ways(states.plans),
        "off": states.later_off.astype(np.float32),
        "left": states.left_road.astype(np.float32),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def foreseen_by(net: WorldNet, told: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """`WorldHead.foresee` with gradients."""
    later = net(told["seen"], told["moved"], told["context"])
    return later, net.risk(told["along"], along_ways(later, told["later_ways"]), told["context"])


def _train(net: WorldNet, told: dict[str, Tensor], recipe: WorldRecipe, report: Report) -> list[float]:
    """Losses of all steps."""
    count = len(told["left"])
    rng = np.random.default_rng(recipe.seed)
    optimiser = torch.optim.AdamW(net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = max(1, count // recipe.batch)
    total = recipe.epochs * batches
    losses: list[float] = []
    for _ in range(recipe.epochs):
        for rows in np.array_split(rng.permutation(count), batches):
            taken = {name: value[torch.from_numpy(rows)] for name, value in told.items()}
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * one_cycle(len(losses) / total)
            later, risk = foreseen_by(net, taken)
            loss = F.binary_cross_entropy_with_logits(later, taken["off"])
            loss = loss + _RISK_SHARE * F.binary_cross_entropy_with_logits(risk, taken["left"])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            if len(losses) % 50 == 0 or len(losses) == total:
                report("train", len(losses), total, float(np.mean(losses[-100:])))
    return losses


def build_world(
    out: Path, safety_dir: Path, recipe: WorldRecipe, report: Report, *, score_states: int = SCORED_STATES
) -> dict[str, Any]:
    """Train a head on the grids of the safety head in `safety_dir`, write it and its card into the folder; returns the
    card. Raises `SafetyHeadError`."""
    started = time.monotonic()
    safety = SafetyHead.from_file(safety_dir / SAFETY_HEAD_FILE)
    out.mkdir(parents=True, exist_ok=True)
    parts: list[Foresights] = []
    # Fresh processes: a fork of one that has used torch's threads may wait for them for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(recipe.threads, mp_context=context) as pool:
        seeds = [1000 * recipe.seed + i for i in range(recipe.parts)]
        for part in pool.map(_draw_part, [safety.data] * len(seeds), seeds, [recipe.chunks] * len(seeds)):
            parts.append(part)
            report("draw", len(parts), recipe.parts, float("nan"))
    states = Foresights.join(parts)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    net = new_net()
    losses = _train(net, tensors_of(Foresights.join([states, mirrored(states)])), recipe, report)
    data = world_bytes(net)
    replace_file(out / WORLD_HEAD_FILE, data)
    every = max(1, len(losses) // 40)
    card = {
        "name": "continuonbrain world head",
        "what": "road grid, motion and new path -> road grid a second on, probability of leaving the road within two",
        SHA256: hashlib.sha256(data).hexdigest(),
        SAFETY_SHA256: safety.sha256,
        "parameters": sum(p.numel() for p in net.parameters()),
        "recipe": asdict(recipe),
        "states": len(states),
        "left_road": round(float(states.left_road.mean()), 4),
        "worlds": AnyWorlds.__doc__,
        "loss_curve": [round(float(np.mean(losses[i : i + every])), 4) for i in range(0, len(losses), every)],
        "scores": score_world_head(data, safety, states=score_states, report=report),
        "wall_s": round(time.monotonic() - started, 1),
    }
    replace_file(out / CARD_FILE, (json.dumps(card, indent=2) + "\n").encode())
    return card
