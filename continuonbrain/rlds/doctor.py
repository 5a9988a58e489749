"""The doctor: everything that is wrong with an episode, not only the first thing, and never an exception.

`open_episode` stops at the first fault because its caller wants data. The doctor's caller wants to know what
is left, so here every line and every frame is looked at: once, as they come, so that an episode of any size costs
little memory. Of what no reader opens (more steps or bytes than one episode holds) the beginning is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from continuonbrain.rlds.doctor_frames import FrameLedger
from continuonbrain.rlds.doctor_steps import StepOrder
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import data_files
from continuonbrain.rlds.finding import ASIDE, ERROR, INFO, WARNING, Finding, Findings, finding_of
from continuonbrain.rlds.flat_frames import read_flat_frame
from continuonbrain.rlds.linescan import MAX_NAMED, Line, count_ends, scan_lines
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.pieces import MAX_PIECES
from continuonbrain.rlds.reader import (
    MAX_FRAME_BYTES,
    MAX_STEPS_BYTES,
    decode_image,
    is_being_recorded,
    open_episode,
    read_metadata_and_seal,
)
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.writer import METADATA_FILE

_SPLIT = f"split it: an episode holds {MAX_PIECES} steps and {MAX_STEPS_BYTES >> 20} MiB of them at most"


def examine(path: Path) -> list[Finding]:
    """Everything wrong with an episode folder, a flat JSON episode, or each episode of a memory's folder.

    Checks: schema, CRC of metadata, lines and frames, counts, finite numbers, monotonic time, time between
    frame and state, duplicate steps, flags, missing frames and frames that do not decode. Healthy means an
    empty list; an error, that data are lost or untrue. Of an episode with thousands of the same kind the first are
    named and the rest counted.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return _examine_flat(path)
        if not is_episode_folder(path) and (inner := episode_folders(path)):
            return [finding for episode in inner for finding in examine(episode)]
        return _Folder(path).examine()
    except EpisodeError as error:
        return [finding_of(error, path, field="episode")]
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        return [Finding(str(error.filename or path), None, "episode", text, ERROR, "check the disk")]


def is_episode_folder(path: Path) -> bool:
    """Whether `path` is what an episode's folder looks like, be it without its metadata or without its steps."""
    return (path / METADATA_FILE).exists() or any((path / "steps").glob("*.jsonl"))


def episode_folders(memory: Path) -> list[Path]:
    """The episodes of a memory with those that `list_episodes` passes over because half of them is missing."""
    return [path for path in sorted(memory.iterdir()) if path.name[0] != "." and is_episode_folder(path)]


def _examine_flat(path: Path) -> list[Finding]:
    episode = open_episode(path)
    frames = Findings()
    unreadable, in_order, order = Findings(), Findings(), StepOrder()
    for index in range(len(episode)):
        try:
            step = episode.step(index)
        except EpisodeError as error:
            unreadable.add(finding_of(error, path, index))
        else:
            in_order.extend(order.take(index, path, step))
            frames.extend(_of_flat_frame(path, index, step))
    in_order.extend(order.finish(len(episode), cut=False))
    return unreadable.listed() + in_order.listed() + frames.listed()


def _of_flat_frame(path: Path, index: int, step: Step) -> Iterator[Finding]:
    ref, field = step.frame_ref, "observation.frame"
    if ref is None:
        return
    try:
        if ref.file.startswith("blobs/"):
            text = f"its frame lies in {ref.file} of the folder that it was made from, not here"
            raise EpisodeError(text, file=path)
        decode_image(read_flat_frame(path.parent, ref, MAX_FRAME_BYTES))
    except EpisodeError as error:
        yield replace(finding_of(error, path.parent / ref.file, index), field=field)
    except OSError as error:
        text = f"its frame cannot be read: {error.strerror}"
        yield Finding(str(path.parent / ref.file), index, field, text, ERROR, ASIDE)


class _Folder:
    """One pass over the files of an episode's folder.

    Attributes:
        count: lines so far, whether they hold steps or not.
        bad: those that hold none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = self.bad = 0
        self._parsed = 0
        self._is_torn = False
        self._state: RecordingState | None = None
        self._files, self._in_order = Findings(), Findings()
        self._order, self._ledger = StepOrder(), FrameLedger()

    def examine(self) -> list[Finding]:
        """Every finding: metadata and lines, then the order of the steps, then frames."""
        self._files.extend(self._of_metadata())
        files = data_files(self.path / "steps", "*.jsonl")
        if not files:
            self._files.add(
                Finding(str(self.path / "steps"), None, "steps", "there is no steps file", ERROR, ASIDE)
            )
            return self._files.listed()
        for file in files:
            self._files.extend(self._of_lines(file))
        state = self._state
        if state is not None and state.state == "closed" and state.steps != self.count:
            text = f"{self.count} steps are here, {state.steps} were recorded"
            at = min(self.count, max(state.steps, 0))
            field = "metadata.provenance.recording.steps"
            self._files.add(Finding(str(self.path / METADATA_FILE), at, field, text, ERROR, ASIDE))
        # Where the end is missing for a reason already told, the line that is now the last need not say is_last.
        cut = self._is_torn
        if state is not None:
            cut |= state.closed_by == "recovery" or bool(state.fault) or state.steps != self.count
        self._in_order.extend(self._order.finish(self.count, cut=cut))
        frames = Findings()
        frames.extend(self._ledger.examine(self.path, state))
        return self._files.listed() + self._in_order.listed() + frames.listed()

    def _of_metadata(self) -> Iterator[Finding]:
        file = self.path / METADATA_FILE
        try:
            metadata, alteration = read_metadata_and_seal(file)
            if alteration is not None:  # its account of the steps is looked at all the same
                yield finding_of(alteration, file)
            self._state = RecordingState.of(metadata)
        except EpisodeError as error:
            yield finding_of(error, file, field="metadata")
        state, recording = self._state, "metadata.provenance.recording"
        if state is not None and state.state == "open":
            live = is_being_recorded(self.path)
            text = (
                "the episode is being recorded" if live else "the episode was never closed: its recorder died"
            )
            remedy = "" if live else "the next start of the recorder closes it"
            yield Finding(str(file), None, f"{recording}.state", text, INFO if live else WARNING, remedy)
        if state is not None and state.fault:
            yield Finding(str(file), None, f"{recording}.fault", state.fault, WARNING, "check the disk")

    def _of_lines(self, file: Path) -> Iterator[Finding]:
        unnamed, first_unnamed = 0, None
        try:
            size = file.stat().st_size
            if size > MAX_STEPS_BYTES:
                yield Finding(str(file), None, "steps", f"a file of {size} bytes is too long", ERROR, _SPLIT)
                return
            for line in scan_lines(file, hopeless=lambda: self.bad >= MAX_NAMED):
                if not line.ended:
                    self._is_torn = True
                    text = f"the last line is cut short ({line.end - line.start} bytes without an end)"
                    yield Finding(str(file), self.count, "step", text, ERROR, ASIDE)
                    break
                self._parsed += 1
                if self._parsed > MAX_PIECES:
                    text = f"more than {MAX_PIECES} steps: from here on they were not looked at"
                    yield Finding(str(file), self.count, "steps", text, ERROR, _SPLIT)
                    self.count += count_ends(file, line.start)
                    break
                error = self._take(file, line)
                if error is not None and self.bad <= MAX_NAMED:
                    yield finding_of(error, file, self.count)
                elif error is not None:
                    unnamed, first_unnamed = unnamed + line.count, first_unnamed or self.count
                self.count += line.count
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            yield Finding(str(file), None, "steps", text, ERROR, "check the disk")
        if unnamed:
            text = f"{unnamed} more lines from here on are no steps"
            yield Finding(str(file), first_unnamed, "step", text, ERROR, ASIDE)

    def _take(self, file: Path, line: Line) -> EpisodeError | None:
        """Look at one line; why it holds no step."""
        sealed = self._state is not None and self._state.step_crc == "crc32c"
        try:
            if line.text is None:
                raise EpisodeError(line.trouble)
            step = decode_step_line(line.text, index=self.count, count=None, sealed=sealed)
        except EpisodeError as error:
            self.bad += line.count
            return error
        self._in_order.extend(self._order.take(self.count, file, step))
        self._ledger.take(self.count, file, step)
        return None
