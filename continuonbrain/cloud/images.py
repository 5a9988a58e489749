"""Pictures without what a camera or a program wrote beside them. Pure.

A JPEG may carry where and when it was taken, by which camera, a comment, and a second, smaller picture of the same
scene (Exif, XMP, ICC, thumbnails); a PNG has texts and times. Of a plain JPEG the picture is copied (`plain_jpeg`);
every other picture is encoded again from its pixels. Formats: ITU-T T.81, annex B; JFIF 1.02; PNG, third edition,
section 5.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.cloud.plain_jpeg import Size, plain_jpeg
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.limits import MAX_FRAME_PIXELS
from continuonbrain.rlds.reader import decode_image
from continuonbrain.rlds.writer import encode_jpeg

Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels."""

HALF_QUALITY = 90
"""Of a JPEG that is encoded again, at half the size or with blurred faces."""

AGAIN_QUALITY = 95
"""Of a JPEG that is encoded again because it is not plain, at its own size."""

_MOSAIC = 4
_MARGIN = 4
"""A box is made larger by a fourth of itself on each side: hair and ears tell, too."""

_FIELD = "observation.frame"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_RGB = b"\x08\x02"  # eight bits, true colour
_PNG_LEVEL = 6


def bare_image(data: bytes) -> tuple[bytes, Size]:
    """The same picture and nothing else, with its size. The same bytes give the same bytes.

    A plain JPEG and a PNG keep every pixel; another JPEG is encoded again.

    Raises:
        EpisodeError: no RGB picture, cut short, or larger than a frame may be.
    """
    bare, size = plain_jpeg(data) or _again(data)
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
) -> tuple[bytes, Size, int]:
    """The picture with what `find` finds in it blurred, its size, and how many were found; as `bare_image` where that
    is nothing.

    Args:
        find: takes uint8 `[height, width, 3]`.
        half: at half the size, as `half_image`; looked for at the whole.

    Raises:
        EpisodeError: as `decode_image`.
    """
    pixels = decode_image(data)
    boxes = find(pixels)
    if not boxes:
        return *(half_image if half else bare_image)(data), 0
    image = Image.fromarray(blurred(pixels, boxes))
    out = np.asarray(image.reduce(2) if half else image, dtype=np.uint8)
    return *bare_image(encode_jpeg(out, quality=HALF_QUALITY)), len(boxes)


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


def _again(data: bytes) -> tuple[bytes, Size]:
    """From the pixels alone: a PNG for a PNG, which loses nothing, and a JPEG for the rest."""
    is_png = data.startswith(_PNG)
    if is_png and (data[12:16] != b"IHDR" or data[24:26] != _PNG_RGB):
        raise EpisodeError("the frame is not RGB", field=_FIELD)
    pixels = decode_image(data)
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        if image.mode != "RGB":
            raise EpisodeError("the frame is not RGB", field=_FIELD)
    if not is_png:
        return encode_jpeg(pixels, quality=AGAIN_QUALITY), pixels.shape[:2]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=_PNG_LEVEL)
    return out.getvalue(), pixels.shape[:2]
