"""Pictures without what is written beside them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from continuonbrain.cloud.images import bare_image, half_image
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
    progressive=st.booleans(),
    subsampling=st.sampled_from((0, 1, 2)),
    seed=st.integers(0, 9),
)
def test_a_jpeg_keeps_its_pixels_and_nothing_else(
    height: int, width: int, quality: int, progressive: bool, subsampling: int, seed: int
) -> None:
    exif = Image.Exif()
    exif[0x010E] = CANARY.decode()
    data = written(
        picture(height, width, seed),
        "JPEG",
        quality=quality,
        progressive=progressive,
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
    np.testing.assert_array_equal(decode_image(bare), decode_image(data))
    assert bare_image(bare)[0] == bare


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
