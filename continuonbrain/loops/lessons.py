"""What a round learns from: episodes read, the robot's calibration fitted to them, lessons and what is held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.open_watch import open_head
from continuonbrain.policy.prompt import InstructionError, PromptLayout
from continuonbrain.policy.watch import HEAD_CALIBRATION_FILE, HeadCalibration
from continuonbrain.rlds.marking import bad_episodes
from continuonbrain.rlds.reader import list_episodes, read_metadata
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.trainer.dataset import (
    Drive,
    NoLabelsError,
    Samples,
    build_samples,
    calibrate,
    join,
    mirrored_instruction,
    read_drive,
)
from continuonbrain.trainer.exam import Paper, name_of_question
from continuonbrain.trainer.held_out import hold_out, instructions_by_name
from continuonbrain.trainer.reservoir import sizes
from continuonbrain.trainer.safety_evidence import fit_head

if TYPE_CHECKING:
    from continuonbrain.loops.at_work import Sidecar

_TRAINED_ON = 2
"""Episodes by which a lesson that has none for the exam is looked at."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How episodes are shared out where their age does not say it, by name: what is held out, and what nobody trains
    on (exam: the number of the lesson that each came from; remembered: the same of all that the reservoir holds, of
    which a lesson without an exam is looked at by those that are trained on). calibration: the robot's now; by_episode:
    as it was when an earlier one was driven, by which its commands are understood. unseen: neither trained on nor asked
    now."""

    calibration: Calibration
    held_out: frozenset[str]
    exam: Mapping[str, int] = field(default_factory=dict)
    by_episode: Mapping[str, Calibration] = field(default_factory=dict)
    remembered: Mapping[str, int] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lessons:
    """What episodes give: samples to train on and held-out ones, from which episodes; the calibration fitted to them;
    whether all of them measured motion; what was left out, in words; what they told the safety head; the exam of a
    consolidation; and what was read and is neither trained on nor held out, because later exams need it unseen."""

    train: Samples
    held: Samples | None
    trained_on: list[str]
    held_out: list[str]
    calibration: Calibration
    measured: bool
    left_out: list[str]
    safety_head: dict[str, Any]
    exam: Paper | None = None
    for_exams: list[str] = field(default_factory=list)


def read_lessons(
    mid: Sidecar, episodes: list[Path], choice: Choice | None = None, unseen: Collection[str] = ()
) -> Lessons:
    """Read the episodes. unseen: names of those that nobody trains on, where no choice says it. Raises `NoLabelsError`
    when there is nothing to learn in them."""
    drives, left_out = _read(mid, episodes)
    left_out += _unreadable(mid.layout.episodes_dir)
    left_out += [f"{name}: marked as bad by a person" for name in bad_episodes(mid.layout.episodes_dir)]
    if not drives:
        raise NoLabelsError(
            f"none of {len(episodes)} episodes holds a step that a human drove; {len(left_out)} were left out"
            + (f": {left_out[0]}" if left_out else ""),
            remedy="record teleoperation, or look for damage: "
            f"continuonbrain episodes list --root {mid.layout.root}",
        )
    watched = _fit_safety_head(mid, drives)
    if choice is None:
        rules = mid.config.promotion
        paths = [d.episode.path for d in drives]
        _, held = hold_out(
            paths,
            tail=rules.eval_tail_episodes,
            least=rules.min_eval_episodes,
            unseen=unseen,
            said=instructions_by_name(drives),
        )
        names = frozenset(p.name for p in held)
        choice = Choice(calibrate(drives), names, unseen=frozenset(unseen) - names)
    return _shared_out(mid, drives, choice, left_out, watched)


def _shared_out(
    mid: Sidecar, drives: list[Drive], choice: Choice, left_out: list[str], watched: dict[str, Any]
) -> Lessons:
    damaged: set[str] = set()

    def leave_out(drive: Drive, error: BrainError) -> None:
        if drive.episode.path.name not in damaged:  # it may be asked for twice: for the exam, and to train on
            left_out.append(str(error))
            damaged.add(drive.episode.path.name)

    def then(drive: Drive) -> Calibration:
        return choice.by_episode.get(drive.episode.path.name, choice.calibration)

    def pick(wanted: list[Drive], limit: int, stride: int = 3) -> Samples:
        return build_samples(
            wanted, then, stride=stride, max_samples=limit, look=mid.look, on_damage=leave_out
        )

    def whole(wanted: list[Drive]) -> list[str]:
        return [d.episode.path.name for d in wanted if d.episode.path.name not in damaged]

    exam = [d for d in drives if d.episode.path.name in choice.exam]
    held = [d for d in drives if d.episode.path.name in choice.held_out]
    untouched = choice.held_out | choice.exam.keys() | choice.unseen
    train = [d for d in drives if d.episode.path.name not in untouched]
    most = mid.config.promotion.max_eval_steps
    # As many of each whatever there is beside it: else what is asked of an episode would change with the others.
    each = max(1, most // max(1, sizes(mid.config.slow.reservoir_episodes)[1]))
    paper = set_paper(exam, train, choice, lambda drive: _or_none(lambda: pick([drive], each)))
    held_samples = _or_none(lambda: pick(held, most, stride=1)) if held else None
    return Lessons(
        pick(train, mid.max_samples),
        held_samples,
        whole(train),
        whole(held),
        choice.calibration,
        all(d.measured for d in drives),
        left_out,
        watched,
        paper,
        whole([d for d in drives if d.episode.path.name in choice.unseen]),
    )


def set_paper(
    exam: list[Drive], train: list[Drive], choice: Choice, pick: Callable[[Drive], Samples | None]
) -> Paper | None:
    """The exam: every lesson that is remembered is asked, by episodes that nobody trains on where there is one that can
    be read, else by two that are trained on. None where nobody is asked anything new. pick: samples of a drive, None
    where they cannot be read."""
    asked: list[tuple[int, bool, Samples]] = []
    for drive in exam:
        if (samples := pick(drive)) is not None:
            asked.append((choice.exam[drive.episode.path.name], False, samples))
    if not asked:
        return None
    lessons = {lesson for lesson, _, _ in asked}
    alone: Counter[int] = Counter()
    for drive in train:
        lesson = choice.remembered.get(drive.episode.path.name)
        if lesson is None or lesson in lessons or alone[lesson] == _TRAINED_ON:
            continue
        if (samples := pick(drive)) is not None:
            asked.append((lesson, True, samples))
            alone[lesson] += 1
    numbered = [replace(s, episode=np.full(len(s), i)) for i, (_, _, s) in enumerate(asked)]
    return Paper(
        join(numbered),
        {i: lesson for i, (lesson, _, _) in enumerate(asked)},
        {i: name_of_question(s, trained=trained) for i, (_, trained, s) in enumerate(asked)},
        frozenset(i for i, (_, trained, _) in enumerate(asked) if trained),
        tuple(sorted(set(choice.remembered.values()) - lessons - alone.keys())),
    )


def _or_none(make: Callable[[], Samples]) -> Samples | None:
    try:
        return make()
    except NoLabelsError:
        return None


def _read(mid: Sidecar, episodes: list[Path]) -> tuple[list[Drive], list[str]]:
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


def _fit_safety_head(mid: Sidecar, drives: list[Drive]) -> dict[str, Any]:
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
