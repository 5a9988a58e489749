"""An episode to look at: a contact sheet of its frames, and a plot of its actions. Pillow only: a robot has no more.

The sheet shows frames evenly spaced, each with its step, its time, who drove, and what was sent: a bar to the left or
right of its middle for steering (the side that the wheels turn to), one up or down for throttle, a tick where the
policy proposed something else. Amber frames: the guard changed the command. Red ones: it stopped the robot.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from continuonbrain.rlds import canvas
from continuonbrain.rlds.canvas import Colour, write
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import Episode
from continuonbrain.rlds.storyline import Story, evenly

WIDTH: Final = 1280
MARGIN: Final = 20
FRAMES: Final = 24
"""Frames on a contact sheet."""
_ACROSS: Final = 6
_GAP: Final = 14
_CELL: Final = (WIDTH - 2 * MARGIN - (_ACROSS - 1) * _GAP) // _ACROSS
_STRIP: Final = 76
_HEADER: Final = 118
_OVERVIEW_FRAMES: Final = 8
_ROW: Final = 92
OVERVIEW_ROWS: Final = 40
"""Episodes on one page of the overview."""


def flag_colour(story: Story, index: int) -> Colour | None:
    """Of a step's outline: red where the guard stopped the robot, amber where it changed something, else None."""
    if story.stopped[index]:
        return canvas.STOPPED
    return canvas.CHANGED if story.flagged[index] else None


def headline(story: Story, episode: Episode) -> list[tuple[str, Colour]]:
    """Three lines about an episode: how long, who and what, what the guard did; a fourth when it ends early."""
    rate = ""
    if story.duration_s > 0 and len(story) > 1:
        rate = f" at {(len(story) - 1) / story.duration_s:.1f} Hz"
    length = f"{len(story)} steps, {story.duration_s:.1f} s{rate}"
    count = max(len(story), 1)
    who = ", ".join(f"{name} {100 * n / count:.0f} %" for name, n in story.named(story.sources))
    said = ", ".join(f'"{name}"' for name, _ in story.named(story.instructions))
    guard = f"guard: {int(story.flagged.sum())} steps"
    if story.reasons:
        guard += " (" + ", ".join(f"{code} {len(at)}" for code, at in story.reasons.items()) + ")"
    if story.dropped:
        guard += f"; dropped by the recorder: {sum(n for _, n in story.dropped)} steps"
    lines = [
        (f"{episode.metadata.environment_id or 'no environment named'}; {length}", canvas.INK),
        (f"driven by {who or 'nobody'}; told {said or 'nothing'}", canvas.INK),
        (guard, canvas.INK),
    ]
    if episode.torn:
        lines.append((f"ends early: {episode.torn}", canvas.STOPPED))
    return lines


def draw_header(draw: ImageDraw.ImageDraw, story: Story, episode: Episode) -> None:
    """The episode's name and `headline` at the top of a picture of `WIDTH`."""
    space = WIDTH - 2 * MARGIN
    write(draw, (MARGIN, 26), episode.episode_id, size=22, width=space)
    for number, (line, colour) in enumerate(headline(story, episode)):
        write(draw, (MARGIN, 52 + 18 * number), line, size=14, colour=colour, width=space)


# -------------------------------------------------------------------------------------------- the sheet


def contact_sheet(episode: Episode, story: Story, *, frames: int = FRAMES) -> Image.Image:
    """Frames evenly spaced over the episode. A frame that cannot be read is a grey field that says so.

    Args:
        story: of the same episode (`tell`).
        frames: at most so many.
    """
    shown = evenly(len(story), frames)
    height = _frame_height(episode, shown)
    rows = max(1, -(-len(shown) // _ACROSS))
    cell = height + _STRIP
    picture = Image.new("RGB", (WIDTH, _HEADER + 10 + rows * (cell + _GAP) + 54), canvas.WHITE)
    draw = ImageDraw.Draw(picture)
    draw_header(draw, story, episode)
    if not shown:
        write(draw, (MARGIN, _HEADER + 24), "no step to show", size=16, colour=canvas.FAINT)
    for number, index in enumerate(shown):
        left = MARGIN + (number % _ACROSS) * (_CELL + _GAP)
        top = _HEADER + 10 + (number // _ACROSS) * (cell + _GAP)
        picture.paste(_thumbnail(episode, index, (_CELL, height)), (left, top))
        until = shown[number + 1] if number + 1 < len(shown) else len(story)
        new_words = number == 0 or _said(story, index) != _said(story, shown[number - 1])
        _draw_cell(draw, story, index, until, (left, top), height, new_words)
    _sheet_legend(draw, picture.height - 30)
    return picture


def _said(story: Story, index: int) -> str:
    return story.at(story.instructions, index)


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    story: Story,
    index: int,
    until: int,
    place: tuple[int, int],
    height: int,
    new_words: bool,
) -> None:
    left, top = place
    right, below = left + _CELL - 1, top + height
    outline = flag_colour(story, index)
    if outline is not None:
        draw.rectangle((left - 4, top - 4, right + 4, below + 3), outline=outline, width=4)
        codes = [code for code, at in story.reasons.items() if index in at] or ["changed"]
        text = canvas.fitted(", ".join(codes), 13, _CELL - 16)
        draw.rectangle((left, top, left + canvas.width_of(text, 13) + 12, top + 19), fill=outline)
        write(draw, (left + 6, top + 10), text, size=13, colour=canvas.WHITE)
    colour = canvas.source_colour(story.at(story.sources, index))
    draw.ellipse((left, below + 9, left + 9, below + 18), fill=colour)
    when = f"{story.seconds[index]:.2f} s" if story.timed else ""
    write(draw, (left + 15, below + 14), f"step {index}", size=13)
    write(draw, (left + 15, below + 31), when, size=13, colour=canvas.FAINT)
    _action_mark(draw, story, index, (right - 98, below + 6))
    hidden = story.flagged[index + 1 : until]
    note = f"+{int(hidden.sum())} guarded until the next" if hidden.any() else ""
    words = canvas.fitted(_said(story, index), 12, _CELL - 15) if new_words else ""
    line = below + 50
    if words:
        write(draw, (left + 15, line), words, size=12)
        line += 16
    if note:
        worst = canvas.STOPPED if story.stopped[index + 1 : until].any() else canvas.CHANGED
        write(draw, (left + 15, line), note, size=12, colour=_dark(worst))


def _dark(colour: Colour) -> Colour:
    """The same hue, dark enough for small text on white."""
    red, green, blue = (value * 7 // 10 for value in colour)
    return red, green, blue


def _action_mark(draw: ImageDraw.ImageDraw, story: Story, index: int, place: tuple[int, int]) -> None:
    """98x34: steering as a bar from the middle to its side, throttle as a bar up or down."""
    left, top = place
    steering, throttle = (min(max(float(v), -1.0), 1.0) for v in story.sent[index])
    half, middle, y = 38, left + 38, top + 12
    draw.rectangle((left, y - 5, left + 2 * half, y + 5), fill=canvas.PAPER, outline=canvas.GRID)
    end = middle - steering * half  # positive steers left
    draw.rectangle((min(middle, end), y - 4, max(middle, end), y + 4), fill=canvas.SENT)
    draw.line((middle, y - 8, middle, y + 8), fill=canvas.INK)
    column, centre, reach = left + 88, top + 17, 16
    draw.rectangle(
        (column - 5, centre - reach, column + 5, centre + reach), fill=canvas.PAPER, outline=canvas.GRID
    )
    tip = centre - throttle * reach
    draw.rectangle((column - 4, min(centre, tip), column + 4, max(centre, tip)), fill=canvas.SENT)
    draw.line((column - 8, centre, column + 8, centre), fill=canvas.INK)
    proposed = story.proposed[index]
    if proposed[0] == proposed[0] and tuple(proposed) != tuple(story.sent[index]):
        x = middle - min(max(float(proposed[0]), -1.0), 1.0) * half
        draw.line((x, y - 8, x, y + 8), fill=canvas.PROPOSED, width=3)
        mark = centre - min(max(float(proposed[1]), -1.0), 1.0) * reach
        draw.line((column - 8, mark, column + 8, mark), fill=canvas.PROPOSED, width=3)
    numbers = ", ".join(canvas.signed(float(value)) for value in story.sent[index])
    write(draw, (left + half, top + 30), numbers, size=11, colour=canvas.FAINT, anchor="mm")


def _sheet_legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    x = MARGIN
    for colour, text in (
        (canvas.SENT, "sent: steering to its side, throttle up or down"),
        (canvas.PROPOSED, "proposed instead"),
        (canvas.HUMAN, "human drove"),
        (canvas.AUTOPILOT, "autopilot drove"),
        (canvas.CHANGED, "guard changed the command"),
        (canvas.STOPPED, "guard stopped the robot"),
    ):
        draw.rectangle((x, y - 6, x + 12, y + 6), fill=colour)
        x += 18 + write(draw, (x + 18, y), text, size=13) + 20


def _frame_height(episode: Episode, shown: list[int]) -> int:
    """The height of a cell's frame: that of the first one that can be read, at the cell's width."""
    for index in shown:
        try:
            height, width = (int(size) for size in episode.frame(index).shape[:2])
        except EpisodeError:
            continue
        return min(max(round(_CELL * height / width), 24), 2 * _CELL)
    return _CELL * 3 // 4


def _thumbnail(episode: Episode, index: int, size: tuple[int, int]) -> Image.Image:
    try:
        frame = Image.fromarray(episode.frame(index))
    except EpisodeError as error:
        field = Image.new("RGB", size, canvas.PAPER)
        text = "no frame" if "no frame" in error.problem else "unreadable"
        write(ImageDraw.Draw(field), (size[0] / 2, size[1] / 2), text, size=13, anchor="mm", width=size[0])
        return field
    frame.thumbnail((size[0] * 4, size[1] * 4))
    return frame.resize(size, Image.Resampling.BICUBIC)


# ------------------------------------------------------------------------------------------ the overview


def overview_row(episode: Episode, story: Story) -> Image.Image:
    """One episode in a row of `WIDTH`: name and counts, a few frames, steering over time."""
    picture = Image.new("RGB", (WIDTH, _ROW), canvas.WHITE)
    draw = ImageDraw.Draw(picture)
    draw.line((MARGIN, _ROW - 1, WIDTH - MARGIN, _ROW - 1), fill=canvas.GRID)
    width = 270
    write(draw, (MARGIN, 18), episode.episode_id, size=15, width=width)
    lines = headline(story, episode)
    for number, (line, colour) in enumerate([lines[0], lines[-1] if episode.torn else lines[1], lines[2]]):
        write(draw, (MARGIN, 38 + 17 * number), line, size=12, colour=colour, width=width)
    size = (80, 60)
    for number, index in enumerate(evenly(len(story), _OVERVIEW_FRAMES)):
        left = MARGIN + width + 14 + number * (size[0] + 8)
        picture.paste(_thumbnail(episode, index, size), (left, 14))
        outline = flag_colour(story, index)
        if outline is not None:
            draw.rectangle((left - 3, 11, left + size[0] + 2, 14 + size[1] + 2), outline=outline, width=3)
    left = MARGIN + width + 14 + _OVERVIEW_FRAMES * (size[0] + 8) + 6
    span = (WIDTH - MARGIN - left, 60)
    picture.paste(_steering_line(story, span), (left, 14))
    write(draw, (left, 83), "steering sent, left is up", size=11, colour=canvas.FAINT)
    return picture


def _steering_line(story: Story, size: tuple[int, int]) -> Image.Image:
    def paint(draw: ImageDraw.ImageDraw, scale: int) -> None:
        width, height = size[0] * scale, size[1] * scale
        draw.rectangle((0, 0, width, height), fill=canvas.PAPER)
        draw.line((0, height / 2, width, height / 2), fill=canvas.GRID, width=scale)
        if len(story):
            x = story.seconds / max(float(story.seconds[-1]), 1e-9) * (width - 1)
            for index in story.flagged.nonzero()[0].tolist():
                colour = flag_colour(story, index) or canvas.CHANGED
                draw.line((x[index], height - 5 * scale, x[index], height), fill=colour, width=scale)
            y = (1 - story.sent[:, 0].clip(-1, 1)) / 2 * (height - 2 * scale) + scale
            canvas.polyline(draw, x, y, canvas.SENT, scale + 1)

    return canvas.smooth(size, paint)


def overview_page(rows: list[Image.Image], title: str) -> Image.Image:
    """Rows of `overview_row` below each other."""
    picture = Image.new("RGB", (WIDTH, 56 + _ROW * len(rows) + 50), canvas.WHITE)
    write(ImageDraw.Draw(picture), (MARGIN, 28), title, size=20, width=WIDTH - 2 * MARGIN)
    for number, row in enumerate(rows):
        picture.paste(row, (0, 56 + _ROW * number))
    draw = ImageDraw.Draw(picture)
    x, y = MARGIN, picture.height - 26
    for colour, text in (
        (canvas.CHANGED, "guard changed the command"),
        (canvas.STOPPED, "guard stopped the robot"),
    ):
        draw.rectangle((x, y - 6, x + 12, y + 6), fill=colour)
        x += 18 + write(draw, (x + 18, y), text, size=13) + 20
    return picture


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".staging-{secrets.token_hex(4)}-{path.name}")
    try:
        picture.save(staging, "PNG")
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
