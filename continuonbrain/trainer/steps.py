"""Training steps: bounded, paused by gates, put down and taken up again.

Steps are bounded by their number and by wall time, whichever comes first, and the learning rate falls to zero by
then: on a slow machine there are fewer steps, not an adapter that was cut off in the middle. A loss that is not
finite, or that grows far beyond where it began, ends them with the last good adapter.

A job can be interrupted between any two steps, for a second or a week: with a `state_path` its state is put on disk
before a pause, every now and then while it works, and when it is told to stop; the same job started again goes on
from there, to the bit (`training_state.py`). A pause in the middle of a long step saves the state before that step.
"""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Protocol

import psutil
import torch

from continuonbrain.trainer.training_state import TrainingState

Save = Callable[[], None]
_WARM_UP = 0.1
_SNAPSHOT_EVERY = 20
_SAVE_EVERY_S = 30.0


class StepSettings(Protocol):
    """What the loop needs of a job's settings."""

    @property
    def max_steps(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def max_memory_mib(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is: phase "cache" or "train", step of steps, loss (None while caching)."""

    phase: str
    step: int
    steps: int
    loss: float | None = None


@dataclass(slots=True)
class JobResult:
    """What came out. files: the adapter as a PEFT folder's files; ended: why the loop ended; resumed_at: the step
    that an interrupted job was taken up at; train_s: of all its steps, without pauses, before an interruption too;
    recalled: samples that needed no pass through the frozen layers; route:
    how gradients were computed."""

    files: dict[str, bytes]
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    cache_s: float = 0.0
    train_s: float = 0.0
    ended: str = "steps"
    resumed_at: int = 0
    recalled: int = 0
    route: str = "cached suffix"
    peak_rss_mib: float = 0.0
    samples: int = 0
    trainable_parameters: int = 0


def above_memory(limit_mib: int | None, *, share: float = 1.0) -> bool:
    """Whether this process's resident memory is above a share of the limit."""
    return limit_mib is not None and psutil.Process().memory_info().rss > share * limit_mib * 2**20


def peak_rss_mib() -> float:
    """The most resident memory that this process has had. Not getrusage's figure: that one is inherited from the
    process that started this one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at a progress in [0, 1]: cosine up over the first tenth, cosine down to zero."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / _WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - _WARM_UP) / (1 - _WARM_UP))))


def exploded(losses: Sequence[float], value: float) -> bool:
    """Whether a step's loss says that the run blew up. Batches differ, small ones by several times: what counts is
    the spread of the first ten losses.

    Behind them: a loss above three times their mean and ten standard deviations above it; or the last eight, on
    average, above twice their mean and three standard deviations above it. Among them: a loss of ten times the highest
    before; or three in a row above all of the first three and far above the lower half, which an explosion there does
    not raise.
    """
    first = losses[:10]
    if len(first) < 3:
        return False
    if value > 10 * max(first):
        return True
    if len(first) < 10:
        lower = fmean(sorted(first)[: len(first) // 2])
        recent = [*losses[-2:], value]
        sustained = min(recent) > max(2.5 * lower, *first[:3])
        return sustained and fmean(recent) > 3 * lower
    mean, spread = fmean(first), pstdev(first)
    if value > max(3 * mean, mean + 10 * spread):
        return True
    recent = [*losses[-7:], value]
    return len(losses) >= 17 and fmean(recent) > max(2 * mean, mean + 3 * spread)


@dataclass(slots=True)
class StepLoop:
    """The loop over steps, from wherever the state stands.

    backward_of_batch draws a batch, fills the gradients and returns the loss; between the parts of a long batch it
    calls what it is given, so that a closed gate need not wait for the whole of it. clock, in seconds, is what the
    budget and the time spent are counted by.
    """

    state: TrainingState
    settings: StepSettings
    backward_of_batch: Callable[[Callable[[], None]], float]
    state_path: Path | None
    on_progress: Callable[[Progress], None]
    wait_until_allowed: Callable[[Save], float]
    clock: Callable[[], float] = field(default_factory=lambda: time.monotonic)
    _saved_s: float = field(default_factory=lambda: time.monotonic())
    _began: float = 0.0

    def pause(self) -> None:
        """Wait while a gate is closed: that is no progress."""
        self._began += self.wait_until_allowed(self.save)

    def save(self) -> None:
        """Put the job on disk. A full disk costs the state, not the job."""
        self._saved_s = time.monotonic()
        if self.state_path is not None:
            with contextlib.suppress(OSError):
                self.state.save(self.state_path)

    def run(self) -> str:
        """Why it ended. A sound end is put on disk too: what follows (staging, judging) may be interrupted."""
        ended = self._run()
        if ended in ("steps", "wall time") and not self._is_finite():
            self._back_to_good()  # the last step's own loss was never asked for
            ended = "adapter not finite"
        self.state.spent_s = self.clock() - self._began
        if ended in ("steps", "wall time"):
            self.state.mark()
            self.save()
        return ended

    def _run(self) -> str:
        state, settings = self.state, self.settings
        self._began = self.clock() - state.spent_s
        while state.step < settings.max_steps:
            state.mark()
            state.spent_s = self.clock() - self._began
            self.pause()
            if state.spent_s > state.budget_s:
                return "wall time"
            if above_memory(settings.max_memory_mib):
                return "memory limit"
            if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self.save()
            # Of the steps; of the time where that is nearer to its end by more than a step. A clock that is not the
            # limit must not touch the learning rate, not even in its last bit: the run would not repeat itself.
            by_clock = state.spent_s / max(1e-9, state.budget_s)
            by_steps = state.step / settings.max_steps
            progress = by_clock if by_clock > by_steps + 1 / settings.max_steps else by_steps
            for group in state.optimiser.param_groups:
                group["lr"] = settings.learning_rate * one_cycle(progress)
            if why := self._step():
                return why
            self.on_progress(Progress("train", state.step, settings.max_steps, state.losses[-1]))
        return "steps"

    def _step(self) -> str:
        """One step; why the job must end, "" when it goes on."""
        state = self.state
        parameters = list(state.parameters.values())
        state.optimiser.zero_grad()
        value = self.backward_of_batch(self.pause)
        if not math.isfinite(value) or exploded(state.losses, value):
            self._back_to_good()
            return "loss not finite" if not math.isfinite(value) else "loss exploded"
        if not math.isfinite(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))):
            return "gradient not finite"  # this step's loss was sound: the parameters stay as they are
        if state.step % _SNAPSHOT_EVERY == 0:
            state.good = [p.detach().clone() for p in parameters]
        state.optimiser.step()
        state.losses.append(value)
        return ""

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.state.parameters.values())

    def _back_to_good(self) -> None:
        with torch.no_grad():
            for parameter, good in zip(self.state.parameters.values(), self.state.good, strict=True):
                parameter.copy_(good)
