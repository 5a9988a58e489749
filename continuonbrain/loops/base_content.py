"""What speaks against a base that somebody signed: of its names and sizes before it is written, then of its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_import import ImportRefused
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.serving.spec import DrivingSpec
from continuonbrain.model.weight_shapes import LARGEST_WEIGHT, ShapeError, odd_number, other_shapes
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex
from continuonbrain.storage.adapter_version import CARD_FILE
from continuonbrain.storage.base_files import (
    BEHAVIOUR_FILES,
    OPTIONAL_FILES,
    PRECISIONS,
    SERVING,
    files_refusal,
    graph_files,
)
from continuonbrain.storage.plain_json import load_strict
from continuonbrain.storage.signing import KIND_BASE, Document, GrownFrom, SignedFile

_COMPARED = ("model.safetensors", "connector.safetensors")
_ALIKE = ("config.json", "connector.json", "tokenizer.json")
"""What merging an adapter leaves as it was: of another size a model may not fit the robot's memory."""
_AGAIN = "have it packed again: continuonbrain cloud pack-base"


def base_refusal(document: Document) -> str:
    """What speaks against a document of a base whose signature is good, "" when nothing does. Pure."""
    if document.kind != KIND_BASE or document.grown_from is None:
        return f"document.kind={document.kind!r}, not {KIND_BASE!r}"
    if document.grown_from.base_sha256 == document.base_sha256:
        return "document.grown_from names the base itself"
    return files_refusal(document.files)


def content_refusal(
    base: Path, document: Document, grown: Path, *, on_bytes: Callable[[int], None] = lambda _: None
) -> str:
    """What speaks against the files of a base, which are those that were signed; "" when nothing does. They are named
    as the bundle has them: the folder `base` is gone when this is read. on_bytes: called with how many more were
    read, of `bytes_to_look_at`."""
    return _content_refusal(base, document, grown, on_bytes).replace(f"{base}{os.sep}", "")


def _content_refusal(base: Path, document: Document, grown: Path, on_bytes: Callable[[int], None]) -> str:
    try:
        for name in document.files:
            if name.endswith(".json"):
                _check_json(base / name)
            elif name.endswith(".safetensors") and (odd := odd_number(base / name, on_bytes=on_bytes)):
                return f"{name}: {odd} holds numbers that are none (infinity or NaN), or beyond {LARGEST_WEIGHT:g}"
        for name in _ALIKE:
            if load_strict((base / name).read_bytes()) != load_strict((grown / name).read_bytes()):
                return f"{name} is not that of the base it grew from"
        if (told := card_growth(base)) not in (None, document.grown_from):
            signed = short(document.grown_from)
            return f"{CARD_FILE} says that it grew from {short(told)}, what was signed from {signed}"
        if REFLEX_FILE in document.files:
            Reflex.from_file(base / REFLEX_FILE)
        for name in _COMPARED:
            if why := other_shapes(base / name, grown / name):
                return why
        if base_sha256(base, on_bytes=on_bytes) != document.base_sha256:
            return f"its files are another base than document.base_sha256 ({document.base_sha256[:8]}) says"
    except (ShapeError, BrainError) as error:
        return error.message
    except (OSError, ValueError) as error:
        return f"the base it grew from cannot be read: {error}"
    return graphs_refusal(base, document.base_sha256, document.files)


def bytes_to_look_at(files: Mapping[str, SignedFile]) -> int:
    """How many `content_refusal` reads, about: weights for their numbers, and what names the base for its identity."""
    weights = sum(signed.bytes for name, signed in files.items() if name.endswith(".safetensors"))
    return weights + sum(files[n].bytes for n in (*BEHAVIOUR_FILES, *OPTIONAL_FILES) if n in files)


def graphs_refusal(base: Path, sha256: str, files: Mapping[str, SignedFile]) -> str:
    for precision in PRECISIONS:
        if graph_files(precision)[0] not in files:
            continue
        try:
            spec = DrivingSpec.read(base / SERVING / precision)
        except BrainError as error:
            return error.message
        if spec.base_sha256 != sha256 or spec.precision != precision:
            return f"{SERVING}/{precision} holds graphs of base {spec.base_sha256[:8]} in {spec.precision}"
    return ""


def card_growth(folder: Path) -> GrownFrom | None:
    """What a base's card says that it grew from; None where it says nothing that can be understood."""
    try:
        told = load_strict((folder / CARD_FILE).read_bytes())["grown_from"]
        return GrownFrom(str(told["base_sha256"]), str(told["adapter_sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def short(grown: GrownFrom | None) -> str:
    return f"base {grown.base_sha256[:8]} with adapter {grown.adapter_sha256[:8]}" if grown else "nothing"


def _check_json(path: Path) -> None:
    """ImportRefused for a file that is no JSON object which everybody reads alike."""
    try:
        value = load_strict(path.read_bytes())
    except ValueError as error:
        raise ImportRefused(f"{path.name} is no JSON ({error})", remedy=_AGAIN) from error
    if not isinstance(value, dict):
        raise ImportRefused(f"{path.name} holds no JSON object", remedy=_AGAIN)
