"""The torch half of the mid loop: read episodes, train, stage the candidate, judge it from its own bytes.

Kept apart from `mid.py` so that a sidecar that only waits does not hold torch in memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from continuonbrain import __version__
from continuonbrain.errors import BrainError
from continuonbrain.loops.judging import judge_candidate, replayable
from continuonbrain.loops.training_log import LIVE_LOG_FILE, LiveLog, log_losses
from continuonbrain.model.streams import Streams
from continuonbrain.policy.acting_cache import ActingCache
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.open_engine import engine_name, open_engine
from continuonbrain.policy.open_watch import open_head
from continuonbrain.policy.prompt import LAYOUT_VERSION, InstructionError, PromptLayout
from continuonbrain.policy.reflex import REFLEX_FILE
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.policy.watch import HEAD_CALIBRATION_FILE, HeadCalibration
from continuonbrain.rlds.reader import list_episodes, read_metadata
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.robot.sim.shifts import world
from continuonbrain.storage.adapter_version import CARD_FILE, AdapterError
from continuonbrain.storage.adapters import AdapterVersion
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.storage.plain_json import plain
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.dataset import (
    Drive,
    NoLabelsError,
    Samples,
    build_samples,
    calibrate,
    hold_out,
    mirrored_instruction,
    read_drive,
)
from continuonbrain.trainer.job import JobSettings, train_adapter
from continuonbrain.trainer.pausing import Look, unwatched
from continuonbrain.trainer.pool import Recall, mix
from continuonbrain.trainer.reflex_job import ReflexSettings, teach_reflex
from continuonbrain.trainer.safety_evidence import fit_head
from continuonbrain.trainer.states import replay_samples
from continuonbrain.trainer.steps import JobResult, Progress
from continuonbrain.trainer.training_state import forget_state

if TYPE_CHECKING:
    from continuonbrain.loops.mid import MidLoop

_REPLAY_STATES = 768
_REFLEX_SHARE = 0.2
"""Of the wall time: the reflex head's; the rest is the adapter's."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A staged and judged candidate. training: figures of the job; left_out: episodes not learned from, and why."""

    version_id: str
    verdict: dict[str, Any]
    training: dict[str, Any]
    left_out: list[str]


def _read(mid: MidLoop, episodes: list[Path]) -> tuple[list[Drive], list[str]]:
    """Drives that hold human steps and say what this base can read; and what was left out, in words."""
    prompts = PromptLayout.from_folder(mid.layout.base_model_dir)
    drives, left_out = [], []
    for i, path in enumerate(episodes):
        mid.wait_until_allowed()
        try:
            drive = read_drive(path, mid.look)
            said = sorted(
                {s for s, labelled in zip(drive.instructions, drive.labelled, strict=True) if labelled}
            )
            try:
                prompts.ids(said + [mirrored_instruction(s) for s in said], [None] * (2 * len(said)))
            except InstructionError as error:
                left_out.append(f"{path.name}: {error}")
                continue
        except BrainError as error:
            # One damaged episode must not stop the robot from learning from the others; it is named.
            left_out.append(str(error))
            continue
        if drive.labelled.any():
            drives.append(drive)
        mid.say(force=False, phase="read", step=i + 1, steps=len(episodes), detail=f"reading {path.name}")
    return drives, left_out


def _unreadable(episodes_dir: Path) -> list[str]:
    """Episodes whose metadata say nothing, in words: nobody else would name them."""
    words = []
    for path in list_episodes(episodes_dir):
        try:
            read_metadata(path / METADATA_FILE)
        except BrainError as error:
            words.append(str(error))
    return words


def _samples(
    mid: MidLoop, drives: list[Drive], calibration: Calibration, left_out: list[str]
) -> tuple[Samples, Samples | None, list[str], list[str]]:
    by_name = {d.episode.path.name: d for d in drives}
    paths = [d.episode.path for d in drives]
    rules = mid.config.promotion
    train, held = hold_out(paths, tail=rules.eval_tail_episodes, least=rules.min_eval_episodes)
    damaged: set[str] = set()

    def leave_out(drive: Drive, error: BrainError) -> None:
        left_out.append(str(error))
        damaged.add(drive.episode.path.name)

    def pick(chosen: list[Path], limit: int, stride: int = 3) -> Samples:
        wanted = [by_name[p.name] for p in chosen]
        return build_samples(
            wanted,
            calibration,
            stride=stride,
            max_samples=limit,
            look=mid.look,
            on_damage=leave_out,
        )

    held_samples = None
    if held:
        try:
            held_samples = pick(held, mid.config.promotion.max_eval_steps, stride=1)
        except NoLabelsError:
            held_samples = None
    samples = pick(train, mid.max_samples)

    def whole(chosen: list[Path]) -> list[str]:
        return [p.name for p in chosen if p.name not in damaged]

    return samples, held_samples, whole(train), whole(held)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What episodes give: samples to train on and held-out ones, from which episodes; the calibration fitted to them;
    whether all of them measured motion; what was left out, in words; and what they told the safety head."""

    train: Samples
    held: Samples | None
    trained_on: list[str]
    held_out: list[str]
    calibration: Calibration
    measured: bool
    left_out: list[str]
    safety_head: dict[str, Any]


def read_lessons(mid: MidLoop, episodes: list[Path]) -> Lessons:
    """Read the episodes. Raises `NoLabelsError` when there is nothing to learn in them."""
    drives, left_out = _read(mid, episodes)
    left_out += _unreadable(mid.layout.episodes_dir)
    if not drives:
        raise NoLabelsError(
            f"none of {len(episodes)} episodes holds a step that a human drove; {len(left_out)} were left out"
            + (f": {left_out[0]}" if left_out else ""),
            remedy="record teleoperation, or look for damage: "
            f"continuonbrain episodes list --root {mid.layout.root}",
        )
    calibration = calibrate(drives)
    watched = _fit_safety_head(mid, drives)
    train, held, trained_on, held_out = _samples(mid, drives, calibration, left_out)
    measured = all(d.measured for d in drives)
    return Lessons(train, held, trained_on, held_out, calibration, measured, left_out, watched)


def course_of(mid: MidLoop) -> Course | None:
    """Where candidates are driven; None where no simulator stands in for the robot."""
    return Course(world(mid.config.robot.shift)) if mid.config.robot.kind == "sim-donkey" else None


def learn(mid: MidLoop, episodes: list[Path]) -> Learned:
    """Train on the episodes, stage the adapter as candidate, attach card and verdict. Raises `BrainError`."""
    config, layout = mid.config, mid.layout
    torch.set_num_threads(config.training.threads)
    started = time.monotonic()
    mid.say(
        phase="read",
        step=0,
        steps=len(episodes),
        losses=[],
        loss=None,
        candidate="",
        verdict=None,
        detail="",
        left_out=[],
    )
    mid.check_current()
    course = course_of(mid)
    lessons = read_lessons(mid, episodes)
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
        max_wall_time_s=config.max_wall_time_s * (1 - (_REFLEX_SHARE if teaches_reflex else 0)),
        seed=config.training.seed,
        max_memory_mib=config.training.max_memory_mib,
        # Without motion sensors the servo's trim is in the labels, and a mirror would turn it around.
        mirror=lessons.measured,
    )
    plan: dict[str, Any] = {
        "by": __version__,
        "base_sha256": engine.base_sha256,
        "prompt_layout": LAYOUT_VERSION,
        "episodes": lessons.trained_on,
        "held_out": lessons.held_out,
        "samples_sha256": train.sha256(mid.look),
        "calibration": asdict(lessons.calibration),
        "settings": asdict(settings),
        "reflex_steps": config.training.reflex_steps,
    }
    if (cut_short := _cut_short(mid, plan)) is not None:
        staged, training = cut_short
        verdict = judge_candidate(mid, staged, train, held, engine=_serving(mid, engine), course=course)
        forget_state(layout.training_state_path)
        return Learned(staged.version_id, verdict, training, left_out)
    losses: list[float] = []
    live_log = LiveLog(layout.log_dir / LIVE_LOG_FILE)

    def progress(p: Progress) -> None:
        if p.loss is not None:
            losses.append(p.loss)
            if p.step % config.log_every_steps == 0 or p.step == p.steps:
                live_log.write(p)
        thinned = losses[:: max(1, len(losses) // 60)]
        mid.say(
            force=False, phase=p.phase, step=p.step, steps=p.steps, loss=p.loss, losses=thinned, detail=""
        )

    replay = replay_for(layout.base_model_dir, settings.seed, mid.look)
    result = train_adapter(
        engine.model,
        engine.layout,
        train,
        settings,
        base_sha256=engine.base_sha256,
        replay=replay,
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
        head, reflex_losses, figures = _teach_reflex(mid, engine, train, replay, settings)
        if head:
            files[REFLEX_FILE] = head
    staged = mid.store.stage(files)
    training = _figures(result, time.monotonic() - started) | figures
    training["wall_s"] = round(training["wall_s"] + training.get("reflex_s", 0.0), 2)
    card = plan | {
        "adapter_sha256": staged.compute_sha256(),
        "considered": [p.name for p in episodes],
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
    verdict = judge_candidate(mid, staged, train, held, engine=_serving(mid, engine), course=course)
    forget_state(
        layout.training_state_path
    )  # not before: who is interrupted while judging need not train again
    return Learned(staged.version_id, verdict, training, left_out)


def judge_imported(mid: MidLoop, candidate: AdapterVersion, episodes: list[Path]) -> Learned:
    """Judge a candidate that came from elsewhere as one's own is judged, on this robot's episodes. Raises
    `BrainError`."""
    torch.set_num_threads(mid.config.training.threads)
    mid.say(phase="read", step=0, steps=len(episodes), losses=[], loss=None, verdict=None, left_out=[])
    mid.check_current()
    lessons = read_lessons(mid, episodes)
    mid.say(left_out=lessons.left_out)
    engine = open_engine(mid.layout.base_model_dir, mid.config.policy)
    verdict = judge_candidate(
        mid, candidate, lessons.train, lessons.held, engine=engine, course=course_of(mid)
    )
    return Learned(candidate.version_id, verdict, {}, lessons.left_out)


def _fit_safety_head(mid: MidLoop, drives: list[Drive]) -> dict[str, Any]:
    """Tell the safety head what this robot's episodes say of it; {} where none watches."""
    if not mid.config.heads.safety.enabled:
        return {}
    folder = mid.layout.safety_dir
    head = open_head(folder)
    before = HeadCalibration.from_folder(folder, head.sha256)
    told, figures = fit_head(head, drives, mid.layout.episodes_dir, before, mid.look)
    if told != before:
        write_bytes_durably(folder / HEAD_CALIBRATION_FILE, told.to_json())
    return {"sha256": head.sha256, **figures}


def _serving(mid: MidLoop, trained_in: TorchEngine) -> Engine:
    """The engine that will drive with the adapter."""
    base, policy = mid.layout.base_model_dir, mid.config.policy
    return trained_in if engine_name(base, policy) == "torch" else open_engine(base, policy)


def _cut_short(mid: MidLoop, plan: dict[str, Any]) -> tuple[AdapterVersion, dict[str, Any]] | None:
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


def _teach_reflex(
    mid: MidLoop,
    engine: TorchEngine,
    train: Samples,
    replay: Samples | None,
    settings: JobSettings,
) -> tuple[bytes, list[float], dict[str, Any]]:
    """The reflex head for the adapter that the engine's model has just learned: its file (b"" when nothing sound came
    of it: the verdict will say so), its losses and figures of the stage."""
    assert engine.reflex is not None
    sampler = np.random.default_rng(settings.seed)
    pool, chances = mix(train, replay, settings, sampler)
    # The candidate's own, although it is not staged yet: its adapter is on the engine's model.
    intents = Intents(engine, reflex=engine.reflex)

    def meant(instructions: Sequence[str]) -> Any:
        for instruction in instructions:
            mid.look()
            intents.of(instruction)
        return intents.of_all(instructions)

    def progress(p: Progress) -> None:
        mid.say(force=False, phase=p.phase, step=p.step, steps=p.steps, loss=p.loss, detail="the reflex head")

    taught = teach_reflex(
        engine.reflex.data,
        pool,
        chances,
        meant,
        ReflexSettings(
            max_steps=mid.config.training.reflex_steps,
            # A share of its own: pauses and an interruption of the adapter's steps take nothing from it.
            max_wall_time_s=mid.config.max_wall_time_s * _REFLEX_SHARE,
            seed=settings.seed,
            max_memory_mib=settings.max_memory_mib,
        ),
        on_progress=progress,
        wait_until_allowed=mid.wait_until_allowed,
    )
    figures: dict[str, Any] = {
        "reflex_s": round(taught.seconds, 2),
        "reflex_steps": len(taught.losses),
        "reflex_max_steps": mid.config.training.reflex_steps,
        "reflex_ended": taught.ended,
    }
    return taught.data, [round(x, 4) for x in taught.losses], figures


def _recall(mid: MidLoop, engine: TorchEngine) -> Recall | None:
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
