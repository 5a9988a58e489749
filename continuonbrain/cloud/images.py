"""Pictures without what a camera or a program wrote beside them. Pure.

A JPEG may carry where and when it was taken, by which camera, a comment, and a second, smaller picture of the same
scene (Exif, XMP, ICC, thumbnails); a PNG has texts and times. Only what decodes to the pixels is copied; nothing is
encoded again. Formats: ITU-T T.81, annex B; JFIF 1.02; PNG, third edition, section 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.limits import MAX_FRAME_PIXELS
from continuonbrain.rlds.reader import decode_image
from continuonbrain.rlds.writer import encode_jpeg

Size = tuple[int, int]
"""Height, width."""

Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels."""

HALF_QUALITY = 90
"""Of a JPEG that is encoded again, at half the size or with blurred faces."""

_MOSAIC = 4
_MARGIN = 4
"""A box is made larger by a fourth of itself on each side: hair and ears tell, too."""

_FIELD = "observation.frame"
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_RGB = b"\x08\x02"  # eight bits, true colour
_RGB_CHANNELS = 3


def bare_image(data: bytes) -> tuple[bytes, Size]:
    """The same picture, pixel for pixel, and nothing else; with its size.

    Raises:
        EpisodeError: no RGB picture, cut short, or larger than a frame may be.
    """
    try:
        bare, size = _bare_png(data) if data.startswith(_PNG) else _bare_jpeg(data)
    except IndexError as error:
        raise EpisodeError("the frame is cut short", field=_FIELD) from error
    if size[0] * size[1] > MAX_FRAME_PIXELS or 0 in size:
        raise EpisodeError(f"a frame of {size[1]}x{size[0]} is too large, or none", field=_FIELD)
    return bare, size


def half_image(data: bytes) -> tuple[bytes, Size]:
    """A JPEG of half the height and width (rounded up), and its size. Raises EpisodeError as `decode_image`."""
    pixels = decode_image(data)
    half = Image.fromarray(pixels).reduce(2)
    return bare_image(encode_jpeg(np.asarray(half, dtype=np.uint8), quality=HALF_QUALITY))


def blurred_image(
    data: bytes, find: Callable[[NDArray[np.uint8]], Sequence[Box]], *, half: bool
) -> tuple[bytes, Size]:
    """The picture with what `find` finds in it blurred, and its size; pixel for pixel the same where that is nothing.

    Args:
        find: takes uint8 `[height, width, 3]`.
        half: at half the size, as `half_image`; looked for at the whole.

    Raises:
        EpisodeError: as `decode_image`.
    """
    pixels = decode_image(data)
    boxes = find(pixels)
    if not boxes:
        return half_image(data) if half else bare_image(data)
    image = Image.fromarray(blurred(pixels, boxes))
    out = np.asarray(image.reduce(2) if half else image, dtype=np.uint8)
    return bare_image(encode_jpeg(out, quality=HALF_QUALITY))


def blurred(pixels: NDArray[np.uint8], boxes: Sequence[Box]) -> NDArray[np.uint8]:
    """A copy, in which four by four colours are left of each box and its margin."""
    out = pixels.copy()
    height, width = pixels.shape[:2]
    for x, y, w, h in boxes:
        left, right = max(0, x - w // _MARGIN), min(width, x + w + w // _MARGIN)
        top, bottom = max(0, y - h // _MARGIN), min(height, y + h + h // _MARGIN)
        part = Image.fromarray(pixels[top:bottom, left:right])
        few = part.resize((_MOSAIC, _MOSAIC), Image.Resampling.BOX)
        out[top:bottom, left:right] = np.asarray(few.resize(part.size, Image.Resampling.BILINEAR))
    return out


def _bare_jpeg(data: bytes) -> tuple[bytes, Size]:
    if data[:2] != b"\xff\xd8":
        raise EpisodeError("the frame is no JPEG and no PNG", field=_FIELD)
    kept = [b"\xff\xd8"]
    at, size = 2, (0, 0)
    while True:
        if data[at] != 0xFF:
            raise EpisodeError("the frame is no whole JPEG", field=_FIELD)
        while data[at + 1] == 0xFF:  # fill
            at += 1
        marker = data[at + 1]
        if marker == _END:
            kept.append(b"\xff\xd9")  # what comes behind is of no picture
            return b"".join(kept), size
        if marker in _STANDALONE:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise EpisodeError("the frame is cut short", field=_FIELD)
        segment = data[at:end]
        if marker in _FRAME_HEADERS:
            if len(segment) < 10 or segment[9] != _RGB_CHANNELS:
                raise EpisodeError("the frame is not RGB", field=_FIELD)
            size = segment[5] << 8 | segment[6], segment[7] << 8 | segment[8]
        if _is_needed(marker, segment):
            kept.append(segment)
        at = end
        if marker == _SCAN:
            found = _NEXT_MARKER.search(data, at)
            if found is None:
                raise EpisodeError("the frame is cut short", field=_FIELD)
            kept.append(data[at : found.start()])
            at = found.start()


def _is_needed(marker: int, segment: bytes) -> bool:
    """Application segments and comments are not, but for two that say which colours the numbers mean."""
    if marker == 0xE0:  # without a thumbnail
        return segment[4:9] == b"JFIF\0" and len(segment) == 18 and segment[16:18] == b"\0\0"
    if marker == 0xEE:
        return segment[4:9] == b"Adobe" and len(segment) == 16
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _bare_png(data: bytes) -> tuple[bytes, Size]:
    kept, at = [_PNG], len(_PNG)
    if data[12:16] != b"IHDR" or data[24:26] != _PNG_RGB:
        raise EpisodeError("the frame is not RGB", field=_FIELD)
    size = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    while True:
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or len(kind) < 4:
            raise EpisodeError("the frame is cut short", field=_FIELD)
        if kind in _PNG_CHUNKS:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept), size
        at = end
