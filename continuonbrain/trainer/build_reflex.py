"""Builds a base's reflex head from the simulator: the base's own trunk, and the base's intents.

    continuonbrain model build-reflex BASE        (some four minutes on two cores; seeded; part of build-tiny)

Independent states with ideal answers as in `build_tiny.py`; the language model takes part through what it makes of
each instruction on the probes. The closed loop judges it at slow decisions, beside paths of the model alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from continuonbrain.model.reflex_net import reflex_bytes
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_curvature
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.robot.sim.track import POINTS, TrackSet
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.durable import replace_file
from continuonbrain.trainer.reflex_job import curvature_loss, new_net
from continuonbrain.trainer.score import drive_score
from continuonbrain.trainer.states import StateSource
from continuonbrain.trainer.steps import one_cycle

Report = Callable[[str, int, int, float], None]
_PROBE_TRACKS = (910_001, 910_002)
_SCORE_TRACKS = range(70_000, 70_024)
_SLOW_S = (0.75, 1.5)


@dataclass(frozen=True, slots=True)
class ReflexRecipe:
    """How the head is made. Chunks are 512 states each."""

    seed: int = 5
    tracks: int = 192
    chunks: int = 120
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    threads: int = 2


def probe_frames() -> NDArray[np.uint8]:
    """Frames of the straightest stretch of two roads of the base's family, from the middle of the lane."""
    fleet = Fleet(TrackSet(_PROBE_TRACKS, BASE), np.arange(len(_PROBE_TRACKS)), seed=1)
    bends = []
    for start in range(0, POINTS, 4):
        fleet.place(index=start)
        bends.append(np.abs(ideal_curvature(fleet, CURVATURE_KNOTS_M)).max(1))
    fleet.place(index=4 * np.argmin(np.stack(bends), 0), speed_mps=0.8)
    return fleet.render()


def build_reflex(base: Path, recipe: ReflexRecipe, report: Report) -> dict[str, Any]:
    """Train the head of a driving base, write it and its part of the base's card; returns that part."""
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    probes = torch.from_numpy(probe_frames())
    engine = TorchEngine(base)
    net = new_net(engine.model.connector.trunk)
    intents = Intents(engine, reflex=Reflex(reflex_bytes(net, probes)))
    optimiser = torch.optim.AdamW(net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    losses: list[float] = []
    total = recipe.chunks * 512 // recipe.batch
    for states in StateSource(range(recipe.tracks), seed=recipe.seed).stream(recipe.chunks):
        meant = intents.of_all(states.phrases)
        assert meant is not None
        for rows in np.split(np.arange(512), 512 // recipe.batch):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * one_cycle(len(losses) / total)
            found = net(torch.from_numpy(states.frames[rows]), torch.from_numpy(meant[rows]))
            loss = curvature_loss(found, torch.from_numpy(states.curvature[rows]), torch.ones(len(rows), 8))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        report("reflex", len(losses), total, float(np.mean(losses[-40:])))
    replace_file(base / REFLEX_FILE, reflex_bytes(net, probes))
    every = max(1, len(losses) // 40)
    section = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "recipe": asdict(recipe),
        "states": recipe.chunks * 512,
        "loss_curve": [round(float(np.mean(losses[i : i + every])), 4) for i in range(0, len(losses), every)],
        "scores": score_reflex(base),
        "wall_s": round(time.monotonic() - started, 1),
    }
    path = base / "card.json"
    card = json.loads(path.read_bytes()) | {"reflex": section}
    replace_file(path, (json.dumps(card, indent=2) + "\n").encode())
    return section


def score_reflex(base: Path) -> dict[str, Any]:
    """Laps on held-out tracks at slow decisions, with the head and by paths of the model alone."""
    engine = TorchEngine(base)
    limits = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)
    out: dict[str, Any] = {"tracks": len(_SCORE_TRACKS)}
    for slow in _SLOW_S:
        for name, reflex in (("path_alone", False), ("reflex", True)):
            score = drive_score(
                engine,
                BASE,
                _SCORE_TRACKS,
                calibration=Calibration(),
                limits=limits,
                decision_time_s=slow,
                reflex=reflex,
            )
            out[f"{name}_at_{slow}_s"] = {
                "completion": round(score.completion, 4),
                "lateral_error_m": round(score.lateral_error_m, 4),
            }
    return out
