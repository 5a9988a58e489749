"""Names and shapes in safetensors files, from their headers alone, and what they say about fitting together. No torch.

The format: 8 bytes of length (little-endian), that much JSON, then the numbers
(https://github.com/huggingface/safetensors, "Format"). The library checks offsets against the file's size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from continuonbrain.errors import BrainError
from continuonbrain.model.serving.adapter_inputs import (
    BASE_PREFIX,
    LARGEST_ALPHA,
    LARGEST_FACTOR,
    factor_of,
)
from continuonbrain.storage.plain_json import load_strict

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MOST_RANK = 1024
_PIECE = 4 << 20
LARGEST_WEIGHT = 1e6
"""Of a base's number: real ones are below some hundreds, and what is far beyond overflows in a product."""
_LARGEST_BITS: dict[str, tuple[np.dtype[Any], int]] = {
    "F16": (np.dtype("<u2"), 0x7BFF),  # its largest, 65,504
    "BF16": (np.dtype("<u2"), 0x4974),
    "F32": (np.dtype("<u4"), 0x4974_2400),
    "F64": (np.dtype("<u8"), 0x412E_8480_0000_0000),
}
"""`LARGEST_WEIGHT` as bits. Without its sign a number is larger than another where its bits are; infinity and NaN are
larger than all (IEEE 754)."""
_WHOLE = frozenset(("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"))

Shapes = dict[str, tuple[int, ...]]


class ShapeError(BrainError):
    """Weights are damaged, or of other shapes than they have to be."""


def shapes_of(path: Path) -> Shapes:
    """Name -> shape of every tensor in a file. Raises ShapeError for a file that is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ShapeError(f"{path} is no safetensors file: {error}", remedy="have it made again") from error


def types_of(path: Path) -> dict[str, str]:
    """Name -> type of every tensor in a file, as the format names it ("F32", "I64"). Raises ShapeError."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ShapeError(f"{path} is no safetensors file: {error}", remedy="have it made again") from error


def other_shapes(own: Path, grown_from: Path) -> str:
    """Why the weights of a base do not have the shapes of those that it grew from, "" when they do. Raises
    ShapeError."""
    mine, theirs = shapes_of(own), shapes_of(grown_from)
    kinds, before = types_of(own), types_of(grown_from)
    if odd := sorted(mine.keys() ^ theirs.keys()):
        return f"{own.name}: {odd[0]} is in one of the two bases only"
    for name, shape in sorted(mine.items()):
        if shape != theirs[name]:
            return f"{own.name}: {name} is {list(shape)}, {list(theirs[name])} in the base it grew from"
        if (kinds[name] in _WHOLE) != (before[name] in _WHOLE):
            return f"{own.name}: {name} holds {kinds[name]}, {before[name]} in the base it grew from"
    return ""


def odd_number(path: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """The first tensor in a safetensors file that holds a number that is none (infinity, NaN), one beyond
    `LARGEST_WEIGHT`, or numbers of a type that nobody reckons with; "" when there is none. A file of any size is read
    in pieces; on_bytes: called with how many more were. Raises ShapeError for a file that is none."""
    shapes_of(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header: dict[str, Any] = load_strict(file.read(length))
        except ValueError as error:
            raise ShapeError(
                f"{path}: its header is no JSON ({error})", remedy="have it made again"
            ) from error
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0])):
            if entry["dtype"] in _WHOLE:
                continue
            if entry["dtype"] not in _LARGEST_BITS:
                return str(name)
            kind, largest = _LARGEST_BITS[entry["dtype"]]
            unsigned = kind.type((1 << (8 * kind.itemsize - 1)) - 1)
            begin, end = entry["data_offsets"]
            file.seek(8 + length + begin)
            left = end - begin
            while left:
                piece = np.frombuffer(file.read(min(left, _PIECE)), kind)
                if bool(((piece & unsigned) > kind.type(largest)).any()):
                    return str(name)
                left -= piece.nbytes
                on_bytes(piece.nbytes)
    return ""


def adapter_refusal(files: Mapping[str, bytes], base: Path, *, base_sha256: str) -> str:
    """Why an adapter in memory does not fit the weights of the base in `base`, "" when it does.

    Its tensors must be the A `[rank, in]` and B `[out, rank]` of one rank, of weights `[out, in]` that the base has,
    of finite floating-point numbers; its settings name this base, a rank and a scale.
    """
    try:
        settings = load_strict(files["adapter_config.json"])
        tensors = dict(deserialize(files["adapter_model.safetensors"]))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, KeyError) as error:
        return f"adapter_model.safetensors or adapter_config.json cannot be read: {error!r}"
    if why := _settings_refusal(settings, base_sha256):
        return f"adapter_config.json: {why}"
    rank = settings["r"]
    weights = shapes_of(base / "model.safetensors")
    sides: dict[str, set[str]] = {}
    for name, stored in sorted(tensors.items()):
        shape = tuple(stored["shape"])
        named = _FACTOR.fullmatch(name)
        if named is None:
            return f"adapter_model.safetensors: {name[:100]} is no LoRA matrix"
        weight = weights.get(f"{named['module']}.weight", ())
        if len(weight) != 2:
            return f"adapter_model.safetensors: the base has no {named['module'][:100]}"
        wanted = (rank, weight[1]) if named["side"] == "A" else (weight[0], rank)
        if shape != wanted:
            return f"adapter_model.safetensors: {name} is {list(shape)}, {list(wanted)} fits this base"
        if factor_of(stored) is None:
            return (
                f"adapter_model.safetensors: {name} ({stored['dtype']}) holds other than finite floating-point numbers "
                f"up to {LARGEST_FACTOR:g}"
            )
        sides.setdefault(named["module"], set()).add(named["side"])
    if half := sorted(module for module, both in sides.items() if both != {"A", "B"}):
        return f"adapter_model.safetensors: {half[0]} has one matrix of two"
    return "" if sides else "adapter_model.safetensors holds no tensors"


def _settings_refusal(settings: object, base_sha256: str) -> str:
    if not isinstance(settings, dict):
        return "is no JSON object"
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= _MOST_RANK:
        return f"r = {rank!r} is no rank from 1 to {_MOST_RANK}"
    if (kind := settings.get("peft_type", "LORA")) != "LORA":
        return f"peft_type = {kind!r} is not LORA"
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha <= LARGEST_ALPHA:
        return f"lora_alpha = {alpha!r} is no number above 0, up to {LARGEST_ALPHA:g}"
    if (named := settings.get("base_model_name_or_path")) != BASE_PREFIX + base_sha256:
        return f"base_model_name_or_path = {str(named)[:100]!r} is not this base, {BASE_PREFIX}{base_sha256}"
    return ""
