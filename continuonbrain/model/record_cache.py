"""What a base computed, on disk, so that a frame goes through the frozen layers once and not once a training. No torch.

A folder of append-only segments of CRC'd records (TFRecord framing): 32 bytes of a key's sha256, then the tensors as
safetensors. A segment's name begins with the identity of what made its records (base, prompt layout, cut,
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
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.rlds.errors import CorruptRecordError
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, HEADER_BYTES, frame_record, masked_crc32c, read_record

_KEY_BYTES = 32
_SEGMENT_BYTES = 64 << 20


class RecordCacheError(BrainError):
    """The cache folder cannot be written. What it held before is still whole."""


def identity(*parts: str) -> str:
    """One name for everything that decides what is computed of a frame."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class RecordCache:
    """Records of single samples by key.

    folder is made when the first record is put; identity: see `identity()`; max_bytes bounds the folder.
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

    def get(self, key: str) -> bytes | None:
        """The record of a key; None when it is not there, torn or altered."""
        found = self._index.get(_hashed(key))
        if found is None:
            return None
        path, offset = found
        try:
            with path.open("rb") as file:
                data = read_record(file, path=path, offset=offset, size=path.stat().st_size)
        except (OSError, CorruptRecordError):
            data = b""
        if data[:_KEY_BYTES] != _hashed(key):  # torn, or another record stands here now
            self.forget(key)
            return None
        return data[_KEY_BYTES:]

    def forget(self, key: str) -> None:
        """A record that makes no sense to who asked for it: a new one may be put."""
        self._index.pop(_hashed(key), None)

    def put(self, key: str, data: bytes) -> None:
        """Keep a record. A key that is there already is left as it is.

        Raises:
            RecordCacheError: the folder cannot be made or written, or the disk is full; the torn record is removed.
        """
        if key in self:
            return
        hashed = _hashed(key)
        record = frame_record(hashed + data)
        if len(record) > self.max_bytes:
            return
        try:
            path = self._room_for(len(record))
            offset = self._append(path, record)
        except OSError as error:
            raise RecordCacheError(
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
        # found, and a name that came again would lead a reader of the old file to a record of the new one. Behind
        # all that there are, whatever the clock says: the oldest go first, and a clock may have been set back.
        newest = max((_number(p) for p in self._segments()), default=0)
        number = max(time.time_ns(), newest + 1)
        return self.folder / f"{self.identity}-{number:020d}-{os.getpid()}.tfrecord"


def _number(segment: Path) -> int:
    parts = segment.name.split("-")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
