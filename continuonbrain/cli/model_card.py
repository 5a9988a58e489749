"""A base's card, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from continuonbrain.rlds.summary import sparkline


def print_card(console: Console, folder: Path, card: dict[str, Any]) -> None:
    """A row for each figure, in groups."""
    table = Table("", "", title=str(folder), title_justify="left", show_header=False)
    _add_rows(table, "", card)
    console.print(table)


def _add_rows(table: Table, group: str, values: dict[str, Any]) -> None:
    for key, value in values.items():
        name = f"{group}: {key.replace('_', ' ')}" if group else key
        if key.endswith("loss_curve") and value:
            numbers = [float(x) for x in value]
            table.add_row(name, f"{sparkline(numbers)}  {numbers[0]:.3g} to {numbers[-1]:.3g}")
        elif isinstance(value, dict):
            table.add_section()
            _add_rows(table, name, value)
            table.add_section()
        else:
            table.add_row(name, Text(_told(value)))


def _told(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
