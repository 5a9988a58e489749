"""The demo's picture: what the robot saw, where it drove before and after, how it learned, what the guard did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from continuonbrain.demo.shifts import STORIES
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.shifts import BASE, SHIFTS, World
from continuonbrain.robot.sim.track import TrackSet

_SPACING_M = 10.5
_COLUMNS = 4
_BLUE, _ORANGE, _GREY, _RED = "#1f6feb", "#d9730d", "#8b949e", "#cf222e"


def view(world: World, track_seed: int) -> np.ndarray[Any, Any]:
    """One camera frame of a world, uint8 `[120, 160, 3]`."""
    fleet = Fleet(TrackSet([track_seed], world), [0], seed=1)
    fleet.place(index=40)
    frame: np.ndarray[Any, Any] = fleet.render()[0]
    return frame


def _ending(report: dict[str, Any]) -> str:
    swap = report["swap"]
    if not swap["promoted"]:
        return "refused, nothing was promoted"
    return f"passed; swapped in while driving, {swap['missed_ticks']} control ticks missed"


def _tracks(axes: Any, title: str, tracks: TrackSet, trajectory: np.ndarray[Any, Any], colour: str) -> None:
    for i in range(len(tracks)):
        shift = np.array([(i % _COLUMNS) * _SPACING_M, -(i // _COLUMNS) * _SPACING_M])
        half = tracks.half_m[i] * tracks.normal[i]
        for edge in (tracks.points[i] + half, tracks.points[i] - half):
            closed = np.concatenate([edge, edge[:1]]) + shift
            axes.plot(closed[:, 0], closed[:, 1], color=_GREY, linewidth=0.7)
        path = trajectory[:, i][np.isfinite(trajectory[:, i, 0])] + shift
        if len(path):
            axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.4)
            axes.plot(*path[-1], "o", color=colour, markersize=4)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_aspect("equal")
    axes.axis("off")


def _last_drive(episodes_dir: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int | None] | None:
    """Proposed (NaN: nothing) and sent commands `[n, 2]` of the newest episode that the policy drove, and the
    first step that an adapter proposed."""
    for path in reversed(list_episodes(episodes_dir)):
        steps = list(open_episode(path, strict=False))
        if steps and steps[0].source == "autopilot":
            nothing = (float("nan"), float("nan"))
            swapped = next((i for i, s in enumerate(steps) if s.adapter_sha256), None)
            return (
                np.array([s.proposed or nothing for s in steps]),
                np.array([s.command for s in steps]),
                swapped,
            )
    return None


def draw(
    out: Path, report: dict[str, Any], trajectories: dict[str, Any], losses: list[float], episodes_dir: Path
) -> None:
    """Write the PNG to `out`."""
    settings = report["settings"]
    world = SHIFTS[settings["shift"]]
    seeds = [50_000 + 1000 * settings["seed"] + i for i in range(settings["tracks"])]
    tracks = TrackSet(seeds, world)
    figure = plt.figure(figsize=(12.5, 8.6), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=[0.85, 2.3, 1.0])
    before, after = report["before"], report["after"]

    for column, (title, frame) in enumerate(
        (("the road the base knows", view(BASE, seeds[0])), ("the road today", view(world, seeds[0])))
    ):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(frame)
        axes.set_title(title, fontsize=10, loc="left")
        axes.axis("off")
    words = figure.add_subplot(grid[0, 2:])
    words.axis("off")
    words.text(
        0,
        1,
        f"{STORIES[settings['shift']]}\n\n"
        f"{report['episodes']} episodes taught, {report['training'].get('steps', 0)} LoRA steps in "
        f"{report['training'].get('wall_s', 0):.0f} s on {report['training'].get('threads', 1)} CPU thread(s)\n"
        f"verdict: {_ending(report)}\n"
        f"instructions obeyed: {before['following']:.0%} before, {after['following']:.0%} after",
        va="top",
        fontsize=10.5,
        wrap=True,
    )
    half = grid[1, :2], grid[1, 2:]
    for place, key, figures, colour in ((half[0], "before", before, _RED), (half[1], "after", after, _BLUE)):
        title = f"{key}: {figures['completion']:.0%} of a lap, {figures['lateral_error_m'] * 100:.1f} cm off the lane"
        _tracks(figure.add_subplot(place), title, tracks, trajectories[key], colour)

    axes = figure.add_subplot(grid[2, :2])
    axes.plot(losses, color=_GREY, linewidth=0.7)
    if len(losses) > 15:
        axes.plot(np.arange(7, len(losses) - 7), np.convolve(losses, np.ones(15) / 15, "valid"), color=_BLUE)
    axes.set(xlabel="LoRA step", ylabel="loss")
    axes.set_title("training on the device", fontsize=10, loc="left")
    axes = figure.add_subplot(grid[2, 2:])
    drive = _last_drive(episodes_dir)
    if drive is not None:
        proposed, sent, swapped = drive
        seconds = np.arange(len(sent)) * 0.05
        for column, (name, colour) in enumerate((("steering", _BLUE), ("throttle", _ORANGE))):
            axes.plot(seconds, proposed[:, column], color=colour, linewidth=0.8, linestyle=":")
            axes.plot(seconds, sent[:, column], color=colour, linewidth=1.2, label=name)
        if swapped:
            axes.axvline(swapped * 0.05, color=_GREY, linewidth=0.8)
            axes.text(swapped * 0.05, -0.97, " new adapter", fontsize=8, color=_GREY)
        axes.legend(fontsize=8, loc="upper right", ncols=2)
    axes.set(xlabel="seconds of the live drive", ylim=(-1.05, 1.05))
    axes.set_title("proposed (dotted) and guarded (solid)", fontsize=10, loc="left")
    figure.savefig(out, dpi=110)
    plt.close(figure)
