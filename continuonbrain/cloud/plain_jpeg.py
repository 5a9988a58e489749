"""JPEGs of which every byte is of the picture. Pure.

Plain is what libjpeg writes for RGB when nothing is asked of it but a quality and a subsampling: baseline, one scan,
the Huffman tables of ITU-T T.81, annex K, and its quantization tables scaled. Whatever else a file holds, a text could
be in it: in a segment that decoders pass over, in a table that nothing uses, or in the scan behind the last block.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import decode_image

Size = tuple[int, int]
"""Height, width."""

_START: Final = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
"""SOI, and a JFIF 1.01 segment with pixels that are square and no thumbnail."""

_END: Final = b"\xff\xd9"
_BASELINE, _ADOBE, _SCAN, _COMMENT = 0xC0, 0xEE, 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_QUALITIES = range(1, 101)
_SUBSAMPLINGS = (0, 1, 2)
_MARKER = re.compile(rb"\xff[^\x00]")


def plain_jpeg(data: bytes) -> tuple[bytes, Size] | None:
    """The picture without what stands beside and behind it, and its size; None where the file is not plain.

    Nothing is encoded again: the scan is copied. That a decoder reads it to its last byte is tried.

    Raises:
        EpisodeError: plain so far, but it cannot be decoded.
    """
    if data[:2] != _START[:2]:
        return None
    kept = b""
    size, at = (0, 0), 2
    for marker, segment in _segments(data):
        at += len(segment)
        if marker == _ADOBE:  # the numbers may mean other colours
            return None
        if marker in _APPLICATION or marker == _COMMENT:
            continue
        if marker == _BASELINE and len(segment) > 9:
            size = segment[5] << 8 | segment[6], segment[7] << 8 | segment[8]
        kept += segment
    if _sizeless(kept) not in _plain_heads():
        return None
    end = _MARKER.search(data, at)
    if end is None or end.group() != _END:  # other markers: more scans, restarts, a number of lines
        return None
    start, scan = _START + kept, data[at : end.start()]
    return (start + scan + _END, size) if _is_read_to_its_end(start, scan) else None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and whole segment, one behind the other up to the scan's; ends early at anything else."""
    at = 2
    while len(data) >= at + 4 and data[at] == 0xFF:
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if end < at + 4 or end > len(data):
            return
        yield data[at + 1], data[at:end]
        if data[at + 1] == _SCAN:
            return
        at = end


@cache
def _plain_heads() -> frozenset[bytes]:
    """What libjpeg writes between the JFIF segment and the scan, without the size."""
    blank = Image.new("RGB", (16, 16))
    heads = set()
    for quality, subsampling in product(_QUALITIES, _SUBSAMPLINGS):
        out = io.BytesIO()
        blank.save(out, "JPEG", quality=quality, subsampling=subsampling)
        found = _segments(out.getvalue())
        heads.add(_sizeless(b"".join(s for marker, s in found if marker not in _APPLICATION)))
    return frozenset(heads)


def _sizeless(head: bytes) -> bytes:
    """With zeros for the size that the frame header tells; where there is no such header, as it is."""
    at = head.find(b"\xff\xc0\x00\x11\x08")
    return head if at < 0 else head[: at + 5] + bytes(4) + head[at + 9 :]


def _is_read_to_its_end(start: bytes, scan: bytes) -> bool:
    """Whether another last byte of the scan gives another picture: then the blocks reach into it, and none lies behind.

    False also where no byte that was tried shows in the pixels.
    """
    unit = 2 if scan.endswith(b"\xff\x00") else 1  # a byte 255 and the zero that is stuffed behind it
    if len(scan) < unit:
        return False
    rest, last = scan[:-unit], scan[-unit]
    pixels = decode_image(start + scan + _END)
    for other in (last ^ 0xFF, *(last ^ 1 << bit for bit in range(7, -1, -1))):
        byte = b"\xff\x00" if other == 0xFF else bytes((other,))
        try:
            if not np.array_equal(pixels, decode_image(start + rest + byte + _END)):
                return True
        except EpisodeError:
            return True
    return False
