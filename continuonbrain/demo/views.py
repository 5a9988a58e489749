"""A contact sheet of the simulator's worlds: what a camera sees in the base family and under each shift.

python -m continuonbrain.demo.views docs/simulator.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from continuonbrain.demo.picture import view
from continuonbrain.robot.sim.shifts import SHIFTS

_SHOWN = ("none", "none", "tape", "pitch", "dark", "height", "yaw", "colour", "invert", "narrow")
_COLUMNS, _WIDTH, _HEIGHT, _LABEL = 5, 160, 120, 14


def contact_sheet(out: Path, *, track_seed: int = 50_000) -> None:
    """Write one view of each visibly different world to `out` (PNG)."""
    rows = -(-len(_SHOWN) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * (_WIDTH + 4), rows * (_HEIGHT + _LABEL + 4)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(_SHOWN):
        x, y = (i % _COLUMNS) * (_WIDTH + 4), (i // _COLUMNS) * (_HEIGHT + _LABEL + 4)
        draw.text((x + 2, y + 1), "base" if name == "none" else name, fill=(40, 40, 40))
        sheet.paste(Image.fromarray(view(SHIFTS[name], track_seed + i)), (x, y + _LABEL))
    sheet.save(out)


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/simulator.png"))
