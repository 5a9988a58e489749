"""Where a training job stands, on disk: a job that is paused, stopped or killed goes on as if nothing had been.

One safetensors file: parameters, the last good ones, AdamW's moments, torch's generator; in its metadata the
step, the losses, the sampler's generator, the seconds spent, and a fingerprint of what is being trained. Written
durably; read back only when the fingerprint is the same. Nothing in it is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from continuonbrain.storage.durable import write_bytes_durably

_FORMAT = "continuonbrain.training_state.1"


@dataclass(slots=True)
class TrainingState:
    """The parts of a running job that steps change.

    parameters: the trained tensors by name, in one order; sampler draws the batches; spent_s: seconds of steps so
    far, without pauses; losses: of every step; good: copies of the parameters from a step whose loss was sound.
    """

    fingerprint: str
    parameters: dict[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    sampler: np.random.Generator
    losses: list[float]
    good: list[Tensor]
    samples: int
    budget_s: float
    spent_s: float = 0.0
    _marked: tuple[dict[str, Any], Tensor] | None = None

    def mark(self) -> None:
        """A step begins: what is saved until the next one draws its batch again, as this one does."""
        self._marked = dict(self.sampler.bit_generator.state), torch.get_rng_state()

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def save(self, path: Path) -> None:
        """Replace the file at `path`, durably. Raises OSError; the old file is then still there."""
        tensors = {f"parameter.{n}": p.detach().contiguous() for n, p in self.parameters.items()}
        tensors |= {f"good.{n}": t.contiguous() for n, t in zip(self.parameters, self.good, strict=True)}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{key}.{name}"] = torch.as_tensor(value).contiguous()
        if self._marked is None:
            self.mark()
        assert self._marked is not None
        sampler, tensors["torch"] = self._marked
        paper = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "losses": self.losses,
            "spent_s": self.spent_s,
            "budget_s": self.budget_s,
            "samples": self.samples,
            "sampler": sampler,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_durably(path, to_safetensors(tensors, metadata={"state": json.dumps(paper)}))

    def load(self, path: Path) -> bool:
        """Take over the state at `path`. False, with nothing changed, when there is none, when it is of another
        job, or when it is damaged."""
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                paper = json.loads((file.metadata() or {}).get("state", "{}"))
                if paper.get("fingerprint") != self.fingerprint or paper.get("samples") != self.samples:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._take(paper, tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return False
        return True

    def _take(self, paper: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        # Everything is looked up before anything is changed.
        losses = [float(x) for x in paper["losses"]]
        spent_s, budget_s = float(paper["spent_s"]), float(paper["budget_s"])
        values = {n: tensors[f"parameter.{n}"] for n in self.parameters}
        good = [tensors[f"good.{n}"].clone() for n in self.parameters]
        moments: dict[str, dict[str, Tensor]] = {n: {} for n in self.parameters}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, key, owner = name.split(".", 2)
                moments[owner][key] = tensor.clone()
        if any(values[n].shape != p.shape for n, p in self.parameters.items()):
            raise ValueError("parameters of another shape")
        generator = np.random.Generator(np.random.PCG64())
        generator.bit_generator.state = paper["sampler"]
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(values[name])
                if moments[name]:
                    self.optimiser.state[parameter] = moments[name]
        torch.set_rng_state(tensors["torch"])
        self.sampler, self.losses, self.good = generator, losses, good
        self.spent_s, self.budget_s = spent_s, budget_s


def saved_samples(path: Path, fingerprint: str) -> int | None:
    """How many samples the job at `path` had cached; None when there is none of this fingerprint."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            paper = json.loads((file.metadata() or {}).get("state", "{}"))
        if paper.get("format") == _FORMAT and paper.get("fingerprint") == fingerprint:
            return int(paper["samples"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        pass
    return None
