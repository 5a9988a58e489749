"""A verdict as a table, the same wherever one is shown."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def _number(value: object) -> str:
    return "not measured" if value is None else f"{float(str(value)):.4g}"


def verdict_table(verdict: dict[str, Any]) -> Table:
    """Every check of `verdict.json` with value and threshold, and below it what was measured for comparison."""
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
    evidence = verdict.get("evidence", {})
    for label in ("candidate", "current", "base", "mean", "repeat"):
        figures = evidence.get(label)
        if figures:
            words = (
                "predicting the mean"
                if label == "mean"
                else "repeating the last action"
                if label == "repeat"
                else label
            )
            table.add_row(
                "held-out error",
                _number(figures["steering"]),
                "",
                "",
                f"steering of {words}, against the driver",
            )
    hashes = (
        verdict.get("candidate_sha256", ""),
        verdict.get("base_sha256", ""),
        verdict.get("evaluation_sha256", ""),
    )
    table.caption = "candidate {:.12} base {:.12} evaluation {:.12}".format(*(str(h) for h in hashes))
    return table
