"""A verdict as tables, the same wherever one is shown; whole in 80 columns."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_HASH_DIGITS = 12
_MEANING_WIDTH = 76


def _number(value: object) -> str:
    return "-" if value is None else f"{float(str(value)):.4g}"


def _interval(check: dict[str, Any]) -> str:
    if check.get("low") is None or check.get("high") is None:
        return ""
    return f"{check['low']:.2g} .. {check['high']:.2g}"


def _threshold(check: dict[str, Any]) -> str:
    """The estimate's threshold, and what the interval's bad end must keep within."""
    limit = check.get("limit")
    return _number(check["threshold"]) + ("" if limit is None else f" ({limit:.2g})")


def verdict_table(verdict: dict[str, Any], *, full: bool = True) -> RenderableType:
    """Every check of `verdict.json` with estimate, interval, threshold and n; what they mean, and what it is bound to
    by hash. full: False explains only what failed."""
    explained = [check for check in verdict.get("checks", []) if full or not check["passed"]]
    parts = [_checks(verdict), *([_meanings(explained)] if explained else []), _bound_to(verdict)]
    return Group(*parts)


def _meanings(checks: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(style="dim", max_width=_MEANING_WIDTH)
    for check in checks:
        table.add_row(check["name"], Text(str(check["meaning"])))
    return table


def _checks(verdict: dict[str, Any]) -> Table:
    passed = bool(verdict.get("passed"))
    title = (
        "verdict: [green]passed[/green]"
        if passed
        else f"verdict: [red]refused[/red] ({escape(str(verdict.get('reason')))})"
    )
    checks = verdict.get("checks", [])
    levels = {c["level"] for c in checks if c.get("level")}
    interval = f"{max(levels):.0%} interval" if levels else "interval"
    table = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("", "check", "estimate", interval, "threshold", "n"):
        table.add_column(column, no_wrap=True)
    for check in checks:
        mark = "[green]ok[/green]" if check["passed"] else "[red]NO[/red]"
        n = "" if check.get("n") is None else f"{check['n']} {check['unit']}"
        table.add_row(mark, check["name"], _number(check["value"]), _interval(check), _threshold(check), n)
    notes = []
    if levels:
        notes.append("in brackets: what the bad end of the interval must keep within; -: not measured")
    if verdict.get("evidence", {}).get("closed_candidate"):
        notes.append("laps and instructions: in the simulator, on tracks that only verdicts use")
    table.caption = "\n".join(notes) or None
    return table


def _bound_to(verdict: dict[str, Any]) -> Table:
    table = Table(title="bound to (sha256)", title_justify="left", show_header=False, caption_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    # Verdicts of version 1 name three.
    hashes = verdict.get("hashes") or {
        name: verdict.get(f"{name}_sha256", "") for name in ("candidate", "base", "evaluation")
    }
    cells = [(name.replace("_", " "), _hash(value)) for name, value in hashes.items()]
    if len(cells) % 2:
        cells.append(("", ""))
    for left, right in zip(cells[::2], cells[1::2], strict=True):
        table.add_row(*left, *right)
    versions = verdict.get("versions") or {}
    made = [f"verdict version {verdict.get('version', 1)}", str(verdict.get("engine") or "")]
    made += [f"{name} {number}" for name, number in versions.items()]
    table.caption = escape(", ".join(part for part in made if part))
    return table


def _hash(value: object) -> str:
    return "none" if not value else f"{value!s:.{_HASH_DIGITS}}"


_CONTENDERS = {
    "candidate": "the candidate",
    "reflex": "its reflex head",
    "current": "what drives now",
    "base": "the base alone",
    "mean": "always the mean command",
    "repeat": "always the driver's last command",
}


def imitation_table(verdict: dict[str, Any]) -> Table:
    """Held-out error against the driver: the candidate beside what it replaces and two trivial answers."""
    evidence = verdict.get("evidence", {})
    steps = evidence.get("held_out_steps", 0)
    table = Table(title=f"error against the driver on {steps} held-out steps", title_justify="left")
    for column in ("", "steering", "speed m/s"):
        table.add_column(column)
    for key, words in _CONTENDERS.items():
        figures = evidence.get(key)
        if figures:
            speed = "the model's" if key == "reflex" else _number(figures.get("speed_mps"))
            table.add_row(words, _number(figures["steering"]), speed)
    if evidence.get("repeat"):
        table.caption = (
            "The last command comes close because a driver rarely changes it within a tick; it cannot drive."
        )
    return table
