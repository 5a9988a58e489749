"""Which start of the machine this is."""

from __future__ import annotations

from pathlib import Path

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
"""The kernel draws it once a start; no clock is involved."""


def boot_id(path: Path = BOOT_ID_FILE) -> str:
    """The identity of this start of the machine; "" when it cannot be read, which is taken for another start."""
    try:
        return path.read_text(encoding="ascii").strip()[:64]
    except (OSError, UnicodeDecodeError):
        return ""
