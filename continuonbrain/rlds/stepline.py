"""One step as one line of `steps/000000.jsonl`, sealed with the CRC of its own text.

A line of JSON is whole or torn by its newline, but a flipped bit inside a number is still JSON. So the last
entry of `step_metadata`, `crc32c`, holds eight hex digits: the CRC-32C of every byte of the line before them.
Readers that do not know it see one more text in a map of texts.
"""

from __future__ import annotations

import json
import re

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.schema import Step, parse_json
from continuonbrain.rlds.tfrecord import crc32c

_OPENING = b',"crc32c":"'
_SEAL = re.compile(rb',"crc32c":"([0-9a-f]{8})"\}\}\Z')
MAX_LINE_BYTES = 1 << 20


def encode_step_line(step: Step) -> bytes:
    """The line, newline included."""
    text = json.dumps(step.to_json(), separators=(",", ":"), allow_nan=False).encode()
    # step_metadata is the last entry and never empty, so the line ends with "}} and the seal goes inside.
    head = text[:-2] + _OPENING
    return b'%s%08x"}}\n' % (head, crc32c(head))


def decode_step_line(line: bytes, *, index: int, count: int | None, sealed: bool) -> Step:
    """The step of one line.

    Args:
        line: without its newline.
        index, count: see `Step.from_json`.
        sealed: whether a line without a CRC is an error (our own recordings) or not (those of others).

    Raises:
        EpisodeError: altered, not JSON, or not a step.
    """
    if len(line) > MAX_LINE_BYTES:
        raise EpisodeError(f"a step line of {len(line)} bytes is too long")
    seal = _SEAL.search(line)
    if seal is not None:
        if crc32c(line[: seal.start(1)]) != int(seal.group(1), 16):
            raise EpisodeError("the CRC of the line does not match: its bytes were altered", field="crc32c")
    elif sealed:
        raise EpisodeError("the line has no CRC: its end is missing or altered", field="crc32c")
    return Step.from_json(parse_json(line), index=index, count=count)
