"""What no reader of ours goes beyond, and so no recorder may write: one place, or they drift apart.

What is larger could have been acknowledged and could never be read again.
"""

from __future__ import annotations

from typing import Final

MAX_METADATA_BYTES: Final = 1 << 20
MAX_STEPS_BYTES: Final = 1 << 30
MAX_LINE_BYTES: Final = 1 << 20
MAX_STEPS: Final = 1 << 19
MAX_FRAME_BYTES: Final = 16 << 20
MAX_FRAME_PIXELS: Final = 2048 * 1152
"""A JPEG header may promise gigabytes; decoding takes up to 20 bytes a pixel."""
MAX_JPEG_SIDE: Final = 65_500
"""What encoders take."""
