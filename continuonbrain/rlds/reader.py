"""Reading episodes: our folder and the flat JSON `{"metadata", "steps"}`, with random access by step.

`open_episode` checks what is cheap for the whole episode (the metadata, the number of lines and the size of
the frame file against what the recorder said when it closed); `step(i)` and `frame(i)` check the CRC of what
they return. So a truncated episode is refused when it is opened, and an altered byte when it is read, never
later than that. `strict=False` opens a torn or unfinished episode and shows it up to the last step before
the first one that is not whole.
"""

from __future__ import annotations

import fcntl
import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError, doctor_remedy
from continuonbrain.rlds.files import data_files, is_regular, open_regular, read_limited
from continuonbrain.rlds.flat_frames import read_flat_frame
from continuonbrain.rlds.limits import MAX_FRAME_BYTES as MAX_FRAME_BYTES
from continuonbrain.rlds.limits import MAX_FRAME_PIXELS as MAX_FRAME_PIXELS
from continuonbrain.rlds.limits import MAX_METADATA_BYTES as MAX_METADATA_BYTES
from continuonbrain.rlds.limits import MAX_STEPS_BYTES as MAX_STEPS_BYTES
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_alteration
from continuonbrain.rlds.pieces import Pieces, flat_pieces, lines_of
from continuonbrain.rlds.step import Frame, FrameRef, Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.tfrecord import read_record
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE

MAX_FLAT_BYTES = 32 << 20  # one text, which repair holds twice: this room may take 64 MiB
_MAX_PNG_TEXTS = 8
"""Packed texts and profiles of a PNG: Pillow unpacks each of them, up to a megabyte, before the first pixel."""


def decode_image(data: bytes) -> Frame:
    """An encoded image as RGB uint8 [H, W, 3].

    Raises:
        EpisodeError: not an image, cut short, or larger than `MAX_FRAME_PIXELS`.
    """
    try:
        refuse_packed_texts(data)
        # Only these two: among Pillow's other decoders is one that starts a PostScript interpreter.
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise EpisodeError(f"a frame of {image.width}x{image.height} is too large", field="frame")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
    except EpisodeError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ValueError, ...
        raise EpisodeError(f"the frame cannot be decoded: {error}", field="frame") from error


def refuse_packed_texts(data: bytes) -> None:
    """Refuse a PNG whose texts alone would take tens of megabytes to unpack. EpisodeError."""
    if not data.startswith(b"\x89PNG"):
        return
    at = 8
    found = 0
    while at + 8 <= len(data):
        found += data[at + 4 : at + 8] in (b"zTXt", b"iTXt", b"iCCP")
        if found > _MAX_PNG_TEXTS:
            raise EpisodeError(f"a PNG with more than {_MAX_PNG_TEXTS} packed texts", field="frame")
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def read_metadata(path: Path) -> EpisodeMetadata:
    """The metadata of a `metadata.json`.

    Raises:
        EpisodeError: absent, not JSON, not metadata, or altered since they were sealed.
    """
    metadata, alteration = read_metadata_and_seal(path)
    if alteration is not None:
        raise alteration
    return metadata


def read_metadata_and_seal(path: Path) -> tuple[EpisodeMetadata, EpisodeError | None]:
    """The metadata, and the error that says that their bytes were altered although they can be read.

    Raises:
        EpisodeError: absent, not JSON, or not metadata.
    """
    try:
        data = read_limited(path, MAX_METADATA_BYTES)
        try:
            value = parse_json(data)
        except EpisodeError as error:
            raise EpisodeError(error.problem, field="metadata") from error
        metadata = EpisodeMetadata.from_json(value)
        alteration = metadata_alteration(data, metadata)
        return metadata, None if alteration is None else alteration.at(file=path)
    except EpisodeError as error:
        raise error.at(file=path, remedy=doctor_remedy(path.parent)) from error
    except OSError as error:
        raise EpisodeError(
            f"cannot be read: {error.strerror}",
            file=path,
            field="metadata",
            remedy="give the folder of an episode",
        ) from error


class Episode:
    """One readable episode. Opening it holds no file open; frames are read when asked for.

    Attributes:
        path: the folder, or the flat JSON file.
        metadata: its metadata.
        format: "folder" or "flat-json".
        torn: why it ends early ("" when it is whole); only with `strict=False`.
    """

    def __init__(
        self,
        path: Path,
        metadata: EpisodeMetadata,
        *,
        pieces: Sequence[Pieces],
        flat: bool = False,
        strict: bool = True,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.format = "flat-json" if flat else "folder"
        self.torn = ""
        self._flat = flat
        self._pieces = list(pieces)
        self._starts = [0, *accumulate(len(part) for part in self._pieces)]
        self._count = self._starts[-1]
        self._state = RecordingState.of(metadata)
        self._sealed = self._state is not None and self._state.step_crc == "crc32c" and not flat
        if not strict:
            self._keep_whole_steps()

    def __len__(self) -> int:
        """Steps that can be read."""
        return self._count

    @property
    def episode_id(self) -> str:
        """The id in the metadata, or the folder's name."""
        return self.metadata.episode_id or (self.path.stem if self._flat else self.path.resolve().name)

    def step(self, index: int) -> Step:
        """Step `index` (negative counts from the end) without its frame; `frame_ref` says where that lies.

        The last step of an episode is `is_last` whatever its line says: an episode that a crash cut ends
        there all the same (and `is_terminal` stays what was recorded, usually False).

        Raises:
            IndexError: there is no such step.
            EpisodeError: the line is altered or is not a step.
        """
        if not -self._count <= index < self._count:
            raise IndexError(f"{self.path}: step {index} of {self._count}")
        index %= self._count
        try:
            text = self._text(index)
            if self._flat:  # a tool that wrote it anew cannot know our seal
                step = Step.from_json(parse_json(text), index=index, count=self._count)
            else:
                step = decode_step_line(text, index=index, count=self._count, sealed=self._sealed)
        except EpisodeError as error:
            raise error.at(file=self._file_of(index), step=index, remedy=doctor_remedy(self.path)) from error
        if index == self._count - 1 and not step.is_last:
            step = replace(step, is_last=True)
        return step

    def frame_jpeg(self, index: int) -> bytes:
        """The encoded frame of step `index`, as it was written.

        Raises:
            IndexError: there is no such step.
            EpisodeError: the step has no frame, or its record is torn or altered.
        """
        return self.jpeg_of(self.step(index), index)

    def jpeg_of(self, step: Step, index: int) -> bytes:
        """As `frame_jpeg`, for who has read step `index` already."""
        if step.frame_ref is None:
            raise EpisodeError(
                "this step has no frame", file=self._file_of(index), step=index, field="observation.frame"
            )
        return self._read_blob(step.frame_ref, index % self._count)

    def frame(self, index: int) -> Frame:
        """The frame of step `index`: RGB uint8 [H, W, 3].

        Raises:
            IndexError, EpisodeError: as `frame_jpeg`, or the frame cannot be decoded.
        """
        try:
            return decode_image(self.frame_jpeg(index))
        except EpisodeError as error:
            raise error.at(file=self.path, step=index, remedy=doctor_remedy(self.path)) from error

    def steps(self, *, frames: bool = False) -> Iterator[Step]:
        """Every step in order; with `frames`, `step.frame` is decoded where there is one."""
        for index in range(self._count):
            step = self.step(index)
            if frames and step.frame_ref is not None:
                step = replace(step, frame=self.frame(index))
            yield step

    def __iter__(self) -> Iterator[Step]:
        return self.steps()

    def _piece_of(self, index: int) -> tuple[Pieces, int]:
        at = bisect_right(self._starts, index) - 1
        return self._pieces[at], index - self._starts[at]

    def _file_of(self, index: int) -> Path:
        return self._piece_of(index)[0].file

    def _text(self, index: int) -> bytes:
        pieces, at = self._piece_of(index)
        try:
            return pieces[at]
        except OSError as error:
            raise EpisodeError(f"cannot be read: {error.strerror}", file=pieces.file) from error

    def _read_blob(self, ref: FrameRef, index: int) -> bytes:
        path = self._folder / ref.file
        if self._flat and ref.file.startswith("blobs/"):
            raise EpisodeError(
                "a flat JSON episode holds no frames", file=self.path, step=index, field="observation.frame"
            )
        try:
            if self._flat:
                return read_flat_frame(self._folder, ref, MAX_FRAME_BYTES)
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                return read_record(
                    file,
                    path=path,
                    offset=ref.offset,
                    size=min(size, ref.offset + ref.length),
                    limit=MAX_FRAME_BYTES,
                )
        except CorruptRecordError as error:
            raise EpisodeError(
                f"{error.problem} (record {ref.index} of {ref.file})",
                file=path,
                step=index,
                field="observation.frame",
                remedy=doctor_remedy(self.path),
            ) from error
        except OSError as error:
            raise EpisodeError(
                f"the frame file cannot be read: {error.strerror}",
                file=path,
                step=index,
                field="observation.frame",
                remedy=doctor_remedy(self.path),
            ) from error

    def frame_is_there(self, ref: FrameRef) -> bool:
        """Whether the file that holds the frame is long enough; the CRC is checked when it is read."""
        try:
            return ref.offset + ref.length <= (self._folder / ref.file).stat().st_size
        except OSError:
            return False

    @property
    def _folder(self) -> Path:
        """What a frame's file is relative to."""
        return self.path.parent if self._flat else self.path

    def _keep_whole_steps(self) -> None:
        for index in range(self._count):
            try:
                step = self.step(index)
                if step.frame_ref is not None and not self.frame_is_there(step.frame_ref):
                    raise EpisodeError("its frame is missing", step=index, field="observation.frame")
            except EpisodeError as error:
                self.torn = error.message
                self._count = index
                return


def _read_lines(path: Path) -> tuple[list[Pieces], int]:
    files = sorted(file for file in (path / "steps").glob("*.jsonl") if not file.name.startswith("."))
    if not files:
        raise EpisodeError("the steps file is missing", file=path / STEPS_FILE, remedy=doctor_remedy(path))
    found: list[Pieces] = []
    torn = 0
    for file in files:
        try:
            pieces, torn = lines_of(file, MAX_STEPS_BYTES)
        except OSError as error:
            raise EpisodeError(f"cannot be read: {error.strerror}", file=file) from error
        found.append(pieces)
    return found, torn


def _check_whole(path: Path, metadata: EpisodeMetadata, count: int, torn: int) -> None:
    steps_file = path / STEPS_FILE
    state = RecordingState.of(metadata)
    if state is not None and state.state == "open":
        raise EpisodeError(
            "the episode is unfinished (being recorded, or cut by a crash)",
            file=path / METADATA_FILE,
            field="metadata.provenance.recording.state",
            remedy="the next start of the recorder closes it, or open it with strict=False",
        )
    if torn:
        raise EpisodeError(
            f"the last line is cut short ({torn} bytes without an end)",
            file=steps_file,
            step=count,
            field="step",
            remedy=doctor_remedy(path),
        )
    if state is None:
        return
    if count != state.steps:
        raise EpisodeError(
            f"{count} steps are here, {state.steps} were recorded",
            file=steps_file,
            step=min(count, max(state.steps, 0)),
            field="metadata.provenance.recording.steps",
            remedy=doctor_remedy(path),
        )
    blobs = sum(file.stat().st_size for file in data_files(path / "blobs", "*.tfrecord"))
    if blobs != state.blob_bytes:
        raise EpisodeError(
            f"{blobs} bytes of frames are here, {state.blob_bytes} were recorded",
            file=path / "blobs",
            field="metadata.provenance.recording.blob_bytes",
            remedy=doctor_remedy(path),
        )


def refuse_long_flat(path: Path) -> None:
    """Refuse a flat JSON episode that is longer than `MAX_FLAT_BYTES`. EpisodeError, OSError."""
    if (size := path.stat().st_size) > MAX_FLAT_BYTES:
        raise EpisodeError(
            f"a flat JSON episode of {size >> 20} MiB is too long, {MAX_FLAT_BYTES >> 20} MiB are read at most",
            file=path,
            field="episode",
            remedy="cut its steps into several flat episodes, or write them as a folder: a step is a line there",
        )


def _open_flat(path: Path, *, strict: bool) -> Episode:
    try:
        refuse_long_flat(path)
        text, steps = flat_pieces(path, MAX_FLAT_BYTES)
        metadata = EpisodeMetadata.from_json(parse_json(text))
        return Episode(path, metadata, pieces=[steps], flat=True, strict=strict)
    except EpisodeError as error:
        raise error.at(file=path, remedy=doctor_remedy(path)) from error
    except OSError as error:
        raise EpisodeError(f"cannot be read: {error.strerror}", file=path) from error


def open_episode(path: Path, *, strict: bool = True) -> Episode:
    """Open an episode folder or a flat JSON episode.

    Args:
        path: the folder `<id>/`, or the `.json` file.
        strict: refuse an episode that is unfinished, torn or shorter than its metadata say. Without it, the
            episode is shown up to the last step before the first one that is not whole (`Episode.torn`).

    Raises:
        EpisodeError: names file, step, field and remedy.
    """
    path = Path(path)
    if not (path.is_dir() or is_regular(path)):
        raise EpisodeError(
            "there is no such episode", file=path, remedy="list them: continuonbrain episodes list --root DIR"
        )
    if not path.is_dir():
        return _open_flat(path, strict=strict)
    metadata, alteration = read_metadata_and_seal(path / METADATA_FILE)
    if strict and alteration is not None:
        raise alteration
    try:
        lines, torn = _read_lines(path)
        count = sum(map(len, lines))
        if strict:
            _check_whole(path, metadata, count, torn)
        episode = Episode(path, metadata, pieces=lines, strict=strict)
    except EpisodeError as error:
        raise error.at(file=path / METADATA_FILE, remedy=doctor_remedy(path)) from error
    if alteration is not None and not episode.torn:
        episode.torn = alteration.message
    if not strict and not episode.torn:
        try:
            _check_whole(path, metadata, count, torn)
        except EpisodeError as error:
            episode.torn = error.message
    return episode


def list_episodes(episodes_dir: Path, *, finished_only: bool = False) -> list[Path]:
    """The episode folders of a memory, sorted by name; an absent memory is an empty one.

    Args:
        finished_only: leave out those that are being recorded or were cut by a crash, and those whose
            metadata cannot be read.
    """
    if not episodes_dir.is_dir():
        return []
    found = [
        path
        for path in sorted(episodes_dir.iterdir())
        if path.name[0] != "." and (path / METADATA_FILE).is_file() and (path / "steps").is_dir()
    ]
    if not finished_only:
        return found
    return [path for path in found if _is_finished(path)]


def _is_finished(path: Path) -> bool:
    try:
        state = RecordingState.of(read_metadata(path / METADATA_FILE))
    except EpisodeError:
        return False
    return state is None or state.state == "closed"


def is_being_recorded(path: Path) -> bool:
    """Whether a living writer holds this episode's lock."""
    try:
        fd = os.open(
            path / STEPS_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )  # a pipe would be waited for
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
