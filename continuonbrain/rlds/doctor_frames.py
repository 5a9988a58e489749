"""What the doctor looks for in an episode's frames: every record of every file, then every step's reference into it.

Of a step only numbers are kept, some forty bytes, and of a record two: half a million steps fit in a few megabytes.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.files import data_files, open_regular
from continuonbrain.rlds.finding import ASIDE, ERROR, WARNING, Finding, finding_of
from continuonbrain.rlds.linescan import MAX_NAMED
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.pieces import MAX_PIECES
from continuonbrain.rlds.reader import MAX_FRAME_BYTES, decode_image
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, read_header, read_record

_FIELD = "observation.frame"
_NO_FRAME = -1
Numbers = NDArray[np.int64]


class FrameLedger:
    """Which frame each step names."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._file, self._index = array("i"), array("q")
        self._blob, self._offset, self._length, self._record = (array("q") for _ in range(4))
        self._names: dict[int, str] = {}  # by hash: an episode may name a file for each of its steps

    def take(self, index: int, file: Path, step: Step) -> None:
        """One more whole step of the steps file `file`."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        self._file.append(len(self._files) - 1)
        self._index.append(index)
        ref = step.frame_ref
        name = 0 if ref is None else hash(ref.file)
        if ref is not None and len(self._names) <= MAX_NAMED:
            self._names.setdefault(name, ref.file)
        self._blob.append(name)
        self._offset.append(_NO_FRAME if ref is None else ref.offset)
        self._length.append(0 if ref is None else ref.length)
        self._record.append(0 if ref is None else ref.index)

    def examine(self, path: Path, state: RecordingState | None) -> Iterator[Finding]:
        """Everything wrong with the frames of the episode folder `path` and with the steps that name them."""
        index, blob, offset = (np.asarray(column) for column in (self._index, self._blob, self._offset))
        length = np.asarray(self._length)
        whole = np.zeros(len(index), np.bool_)
        total = 0
        for file in data_files(path / "blobs", "*.tfrecord"):
            mine = np.flatnonzero((blob == hash(f"blobs/{file.name}")) & (offset != _NO_FRAME))
            mine = mine[np.argsort(offset[mine], kind="stable")]
            records = _Records(file, starts=offset[mine], owners=index[mine])
            try:
                total += file.stat().st_size
                yield from records.examine()
            except OSError as error:
                text = f"cannot be read: {error.strerror}"
                yield Finding(str(file), None, _FIELD, text, ERROR, "check the disk")
            whole[mine] = records.holds(offset[mine], length[mine])
        if state is not None and state.state == "closed" and total != state.blob_bytes:
            text = f"{total} bytes of frames are here, {state.blob_bytes} were recorded"
            field = "metadata.provenance.recording.blob_bytes"
            yield Finding(str(path / "blobs"), None, field, text, ERROR, ASIDE)
        earlier = _earlier(blob, offset)
        is_again = earlier != np.arange(len(earlier))
        for at in np.flatnonzero(~whole | is_again).tolist():
            file, step = self._files[self._file[at]], int(index[at])
            if offset[at] == _NO_FRAME:
                if state is not None:
                    yield Finding(str(file), step, _FIELD, "this step has no frame", WARNING, "")
                continue
            if not whole[at]:
                # A name that is not kept is one of a kind of which enough were named.
                name = self._names.get(self._blob[at], "a file")
                text = (
                    f"its frame (record {self._record[at]} of {name}, byte {offset[at]}) is not there whole"
                )
                yield Finding(str(file), step, _FIELD, text, ERROR, ASIDE)
            if is_again[at]:
                text = f"the same frame as step {index[earlier[at]]}"
                yield Finding(str(file), step, _FIELD, text, WARNING, "")


def _earlier(blob: Numbers, offset: Numbers) -> Numbers:
    """For each step the place of the first one that names the same frame: its own where it is the first."""
    places = np.arange(len(blob))
    if not len(blob):
        return places
    order = np.lexsort((offset, blob))  # stable: among equals the first comes first
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (blob[order][1:] != blob[order][:-1]) | (offset[order][1:] != offset[order][:-1])
    places[order] = order[np.flatnonzero(is_new)[np.cumsum(is_new) - 1]]
    return np.where(offset == _NO_FRAME, np.arange(len(blob)), places)


class _Records:
    """Every record of one frame file.

    Args:
        starts: offsets of the frames that steps name, ascending: past a bad record, the next of these is gone on with.
        owners: the step that names each of them.
    """

    def __init__(self, blob: Path, *, starts: Numbers, owners: Numbers) -> None:
        self._blob = blob
        self._starts, self._owners = starts, owners
        self._whole, self._lengths = array("q"), array("q")

    def holds(self, offsets: Numbers, lengths: Numbers) -> NDArray[np.bool_]:
        """Whether a whole record of that length starts at each of `offsets`; after `examine`."""
        whole, known = np.asarray(self._whole), np.asarray(self._lengths)
        if not len(whole):
            return np.zeros(len(offsets), np.bool_)
        at = np.minimum(np.searchsorted(whole, offsets), len(whole) - 1)
        return np.asarray((whole[at] == offsets) & (known[at] == lengths))

    def _owner(self, offset: int) -> int | None:
        after = int(np.searchsorted(self._starts, offset, side="right"))
        return int(self._owners[after - 1]) if after and self._starts[after - 1] == offset else None

    def examine(self) -> Iterator[Finding]:
        """What is wrong with them. Raises OSError."""
        blob = self._blob
        with open_regular(blob) as file:
            size = os.fstat(file.fileno()).st_size
            offset = seen = 0
            while offset < size:
                seen += 1
                if seen > MAX_PIECES:
                    text = f"more than {MAX_PIECES} records: what follows was not looked at"
                    yield Finding(str(blob), None, _FIELD, text, ERROR, ASIDE)
                    return
                end = None
                try:
                    length = read_header(file, path=blob, offset=offset, size=size)
                    end = offset + FRAMING_BYTES + length
                    data = read_record(file, path=blob, offset=offset, size=size, limit=MAX_FRAME_BYTES)
                except CorruptRecordError as error:
                    found = finding_of(error, blob, self._owner(offset))
                    yield replace(found, field=_FIELD, remedy=ASIDE)
                    # Where the length's own CRC is right, what it spans is passed over: no byte is read twice.
                    following = int(np.searchsorted(self._starts, offset + 1 if end is None else end))
                    offset = int(self._starts[following]) if following < len(self._starts) else size
                    continue
                try:
                    decode_image(data)
                except EpisodeError as error:
                    yield replace(finding_of(error, blob, self._owner(offset)), field=_FIELD)
                self._whole.append(offset)
                self._lengths.append(end - offset)
                offset = end
