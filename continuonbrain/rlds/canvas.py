"""Drawing with Pillow alone, as a robot has it: colours, text that fits, smooth curves."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
F64 = NDArray[np.float64]

WHITE: Final[Colour] = (255, 255, 255)
INK: Final[Colour] = (31, 36, 48)
FAINT: Final[Colour] = (108, 117, 125)
GRID: Final[Colour] = (226, 230, 234)
PAPER: Final[Colour] = (241, 243, 245)
SENT: Final[Colour] = (25, 63, 140)
PROPOSED: Final[Colour] = (21, 170, 191)
SPEED: Final[Colour] = (73, 80, 87)
HUMAN: Final[Colour] = (47, 158, 68)
AUTOPILOT: Final[Colour] = (132, 94, 247)
OTHER: Final[Colour] = (134, 142, 150)
CHANGED: Final[Colour] = (240, 140, 0)
STOPPED: Final[Colour] = (224, 49, 49)

_SMOOTH: Final = 3
"""Pillow's lines have hard edges: they are drawn so many times larger and made smaller."""


def source_colour(source: str) -> Colour:
    """Green for a human, violet for the autopilot, grey for anybody else."""
    if source.startswith("human"):
        return HUMAN
    return AUTOPILOT if source.startswith("autopilot") else OTHER


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow ships, in pixels."""
    return ImageFont.load_default(size)


def signed(value: float) -> str:
    """Two digits and a sign; no "-0.00"."""
    return f"{round(value, 2) + 0.0:+.2f}"


def width_of(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return int(np.ceil(font(size).getlength(text)))


def fitted(text: str, size: int, width: int) -> str:
    """The text on one line of at most `width` pixels, its end cut and marked when it is longer."""
    text = " ".join(text.split())[:400]
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "...", size) > width:
        text = text[:-1]
    return text + "..." if text else ""


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    size: int = 13,
    colour: Colour = INK,
    anchor: str = "lm",
    width: int | None = None,
) -> int:
    """Draw a line of text and return its width. `anchor` is Pillow's (l, m, r; t, m, b); `width` cuts it."""
    text = " ".join(text.split()) if width is None else fitted(text, size, width)
    draw.text(place, text, fill=colour, font=font(size), anchor=anchor)
    return width_of(text, size)


def smooth(size: tuple[int, int], paint: Callable[[ImageDraw.ImageDraw, int], None]) -> Image.Image:
    """A picture of `size` that `paint(draw, scale)` draws `scale` times as large."""
    large = Image.new("RGB", (size[0] * _SMOOTH, size[1] * _SMOOTH), WHITE)
    paint(ImageDraw.Draw(large), _SMOOTH)
    return large.resize(size, Image.Resampling.BOX)


def polyline(draw: ImageDraw.ImageDraw, x: F64, y: F64, colour: Colour, width: int) -> None:
    """A line through the points; NaN in `y` breaks it, and a point by itself is a dot.

    Where many points share a column, only the lowest and highest of each are drawn.
    """
    known = np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        xs, ys = x[start:end], y[start:end]
        if len(xs) > 4 * (xs[-1] - xs[0] + 1):
            xs, ys = _columns(xs, ys)
        points = list(zip(xs.tolist(), ys.tolist(), strict=True))
        if len(points) == 1:
            (px, py), half = points[0], width / 2 + 1
            draw.ellipse((px - half, py - half, px + half, py + half), fill=colour)
        else:
            draw.line(points, fill=colour, width=width, joint="curve")


def _columns(x: F64, y: F64) -> tuple[F64, F64]:
    column = np.floor(x)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(column)) + 1])
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    return np.repeat(column[starts], 2), np.column_stack([low, high]).ravel()
