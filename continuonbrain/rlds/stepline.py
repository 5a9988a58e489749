"""One step as one line of `steps/000000.jsonl`, sealed with the CRC of its own text.

A line of JSON is whole or torn by its newline, but a flipped bit inside a number is still JSON. So the last
entry of `step_metadata`, `crc32c`, holds eight hex digits: the CRC-32C of every byte of the line before them.
Readers that do not know it see one more text in a map of texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.limits import MAX_LINE_BYTES as MAX_LINE_BYTES
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.tfrecord import crc32c

_OPENING = b',"crc32c":"'
_SEAL_ANYWHERE = re.compile(rb',"crc32c":"([0-9a-f]{8})"\}\}')
_SEAL = re.compile(_SEAL_ANYWHERE.pattern + rb"\Z")


def encode_step_line(step: Step) -> bytes:
    """The line, newline included."""
    return seal_step_object(step.to_json())


def seal_step_object(value: Mapping[str, Any]) -> bytes:
    """The line of a step's JSON object, whose last entry is a `step_metadata` that is not empty.

    Raises:
        ValueError, RecursionError: a number that is not finite, or nested too deeply.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    # step_metadata is the last entry and never empty, so the line ends with "}} and the seal goes inside.
    head = text[:-2] + _OPENING
    return b'%s%08x"}}\n' % (head, crc32c(head))


def decode_step_line(line: bytes, *, index: int, count: int | None, sealed: bool) -> Step:
    """The step of one line.

    Args:
        line: without its newline.
        index, count: see `Step.from_json`.
        sealed: see `decode_step_object`.

    Raises:
        EpisodeError: altered, not JSON, or not a step.
    """
    return Step.from_json(decode_step_object(line, sealed=sealed), index=index, count=count)


def sealed_ends(text: bytes) -> list[int]:
    """Where in `text` a line's seal ends: more than once when a newline between two lines was lost."""
    return [match.end() for match in _SEAL_ANYWHERE.finditer(text)]


def decode_step_object(line: bytes, *, sealed: bool) -> Any:
    """The JSON of one line, its CRC checked where there is one.

    Args:
        line: without its newline.
        sealed: whether a line without a CRC is an error (our own recordings) or not (those of others).

    Raises:
        EpisodeError: altered, or not JSON.
    """
    if len(line) > MAX_LINE_BYTES:
        raise EpisodeError(f"a step line of {len(line)} bytes is too long")
    seal = _SEAL.search(line)
    if seal is not None:
        if crc32c(line[: seal.start(1)]) != int(seal.group(1), 16):
            raise EpisodeError("the CRC of the line does not match: its bytes were altered", field="crc32c")
    elif sealed:
        raise EpisodeError("the line has no CRC: its end is missing or altered", field="crc32c")
    return parse_json(line)
