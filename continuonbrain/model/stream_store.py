"""Streams on disk, so that a frame goes through the frozen layers once and not once a training.

A folder of append-only segments of CRC'd records (TFRecord framing): 32 bytes of a key's sha256, then the tensors as
safetensors. A segment's name begins with the identity of what made its streams (base, prompt layout, cut,
precision): others are stale and are deleted. What is torn, altered or unreadable is a miss: a cache is never trusted
over a new pass. The oldest segments go when the folder grows beyond its bound.

One process writes, any number read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.streams import Streams
from continuonbrain.rlds.errors import CorruptRecordError
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, HEADER_BYTES, frame_record, masked_crc32c, read_record

_KEY_BYTES = 32
_EXTRA = "extra."
_SEGMENT_BYTES = 64 << 20


class StreamStoreError(BrainError):
    """The cache folder cannot be written. What it held before is still whole."""


def identity(*parts: str) -> str:
    """One name for everything that decides what a frame's streams are."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class StreamStore:
    """Streams of single samples by key.

    folder is made when the first streams are put; identity: see `identity()`; max_bytes bounds the folder.
    """

    def __init__(self, folder: Path, identity: str, *, max_bytes: int) -> None:
        self.folder, self.identity, self.max_bytes = folder, identity, max_bytes
        self._index: dict[bytes, tuple[Path, int]] = {}
        self._scanned: dict[Path, int] = {}
        self._segment: Path | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return _hashed(key) in self._index

    def _segments(self) -> list[Path]:
        try:
            return sorted(self.folder.glob(f"{self.identity}-*.tfrecord"))
        except OSError:
            return []

    def refresh(self) -> None:
        """Look for what another process has put since."""
        present = self._segments()
        gone = self._scanned.keys() - set(present)
        if gone:
            self._index = {k: at for k, at in self._index.items() if at[0] not in gone}
            self._scanned = {p: n for p, n in self._scanned.items() if p not in gone}
        for path in present:
            with contextlib.suppress(OSError):
                self._scan(path)

    def _scan(self, path: Path) -> None:
        """Index a segment from where the last scan ended, by its headers alone, up to the first torn record."""
        offset, size = self._scanned.get(path, 0), path.stat().st_size
        with path.open("rb") as file:
            while offset + FRAMING_BYTES + _KEY_BYTES <= size:
                file.seek(offset)
                head = file.read(HEADER_BYTES + _KEY_BYTES)
                if len(head) < HEADER_BYTES + _KEY_BYTES:
                    break
                length, check = struct.unpack_from("<QI", head)
                if check != masked_crc32c(head[:8]) or offset + FRAMING_BYTES + length > size:
                    break
                self._index[head[HEADER_BYTES:]] = path, offset
                offset += FRAMING_BYTES + length
        self._scanned[path] = offset

    def get(self, key: str) -> Streams | None:
        """The streams of a key; None when they are not there, torn or altered."""
        found = self.get_with_extra(key)
        return None if found is None else found[0]

    def get_with_extra(self, key: str) -> tuple[Streams, dict[str, Tensor]] | None:
        """The same with the tensors that were put beside them."""
        found = self._index.get(_hashed(key))
        if found is None:
            return None
        path, offset = found
        try:
            with path.open("rb") as file:
                data = read_record(file, path=path, offset=offset, size=path.stat().st_size)
            if data[:_KEY_BYTES] != _hashed(key):
                raise ValueError("another record stands here now")
            tensors = from_safetensors(data[_KEY_BYTES:])
            extra = {n.removeprefix(_EXTRA): t for n, t in tensors.items() if n.startswith(_EXTRA)}
            return Streams.from_tensors(tensors), extra
        except (OSError, CorruptRecordError, SafetensorError, KeyError, ValueError):
            self._index.pop(_hashed(key), None)
            return None

    def put(self, key: str, streams: Streams, *, extra: Mapping[str, Tensor] | None = None) -> None:
        """Keep the streams of one sample (a batch of one), and other tensors beside them. A key that is there
        already is left as it is.

        Raises:
            StreamStoreError: the folder cannot be made or written, or the disk is full; the torn record is removed.
        """
        if key in self:
            return
        hashed = _hashed(key)
        data = {n: t.contiguous() for n, t in streams.tensors().items()}
        data |= {_EXTRA + n: t.contiguous() for n, t in (extra or {}).items()}
        record = frame_record(hashed + to_safetensors(data))
        if len(record) > self.max_bytes:
            return
        try:
            path = self._room_for(len(record))
            offset = self._append(path, record)
        except OSError as error:
            raise StreamStoreError(
                f"the training cache in {self.folder} cannot be written: {error.strerror or error}",
                remedy="free some space or make the folder writable",
            ) from error
        self._index[hashed] = path, offset
        self._scanned[path] = offset + len(record)

    def _append(self, path: Path, record: bytes) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            offset = os.fstat(descriptor).st_size
            try:
                left = memoryview(record)
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                os.ftruncate(descriptor, offset)
                raise
        finally:
            os.close(descriptor)
        return offset

    def _room_for(self, size: int) -> Path:
        """The segment to append to; makes room by deleting what is stale, then what is oldest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._segment is None:
            for path in self.folder.glob("*.tfrecord"):
                if not path.name.startswith(f"{self.identity}-"):
                    path.unlink()
        if self._segment is None or self._scanned.get(self._segment, 0) + size > _SEGMENT_BYTES:
            self._segment = self._new_segment()
        sizes = {p: p.stat().st_size for p in self._segments()}
        for path in list(sizes):
            if sum(sizes.values()) + size <= self.max_bytes:
                break
            path.unlink()
            del sizes[path]
            if path == self._segment:
                self._segment = self._new_segment()
        self.refresh()
        return self._segment

    def _new_segment(self) -> Path:
        # One for every writer, named by when it was begun: behind the torn end of an old one nothing would be
        # found, and a name that came again would lead a reader of the old file to a record of the new one.
        return self.folder / f"{self.identity}-{time.time_ns():020d}-{os.getpid()}.tfrecord"
