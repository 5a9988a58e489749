"""The size that a JPEG's header says, without decoding it."""

from __future__ import annotations

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.limits import MAX_FRAME_BYTES, MAX_FRAME_PIXELS

_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA


def check_jpeg(data: object, name: str) -> None:
    """Refuse what cannot be the JPEG of a frame that readers take; a few microseconds, by its markers only.

    Raises:
        EpisodeError: not bytes, not a JPEG whose header and picture begin, or larger than a frame may be.
    """
    if not isinstance(data, bytes):
        raise EpisodeError(f"bytes are needed, not {type(data).__name__}", field=name)
    if len(data) > MAX_FRAME_BYTES:
        text = f"a frame of {len(data)} bytes is too large, {MAX_FRAME_BYTES} are read at most"
        raise EpisodeError(text, field=name, remedy="record smaller pictures")
    size = _size(data)
    if size is None or 0 in size:
        raise EpisodeError("these bytes are not a JPEG", field=name, remedy="give a whole JPEG, or the frame")
    if size[0] * size[1] > MAX_FRAME_PIXELS:
        text = f"a frame of {size[0]}x{size[1]} is too large, {MAX_FRAME_PIXELS} pixels are read at most"
        raise EpisodeError(text, field=name, remedy="record smaller pictures")


def _size(data: bytes) -> tuple[int, int] | None:
    """(width, height) when header and picture begin as in a JPEG."""
    if data[:2] != b"\xff\xd8":
        return None
    at, size, end = 2, None, len(data)
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker == _SCAN:
            return size if at + 2 + length < end else None
        if length < 2:
            return None
        if marker in _FRAME_HEADERS:
            if length < 11 or at + 9 > end:
                return None
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
        at += 2 + length
    return None
