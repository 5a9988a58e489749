"""Pictures without what is written beside them."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from continuonbrain.cloud.images import bare_image, half_image
from continuonbrain.cloud.plain_jpeg import plain_jpeg
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import decode_image

CANARY = b"Annas garden, 48.137 11.575"


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def written(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from((0, 1, 2)),
    seed=st.integers(0, 9),
)
@example(31, 1, 100, 2, 0)
def test_a_jpeg_keeps_its_pixels_and_nothing_else(
    height: int, width: int, quality: int, subsampling: int, seed: int
) -> None:
    exif = Image.Exif()
    exif[0x010E] = CANARY.decode()
    data = written(
        picture(height, width, seed),
        "JPEG",
        quality=quality,
        subsampling=subsampling,
        exif=exif,
        comment=CANARY,
        icc_profile=CANARY,
    )
    assert data.count(CANARY) >= 3
    bare, size = bare_image(data + CANARY)
    assert CANARY not in bare
    assert b"Exif" not in bare
    assert size == (height, width)
    if plain_jpeg(data + CANARY) is None:  # its last byte shows in no pixel: a fine one may end so
        assert quality >= 98
        assert decode_image(bare).shape == decode_image(data).shape
    else:
        np.testing.assert_array_equal(decode_image(bare), decode_image(data))
    assert bare_image(bare)[0] == bare


def test_a_plain_jpeg_leaves_byte_for_byte() -> None:
    for quality in (1, 60, 90, 100):
        data = written(picture(24, 32), "JPEG", quality=quality)
        assert bare_image(data) == (data, (24, 32))


def with_segment(data: bytes, marker: int) -> bytes:
    return data[:2] + bytes((0xFF, marker)) + (len(CANARY) + 2).to_bytes(2, "big") + CANARY + data[2:]


def test_no_segment_of_a_jpeg_carries_a_text_out() -> None:
    data = written(picture(24, 32), "JPEG")
    markers = [*range(0x02, 0xC0), 0xC8, 0xCC, 0xDB, *range(0xDC, 0xE0), *range(0xE0, 0xFF)]
    refused = 0
    for marker in markers:
        try:
            bare, size = bare_image(with_segment(data, marker))
        except EpisodeError:
            refused += 1
            continue
        assert (CANARY in bare, size) == (False, (24, 32)), hex(marker)
    assert refused < len(markers)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_no_scan_carries_a_text_behind_its_last_block(options: dict[str, Any]) -> None:
    data = written(picture(24, 32), "JPEG", quality=90, **options)
    last_scan = data.rindex(b"\xff\xda")
    restart = data.find(b"\xff\xd0", last_scan)
    for at in (len(data) - 2, restart if restart > 0 else len(data) - 2):
        bare, size = bare_image(data[:at] + CANARY + data[at:])
        assert (CANARY in bare, size) == (False, (24, 32))
        off = np.abs(decode_image(bare).astype(int) - decode_image(data).astype(int))
        assert off.mean() < 8


def test_one_byte_behind_the_last_block_is_taken_away() -> None:
    data = written(picture(24, 32), "JPEG", quality=90)
    assert bare_image(data[:-2] + b"\x37" + data[-2:])[0] == bare_image(data[:-2] + b"\x7e" + data[-2:])[0]


def test_a_table_that_nothing_uses_carries_no_text_out() -> None:
    data = written(picture(24, 32), "JPEG")
    text = (CANARY * 3)[:64]
    table = b"\xff\xdb\x00\x43\x03" + text
    bare, _ = bare_image(data[:20] + table + data[20:])
    assert text not in bare
    assert decode_image(bare).shape == (24, 32, 3)


def test_no_chunk_of_a_png_carries_a_text_out() -> None:
    data = written(picture(9, 7), "PNG")

    def chunk(kind: bytes, text: bytes) -> bytes:
        return len(text).to_bytes(4, "big") + kind + text + zlib.crc32(kind + text).to_bytes(4, "big")

    end = data.index(b"IEND") - 4
    behind, palette = chunk(b"IDAT", CANARY), chunk(b"PLTE", CANARY)
    for altered in (data[:end] + behind + data[end:], data[:33] + palette + data[33:]):
        bare, _ = bare_image(altered)
        assert CANARY not in bare
        np.testing.assert_array_equal(decode_image(bare), decode_image(data))


def test_a_png_keeps_its_pixels_and_nothing_else() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", CANARY.decode())
    data = written(picture(9, 7), "PNG", pnginfo=info)
    assert CANARY in data
    bare, size = bare_image(data + CANARY)
    assert (CANARY in bare, size) == (False, (9, 7))
    np.testing.assert_array_equal(decode_image(bare), decode_image(data))


def test_half_of_an_odd_picture_is_rounded_up() -> None:
    half, size = half_image(written(picture(25, 32), "JPEG"))
    assert size == (13, 16)
    assert decode_image(half).shape == (13, 16, 3)


@given(cut=st.integers(0, 400), data=st.binary(max_size=60))
def test_other_bytes_are_refused_and_nothing_else_is_raised(cut: int, data: bytes) -> None:
    whole = written(picture(8, 8), "JPEG", comment=CANARY)
    for given_bytes in (
        whole[: min(cut, len(whole) - 2)],
        data,
        b"\xff\xd8" + data,
        b"\x89PNG\r\n\x1a\n" + data,
    ):
        with pytest.raises(EpisodeError):
            bare_image(given_bytes)


def test_grey_pictures_are_refused() -> None:
    with pytest.raises(EpisodeError, match="not RGB"):
        bare_image(written(picture(8, 8).convert("L"), "JPEG"))
