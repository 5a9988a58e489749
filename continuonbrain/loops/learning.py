"""The torch half of the mid loop: read episodes, train, stage the candidate, judge it from its own bytes.

Kept apart from `mid.py` so that a sidecar that only waits does not hold torch in memory.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from continuonbrain import __version__
from continuonbrain.errors import BrainError
from continuonbrain.loops.judging import judge_candidate, replayable
from continuonbrain.loops.lessons import Lessons, read_lessons
from continuonbrain.loops.reflex_stage import teach_head
from continuonbrain.loops.remembering import read_reservoir
from continuonbrain.loops.slow_adapter import standing_slow
from continuonbrain.loops.training_log import LIVE_LOG_FILE, LiveLog, log_losses
from continuonbrain.loops.two_adapters import not_on_top
from continuonbrain.model.lora import LoraError, lora_targets
from continuonbrain.model.plain_lora import Start, read_plain
from continuonbrain.model.streams import Streams
from continuonbrain.policy.acting_cache import ActingCache
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import engine_name, open_engine
from continuonbrain.policy.prompt import LAYOUT_VERSION
from continuonbrain.policy.reflex import REFLEX_FILE
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.sim.shifts import world
from continuonbrain.storage.adapter_version import CARD_FILE, AdapterError
from continuonbrain.storage.adapters import AdapterVersion
from continuonbrain.storage.plain_json import plain
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.job import JobSettings, train_adapter
from continuonbrain.trainer.look import Look, unwatched
from continuonbrain.trainer.pool import Recall
from continuonbrain.trainer.states import replay_samples
from continuonbrain.trainer.steps import JobResult, Progress
from continuonbrain.trainer.training_state import forget_state
from continuonbrain.trainer.wall_time import adapter_s, fell_short

if TYPE_CHECKING:
    from continuonbrain.loops.at_work import Sidecar

log = logging.getLogger(__name__)

ANEW = "anew"
"""In a card and in the figures of a job: why it began with the base although there was something to go on from."""
_REPLAY_STATES = 768


@dataclass(frozen=True, slots=True)
class Learned:
    """A staged and judged candidate. training: figures of the job; left_out: episodes not learned from, and why."""

    version_id: str
    verdict: dict[str, Any]
    training: dict[str, Any]
    left_out: list[str]


def course_of(mid: Sidecar) -> Course | None:
    """Where candidates are driven; None where no simulator stands in for the robot."""
    return Course(world(mid.config.robot.shift)) if mid.config.robot.kind == "sim-donkey" else None


@dataclass(frozen=True, slots=True)
class Task:
    """What a job makes of lessons. kind: "fast" (new lessons, on top of the slow adapter where there is one) or "slow"
    (a consolidation); start: what it begins with; paper: what the card says of that."""

    kind: Literal["fast", "slow"]
    start: Start | None
    paper: dict[str, Any]


def learn(mid: Sidecar, episodes: list[Path]) -> Learned:
    """Train on the episodes, stage the adapter as candidate, attach card and verdict. Raises `BrainError`."""
    begin(mid, len(episodes))
    started = time.monotonic()
    # What the reservoir keeps for the exam stays unseen by every adapter; it may judge one.
    exam = {e.episode for e in read_reservoir(mid.layout.reservoir_path).kept if e.exam}
    task, recent = Task("fast", None, {}), episodes
    if (slow := standing_slow(mid.store)) is not None:
        below = read_plain(slow.version.path)
        if why := not_on_top(mid.brain, below, lora_targets(mid.config.lora_layers)):
            log.warning("trained from the base on all lessons: %s", why)
            task = Task("fast", None, {ANEW: why})
        else:
            start = Start(below, frozen=True)
            task = Task("fast", start, {"slow": slow.version.version_id, "slow_rank": start.lora.rank})
            recent = slow.recent(recent, least=mid.config.min_episodes)
    return teach(mid, read_lessons(mid, recent, unseen=exam), episodes, task, started)


def begin(mid: Sidecar, episodes: int) -> None:
    """A round that trains begins. Raises `BrainError` when what drives now is damaged, or nothing can be trained."""
    torch.set_num_threads(mid.config.training.threads)
    try:
        lora_targets(mid.config.lora_layers)
    except LoraError as error:  # before an episode is read
        raise LoraError(f"{mid.layout.config_path}: {error.message}", remedy=error.remedy) from error
    mid.say(
        phase="read",
        step=0,
        steps=episodes,
        losses=[],
        loss_steps=[],
        loss=None,
        part=0,
        parts=0,
        candidate="",
        verdict=None,
        detail="",
        left_out=[],
    )
    mid.check_current()


def teach(mid: Sidecar, lessons: Lessons, considered: list[Path], task: Task, started: float) -> Learned:
    """The job, the candidate and its verdict. considered: all episodes that the round knew of; started: monotonic
    seconds. Raises `BrainError`."""
    config, layout = mid.config, mid.layout
    course = course_of(mid)
    train, held, left_out = lessons.train, lessons.held, lessons.left_out
    mid.say(left_out=left_out)
    mid.look()
    engine = TorchEngine(layout.base_model_dir)
    mid.look()
    teaches_reflex = engine.reflex is not None and config.training.reflex_steps > 0
    settings = JobSettings(
        rank=config.training.rank,
        alpha=config.training.alpha,
        targets=config.lora_layers,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        max_steps=config.max_steps,
        max_wall_time_s=adapter_s(config.max_wall_time_s, teaches_reflex=teaches_reflex),
        seed=config.training.seed,
        max_memory_mib=config.training.max_memory_mib,
        # Without motion sensors the servo's trim is in the labels, and a mirror would turn it around.
        mirror=lessons.measured,
    )
    plan: dict[str, Any] = {
        "by": __version__,
        "kind": task.kind,
        **task.paper,
        "start": None if task.start is None else task.start.sha256,
        "base_sha256": engine.base_sha256,
        "prompt_layout": LAYOUT_VERSION,
        "episodes": lessons.trained_on,
        "held_out": lessons.held_out,
        "samples_sha256": train.sha256(mid.look),
        "calibration": asdict(lessons.calibration),
        "settings": asdict(settings),
        "reflex_steps": config.training.reflex_steps,
    }

    def judged(staged: AdapterVersion, training: dict[str, Any]) -> dict[str, Any]:
        serving = _serving(mid, engine)
        short = fell_short(training, config.max_wall_time_s)
        verdict = judge_candidate(
            mid, staged, train, held, engine=serving, course=course, exam=lessons.exam, short=short
        )
        # Not before: who is interrupted while judging need not train again.
        forget_state(layout.training_state_path)
        return verdict

    if (cut_short := _cut_short(mid, plan)) is not None:
        staged, training = cut_short
        return Learned(staged.version_id, judged(staged, training), training, left_out)
    losses: list[tuple[int, float]] = []
    live_log = LiveLog(layout.log_dir / LIVE_LOG_FILE)

    def progress(p: Progress) -> None:
        if p.loss is not None:
            losses.append((p.step, p.loss))
            if p.step % config.log_every_steps == 0 or p.step == p.steps:
                live_log.write(p)
        shown = losses[:: max(1, len(losses) // 60)]
        mid.say(
            force=False,
            phase=p.phase,
            step=p.step,
            steps=p.steps,
            loss=p.loss,
            loss_steps=[step for step, _ in shown],
            losses=[loss for _, loss in shown],
            detail="",
        )

    replay = replay_for(layout.base_model_dir, settings.seed, mid.look)
    result = train_adapter(
        engine.model,
        engine.layout,
        train,
        settings,
        base_sha256=engine.base_sha256,
        replay=replay,
        start=task.start,
        state_path=layout.training_state_path,
        recall=_recall(mid, engine),
        on_progress=progress,
        wait_until_allowed=mid.wait_until_allowed,
    )
    if not result.losses:
        raise BrainError(
            f"the job ended ({result.ended}) before its first step",
            remedy="raise training.max_memory_mib in config.json (torch alone takes some 400 MiB)"
            if result.ended == "memory limit"
            else "raise max_wall_time_s in config.json, or record fewer or shorter episodes",
        )
    files = {**result.files, "calibration.json": lessons.calibration.to_json()}
    figures: dict[str, Any] = {}
    reflex_losses: list[float] = []
    if teaches_reflex:
        head, reflex_losses, figures = teach_head(mid, engine, train, replay, settings)
        if head:
            files[REFLEX_FILE] = head
    staged = mid.store.stage(files)
    training = _figures(result, time.monotonic() - started) | figures
    training |= {
        "max_steps": settings.max_steps,
        "episodes": len(lessons.trained_on),
        "held_out": len(lessons.held_out),
        "for_exams": len(lessons.for_exams),
    }
    training |= {ANEW: task.paper[ANEW]} if ANEW in task.paper else {}
    training["wall_s"] = round(training["wall_s"] + training.get("reflex_s", 0.0), 2)
    card = plan | {
        "adapter_sha256": staged.compute_sha256(),
        "considered": [p.name for p in considered],
        "for_exams": lessons.for_exams,
        "left_out": left_out,
        "training": training,
        "safety_head": lessons.safety_head,
        "losses": [round(x, 4) for x in result.losses],
        "reflex_losses": reflex_losses,
        "trained_unix_s": round(time.time(), 3),
    }
    mid.store.attach(staged, CARD_FILE, (json.dumps(plain(card), indent=2) + "\n").encode())
    mid.look()
    log_losses(layout.log_dir, staged.version_id, result)
    mid.look()
    return Learned(staged.version_id, judged(staged, training), training, left_out)


def judge_imported(mid: Sidecar, candidate: AdapterVersion, episodes: list[Path]) -> Learned:
    """Judge a candidate that came from elsewhere as one's own is judged, on this robot's episodes. Raises
    `BrainError`."""
    torch.set_num_threads(mid.config.training.threads)
    empty: dict[str, Any] = {"losses": [], "loss_steps": [], "left_out": []}
    mid.say(
        phase="read",
        step=0,
        steps=len(episodes),
        loss=None,
        verdict=None,
        candidate="",
        part=0,
        parts=0,
        **empty,
    )
    mid.check_current()
    lessons = read_lessons(mid, episodes)
    mid.say(left_out=lessons.left_out)
    engine = open_engine(mid.layout.base_model_dir, mid.config.policy)
    verdict = judge_candidate(
        mid, candidate, lessons.train, lessons.held, engine=engine, course=course_of(mid)
    )
    return Learned(candidate.version_id, verdict, {}, lessons.left_out)


def _serving(mid: Sidecar, trained_in: TorchEngine) -> Engine:
    """The engine that will drive with the adapter."""
    base, policy = mid.layout.base_model_dir, mid.config.policy
    return trained_in if engine_name(base, policy) == "torch" else open_engine(base, policy)


def _cut_short(mid: Sidecar, plan: dict[str, Any]) -> tuple[AdapterVersion, dict[str, Any]] | None:
    """The candidate that this plan has already made, and its figures, where only its judging was cut short."""
    try:
        candidate = mid.store.candidate()
        if candidate is None or candidate.verdict() is not None:
            return None
        card = candidate.card() or {}
        whole = card.get("adapter_sha256") == candidate.compute_sha256()
    except (AdapterError, OSError):
        return None
    same = whole and {k: card.get(k) for k in plan} == json.loads(json.dumps(plan))
    return (candidate, dict(card["training"])) if same else None


def _recall(mid: Sidecar, engine: TorchEngine) -> Recall | None:
    budget = mid.config.training.cache_mib
    if not budget:
        return None
    cache = ActingCache(mid.layout.cache_dir, engine.base_sha256, max_bytes=budget << 20)

    def recall(stamp: int, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> Streams | None:
        found = cache.get(stamp, ids, frame)
        try:
            return (
                None
                if found is None
                else Streams.from_tensors({n: torch.tensor(a) for n, a in found.items()})
            )
        except KeyError:  # of no use to anybody: computed again
            return None

    return recall if len(cache) else None


def replay_for(base: Path, seed: int, look: Look = unwatched) -> Samples | None:
    """Replay of what the base was made from, where that can be drawn again: the simulator, for the tiny base."""
    return replay_samples(_REPLAY_STATES, seed=seed, look=look) if replayable(base) else None


def _figures(result: JobResult, wall_s: float) -> dict[str, Any]:
    return {
        "wall_s": round(result.cache_s + result.train_s, 2),
        "cache_s": round(result.cache_s, 2),
        "train_s": round(result.train_s, 2),
        "with_reading_s": round(wall_s, 2),
        "steps": result.steps,
        "samples": result.samples,
        "first_loss": round(float(np.mean(result.losses[:10])), 4),
        "last_loss": round(float(np.mean(result.losses[-10:])), 4),
        "ended": result.ended,
        "resumed_at": result.resumed_at,
        "recalled": result.recalled,
        "trainable_parameters": result.trainable_parameters,
        "peak_rss_mib": round(result.peak_rss_mib, 1),
        "threads": torch.get_num_threads(),
    }
