"""The timeline of a soak as a picture: one lane a subject, time from left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.soak.watch import PROCESSES

_BLUE, _ORANGE, _GREEN, _RED, _GREY, _PALE = (
    "#1f6feb",
    "#d9730d",
    "#2da44e",
    "#cf222e",
    "#8b949e",
    "#eaeef2",
)
_ROBOT = {"teach": "#2f9e44", "park": "#ced4da", "drive": "#1f6feb", "stopped": "#495057"}
_SIDECAR = {
    "read": "#ffe8a3",
    "cache": "#ffd43b",
    "train": "#f08c00",
    "reflex": "#e8590c",
    "judge": "#9c36b5",
    "consolidate": "#0ca678",
    "failed": "#cf222e",
    "refused": "#ffa8a8",
}
_KINDS = ("kill", "end", "hang", "disk and kill", "disk", "camera", "speed", "host", "clock")
_COLOURS = dict(zip(PROCESSES, ("#495057", _BLUE, _ORANGE, "#9c36b5", _GREEN), strict=True))
_STANDING = {"base": _GREY, "probation": _ORANGE, "confirmed": _GREEN}
_ROWS = (0.5, 0.9, 1.9, 1.3, 1.5, 1.1, 1.0, 1.1, 0.8)

Rows = Sequence[dict[str, Any]]


def _spans(rows: Rows, of: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[float, float, Any]]:
    """(begin, length, value) in minutes of what stays the same from sample to sample."""
    begin = 0
    for index in range(1, len(rows) + 1):
        if index == len(rows) or of(rows[index]) != of(rows[begin]):
            end = rows[index]["t"] if index < len(rows) else rows[-1]["t"] + 1.0
            yield rows[begin]["t"] / 60, (end - rows[begin]["t"]) / 60, of(rows[begin])
            begin = index


def draw(out: Path, report: dict[str, Any]) -> None:
    """Write the PNG to `out`."""
    rows, faults, result = report["samples"], report["faults"], report["result"]
    if not rows:
        return
    figure, lanes = plt.subplots(
        len(_ROWS), 1, figsize=(17, 13.5), sharex=True, layout="constrained", height_ratios=_ROWS
    )
    _worlds(lanes[0], rows)
    _phases(lanes[1], rows)
    _faults(lanes[2], faults, rows)
    _processes(lanes[3], rows)
    slopes = result["memory_slope_mib_per_h"], result["handles_slope_per_h"]
    _lines(lanes[4], rows, 1, "memory, MiB", slopes[0], "MiB/h", log=True)
    _lines(lanes[5], rows, 2, "open handles", slopes[1], "/h")
    _driving(lanes[6], rows)
    _adapter(lanes[7], rows)
    lanes[8].fill_between(_minutes(rows), [row["disk_mib"] for row in rows], color=_GREY, alpha=0.5)
    lanes[8].set_ylabel("disk, MiB", rotation=0, ha="right", va="center")
    lanes[8].set_ylim(bottom=0)
    lanes[-1].set_xlabel("minutes")
    lanes[-1].set_xlim(0, rows[-1]["t"] / 60 + 0.02)
    for lane in lanes[2:]:
        lane.grid(axis="x", color=_PALE)
        lane.set_axisbelow(True)
    for lane in lanes:
        for side in ("top", "right"):
            lane.spines[side].set_visible(False)
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=12)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def _title(report: dict[str, Any]) -> str:
    found = report["result"]
    count = len(report["faults"])
    flat = {True: "flat", False: "GROWING", None: "too short to tell growth"}[found["flat"]]
    return (
        f"{'ok' if found['ok'] else 'NOT OK'}: {found['minutes']:.0f} minutes, {found['days']} days, "
        f"seed {report['seed']}.  "
        f"{count} faults, {found['recovered']} recovered from (slowest {found['longest_recovery_s']:.0f} s), "
        f"{found['unsafe']} unsafe, {found['violations']} violations.  {found['lessons']} lessons, "
        f"{found['promotions']} promotions, {found['reverts']} reverts.  Memory and handles: {flat}."
    )


def _minutes(rows: Rows) -> list[float]:
    return [row["t"] / 60 for row in rows]


def _strip(
    lane: Any, spans: Any, at: float, colour: Callable[[Any], str | None], height: float = 0.8
) -> None:
    for begin, length, value in spans:
        if (shade := colour(value)) is not None:
            lane.broken_barh([(begin, length)], (at - height / 2, height), color=shade, linewidth=0)


def _worlds(lane: Any, rows: Rows) -> None:
    for begin, length, (world, day, night) in _spans(rows, lambda r: (r["world"], r["day"], r["night"])):
        shade = "#343a40" if night else ("#dbe4ff", "#fff3bf")[day % 2]
        lane.broken_barh([(begin, length)], (0, 1), color=shade)
        if not night and length > rows[-1]["t"] / 60 / 60:
            words = f"day {day + 1}\n{world}"
            lane.text(begin + length / 2, 0.5, words, ha="center", va="center", fontsize=7.5)
    lane.set(yticks=[], ylim=(0, 1))
    lane.set_ylabel("world\n(dark: night)", rotation=0, ha="right", va="center")


def _phases(lane: Any, rows: Rows) -> None:
    _strip(lane, _spans(rows, lambda r: r["phase"]), 1, _ROBOT.get)
    _strip(lane, _spans(rows, lambda r: r["sidecar"]), 0, _SIDECAR.get)
    lane.set(yticks=[0, 1], yticklabels=["sidecar", "robot"], ylim=(-0.5, 1.5))
    shown = {row["phase"] for row in rows} | {row["sidecar"] for row in rows}
    _legend(lane, [Patch(color=c, label=n) for n, c in (_ROBOT | _SIDECAR).items() if n in shown])


def _faults(lane: Any, faults: Rows, rows: Rows) -> None:
    kinds = [kind for kind in _KINDS if any(f["kind"] == kind for f in faults)]
    dense = len(faults) > 45
    for fault in faults:
        at, recovery = len(kinds) - 1 - kinds.index(fault["kind"]), fault.get("recovery_s")
        begin, until = fault["at_s"] / 60, fault["until_s"] / 60
        bad = recovery is None
        end = rows[-1]["t"] / 60 if recovery is None else until + recovery / 60
        lane.broken_barh([(until, end - until)], (at - 0.3, 0.6), color="#ffa8a8" if bad else "#b2f2bb")
        lane.broken_barh([(begin, until - begin)], (at - 0.3, 0.6), color=_RED)
        lane.plot(begin, at, "|", color=_RED, markersize=10)
        if not dense:
            lane.text(begin, at + 0.34, fault["target"], fontsize=6.5, va="bottom", color="#495057")
        elif fault["kind"] in ("kill", "hang"):
            lane.text(begin, at + 0.3, fault["target"][:3], fontsize=5.5, va="bottom", color="#495057")
    lane.set(yticks=range(len(kinds)), yticklabels=kinds[::-1], ylim=(-0.6, len(kinds) - 0.1))
    _legend(
        lane,
        [
            Patch(color=_RED, label="fault lasts"),
            Patch(color="#b2f2bb", label="until all work again"),
            Patch(color="#ffa8a8", label="never recovered"),
        ],
    )


def _processes(lane: Any, rows: Rows) -> None:
    for at, name in enumerate(reversed(PROCESSES)):

        def state(row: dict[str, Any], name: str = name) -> tuple[int, bool] | None:
            seen = row["processes"].get(name)
            return None if seen is None else (seen[0], seen[4] in "Tt")

        for begin, length, value in _spans(rows, state):
            if value is not None:
                colour = _RED if value[1] else _COLOURS[name]
                lane.broken_barh([(begin, length)], (at - 0.3, 0.6), color=colour, linewidth=0)
                lane.plot([begin, begin], [at - 0.42, at + 0.42], color="black", linewidth=0.8)
    lane.set(yticks=range(len(PROCESSES)), yticklabels=PROCESSES[::-1], ylim=(-0.6, len(PROCESSES) - 0.4))
    _legend(lane, [Line2D([], [], color="black", label="a new life"), Patch(color=_RED, label="hangs")])


def _lines(
    lane: Any, rows: Rows, index: int, title: str, slopes: dict[str, Any], unit: str, *, log: bool = False
) -> None:
    for name in PROCESSES:
        values = [row["processes"][name][index] if name in row["processes"] else float("nan") for row in rows]
        told = "" if slopes.get(name) is None else f" {slopes[name]:+.1f} {unit}"
        lane.plot(_minutes(rows), values, color=_COLOURS[name], linewidth=1.1, label=f"{name}{told}")
    if log:
        lane.set_yscale("log")
        lane.set_ylim(30, 1500)
        lane.set_yticks([50, 100, 200, 400, 800], ["50", "100", "200", "400", "800"], minor=False)
        lane.minorticks_off()
    else:
        lane.set_ylim(bottom=0)
    lane.set_ylabel(title, rotation=0, ha="right", va="center")
    lane.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _driving(lane: Any, rows: Rows) -> None:
    """Laps a minute while the policy drives, over ten seconds, and every time that the car left the road."""
    minutes, pace, off = _minutes(rows), np.full(len(rows), np.nan), []
    pid = [row["processes"].get("control", [0])[0] for row in rows]
    for now in range(1, len(rows)):
        before = max(0, now - 10)
        same = pid[now] == pid[before] and rows[now]["laps"] is not None and rows[before]["laps"] is not None
        if same and all(row["phase"] == "drive" for row in rows[before : now + 1]):
            spent = rows[now]["t"] - rows[before]["t"]
            pace[now] = (rows[now]["laps"] - rows[before]["laps"]) / spent * 60
        last = rows[now - 1]
        if pid[now] == pid[now - 1] and (rows[now]["off_road"] or 0) > (last["off_road"] or 0):
            off.append(minutes[now])
    lane.plot(minutes, pace, color=_BLUE, linewidth=1.2, label="laps a minute")
    lane.plot(off, np.zeros(len(off)), "x", color=_RED, markersize=5, label="off the road")
    lane.set_ylim(bottom=-0.2)
    lane.set_ylabel("driving", rotation=0, ha="right", va="center")
    _legend(lane, None)


def _adapter(lane: Any, rows: Rows) -> None:
    def number(row: dict[str, Any]) -> int:
        head = row["adapter"].partition("-")[0]
        return int(head) if head.isdecimal() else 0

    for begin, length, (version, standing) in _spans(rows, lambda r: (number(r), r["standing"])):
        lane.plot(
            [begin, begin + length],
            [version, version],
            color=_STANDING.get(standing, _PALE),
            linewidth=5,
            solid_capstyle="butt",
        )
    top = max(number(row) for row in rows)
    lane.set_ylim(-0.7, top + 0.7)
    lane.yaxis.get_major_locator().set_params(integer=True)
    lane.set_ylabel("adapter\nversion (0: base)", rotation=0, ha="right", va="center")
    _legend(lane, [Patch(color=c, label=n) for n, c in _STANDING.items()])


def _legend(lane: Any, handles: list[Any] | None) -> None:
    given = {} if handles is None else {"handles": handles}
    lane.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, ncols=1, **given)
