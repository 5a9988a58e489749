"""Where the steps lie in a flat JSON episode `{"metadata", "steps"}`, however much of it is left. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_FLAT_WORK = 16
"""Times the length of the file: what may be parsed in vain to find steps past a damaged one."""
_FLAT_STEP = re.compile(r'\{\s*"(?:observation|action|is_first|is_last|is_terminal|step_metadata)"\s*:')
_FLAT_STEPS = re.compile(r'"steps"\s*:\s*\[')
_FLAT_METADATA = re.compile(r'"metadata"\s*:\s*(?=\{)')
_FILLING = re.compile(r"[\s,]*")


def find_flat(text: str) -> tuple[str, Iterator[tuple[int, int]]]:
    """The metadata and the byte ranges of the steps in a flat JSON episode, however much of it is left.

    Args:
        text: the file decoded as latin-1, so that characters are bytes (JSON's own signs are ASCII).

    Returns:
        The text of the metadata, "" when it cannot be found; and every step's range, or the range of what
        stands where a step should.
    """
    # The steps' list is the one that lies outside the metadata: those may have a key of the same name.
    metadata, inside = "", (0, 0)
    if (match := _FLAT_METADATA.search(text)) is not None:
        end, _ = _end_of_value(text, match.end())
        if end is not None:
            metadata, inside = text[match.end() : end], (match.end(), end)
    for steps in _FLAT_STEPS.finditer(text):
        if not inside[0] <= steps.start() < inside[1]:
            return metadata, _flat_steps(text, steps.end())
    return metadata, iter(())


def _end_of_value(text: str, start: int) -> tuple[int | None, int]:
    """Where the JSON value at `start` ends, None when there is none; and how far was read to know."""
    try:
        end = json.JSONDecoder().raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        return None, error.pos
    except (ValueError, RecursionError):
        return None, start + 10_000
    return end, end


def _flat_steps(text: str, at: int) -> Iterator[tuple[int, int]]:
    work = _FLAT_WORK * len(text) + (1 << 20)
    while True:
        filling = _FILLING.match(text, at)
        at = at if filling is None else filling.end()
        if at >= len(text) or text[at] == "]":
            return
        end, reached = _end_of_value(text, at)
        if end is None:
            # Past a damaged step, whatever begins like one and is JSON is one. Not for ever: garbage that nests
            # would be parsed once for each of its levels.
            end = len(text)
            for start in _FLAT_STEP.finditer(text, at + 1):
                if work < 0:
                    break
                next_end, reached = _end_of_value(text, start.start())
                work -= reached - start.start()
                if next_end is not None:
                    end = start.start()
                    break
        yield at, end
        at = end
