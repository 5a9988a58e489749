"""The lines of a steps file one at a time, whatever the file holds: in bounded memory and without a hang."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.rlds.files import open_regular
from continuonbrain.rlds.stepline import MAX_LINE_BYTES

MAX_NAMED = 1000
"""Bad lines of an episode that are named one by one."""
_BLOCK = 1 << 20
_SEAL = re.compile(rb',"crc32c":"[0-9a-f]{8}"\}\}')
_SEAL_BYTES = 22
_IN_EVERY_STEP = b'"action"'


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or a run of lines that hold no step.

    Attributes:
        start, end: byte range in the file, newline included.
        text: without the newline; None for a line longer than `MAX_LINE_BYTES` and for a run.
        count: lines in it.
        ended: whether a newline ends it.
    """

    start: int
    end: int
    text: bytes | None
    count: int = 1
    ended: bool = True

    @property
    def trouble(self) -> str:
        """Why there is no text."""
        if self.count > 1:
            return f"{self.count} lines that are no steps"
        return f"a line of {self.end - self.start} bytes is too long, or no step"


def scan_lines(file: Path, *, hopeless: Callable[[], bool]) -> Iterator[Line]:
    """Every line of `file`.

    Args:
        hopeless: asked before every line; while it says so, lines without the word that every step holds come as
            one run. Garbage of empty lines would be a finding for each of its bytes.

    Raises:
        OSError: the disk refused, the lines before were given; or it is no regular file.
    """
    offset = 0
    with io.BufferedReader(open_regular(file).detach(), _BLOCK) as stream:
        while True:
            if hopeless() and (skipped := _no_steps(stream.peek())):
                run = stream.read(skipped)
                yield Line(offset, offset + len(run), None, run.count(b"\n"))
                offset += len(run)
                continue
            piece = stream.readline(MAX_LINE_BYTES + 1)
            if not piece:
                return
            text: bytes | None = piece.removesuffix(b"\n")
            end = offset + len(piece)
            while len(piece) > MAX_LINE_BYTES and not piece.endswith(b"\n"):
                text, piece = None, stream.readline(MAX_LINE_BYTES + 1)
                end += len(piece)
            yield Line(offset, end, text, ended=piece.endswith(b"\n"))
            offset = end


def _no_steps(ahead: bytes) -> int:
    """Bytes of the whole lines at the beginning of `ahead` that hold no step."""
    step = ahead.find(_IN_EVERY_STEP)
    return ahead.rfind(b"\n", 0, len(ahead) if step < 0 else step) + 1


def count_ends(file: Path, start: int) -> int:
    """How many newlines are in `file` from byte `start` on. Raises OSError."""
    ends = 0
    with open_regular(file) as stream:
        stream.seek(start)
        while block := stream.read(_BLOCK):
            ends += block.count(b"\n")
    return ends


def holds_seal(file: Path) -> bool:
    """Whether a line of `file` carries a CRC. Raises OSError."""
    tail = b""
    with open_regular(file) as stream:
        while block := stream.read(_BLOCK):
            if _SEAL.search(tail + block):
                return True
            tail = block[-_SEAL_BYTES:]
    return False
