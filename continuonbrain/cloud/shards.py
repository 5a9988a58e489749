"""Episodes as the records of a dataset's shard, read once, one part at a time: the memory this takes does not grow with
what is exported.

An episode is one tf.train.Example. One that is longer than `PART_STEPS` steps or holds more than `PART_BYTES` of
pictures goes in parts, each an episode of its own (`<id>.0`, `<id>.1`, ...): a record of any length could not be read
again.

What cannot be read is left out, named in the doctor's report, and keeps no other episode back. Of one in parts, the
parts before the damage stay.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from continuonbrain.cloud.faces import FaceFinder
from continuonbrain.cloud.images import bare_image, blurred_image, half_image
from continuonbrain.cloud.manifest import Blurred
from continuonbrain.cloud.plain_jpeg import Size
from continuonbrain.cloud.plan import Dataset, Frames, Shard
from continuonbrain.cloud.privacy import clean_features, clean_field, clean_metadata
from continuonbrain.cloud.sinks import Sink
from continuonbrain.cloud.survey import content_of
from continuonbrain.rlds.doctor_steps import StepOrder
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.finding import Findings
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.reader import Episode, open_episode
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.tfds import episode_features, shard_name
from continuonbrain.rlds.tfrecord import encode_example, frame_record
from continuonbrain.storage.pseudonyms import Pseudonyms
from continuonbrain.storage.zip64 import Member

PART_STEPS: Final = 4096
PART_BYTES: Final = 8 << 20
VERSION: Final = "1.0.0"

StepsDone = Callable[[int], None]
WhyStays = Callable[[EpisodeMetadata], str]
"""Why a person's word keeps an episode at home, "" where none does."""


@dataclass
class _Report:
    """What was seen of one episode while it was read."""

    findings: Findings = field(default_factory=Findings)
    error: EpisodeError | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """One record: its name, its steps, its bytes, and what was blurred in it."""

    name: str
    steps: int
    data: bytes
    blurred: Blurred


def folder_of(dataset: Dataset) -> str:
    """A dataset's place in a bundle."""
    return f"rlds/{dataset.name}/{VERSION}"


def member_of(dataset: Dataset, shard: Shard) -> str:
    """A shard's place in a bundle."""
    return f"{folder_of(dataset)}/{shard_name(dataset.name, shard.number, shard.count)}"


class ShardWriter:
    """Writes the shards of one bundle.

    Attributes:
        told: of episodes that were left out, whole or from some step on: name and why, for whoever owns the robot.
    """

    def __init__(
        self,
        sink: Sink,
        episodes_dir: Path,
        names: Pseudonyms,
        frames: Frames,
        *,
        faces: FaceFinder | None = None,
        why_stays: WhyStays,
        done: StepsDone,
    ) -> None:
        self._sink, self._dir, self._names, self._frames = sink, episodes_dir, names, frames
        self._why_stays, self._done, self._faces = why_stays, done, faces
        self.told: list[tuple[str, str]] = []

    def write(self, dataset: Dataset, shard: Shard) -> tuple[Member, dict[str, Any]]:
        """Write one shard. Its facts: `examples` and `bytes` as TFDS counts them, a line for each of `episodes`, what
        the doctor says, which `contents` the episodes had before they were read, and `blurred` where faces are looked
        for.

        Raises:
            OSError: the bundle cannot be written.
        """
        name = member_of(dataset, shard)
        self._sink.begin(name)
        lines: list[dict[str, Any]] = []
        doctor: list[dict[str, Any]] = []
        contents: dict[str, str] = {}
        total, blurred = 0, Blurred()
        for candidate in shard.episodes:
            report = _Report()
            episode_id = self._names.episode(candidate.name)
            with contextlib.suppress(EpisodeError, OSError):  # reading it says why
                contents[episode_id] = content_of(self._dir / candidate.name, self._names)
            for part in self._parts(self._dir / candidate.name, episode_id, dataset.size, report):
                self._sink.write(frame_record(part.data))
                total += len(part.data)
                blurred += part.blurred
                lines.append(
                    {
                        "id": part.name,
                        "episode": episode_id,
                        "steps": part.steps,
                        "bytes": len(part.data),
                        "sha256": hashlib.sha256(part.data).hexdigest(),
                        "shard": name,
                        "index": len(lines),
                    }
                )
            doctor += _told(episode_id, report)
            if report.error is not None:
                self.told.append((candidate.name, str(report.error)))
            self._done(candidate.steps)
        facts = {
            "dataset": dataset.name,
            "examples": len(lines),
            "bytes": total,
            "episodes": lines,
            "doctor": doctor,
            "contents": contents,
        }
        if self._faces is not None:
            facts["blurred"] = asdict(blurred)
        return self._sink.end(), facts

    def _parts(self, path: Path, episode_id: str, size: Size | None, report: _Report) -> Iterator[_Part]:
        parts = self._read(path, episode_id, size, report)
        while True:
            try:
                part = next(parts, None)
            except EpisodeError as error:
                report.error = error
                return
            except OSError as error:  # of reading: this writes nothing
                report.error = EpisodeError(f"cannot be read: {error.strerror}", file=path)
                return
            if part is None:
                return
            yield part

    def _read(self, path: Path, episode_id: str, size: Size | None, report: _Report) -> Iterator[_Part]:
        episode = open_episode(path)
        if why := self._why_stays(episode.metadata):  # it was said after the plan was made
            raise EpisodeError(why, file=path, field="metadata")
        count, number, order = len(episode), 0, StepOrder()
        steps: list[Step] = []
        pictures: list[bytes] = []
        held, blurred = 0, Blurred()
        for index in range(count):
            step = episode.step(index)
            report.findings.extend(order.take(index, path, step))
            steps.append(step)
            if self._frames != "none":
                taken = self._picture(episode, step, index, size)
                if taken is not None:
                    picture, faces = taken
                    blurred += Blurred(faces, int(faces > 0), 1)
                    pictures.append(picture)
                    held += len(picture)
            is_end = index == count - 1
            if is_end or len(steps) >= PART_STEPS or held >= PART_BYTES:
                whole = is_end and number == 0
                name = episode_id if whole else f"{episode_id}.{number}"
                metadata = clean_metadata(episode.metadata, self._names, name, steps, whole=whole)
                plain = episode_features(metadata, name, steps, path=path, first=index + 1 - len(steps))
                features = clean_features(plain, steps)
                if size is not None:
                    features["steps/observation/image"] = pictures
                yield _Part(name, len(steps), encode_example(features), blurred)
                number += 1
                steps, pictures, held, blurred = [], [], 0, Blurred()
        state = RecordingState.of(episode.metadata)
        cut = state is not None and (state.closed_by == "recovery" or bool(state.fault))
        report.findings.extend(order.finish(count, cut=cut))

    def _picture(
        self, episode: Episode, step: Step, index: int, size: Size | None
    ) -> tuple[bytes, int] | None:
        """The picture of a step as it leaves, and how many faces were blurred in it; None in a dataset without. Raises
        EpisodeError."""
        if size is None:
            if step.frame_ref is None:
                return None
            raise EpisodeError(
                "this step has a frame, and the first one has none", file=episode.path, step=index
            )
        data = episode.jpeg_of(step, index)
        try:
            picture, found, faces = self._leaves(data)
        except EpisodeError as error:
            raise error.at(file=episode.path, step=index) from error
        if found != size:
            raise EpisodeError(
                f"the frame is {found[1]}x{found[0]}, those before it {size[1]}x{size[0]}",
                file=episode.path,
                step=index,
                field="observation.frame",
            )
        return picture, faces

    def _leaves(self, data: bytes) -> tuple[bytes, Size, int]:
        half = self._frames == "half"
        if self._faces is not None:
            return blurred_image(data, self._faces.find, half=half)
        return *(half_image if half else bare_image)(data), 0


def _told(episode_id: str, report: _Report) -> list[dict[str, Any]]:
    """What the doctor's report says of an episode: where, and how bad. Its texts name files, and stay."""
    lines = [
        {"episode": episode_id, "severity": f.severity, "step": f.step, "field": clean_field(f.field)}
        for f in report.findings.listed()
    ]
    if (error := report.error) is not None:
        where = {"step": error.step, "field": clean_field(error.field)}
        lines.append({"episode": episode_id, "severity": "error", **where, "left_out": True})
    return lines
