"""From checked bundles to samples on disk: what a robot makes of its own episodes, made of those of many.

Each robot's calibration is fitted to its own drives, a part of its newest episodes is held out (as it would hold them
out itself), and labels are understood by its calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.cloud_train.balance import distinct, in_time
from continuonbrain.cloud_train.bundles import OpenBundle
from continuonbrain.cloud_train.episodes import BundledEpisode, episodes_of
from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.sample_store import write_samples
from continuonbrain.config.brain import BrainConfig
from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.prompt import InstructionError, PromptLayout
from continuonbrain.rlds.marking import teaches
from continuonbrain.trainer.dataset import (
    Drive,
    NoLabelsError,
    Samples,
    build_samples,
    calibrate,
    mirrored_instruction,
)
from continuonbrain.trainer.held_out import hold_out, instructions_by_name

TRAIN, HELD, REPLAY = "train", "held", "replay"
_STRIDE = 3
"""As the robot's own (`build_samples`)."""


@dataclass
class Prepared:
    """What came of the bundles. robots: in the order of their numbers; uncalibrated: robots that are left out because
    no calibration can be fitted to their drives; episodes: by robot and name, in the order of the samples' numbers."""

    robots: list[str] = field(default_factory=list)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    trained_on: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    robot_of: list[int] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    uncalibrated: list[str] = field(default_factory=list)
    measured: bool = True
    train: int = 0
    held: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `prepared.json` holds it."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Prepared:
        """What `to_json` gave."""
        known = {r: Calibration(**c) for r, c in value["calibrations"].items()}
        return Prepared(**{**value, "calibrations": known})


def prepare(
    bundles: Sequence[OpenBundle],
    base: Path,
    config: BrainConfig,
    unfinished: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Write the samples of all bundles below `unfinished`; the same whatever order the bundles come in.

    Raises:
        TrainRefused: nothing in them can be learned from.
        OSError: `unfinished` cannot be written.
    """
    out = Prepared()
    drives = _drives(bundles, PromptLayout.from_folder(base), out, say)
    if not drives:
        why = f": {out.left_out[0]}" if out.left_out else ""
        raise TrainRefused(
            f"none of the episodes in {len(bundles)} bundles holds a step that a person drove, with its picture{why}",
            remedy="record teleoperation, and export with --frames keep or half",
        )
    rules = config.promotion
    train: list[Drive] = []
    held: list[list[Drive]] = []
    for own in _calibrated(bundles, drives, out, say):
        kept = set(
            hold_out(
                [d.episode.path for d in own],
                tail=rules.eval_tail_episodes,
                least=rules.min_eval_episodes,
                said=instructions_by_name(own),
            )[1]
        )
        train += [d for d in own if d.episode.path not in kept]
        held.append([d for d in own if d.episode.path in kept])
    out.measured = all(d.measured for own in (train, *held) for d in own)
    say("decoding pictures")
    out.train = write_samples(unfinished / TRAIN, _samples(train, out, out.trained_on))
    if not out.train:
        raise TrainRefused(
            f"nothing can be learned from {len(train)} episodes: {(out.left_out or ['they are too short'])[-1]}",
            remedy="record longer episodes",
        )
    most = rules.max_eval_steps
    out.held = write_samples(
        unfinished / HELD, (part for own in held for part in _held_samples(own, out, most_steps=most))
    )
    return out


def _drives(
    bundles: Sequence[OpenBundle], prompts: PromptLayout, out: Prepared, say: Callable[[str], None]
) -> list[Drive]:
    found: list[BundledEpisode] = []
    for bundle in sorted(bundles, key=lambda b: b.in_time):
        say(f"reading {bundle.path.name}")
        for episode in episodes_of(bundle):
            if isinstance(episode, BrainError):
                out.left_out.append(f"{bundle.path.name}: {episode}")
            elif teaches(episode.metadata):  # the robot's own rule
                found.append(episode)
    seen = [e.seen for e in found]
    kept = set(distinct(seen))
    out.duplicates = sorted(f"{e.robot}/{e.name}" for i, e in enumerate(found) if i not in kept)
    drives = []
    for i in in_time(seen, kept):
        drive = found[i].drive()
        said = sorted({s for s, d in zip(drive.instructions, drive.labelled, strict=True) if d})
        try:
            prompts.ids(said + [mirrored_instruction(s) for s in said], [None] * (2 * len(said)))
        except InstructionError as error:
            out.left_out.append(f"{drive.episode.path}: {error}")
            continue
        if drive.labelled.any():
            drives.append(drive)
    return drives


def _calibrated(
    bundles: Sequence[OpenBundle], drives: Sequence[Drive], out: Prepared, say: Callable[[str], None]
) -> list[list[Drive]]:
    """The drives of each robot to which a calibration can be fitted. One with a broken gyro is left out and named: it
    must not end the run of a fleet. Raises TrainRefused where no robot is left."""
    found = []
    remedy = "record again"
    for robot in sorted({d.episode.path.parent.name for d in drives}):
        own = [d for d in drives if d.episode.path.parent.name == robot]
        try:
            out.calibrations[robot] = calibrate(own)
        except (BrainError, ArithmeticError, ValueError) as error:
            problem, remedy = (
                (error.message, error.remedy) if isinstance(error, BrainError) else (repr(error), remedy)
            )
            names = ", ".join(dict.fromkeys(b.path.name for b in bundles if b.contents.robot == robot))
            out.uncalibrated.append(robot)
            out.left_out.append(f"{robot} ({names}): {problem}")
            say(f"left out: {out.left_out[-1]}")
            continue
        out.robots.append(robot)
        found.append(own)
    if not found:
        raise TrainRefused(f"no robot's drives can be understood: {out.left_out[-1]}", remedy=remedy)
    return found


def _samples(drives: Sequence[Drive], out: Prepared, names: list[str]) -> Iterator[Samples]:
    """The samples of every drive that can be read, one drive after the other; their episodes get numbers."""
    for drive in drives:
        robot = drive.episode.path.parent.name
        try:
            samples = build_samples([drive], out.calibrations[robot], stride=_STRIDE)
        except NoLabelsError:
            continue  # too short to say what came next
        except BrainError as error:
            out.left_out.append(str(error))
            continue
        number = len(names)
        names.append(str(drive.episode.path))
        out.robot_of.append(out.robots.index(robot))
        yield replace(samples, episode=np.full(len(samples), number))


def _held_samples(drives: Sequence[Drive], out: Prepared, *, most_steps: int) -> Iterator[Samples]:
    """Of one robot: every step, or evenly spread ones where there are more than `most_steps`."""
    total = sum(int(d.labelled.sum()) for d in drives)
    stride = max(1, -(-total // most_steps))
    for drive in drives:
        robot = drive.episode.path.parent.name
        try:
            samples = build_samples([drive], out.calibrations[robot], stride=stride)
        except BrainError:
            continue  # damage is named where it is trained on; too short: nothing to ask
        out.held_out.append(str(drive.episode.path))
        # Held-out samples carry the robot's number: by its calibration they are judged.
        yield replace(samples, episode=np.full(len(samples), out.robots.index(robot)))
