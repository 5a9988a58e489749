"""Where a training job stands, on disk: a job that is paused, stopped or killed goes on as if nothing had been.

One file: a sha256, then safetensors with parameters, the last good ones, AdamW's moments and torch's generator, and in
their metadata the losses, the sampler's generator, the seconds spent, and a fingerprint of what is being trained.
Written durably; taken up only whole and only by the same job. Nothing in it is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from continuonbrain.storage.durable import write_bytes_durably

_FORMAT = "continuonbrain.training_state.1"
_DIGEST_BYTES = 32


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
    streams_sha256: str
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
            "streams_sha256": self.streams_sha256,
            "sampler": sampler,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(
            f".staging-*-{path.name}"
        ):  # of a process that was killed while it saved
            left.unlink(missing_ok=True)
        data = to_safetensors(tensors, metadata={"state": json.dumps(paper)})
        write_bytes_durably(path, hashlib.sha256(data).digest() + data)

    def load(self, path: Path) -> bool:
        """Take over the state at `path`. False, with nothing changed, when there is none, when it is of another
        job, or when it is damaged."""
        found = _read(path, self.fingerprint)
        if found is None or found[0]["samples"] != self.samples:
            return False
        if found[0]["streams_sha256"] != self.streams_sha256:
            return False
        self._take(*found)
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
    found = _read(path, fingerprint)
    return None if found is None else int(found[0]["samples"])


def forget_state(path: Path) -> None:
    """Remove the state of a job that is done. What cannot be removed is not gone on with: its job has an adapter."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _read(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Paper and tensors of a whole file of this job; None for anything else."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    data = raw[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != raw[:_DIGEST_BYTES]:
        return None
    try:
        (header,) = struct.unpack_from("<Q", data)
        paper: dict[str, Any] = json.loads(json.loads(data[8 : 8 + header])["__metadata__"]["state"])
        if paper["format"] != _FORMAT or paper["fingerprint"] != fingerprint:
            return None
        return paper, from_safetensors(data)
    except (ValueError, KeyError, TypeError, struct.error, SafetensorError):
        return None
