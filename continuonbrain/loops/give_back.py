"""What a round of learning has freed goes back to the system: a sidecar waits for hours, and the robot drives then.

glibc keeps freed pages of its arenas for what comes next (mallopt(3), M_TRIM_THRESHOLD); malloc_trim(3) gives them
back.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_memory_back() -> None:
    """Milliseconds. Where the C library has no such call, the collector alone runs."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
