"""Accelerate, as far as a run needs it: which worker this is, mean gradients, mixed precision, the device.

DDP over gloo on CPUs is what a run is by default. `sharded` is FSDP (torch's `fully_shard`) of what is frozen, block by
block; the adapter is whole on every worker, so that its state on disk is the same either way. Both are tried on CPUs.
GPUs (nccl), fp16 and TPUs (torch/XLA, started by `accelerate launch`) are Accelerate's own ways and have not been tried
with this program.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.launch import MEETING
from continuonbrain.cloud_train.objective import Batch, Objective
from continuonbrain.cloud_train.plan import Plan
from continuonbrain.model.decoder import decoder_of

_FP16_TRIES = 24
"""The scale of fp16 losses halves until the gradients fit."""


def _meet(plan: Plan) -> None:
    """Join the other workers over the file that whoever started them has named; nothing where torchrun did."""
    meeting = os.environ.get(MEETING)
    if meeting is None:
        return
    rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not plan.cpu and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Accelerate takes a group that is there; it asks for an address all the same, and uses none.
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    backend = "gloo" if plan.cpu else None
    store = dist.FileStore(meeting, workers)  # type: ignore[attr-defined]  # it is, from the C++ part
    dist.init_process_group(backend, store=store, rank=rank, world_size=workers)


class Engine:
    """This process among its workers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        _meet(plan)
        self._accelerator = Accelerator(
            cpu=plan.cpu,
            mixed_precision=plan.recipe.mixed_precision,
        )
        self._optimiser: Any = None
        if self.workers != (started := int(os.environ.get("WORLD_SIZE", "1"))):
            raise TrainRefused(
                f"{started} workers were started, and this one knows of {self.workers}",
                remedy="start them by `continuonbrain cloud train`; a plan for a machine without a GPU says cpu",
            )

    @property
    def worker(self) -> int:
        """Its number."""
        return int(self._accelerator.process_index)

    @property
    def workers(self) -> int:
        """How many there are."""
        return int(self._accelerator.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return bool(self._accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        found: torch.device = self._accelerator.device
        return found

    def told(self) -> dict[str, object]:
        """For `training.json`."""
        from importlib.metadata import version

        return {
            "name": f"accelerate {version('accelerate')}, torch {torch.__version__}",
            "distributed": str(self._accelerator.distributed_type).rsplit(".", 1)[-1],
            "device": self.device.type,
            "workers": self.workers,
            "mixed_precision": self._plan.recipe.mixed_precision,
            "sharded": self._plan.sharded,
        }

    def prepare(self, objective: Objective, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Module and optimiser as the engine drives them. The parameters stay the same objects."""
        if not self._plan.sharded:
            module, self._optimiser = self._accelerator.prepare(objective, optimiser)
            return module, self._optimiser
        self._shard(objective)
        self._optimiser = self._accelerator.prepare(optimiser)
        return objective, self._optimiser

    def _shard(self, objective: Objective) -> None:
        objective.to(self.device)
        trained = {p for p in objective.parameters() if p.requires_grad}
        mesh = init_device_mesh(self.device.type, (self.workers,))
        for block in decoder_of(objective.model.causal_lm).text.layers:
            fully_shard(block, mesh=mesh, ignored_params=trained)

    def backward(self, module: nn.Module, passes: Sequence[Batch], shares: Sequence[float]) -> float:
        """Gradients of one step in this worker's parameters: of the mean over the samples of all workers.

        Args:
            passes: this worker's batches of the step.
            shares: the part of the step's samples that is in each.

        Returns:
            The mean loss over all workers' samples.
        """
        accelerator = self._accelerator
        for _ in range(_FP16_TRIES):
            local = torch.zeros((), device=self.device)
            for number, (batch, share) in enumerate(zip(passes, shares, strict=True)):
                last = number == len(passes) - 1
                # Gradients of earlier passes stay here; with the last one the sums are averaged.
                with self._alone(module, last=last), accelerator.autocast():
                    loss = module({n: t.to(self.device) for n, t in batch.items()})
                    # The engine takes the mean over workers: the sum over workers of their parts is what is wanted.
                    accelerator.backward(loss * (share * self.workers))
                local = local + loss.detach().float() * share
            if self._plan.sharded:
                self._average()
            if accelerator.scaler is None or self._fits():
                break
        return float(accelerator.reduce(local, "sum"))

    def _alone(self, module: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        if last or self._plan.sharded:
            return contextlib.nullcontext()
        found: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return found

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for g in self._optimiser.param_groups for p in g["params"] if p.grad is not None]

    def _average(self) -> None:
        """What DDP does by itself."""
        for gradient in self._gradients():
            gradient.copy_(self._accelerator.reduce(gradient, "mean"))

    def _fits(self) -> bool:
        """fp16: gradients as they are; False when they were too large for it, with a smaller scale set."""
        accelerator = self._accelerator
        accelerator.unscale_gradients(self._optimiser)
        if all(bool(torch.isfinite(g).all()) for g in self._gradients()):
            return True
        assert accelerator.scaler is not None
        accelerator.scaler.update()
        self._optimiser.zero_grad()
        return False

    def sum(self, value: float) -> float:
        """Over all workers."""
        return float(
            self._accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=self.device), "sum")
        )

    def wait(self) -> None:
        """Until all are here."""
        self._accelerator.wait_for_everyone()

    def end(self) -> None:
        """Let go of the others."""
        self._accelerator.end_training()
