"""Makes the models in this folder importable, and gives a clock that tests move."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
