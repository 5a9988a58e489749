"""Builds the tiny base from the simulator: tokenizer, image trunk warm start, then the whole model.

    continuonbrain model build-tiny OUT        (about 40 minutes on two cores; seeded)

Stage 1 teaches the image trunk alone to see the road (ideal curvatures for left, middle and right, offset,
heading). Stage 2 trains everything on independent states with ideal answers (`states.py`), the trunk at a
quarter of the learning rate. No episode is driven and no state is seen twice. The closed loop judges it:
see `card.json` in the built folder.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from continuonbrain.model.base import save_base
from continuonbrain.model.driving import IMAGE_TOKENS, DrivingModel, new_tiny_model
from continuonbrain.policy import codec
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.sim.instructions import HELD_OUT, INSTRUCTIONS
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.build_reflex import ReflexRecipe, build_reflex
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets
from continuonbrain.trainer.rollout import rollout
from continuonbrain.trainer.score import drive_score, follow_score
from continuonbrain.trainer.states import REPLAY_SOURCE, States, StateSource
from continuonbrain.trainer.tokenizer import build_tokenizer

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the base is made. Chunks are 512 states each; shared_layers: how many of the 8 layers are KV-shared."""

    seed: int = 0
    tracks: int = 192
    trunk_chunks: int = 240
    chunks: int = 340
    batch: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    query_weights: tuple[float, ...] = (2.0, 2.0, 2.0, 1.5, 1.0, 1.0, 0.7, 0.7, 1.5, 1.5)
    threads: int = 2
    shared_layers: int = 4
    reflex: ReflexRecipe = field(default_factory=ReflexRecipe)


class _TrunkReader(nn.Module):
    """What the trunk is taught with, and then thrown away."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels * IMAGE_TOKENS, 160)
        self.answer = nn.Sequential(nn.SiLU(), nn.Linear(160, 128), nn.SiLU(), nn.Linear(128, 26))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.answer(self.reduce(features.flatten(1)))
        return out


def _cosine(step: int, total: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def _warm_up_trunk(model: DrivingModel, source: StateSource, recipe: Recipe, report: Report) -> list[float]:
    reader = _TrunkReader(model.connector.config.channels[-1])
    parameters = [*model.connector.trunk.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=1e-3)
    losses: list[float] = []
    total = recipe.trunk_chunks * 2
    for states in source.stream(recipe.trunk_chunks, all_lanes=True):
        for rows in np.split(np.arange(512), 2):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * _cosine(len(losses), total, 40)
            answer = reader(model.connector.features(torch.from_numpy(states.frames[rows])))
            loss = F.smooth_l1_loss(answer, torch.from_numpy(states.geometry[rows]), beta=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        report("trunk", len(losses), total, float(np.mean(losses[-20:])))
    return losses


def _batches(
    states: list[States], batch: int
) -> list[tuple[np.ndarray[Any, Any], list[str], list[float | None], Any, Any]]:
    frames = np.concatenate([s.frames for s in states])
    phrases = [p for s in states for p in s.phrases]
    speeds = [v for s in states for v in s.speeds]
    curvature = np.concatenate([s.curvature for s in states])
    ahead = np.concatenate([s.speed_ahead for s in states])
    return [
        (
            frames[i : i + batch],
            phrases[i : i + batch],
            speeds[i : i + batch],
            curvature[i : i + batch],
            ahead[i : i + batch],
        )
        for i in range(0, len(phrases) - batch + 1, batch)
    ]


def _train_whole(
    model: DrivingModel, layout: PromptLayout, source: StateSource, recipe: Recipe, report: Report
) -> list[float]:
    trunk = list(model.connector.trunk.parameters())
    ids = {id(p) for p in trunk}
    rest = [p for p in model.parameters() if id(p) not in ids]
    rates = (recipe.learning_rate, recipe.learning_rate / 4)
    groups: list[dict[str, Any]] = [{"params": rest, "lr": rates[0]}, {"params": trunk, "lr": rates[1]}]
    optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    weights, losses = query_weights(recipe.query_weights), list[float]()
    per_chunk = 512 // recipe.batch
    total = recipe.chunks * per_chunk
    for states in source.stream(recipe.chunks):
        for frames, phrases, speeds, curvature, ahead in _batches([states], recipe.batch):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * _cosine(len(losses), total, 100)
            logits = model(torch.from_numpy(layout.ids(phrases, speeds)), torch.from_numpy(frames))
            loss = action_loss(logits, soft_targets(layout, curvature, ahead), weights)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        report("model", len(losses), total, float(np.mean(losses[-50:])))
    return losses


def build_tiny(out: Path, recipe: Recipe, report: Report) -> dict[str, Any]:
    """Train and save the tiny base into `out`; returns its card. report(stage, step, total, mean loss)."""
    started = time.monotonic()
    # Now, not after half an hour: a folder that cannot be written.
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    tokenizer = build_tokenizer(p for i in INSTRUCTIONS for p in i.phrasings)
    layout = PromptLayout(tokenizer)
    model = new_tiny_model(
        layout.vocabulary,
        image_token=layout.image_token,
        queries=codec.QUERIES,
        shared_layers=recipe.shared_layers,
    )
    source = StateSource(range(recipe.tracks), seed=recipe.seed)
    trunk_losses = _warm_up_trunk(model, source, recipe, report)
    losses = _train_whole(model, layout, source, recipe, report)
    every = max(1, len(losses) // 60)
    shared = "half" if recipe.shared_layers == 4 else f"{recipe.shared_layers} of 8"
    card: dict[str, Any] = {
        "name": "continuonbrain tiny driving base",
        "architecture": (
            f"Gemma 3n text model of transformers, {shared} of its layers KV-shared, with an image connector"
        ),
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": {k: v for k, v in asdict(recipe).items() if k != "reflex"},
        "data": {
            "source": f"{REPLAY_SOURCE}, base family, independent states with ideal answers",
            "track_seeds": [0, recipe.tracks - 1],
            "trunk_states": recipe.trunk_chunks * 512,
            "states": len(losses) * recipe.batch,
        },
        "loss_curve": [round(float(np.mean(losses[i : i + every])), 4) for i in range(0, len(losses), every)],
        "trunk_loss_curve": [
            round(float(np.mean(trunk_losses[i : i + 12])), 4) for i in range(0, len(trunk_losses), 12)
        ],
        "wall_s": round(time.monotonic() - started, 1),
    }
    save_base(model, tokenizer.to_str(), card, out)
    # From the bytes on disk, as `model build-reflex` makes it: the same head either way.
    reflex = build_reflex(out, recipe.reflex, report)
    card |= {"scores": score_base(out), "reflex": reflex}
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def score_base(folder: Path, *, tracks: int = 24, follow_tracks: int = 4) -> dict[str, Any]:
    """Closed-loop scores of a base on tracks that it never saw, from the bytes in `folder`."""
    engine = TorchEngine(folder)
    limits = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)
    nominal = Calibration()
    seeds = range(70_000, 70_000 + tracks)
    lap = drive_score(engine, BASE, seeds, calibration=nominal, limits=limits)
    late = drive_score(
        engine, BASE, seeds, calibration=nominal, limits=limits, decision_time_s=0.75, reflex=False
    )
    follow_seeds = range(70_500, 70_500 + follow_tracks)
    follow = follow_score(engine, BASE, follow_seeds, calibration=nominal, limits=limits)
    phrases = [p for ps in HELD_OUT.values() for p in ps]
    unseen = rollout(
        engine,
        BASE,
        [t for t in follow_seeds for _ in phrases],
        phrases * follow_tracks,
        calibration=nominal,
        limits=limits,
        seed=3,
        laps=False,
        start_speed_mps=0.8,
        stop_without_model=[False] * (len(phrases) * follow_tracks),
    )
    return {
        "tracks": tracks,
        "completion": round(lap.completion, 4),
        "laps": lap.laps,
        "lateral_error_m": round(lap.lateral_error_m, 4),
        "completion_at_0.75_s_a_decision_by_paths_alone": round(late.completion, 4),
        "following": round(follow.following, 4),
        "stop_by_model_alone": follow.stop_model,
        "following_unseen_phrasings": round(float(unseen.obeyed.mean()), 4),
    }
