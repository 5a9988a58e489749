"""Where the steps lie in a file of text: the lines of a steps file, and the entries of a flat JSON episode.

A file is passed over in blocks and only places are kept, so that a gigabyte of brackets costs a scan and not as much
memory. What a piece holds is parsed when a step is asked for.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import open_regular
from continuonbrain.rlds.limits import MAX_LINE_BYTES, MAX_STEPS

MAX_PIECE_BYTES: Final = MAX_LINE_BYTES
MAX_PIECES: Final = MAX_STEPS
_KEPT_BYTES = 4 << 20  # of a file up to this size the bytes are kept: a step then costs no opening of it
_BLOCK = 1 << 18
_MAX_DEPTH = 256
_TOKEN = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_ENTRY = re.compile(rb'\s*"(?:[^"\\]|\\.)*"\s*:\s*\S', re.DOTALL)
_SPACE = b" \t\r\n"


class Pieces:
    """Pieces of one file, each at most `MAX_PIECE_BYTES` long."""

    def __init__(self, file: Path, data: bytes | None) -> None:
        self.file = file
        self._data = data
        self._starts = array("Q")
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int, *, what: str) -> None:
        """One more piece; `what` names it in errors."""
        if end - start > MAX_PIECE_BYTES:
            raise EpisodeError(f"a {what} of {end - start} bytes is too long", file=self.file, step=len(self))
        if len(self) >= MAX_PIECES:
            raise EpisodeError(f"more than {MAX_PIECES} steps", file=self.file)
        self._starts.append(start)
        self._ends.append(end)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of piece `index`; OSError when the file cannot be read any more."""
        start, end = self._starts[index], self._ends[index]
        if self._data is not None:
            return self._data[start:end]
        with open_regular(self.file) as file:
            return os.pread(file.fileno(), end - start, start)


def _opened(path: Path, limit: int) -> tuple[BinaryIO, Pieces]:
    file = open_regular(path)
    try:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise EpisodeError(f"the file is longer than {limit} bytes", file=path)
        data = file.read(_KEPT_BYTES) if size <= _KEPT_BYTES else None
        file.seek(0)
        return file, Pieces(path, data)
    except BaseException:
        file.close()
        raise


def lines_of(path: Path, limit: int) -> tuple[Pieces, int]:
    """The newline-terminated lines, and how many bytes of a torn line follow them.

    Raises:
        EpisodeError: the file is longer than `limit`, a line longer than `MAX_PIECE_BYTES`, or there are too many.
        OSError: it cannot be read.
    """
    file, pieces = _opened(path, limit)
    with file:
        start = at = 0
        while block := file.read(_BLOCK):
            found = block.find(b"\n")
            while found >= 0:
                pieces.add(start, at + found, what="line")
                start = at + found + 1
                found = block.find(b"\n", found + 1)
            at += len(block)
            if at - start > MAX_PIECE_BYTES:
                break  # a torn line of any length is told by its first bytes
        size = os.fstat(file.fileno()).st_size
    return pieces, max(at, size) - start


def flat_pieces(path: Path, limit: int) -> tuple[bytes, Pieces]:
    """The text of `metadata`, and the entries of `steps`, of a flat JSON episode.

    Only brackets, commas and strings are looked at; each piece is JSON only when it parses.

    Raises:
        EpisodeError: not an object with `metadata` and a list `steps`, or longer, deeper or more than is read.
        OSError: it cannot be read.
    """
    file, pieces = _opened(path, limit)
    with file:
        scan = _Scan(file, path, pieces)
        scan.run()
    if scan.metadata is None or not scan.has_steps:
        raise EpisodeError('an object with "metadata" and a list "steps" is needed', file=path)
    return scan.metadata, pieces


class _Scan:
    """One pass over a flat JSON episode."""

    def __init__(self, file: BinaryIO, path: Path, pieces: Pieces) -> None:
        self._file, self._path, self._pieces = file, path, pieces
        self.metadata: bytes | None = None
        self.has_steps = False
        self._in_steps = False
        self._after_steps = -1

    def _bad(self, problem: str, at: int) -> EpisodeError:
        return EpisodeError(f"not a flat episode: {problem} at byte {at}", file=self._path)

    def _tokens(self) -> Iterator[tuple[int, int]]:
        """(token, byte) of each bracket and comma outside strings; an unfinished string is an error."""
        at = last = 0
        quoted = skip = False
        while block := self._file.read(_BLOCK):
            position = 1 if skip else 0
            skip = False
            while match := (_IN_STRING if quoted else _TOKEN).search(block, position):
                position = match.end()
                last = at + position
                token = block[match.start()]
                if token == 0x22:  # "
                    quoted = not quoted
                elif token == 0x5C:  # backslash: the next byte is no quote
                    position += 1
                    skip = position > len(block)
                else:
                    yield token, at + match.start()
            at += len(block)
            if at - last > MAX_PIECE_BYTES:
                raise self._bad(f"nothing but text for {at - last} bytes", last)
        if quoted:
            raise self._bad("a text without an end", at)

    def _text(self, start: int, end: int) -> bytes:
        return os.pread(self._file.fileno(), end - start, start)

    def run(self) -> None:
        """Find the pieces."""
        depth = 0
        start = closed = -1
        for token, at in self._tokens():
            if closed >= 0 or (depth == 0 and token != 0x7B):
                raise self._bad("something beside the one object", at)
            if token in b"[{":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise self._bad("nesting that is too deep", at)
                if depth == 1:
                    if self._text(0, min(at, 64)).strip(_SPACE + b"\xef\xbb\xbf") or at > MAX_PIECE_BYTES:
                        raise self._bad("something before the object", 0)
                    start = at + 1
                elif depth == 2 and token == 0x5B and self._key(start, at) == b'"steps":':
                    if self.has_steps:
                        raise self._bad('"steps" twice', at)
                    self._in_steps = self.has_steps = True
                    start = at + 1
                continue
            if depth == 1 or (depth == 2 and self._in_steps):
                self._piece(start, at, depth, closing=token in b"]}")
                start = at + 1
            if token in b"]}":
                depth -= 1
                if depth == 1 and self._in_steps:
                    self._in_steps = False
                    start, self._after_steps = -1, at + 1  # up to the next comma there may be nothing
                if depth == 0:
                    closed = at
        size = os.fstat(self._file.fileno()).st_size
        if depth or closed < 0:
            raise self._bad("the end is missing", size)
        if size - closed - 1 > MAX_PIECE_BYTES or self._text(closed + 1, size).strip(_SPACE):
            raise self._bad("something after the object", closed + 1)

    def _key(self, start: int, at: int) -> bytes:
        """What stands between the last comma and a bracket, without space; b"" when that is long."""
        return b"".join(self._text(start, at).split()) if start >= 0 and at - start < 4096 else b""

    def _piece(self, start: int, end: int, depth: int, *, closing: bool) -> None:
        if depth == 2:
            empty = end - start < 4096 and not self._text(start, end).strip(_SPACE)
            if not (empty and closing and not len(self._pieces)):
                self._pieces.add(start, end, what="step")
            return
        if start < 0:
            between = self._text(self._after_steps, min(end, self._after_steps + MAX_PIECE_BYTES))
            if between.strip(_SPACE):
                raise self._bad('something behind "steps"', self._after_steps)
            return
        if end - start > MAX_PIECE_BYTES:
            raise self._bad(f"an entry of {end - start} bytes", start)
        text = self._text(start, end)
        # As much as says that it is an entry: what the value of a key that nobody reads looks like is its writer's.
        if not _ENTRY.match(text):
            raise self._bad('no "key": value', start)
        head, _, value = text.partition(b":")
        if head.strip(_SPACE) == b'"metadata"':
            if self.metadata is not None:
                raise self._bad('"metadata" twice', start)
            self.metadata = value
