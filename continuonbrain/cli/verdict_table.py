"""A verdict as tables, the same wherever one is shown."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def _number(value: object) -> str:
    return "not measured" if value is None else f"{float(str(value)):.4g}"


def verdict_table(verdict: dict[str, Any]) -> Table:
    """Every check of `verdict.json` with value and threshold."""
    passed = bool(verdict.get("passed"))
    title = (
        "verdict: [green]passed[/green]"
        if passed
        else f"verdict: [red]refused[/red] ({verdict.get('reason')})"
    )
    table = Table(title=title, title_justify="left")
    for column in ("check", "value", "threshold", "", "meaning"):
        table.add_column(column)
    for check in verdict.get("checks", []):
        mark = "[green]ok[/green]" if check["passed"] else "[red]no[/red]"
        table.add_row(
            check["name"], _number(check["value"]), _number(check["threshold"]), mark, check["meaning"]
        )
    hashes = (
        verdict.get("candidate_sha256", ""),
        verdict.get("base_sha256", ""),
        verdict.get("evaluation_sha256", ""),
    )
    table.caption = "candidate {:.12} base {:.12} evaluation {:.12}".format(*(str(h) for h in hashes))
    if verdict.get("evidence", {}).get("closed_candidate"):
        table.caption += "\nlaps and instructions: in the simulator, on tracks that only verdicts use"
    return table


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
