"""The files of a base that drives: which there may be, and how large each may be. No I/O.

A base's bundle names these and no others, two folders deep at most: a name in it is never a path to think about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from continuonbrain.storage.adapter_version import CARD_FILE, REFLEX_FILE

BEHAVIOUR_FILES = (
    "config.json",
    "connector.json",
    "connector.safetensors",
    "model.safetensors",
    "tokenizer.json",
)
"""Every base that drives has them, and they decide how it behaves."""

OPTIONAL_FILES = (REFLEX_FILE,)
"""Count where they are: they decide too."""

SERVING = "serving"
PRECISIONS = ("fp32", "int8")
GRAPH_FILES = ("bundle.json", "known_answer.safetensors", "serving.tflite")
"""Of one precision: what the graphs are, what they must answer, the graphs."""

_MIB, _GIB = 1 << 20, 1 << 30
_JSON, _TABLES, _WEIGHTS = 4 * _MIB, 64 * _MIB, 32 * _GIB


def graph_files(precision: str) -> tuple[str, ...]:
    """Names of the graphs of one precision, relative to the base."""
    return tuple(f"{SERVING}/{precision}/{name}" for name in GRAPH_FILES)


LARGEST: Mapping[str, int] = {
    CARD_FILE: _JSON,
    "config.json": _JSON,
    "connector.json": _JSON,
    "connector.safetensors": _GIB,
    "model.safetensors": _WEIGHTS,
    "tokenizer.json": _TABLES,
    REFLEX_FILE: _TABLES,
    **{
        name: size
        for precision in PRECISIONS
        for name, size in zip(graph_files(precision), (_JSON, _TABLES, _WEIGHTS), strict=True)
    },
}
"""Every name that a base's bundle may have, and the most bytes that it may be."""


class Sized(Protocol):
    """Anything with a size."""

    @property
    def bytes(self) -> int:
        """Its length."""
        ...


def files_refusal(files: Mapping[str, Sized]) -> str:
    """Why these are not the files of a base, "" when they are."""
    if extra := sorted(files.keys() - LARGEST.keys()):
        return f"document.files has {extra[0]}, which is no part of a base"
    if missing := [name for name in BEHAVIOUR_FILES if name not in files]:
        return f"document.files has no {missing[0]}"
    for precision in PRECISIONS:
        names = graph_files(precision)
        there = [name for name in names if name in files]
        if there and len(there) != len(names):
            lacks = next(name for name in names if name not in files)
            return f"document.files has no {lacks}: graphs are whole, or not there"
    for name, file in files.items():
        if not 1 <= file.bytes <= LARGEST[name]:
            return f"document.files.{name} has {file.bytes} bytes; 1 to {LARGEST[name]} are taken"
    return ""
