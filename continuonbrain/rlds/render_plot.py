"""The plot of an episode: what was proposed and what was sent, and below it, on the same time, who drove, what was
said, where the guard came in and why, and where the recorder dropped steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from continuonbrain.rlds import canvas
from continuonbrain.rlds.canvas import Colour, write
from continuonbrain.rlds.reader import Episode
from continuonbrain.rlds.render import MARGIN, WIDTH, draw_header
from continuonbrain.rlds.storyline import Run, Story, ticks

F64 = canvas.F64
_LEFT: Final = 200
_RIGHT: Final = 26
_SPAN: Final = WIDTH - _LEFT - _RIGHT
_TOP: Final = 136
_LANE: Final = 26
_BETWEEN: Final = 22
_REASONS: Final = 12
"""Reason codes with a lane of their own."""
_FURTHEST: Final = 3.0
"""A proposal beyond this is drawn at the edge: one wild number must not flatten the rest."""

_CHANGED_TINT: Final[Colour] = (255, 243, 214)
_STOPPED_TINT: Final[Colour] = (255, 227, 227)
_FASTEST: Final = 1000.0
"""In m/s: no sensor of a robot means more."""


@dataclass(frozen=True)
class _Curve:
    values: F64
    colour: Colour
    width: float


@dataclass(frozen=True)
class _Panel:
    title: str
    unit: str
    height: int
    low: float
    high: float
    curves: tuple[_Curve, ...]
    ends: tuple[str, str] = ("", "")


def plot(episode: Episode, story: Story) -> Image.Image:
    """Actions, interventions and flags over time.

    Args:
        story: of the same episode (`tell`).
    """
    panels = _panels(story)
    codes = list(story.reasons.items())[:_REASONS]
    lanes = 2 + len(codes) + bool(len(story.reasons) > _REASONS) + bool(story.dropped)
    height = _TOP + sum(p.height + _BETWEEN for p in panels) + lanes * _LANE + 78
    picture = Image.new("RGB", (WIDTH, height), canvas.WHITE)
    draw = ImageDraw.Draw(picture)
    draw_header(draw, story, episode)
    _legend(draw, _TOP - 12)
    y = _TOP + 6
    for panel in panels:
        _draw_panel(picture, draw, story, panel, y)
        y += panel.height + _BETWEEN
    y = _draw_lanes(draw, story, y)
    _time_axis(draw, story, y + 4)
    return picture


def _panels(story: Story) -> list[_Panel]:
    if not len(story):
        return []
    sent, proposed = story.sent, np.clip(story.proposed, -_FURTHEST, _FURTHEST)

    def curves(column: int) -> tuple[_Curve, ...]:
        return (
            _Curve(proposed[:, column], canvas.PROPOSED, 3.2),
            _Curve(np.clip(sent[:, column], -_FURTHEST, _FURTHEST), canvas.SENT, 1.7),
        )

    def reach(column: int) -> tuple[float, float]:
        both = np.concatenate([sent[:, column], proposed[:, column]]).clip(-_FURTHEST, _FURTHEST)
        both = both[np.isfinite(both)]
        return float(both.min()), float(both.max())

    low, high = reach(0)
    side = max(1.0, -low, high) * 1.05
    panels = [_Panel("steering", "-1 to 1", 190, -side, side, curves(0), ("left", "right"))]
    low, high = reach(1)
    low, high = min(low, 0.0), max(high, 0.2)
    room = 0.06 * (high - low)
    panels.append(_Panel("throttle", "-1 to 1", 140, low - room, high + room, curves(1)))
    speed = np.clip(story.speed, -_FASTEST, _FASTEST)
    known = speed[np.isfinite(speed)]
    if len(known):
        low, high = min(float(known.min()), 0.0), max(float(known.max()), 0.1)
        room = 0.06 * (high - low)
        curve = _Curve(speed, canvas.SPEED, 2.0)
        panels.append(_Panel("speed", "m/s", 100, low - room, high + room, (curve,)))
    return panels


def _x(story: Story, seconds: F64 | float) -> F64:
    """Pixels from the left edge of the drawn span."""
    return np.asarray(seconds, np.float64) / max(float(story.seconds[-1]), 1e-9) * (_SPAN - 1)


def _draw_panel(
    picture: Image.Image, draw: ImageDraw.ImageDraw, story: Story, panel: _Panel, top: int
) -> None:
    def place(value: F64 | float) -> F64:
        return (panel.high - np.asarray(value, np.float64)) / (panel.high - panel.low) * (panel.height - 1)

    marks = ticks(panel.low, panel.high, max(2, panel.height // 40))
    times = _time_ticks(story)

    def paint(large: ImageDraw.ImageDraw, scale: int) -> None:
        width, height = _SPAN * scale, panel.height * scale
        for tint, flags in ((_CHANGED_TINT, story.flagged & ~story.stopped), (_STOPPED_TINT, story.stopped)):
            for start, end, share in _marked_spans(story, np.flatnonzero(flags)):
                shade = _mixed(canvas.WHITE, tint, share)
                large.rectangle((start * scale, 0, end * scale, height), fill=shade)
        for mark in marks:
            line = float(place(mark)) * scale
            large.line((0, line, width, line), fill=canvas.FAINT if mark == 0 else canvas.GRID, width=scale)
        for time in times:
            column = float(_x(story, time)) * scale
            large.line((column, 0, column, height), fill=canvas.GRID, width=scale)
        for curve in panel.curves:
            thick = max(1, round(curve.width * scale))
            x, y = _x(story, story.seconds) * scale, place(curve.values) * scale
            canvas.polyline(large, x, y, curve.colour, thick)

    picture.paste(canvas.smooth((_SPAN, panel.height), paint), (_LEFT, top))
    draw.rectangle((_LEFT - 1, top - 1, _LEFT + _SPAN, top + panel.height), outline=canvas.OTHER)
    write(draw, (MARGIN, top + 10), panel.title, size=16)
    write(draw, (MARGIN, top + 30), panel.unit, size=12, colour=canvas.FAINT)
    for mark in marks:
        write(draw, (_LEFT - 8, top + float(place(mark))), f"{mark:g}", size=12, anchor="rm")
    for end, y in zip(panel.ends, (top + 10, top + panel.height - 10), strict=True):
        if end:
            write(draw, (_LEFT - 40, y), end, size=12, colour=canvas.FAINT, anchor="rm")


def _step_span(story: Story, index: int) -> tuple[float, float]:
    """From a step to the next one, at least a pixel wide."""
    start = float(_x(story, float(story.seconds[index])))
    after = float(story.seconds[min(index + 1, len(story) - 1)])
    return start, max(float(_x(story, after)), start + 1.0)


def _draw_lanes(draw: ImageDraw.ImageDraw, story: Story, y: int) -> int:
    if not len(story):
        write(draw, (MARGIN, y + 10), "no step to show", size=16, colour=canvas.FAINT)
        return y + 20
    _runs(draw, story, "driven by", story.sources, y, coloured=True)
    _runs(draw, story, "told", story.instructions, y + _LANE, coloured=False)
    y += 2 * _LANE
    codes = list(story.reasons.items())
    for code, steps in codes[:_REASONS]:
        _lane(draw, f"{code}: {len(steps)}", y)
        for colour, part in (
            (canvas.CHANGED, steps[~story.stopped[steps]]),
            (canvas.STOPPED, steps[story.stopped[steps]]),
        ):
            _blocks(draw, story, part, y, colour)
        y += _LANE
    if len(codes) > _REASONS:
        _lane(draw, f"{len(codes) - _REASONS} more reasons", y)
        for _, steps in codes[_REASONS:]:
            _blocks(draw, story, steps, y, canvas.OTHER)
        y += _LANE
    if story.dropped:
        _lane(draw, f"dropped: {sum(n for _, n in story.dropped)} steps", y)
        free = 0.0
        for index, count in story.dropped:
            x = _LEFT + float(_x(story, float(story.seconds[index])))
            draw.polygon([(x - 6, y + 4), (x + 6, y + 4), (x, y + 18)], fill=canvas.INK)
            if x > free:
                side = "lm" if x < WIDTH - 60 else "rm"
                shift = 9 if side == "lm" else -9
                free = x + 16 + write(draw, (x + shift, y + 11), str(count), size=12, anchor=side)
        y += _LANE
    return y


def _lane(draw: ImageDraw.ImageDraw, title: str, y: int) -> None:
    draw.rectangle((_LEFT, y, _LEFT + _SPAN - 1, y + _LANE - 5), fill=canvas.PAPER)
    write(draw, (MARGIN, y + 11), title, size=13, width=_LEFT - MARGIN - 8)


def _blocks(
    draw: ImageDraw.ImageDraw, story: Story, steps: NDArray[np.int64], y: int, colour: Colour
) -> None:
    """Mark steps in a lane. Where many steps share a pixel, its shade says how many of them are marked."""
    for start, end, share in _marked_spans(story, steps):
        shade = _mixed(canvas.PAPER, colour, 0.3 + 0.7 * share)
        draw.rectangle((_LEFT + start, y, _LEFT + max(end - 1, start), y + _LANE - 5), fill=shade)


def _mixed(ground: Colour, colour: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(ground, colour, strict=True))
    return red, green, blue


def _marked_spans(story: Story, steps: NDArray[np.int64]) -> list[tuple[float, float, float]]:
    """(from, to, share) in pixels: of each step by itself, or of each pixel when steps are narrower than one."""
    if len(story) <= _SPAN:
        return [(*_step_span(story, index), 1.0) for index in steps.tolist()]
    column = np.floor(_x(story, story.seconds)).astype(np.int64)
    every = np.bincount(column, minlength=_SPAN)
    marked = np.bincount(column[steps], minlength=_SPAN)
    return [(float(at), at + 1.0, marked[at] / every[at]) for at in np.flatnonzero(marked).tolist()]


def _runs(
    draw: ImageDraw.ImageDraw, story: Story, title: str, runs: list[Run], y: int, *, coloured: bool
) -> None:
    _lane(draw, title, y)
    shades = ((222, 226, 230), (206, 212, 218))
    for number, run in enumerate(runs):
        start, _ = _step_span(story, run.first)
        _, end = _step_span(story, run.last)
        fill = canvas.source_colour(run.text) if coloured else shades[number % 2]
        draw.rectangle((_LEFT + start, y, _LEFT + max(end - 1, start), y + _LANE - 5), fill=fill)
        if end - start > 40:
            ink = canvas.WHITE if coloured else canvas.INK
            write(
                draw, (_LEFT + start + 6, y + 11), run.text, size=13, colour=ink, width=int(end - start - 12)
            )


def _time_ticks(story: Story) -> list[float]:
    return ticks(0.0, float(story.seconds[-1]), 10) if len(story) else []


def _time_axis(draw: ImageDraw.ImageDraw, story: Story, y: int) -> None:
    marks = _time_ticks(story)
    for number, mark in enumerate(marks):
        x = _LEFT + float(_x(story, mark))
        draw.line((x, y - 2, x, y + 5), fill=canvas.INK)
        anchor = "rm" if x > WIDTH - 40 else "mm"
        label = f"{mark:g} s" if story.timed else f"{mark:g}"
        write(draw, (x, y + 15), label, size=13, anchor=anchor)
        if story.timed and (number == 0 or len(marks) < 16):
            step = int(np.searchsorted(story.seconds, mark - 1e-9))
            text = f"step {step}"
            write(draw, (x, y + 33), text, size=12, colour=canvas.FAINT, anchor=anchor)
    write(draw, (MARGIN, y + 15), "time" if story.timed else "step (no times recorded)", size=13)


def _legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    x = _LEFT
    for colour, text in (
        (canvas.SENT, "sent to the robot"),
        (canvas.PROPOSED, "proposed by the policy"),
        (canvas.CHANGED, "guard changed the command"),
        (canvas.STOPPED, "guard stopped the robot"),
        (canvas.HUMAN, "human"),
        (canvas.AUTOPILOT, "autopilot"),
    ):
        draw.rectangle((x, y - 5, x + 12, y + 5), fill=colour)
        x += 18 + write(draw, (x + 18, y), text, size=13) + 22
