"""Runs a study's cells, each in a process of its own, and keeps every result at once: a study that is interrupted
goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors

from continuonbrain.errors import BrainError
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.policy import codec
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.robot.sim.shifts import BASE, SHIFTS
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.study.convolution import ConvolutionPolicy
from continuonbrain.study.learners import ForwardEngine, fit, untrained
from continuonbrain.study.plan import (
    PARTS,
    Cell,
    StudySettings,
    at_best_rates,
    best_rates,
    cells,
    search_cells,
)
from continuonbrain.trainer.dataset import build_samples, calibrate, read_drive
from continuonbrain.trainer.job import JobSettings
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets
from continuonbrain.trainer.score import drive_score, follow_score
from continuonbrain.trainer.states import StateSource, replay_samples
from continuonbrain.trainer.steps import one_cycle

RESULTS_FILE = "results.jsonl"
SETTINGS_FILE = "settings.json"
_CONVOLUTION_FILE = "convolution.safetensors"
_REPLAY_STATES = 768
_SLOW_DECISION_S = 0.75
_UNLIMITED_S = 1e6
OnCell = Callable[[Cell, int, int, float], None]
"""A cell that is done, how many are, of how many, and the seconds it took."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study on disk. folder holds lessons, the pretrained convolution policy and `results.jsonl`; base: a driving
    base's folder."""

    folder: Path
    base: Path
    settings: StudySettings

    def rows(self) -> list[dict[str, Any]]:
        """Results so far; a torn last line is none."""
        try:
            text = (self.folder / RESULTS_FILE).read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def run(self, parts: Collection[str], *, workers: int, on_cell: OnCell) -> None:
        """Run what is missing of the parts. The search goes first whenever anything is asked for.

        Raises:
            BrainError: the folder holds a study of other settings or another base, or somebody works in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ProcessLock(self.folder / "study.lock", purpose="study"):
            self._claim()
            self._mend()
            if (
                "wall" in parts
                and "steps" not in parts
                and not any((r["part"], r["learner"]) == ("steps", "shared") for r in self.rows())
            ):
                raise BrainError(
                    "part wall gives every learner the time that the shared layers took in part steps",
                    remedy="run --parts steps,wall",
                )
            # A fresh process for every cell: nothing of one learner stays for the next one.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(
                workers, mp_context=context, initializer=_end_with_parent, max_tasks_per_child=1
            ) as pool:
                try:
                    self._in_pool(pool, [_Task(self, None)], lambda *_: None)
                    while wanted := self._missing(search_cells(parts, self.settings, self.rows())):
                        self._in_pool(pool, wanted, on_cell)
                    rates = best_rates(self.rows())
                    for part in PARTS[1:]:
                        if part in parts:
                            self._in_pool(pool, self._missing(cells(part, self.settings, rates)), on_cell)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    # A cell takes minutes, and the pool waits for ever for one that Ctrl-C has ended before it.
                    for child in multiprocessing.active_children():
                        child.kill()
                    raise

    def _mend(self) -> None:
        """Cut off a line that a kill has torn: the next result must not be glued to it."""
        path = self.folder / RESULTS_FILE
        if path.exists():
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                replace_file(path, whole)

    def _claim(self) -> None:
        mine = json.loads(json.dumps({"base_sha256": base_sha256(self.base)} | asdict(self.settings)))
        path = self.folder / SETTINGS_FILE
        if path.exists():
            try:
                theirs = dict(json.loads(path.read_bytes()))
            except (ValueError, TypeError) as error:
                raise BrainError(
                    f"{path} cannot be read: {error}", remedy="remove the folder, or choose another --out"
                ) from error
            # More seeds, shifts or learners only add cells; the rest changes what a cell means.
            adds = ("shifts", "learners", "counts")
            fixed = set(mine) - {*adds, "seeds"}
            # A folder of an earlier version lacks the settings that came later: it had their defaults.
            theirs = json.loads(json.dumps(asdict(StudySettings()))) | theirs
            other = sorted(k for k in fixed if mine[k] != theirs.get(k))
            if other:
                raise BrainError(
                    f"{path}: {other[0]} is {theirs.get(other[0])}, this study has {mine[other[0]]}",
                    remedy="choose another --out, or the same settings",
                )
            # The folder's settings are those of all that is in it.
            for name in adds:
                mine[name] = list(dict.fromkeys([*theirs.get(name, ()), *mine[name]]))
            mine["seeds"] = max(mine["seeds"], theirs.get("seeds", 0))
        replace_file(path, (json.dumps(mine, indent=2) + "\n").encode())

    def _missing(self, wanted: Iterable[Cell]) -> list[_Task]:
        done = {row["key"] for row in self.rows()}
        return [_Task(self, cell) for cell in wanted if cell.key not in done]

    def _in_pool(self, pool: ProcessPoolExecutor, tasks: list[_Task], on_cell: OnCell) -> None:
        done = 0
        for task, row in _unordered(pool, tasks):
            done += 1
            if task.cell is None or row is None:
                continue
            with (self.folder / RESULTS_FILE).open("a") as file:
                file.write(json.dumps(row) + "\n")
            on_cell(task.cell, done, len(tasks), float(row["cell_s"]))


def _end_with_parent() -> None:
    """A study that is killed takes its cells with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, name="end-with-parent", daemon=True).start()


@dataclass(frozen=True, slots=True)
class _Task:
    """A cell of a study, or (None) what must exist before any cell."""

    study: Study
    cell: Cell | None

    def __call__(self) -> dict[str, Any] | None:
        torch.set_num_threads(1)
        if self.cell is None:
            _pretrained_convolution(self.study)
            return None
        return run_cell(self.study, self.cell)


def _unordered(
    pool: ProcessPoolExecutor, tasks: list[_Task]
) -> Iterator[tuple[_Task, dict[str, Any] | None]]:
    waiting: dict[Future[dict[str, Any] | None], _Task] = {pool.submit(task): task for task in tasks}
    while waiting:
        finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in finished:
            yield waiting.pop(future), future.result()


def run_cell(study: Study, cell: Cell) -> dict[str, Any]:
    """Train and score one cell; one row of the results."""
    started = time.monotonic()
    settings, searching = study.settings, cell.part == "search"
    row: dict[str, Any] = {"key": cell.key} | asdict(cell)
    calibration = Calibration()
    if cell.learner == "base":
        engine = untrained(study.base)
    else:
        folder = _lessons(study, cell)
        drives = [read_drive(path) for path in list_episodes(folder)[: cell.episodes]]
        calibration = calibrate(drives)
        job = JobSettings(
            rank=settings.rank,
            alpha=settings.alpha,
            learning_rate=cell.rate,
            max_steps=settings.steps,
            max_wall_time_s=_UNLIMITED_S,
            seed=cell.seed,
        )
        if cell.part == "wall":
            # As many steps as fit; the schedule falls to zero by then.
            job = replace(job, max_steps=10**6, max_wall_time_s=time_of_shared(study, cell))
        fitted = fit(
            cell.learner,
            study.base,
            build_samples(drives, calibration),
            replay_samples(_REPLAY_STATES, seed=cell.seed),
            job,
            convolution=study.folder / _CONVOLUTION_FILE,
        )
        engine = fitted.engine
        row |= {
            "steps": fitted.steps,
            "cache_cpu_s": round(fitted.cache_cpu_s, 2),
            "train_cpu_s": round(fitted.train_cpu_s, 2),
            "trainable_parameters": fitted.trainable,
            "ended": fitted.ended,
        }
    row |= _scores(
        engine,
        cell,
        calibration,
        tracks=settings.validation_tracks if searching else settings.tracks,
        follow=1 + settings.follow_tracks // 4 if searching else settings.follow_tracks,
    )
    return row | {"cell_s": round(time.monotonic() - started, 2)}


def _scores(
    engine: ForwardEngine, cell: Cell, calibration: Calibration, *, tracks: int, follow: int
) -> dict[str, Any]:
    first = cell.score_seed  # neither the demo's tracks nor a verdict's
    world, limits, laps = SHIFTS[cell.shift], Limits(), range(first, first + tracks)
    drive = drive_score(engine, world, laps, calibration=calibration, limits=limits)
    slow = drive_score(
        engine, world, laps, calibration=calibration, limits=limits, decision_time_s=_SLOW_DECISION_S
    )
    obey = follow_score(
        engine, world, range(first + 500, first + 500 + follow), calibration=calibration, limits=limits
    )
    # As in a verdict: what is tested on the old roads is the memory of roads, not of the servo.
    old = drive_score(
        engine,
        BASE,
        range(first + 600, first + 600 + (tracks + 1) // 2),
        calibration=Calibration(),
        limits=limits,
    )
    return {
        "tracks": tracks,
        "completion": drive.completion,
        "lane_error_m": drive.lateral_error_m,
        "guard_share": drive.guard_share,
        "slow_completion": slow.completion,
        "slow_lane_error_m": slow.lateral_error_m,
        "following": obey.following,
        "stop_model": obey.stop_model,
        "old_roads_completion": old.completion,
    }


def _lessons(study: Study, cell: Cell) -> Path:
    settings = study.settings
    parent = study.folder / "lessons"
    parent.mkdir(exist_ok=True)
    name = f"{cell.shift}-{cell.seed}"
    folder = parent / name
    with ProcessLock(parent / f"{name}.lock", purpose="study", timeout_s=600.0):
        if not folder.exists():
            # Under another name first: a study that is killed here must not take half of them for all.
            making = parent / f"{name}.making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            record_expert(
                making,
                SHIFTS[cell.shift],
                instructions=lessons(settings.episodes),
                steps=settings.episode_steps,
                seed=cell.lesson_seed,
                limits=Limits(),
            )
            making.rename(folder)
    return folder


def time_of_shared(study: Study, cell: Cell) -> float:
    """Computing time of the shared layers in part "steps", the median over seeds: the same for every learner."""
    times = [
        float(row["cache_cpu_s"]) + float(row["train_cpu_s"])
        for row in at_best_rates(study.rows())
        if (row["part"], row["learner"], row["shift"]) == ("steps", "shared", cell.shift)
        and "train_cpu_s" in row
    ]
    if not times:
        raise BrainError(
            "the time of the shared layers is not known yet", remedy="run the part 'steps' before 'wall'"
        )
    return float(np.median(times))


def _pretrained_convolution(study: Study) -> None:
    """The convolution policy, on as many of the base's own states as the base saw, unless it is there."""
    path = study.folder / _CONVOLUTION_FILE
    if path.exists() or not any(name == "conv" for name in study.settings.learners):
        return
    torch.manual_seed(0)
    layout = PromptLayout.from_folder(study.base)
    policy = ConvolutionPolicy(layout, queries=codec.QUERIES)
    optimiser = torch.optim.AdamW(policy.parameters(), weight_decay=0.01)
    chunks, batch = study.settings.convolution_chunks, 128
    weights, step, total = query_weights(), 0, chunks * 512 // batch
    for states in StateSource(range(192), seed=0).stream(chunks):
        ids = torch.from_numpy(layout.ids(states.phrases, states.speeds))
        targets = soft_targets(layout, states.curvature, states.speed_ahead)
        for rows in np.split(np.arange(512), 512 // batch):
            for group in optimiser.param_groups:
                group["lr"] = 2e-3 * one_cycle(step / total)
            logits = policy(ids[rows], torch.from_numpy(states.frames[rows]))
            loss = action_loss(logits, targets[rows], weights)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
            step += 1
    replace_file(path, to_safetensors(policy.state_dict()))
