"""The programs in deploy/arm64 are no package: they find each other in their own folder, and here as well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "arm64"))
