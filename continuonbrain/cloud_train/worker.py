"""One worker of a run: `python -m continuonbrain.cloud_train.worker OUT/unfinished/plan.json`, in an environment that
says which of how many it is (`launch.py`; torchrun's names).

The steps are the robot's own (`trainer.steps.StepLoop`: one cycle of the learning rate, clipping, the watch over the
loss), and so is their state on disk; Accelerate averages gradients over the workers and knows the machine. Every worker
makes the same decisions, because all of them see the mean loss and the mean gradient. The first one writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from continuonbrain.cloud_train.board import Board
from continuonbrain.cloud_train.engine import Engine
from continuonbrain.cloud_train.objective import (
    Batch,
    FrozenCache,
    Objective,
    adapter_of,
    batch_of,
    in_parts,
    mib_of,
    open_model,
    plain_pool,
)
from continuonbrain.cloud_train.order import passes_of, rows_of_step, rows_of_worker
from continuonbrain.cloud_train.plan import Plan
from continuonbrain.cloud_train.pooling import pool_of
from continuonbrain.cloud_train.prepare import HELD
from continuonbrain.cloud_train.sample_store import read_samples
from continuonbrain.errors import BrainError
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.storage.durable import write_directory_durably, write_json_durably
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.trainer.pool import Pool
from continuonbrain.trainer.steps import Progress, StepLoop, peak_rss_mib
from continuonbrain.trainer.training_state import TrainingState

_NO_LIMIT_S = 1e9
"""Steps are the limit, not a clock: a run must repeat itself."""
_EVALUATED_AT_ONCE = 64


def train(plan: Plan, engine: Engine) -> None:
    """All steps of a plan, from wherever its state stands; then adapter and figures are written.

    Raises:
        BrainError: it cannot be trained, or the state is another process's.
    """
    started = time.monotonic()
    recipe = plan.recipe
    layout = PromptLayout.from_folder(plan.base)
    pool, chances = pool_of(plan)
    model, parameters = open_model(plan.base, plan.base_sha256, recipe)
    objective = Objective(model, frozen_below=recipe.layers == "top")
    optimiser = torch.optim.AdamW(parameters.values(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    wrapped, prepared = engine.prepare(objective, optimiser)
    state = TrainingState(
        _fingerprint(plan),
        parameters,
        prepared,
        np.random.default_rng(recipe.seed),
        losses=[],
        good=[p.detach().clone() for p in parameters.values()],
        samples=len(pool),
        streams_sha256="",  # computed in one order from the same plan: what is lost comes back the same
        budget_s=_NO_LIMIT_S,
    )
    state.load(plan.state_path)
    resumed_at = state.step
    engine.wait()  # nobody saves before all have read
    size = recipe.batch_size * recipe.accumulate
    batch = _batches(plan, engine, objective, layout, pool, chances, range(resumed_at, recipe.max_steps))
    cache_s = time.monotonic() - started

    def backward_of_batch(_pause: Callable[[], None]) -> float:
        rows = rows_of_step(recipe.seed, state.step, chances, size)
        passes = passes_of(rows, recipe.accumulate, engine.worker, engine.workers)
        return engine.backward(wrapped, [batch(part) for part in passes], [len(p) / size for p in passes])

    held = _HeldOut(plan, engine, objective, layout)
    board = Board(plan.board_dir, from_step=resumed_at) if engine.is_first else None
    evaluations: list[tuple[int, float]] = [(0, held.loss())] if not resumed_at and held.count else []

    def progress(p: Progress) -> None:
        assert p.loss is not None
        if board is not None:
            board.add(p.step, train__loss=p.loss, train__learning_rate=prepared.param_groups[0]["lr"])
        last = p.step == p.steps
        if held.count and (p.step % plan.eval_every == 0 or last):
            evaluations.append((p.step, held.loss()))
            if board is not None:
                board.add(p.step, held_out__loss=evaluations[-1][1])
        if engine.is_first and (p.step % plan.save_every == 0 or last):
            loop.save()
            print(f"step {p.step}/{p.steps} loss {p.loss:.4f}", file=sys.stderr, flush=True)

    path = plan.state_path if engine.is_first else None
    loop = StepLoop(state, recipe, backward_of_batch, path, progress, lambda _save: 0.0)
    ended = loop.run()
    engine.wait()
    if board is not None:
        board.close()
        files = _adapter_files(plan, model)
        shutil.rmtree(plan.adapter_dir, ignore_errors=True)  # of a run that was killed behind it
        write_directory_durably(plan.adapter_dir, files)
        figures: dict[str, Any] = {
            "ended": ended,
            "steps": state.step,
            "resumed_at": resumed_at,
            "losses": state.losses,
            "held_out_losses": evaluations,
            "samples": len(pool),
            "trainable_parameters": sum(p.numel() for p in parameters.values()),
            "cache_s": cache_s,
            "train_s": state.spent_s,
            "cached": isinstance(batch, _FromCache),
            "workers": engine.workers,
            "engine": engine.told(),
            "tensorboard": board.written,
            "peak_rss_mib": peak_rss_mib(),
        }
        write_json_durably(plan.result_path, figures)


class _FromCache:
    def __init__(self, cache: FrozenCache) -> None:
        self._cache = cache

    def __call__(self, rows: Any) -> Batch:
        return self._cache.batch(rows)


def _batches(
    plan: Plan,
    engine: Engine,
    objective: Objective,
    layout: PromptLayout,
    pool: Pool,
    chances: Any,
    steps: range,
) -> Callable[[Any], Batch]:
    """Rows -> a batch: from a cache of what is frozen where there is room for all that this worker will need of the
    whole run. Of the whole run, and not of what is left: a run that is taken up again must compute the same."""
    recipe = plan.recipe
    if recipe.layers == "top" and steps and not plan.sharded:
        size = recipe.batch_size * recipe.accumulate
        rows = rows_of_worker(
            recipe.seed,
            range(recipe.max_steps),
            chances,
            size,
            accumulate=recipe.accumulate,
            worker=engine.worker,
            workers=engine.workers,
        )
        # By the number that all workers can be expected to need, so that all decide alike.
        most = min(
            len(pool), recipe.max_steps * (-(-recipe.batch_size // engine.workers)) * recipe.accumulate
        )
        if most * mib_of(objective, layout, pool, engine.device) <= plan.cache_mib:
            return _FromCache(FrozenCache(objective, layout, pool, rows, engine.device))
    return lambda rows: batch_of(layout, pool, rows)


class _HeldOut:
    """The loss over what nobody trained on, by all workers together."""

    def __init__(self, plan: Plan, engine: Engine, objective: Objective, layout: PromptLayout) -> None:
        samples = read_samples(plan.unfinished / HELD)
        self.count = 0 if samples is None else len(samples)
        self._pool = None if samples is None else plain_pool(samples)
        self._engine, self._objective, self._layout = engine, objective, layout

    def loss(self) -> float:
        """Mean over the samples."""
        assert self._pool is not None
        workers, total = self._engine.workers, 0.0
        # As many passes for each worker: sharded weights are gathered by all of them together.
        for part in in_parts(-(-self.count // workers), _EVALUATED_AT_ONCE):
            numbers = part * workers + self._engine.worker
            own = numbers[numbers < self.count]
            rows = own if len(own) else np.zeros(1, np.int64)
            batch = {
                n: t.to(self._engine.device) for n, t in batch_of(self._layout, self._pool, rows).items()
            }
            with torch.no_grad():
                total += float(self._objective(batch)) * len(own)
        return self._engine.sum(total) / self.count


def _adapter_files(plan: Plan, model: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        return adapter_of(model, plan.base_sha256, Path(scratch))


def _fingerprint(plan: Plan) -> str:
    asked = json.dumps(plan.recipe.to_json(), sort_keys=True)
    named = f"{asked}\n{plan.base_sha256}\n{plan.samples_sha256}\n{plan.robots}\n{plan.robot_of}"
    return hashlib.sha256(named.encode()).hexdigest()


def main(argv: list[str]) -> int:
    """Exit code 0: done; 2: for a person, and `error.json` says what."""
    plan = Plan.read(Path(argv[0]))
    engine = Engine(plan)
    try:
        with contextlib.ExitStack() as alone:
            if engine.is_first:
                alone.enter_context(ProcessLock(plan.unfinished / "job.lock", purpose=f"train in {plan.out}"))
            train(plan, engine)
    except BrainError as error:
        if engine.is_first:
            write_json_durably(plan.error_path, {"message": error.message, "remedy": error.remedy})
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    engine.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
