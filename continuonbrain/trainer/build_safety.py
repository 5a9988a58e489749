"""Builds the safety head from counterfactual states of the simulator, and its card.

    continuonbrain model build-safety OUT        (some twenty minutes on two cores; seeded)

The road grid is taught by what the simulator knows of the ground, the probability by what happened to cars that drove
on. The scores in the card are on tracks that were not trained on, in the base's own world and in every named shift,
none of which was trained on.
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
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from continuonbrain.model.safety_net import SafetyNet, safety_bytes
from continuonbrain.policy.safety_head import (
    CHANNELS,
    GRID_AHEAD_M,
    GRID_LEFT_M,
    GRID_STEP_M,
    GROUPS,
    HIDDEN,
    KERNELS,
    RISK_HIDDEN,
    RISK_INPUTS,
    SAFETY_HEAD_FILE,
    SEEN,
    SafetyHead,
    scaled,
)
from continuonbrain.storage.adapter_version import CARD_FILE
from continuonbrain.storage.durable import replace_file
from continuonbrain.trainer.counterfactual import AnyWorlds
from continuonbrain.trainer.safety_scores import score_safety_head
from continuonbrain.trainer.steps import one_cycle

Report = Callable[[str, int, int, float], None]
_LEVELS = 24.0
"""Pictures wait in memory as bytes: a step is 1/24 of a picture's own contrast."""
_RISK_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class SafetyRecipe:
    """How the head is made. Chunks are 384 states each, less those that stand off the road."""

    seed: int = 0
    parts: int = 24
    chunks: int = 20
    epochs: int = 5
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    threads: int = 2


@dataclass(frozen=True, slots=True)
class _Part:
    pictures: NDArray[np.int8]
    off: NDArray[np.bool_]
    ways: NDArray[np.float32]
    speeds: NDArray[np.float32]
    left: NDArray[np.bool_]


def _draw_part(seed: int, chunks: int) -> _Part:
    source = AnyWorlds(seed)
    drawn = [source.draw() for _ in range(chunks)]
    pictures = [(scaled(d.frames) * _LEVELS).round().clip(-127, 127).astype(np.int8) for d in drawn]
    return _Part(
        np.concatenate(pictures),
        np.concatenate([d.off for d in drawn]),
        np.concatenate([d.ways for d in drawn]),
        np.concatenate([d.speeds_mps for d in drawn]),
        np.concatenate([d.left_road for d in drawn]),
    )


def new_net() -> SafetyNet:
    """A net of the shape that `policy.safety_head` serves."""
    return SafetyNet(
        channels=CHANNELS,
        kernels=KERNELS,
        groups=GROUPS,
        seen=SEEN,
        hidden=HIDDEN,
        grid=(len(GRID_AHEAD_M), len(GRID_LEFT_M)),
        risk=(RISK_INPUTS, RISK_HIDDEN),
    )


def along_ways(grids: Tensor, ways: Tensor) -> Tensor:
    """`policy.safety_head.along_ways` with gradients."""
    rows = ((ways[..., 0] - GRID_AHEAD_M[0]) / GRID_STEP_M).clamp(0, len(GRID_AHEAD_M) - 1.001)
    columns = ((ways[..., 1] - GRID_LEFT_M[0]) / GRID_STEP_M).clamp(0, len(GRID_LEFT_M) - 1.001)
    r, c = rows.long(), columns.long()
    dr, dc = rows - r, columns - c
    b = torch.arange(len(grids))[:, None]
    near = grids[b, r, c] * (1 - dc) + grids[b, r, c + 1] * dc
    far = grids[b, r + 1, c] * (1 - dc) + grids[b, r + 1, c + 1] * dc
    return near * (1 - dr) + far * dr


def _train(net: SafetyNet, parts: list[_Part], recipe: SafetyRecipe, report: Report) -> list[float]:
    """Losses of all steps. Every other state is learned mirrored."""
    owner = np.concatenate([np.full(len(p.left), i) for i, p in enumerate(parts)])
    place = np.concatenate([np.arange(len(p.left)) for p in parts])
    rng = np.random.default_rng(recipe.seed)
    optimiser = torch.optim.AdamW(net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    total = recipe.epochs * (len(owner) // recipe.batch)
    losses: list[float] = []
    while len(losses) < total:
        for rows in np.array_split(rng.permutation(len(owner)), len(owner) // recipe.batch):

            def take(name: str) -> Tensor:
                picked = [getattr(parts[owner[i]], name)[place[i]] for i in rows]  # noqa: B023
                return torch.from_numpy(np.stack(picked))

            mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)
            pictures = take("pictures").float().permute(0, 3, 1, 2) / _LEVELS
            off, ways = take("off").float(), take("ways")
            pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
            off = torch.where(mirrored[:, None, None], off.flip(2), off)
            ways = torch.where(mirrored[:, None, None], ways * torch.tensor([1.0, -1.0]), ways)
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * one_cycle(len(losses) / total)
            grids = net(pictures.contiguous())
            risk = net.risk(along_ways(grids, ways), take("speeds"))
            loss = F.binary_cross_entropy_with_logits(grids, off)
            loss = loss + _RISK_SHARE * F.binary_cross_entropy_with_logits(risk, take("left").float())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            if len(losses) % 20 == 0 or len(losses) == total:
                report("train", len(losses), total, float(np.mean(losses[-100:])))
            if len(losses) == total:
                break
    return losses


def build_safety(out: Path, recipe: SafetyRecipe, report: Report) -> dict[str, Any]:
    """Train a head, write it and its card into the folder; returns the card."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    parts: list[_Part] = []
    # Fresh processes: a fork of one that has used torch's threads may wait for them for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(recipe.threads, mp_context=context) as pool:
        seeds = [1000 * recipe.seed + i for i in range(recipe.parts)]
        for part in pool.map(_draw_part, seeds, [recipe.chunks] * recipe.parts):
            parts.append(part)
            report("draw", len(parts), recipe.parts, float("nan"))
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    net = new_net()
    losses = _train(net, parts, recipe, report)
    data = safety_bytes(net)
    replace_file(out / SAFETY_HEAD_FILE, data)
    every = max(1, len(losses) // 40)
    lefts = np.concatenate([p.left for p in parts])
    parts.clear()  # gigabytes
    card = {
        "name": "continuonbrain safety head",
        "sha256": hashlib.sha256(data).hexdigest(),
        "what": "frame and planned way -> probability of leaving the road within a second",
        "parameters": sum(p.numel() for p in net.parameters()),
        "recipe": asdict(recipe),
        "states": len(lefts),
        "left_road": round(float(lefts.mean()), 4),
        "worlds": AnyWorlds.__doc__,
        "loss_curve": [round(float(np.mean(losses[i : i + every])), 4) for i in range(0, len(losses), every)],
        "scores": score_safety_head(data, report=report),
        "wall_s": round(time.monotonic() - started, 1),
    }
    replace_file(out / CARD_FILE, (json.dumps(card, indent=2) + "\n").encode())
    return card


def score_again(folder: Path, report: Report) -> dict[str, Any]:
    """Score the head in a folder and write the scores into its card; returns the card. Raises `SafetyHeadError`."""
    path = folder / CARD_FILE
    head = SafetyHead.from_file(folder / SAFETY_HEAD_FILE)
    card: dict[str, Any] = json.loads(path.read_bytes())
    card["scores"] = score_safety_head(head.data, report=report)
    replace_file(path, (json.dumps(card, indent=2) + "\n").encode())
    return card
