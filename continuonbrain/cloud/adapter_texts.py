"""What an adapter's files say beside numbers: only what this project and PEFT write there may leave. Pure.

An adapter leaves byte for byte or not at all: its sha256 is its name. So a text of others in it keeps it here.
Formats: PEFT's `adapter_config.json` of LoRA; safetensors (8 bytes of length, little-endian, that much JSON, then the
numbers: https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from continuonbrain.storage.plain_json import load_strict

_MODULE: Final = (
    r"(model\.|language_model\.){0,3}(layers\.[0-9]{1,3}\.)?((self_attn|mlp|laurel)\.)?"
    r"([qkvo]_proj|(gate|up|down)_proj|linear_(left|right)|per_layer_(input_gate|projection))"
)
_CLASS: Final = r"[A-Z][A-Za-z0-9]{0,23}(ForCausalLM|ForConditionalGeneration|Model)"

_TEXTS: Final = {
    "base": re.compile(r"continuonbrain:[0-9a-f]{64}"),
    "base_model_name_or_path": re.compile(r"continuonbrain:[0-9a-f]{64}"),
    "auto_mapping.base_model_class": re.compile(_CLASS),
    "auto_mapping.parent_library": re.compile(r"transformers\.models\.([a-z0-9]{1,16})\.modeling_\1"),
    "bias": re.compile(r"none|all|lora_only"),
    "megatron_core": re.compile(r"megatron\.core"),
    "peft_type": re.compile(r"LORA"),
    "peft_version": re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(\.dev[0-9]{1,3})?"),
    "target_modules": re.compile(_MODULE),
    "task_type": re.compile(r"CAUSAL_LM"),
}
_NUMBERS: Final = frozenset(
    (
        "r",
        "lora_alpha",
        "lora_dropout",
        "layers_to_transform",
        "qalora_group_size",
        "alpha_pattern",
        "rank_pattern",
    )
)
_OF_MODULES: Final = ("alpha_pattern", "rank_pattern")
_CALIBRATION: Final = frozenset(("steering_gain", "steering_trim_rad", "throttle_gain", "delay_s"))
_KEY = re.compile(r"[a-z][a-z_]{0,39}")
_MODULE_NAME = re.compile(_MODULE)
_TENSOR = re.compile(
    rf"base_model\.model\.{_MODULE}\.lora_[AB]\.weight"
    r"|((answer|first|second|intent|trunk)(\.[0-9]{1,2})?\.(weight|bias)|probes)"
)
_HEADER_BYTES: Final = 8
_LARGEST_HEADER: Final = 64 << 20


def strange_setting(data: bytes) -> str:
    """The name of a field of `adapter_config.json` that says what no adapter of ours says; "" when there is none.

    A field that is not known may be there while it is empty, true or false: each version of PEFT adds some.
    """
    value = _mapping(data)
    if value is None:
        return "the whole file"
    return next((name for name, inner in _leaves(value) if not _is_known(name, inner)), "")


def strange_calibration(data: bytes) -> str:
    """The same for `calibration.json`: four numbers."""
    value = _mapping(data)
    if value is None:
        return "the whole file"
    return next((k[:40] for k, v in value.items() if k not in _CALIBRATION or not _is_number(v)), "")


def strange_header(data: bytes) -> str:
    """The same for the beginning of a safetensors file, header and all: its free metadata may say `format` alone, and
    tensors have the names of LoRA's or of the reflex's."""
    told = _mapping(data[_HEADER_BYTES : _HEADER_BYTES + header_bytes(data)])
    if told is None:
        return "the whole header"
    free = told.get("__metadata__", {})
    if free not in ({}, {"format": "pt"}, {"format": "np"}):
        return "__metadata__"
    return next((name[:60] for name in told if name != "__metadata__" and not _TENSOR.fullmatch(name)), "")


def header_bytes(start: bytes) -> int:
    """How long a safetensors header is, by the file's first 8 bytes; 0 where that is none."""
    length = int.from_bytes(start[:_HEADER_BYTES], "little")
    return length if length <= _LARGEST_HEADER else 0


def texts_of(data: bytes) -> Iterator[str]:
    """Every text of a JSON document as its reader sees it, names of fields, too; none of what is no JSON."""
    yield from _texts(_mapping(data))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _mapping(data: bytes) -> dict[str, Any] | None:
    try:
        value = load_strict(data)  # of a field that is there twice the reader sees one, and both would leave
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _leaves(value: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = f"{within}.{key}" if within else key
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, name)
        elif isinstance(inner, list) and inner:
            yield from ((name, item) for item in inner)
        else:
            yield name, inner


def _is_known(name: str, value: Any) -> bool:
    group, _, module = name.partition(".")
    if isinstance(value, str):
        return name in _TEXTS and _TEXTS[name].fullmatch(value) is not None
    if group in _OF_MODULES and module:
        return _MODULE_NAME.fullmatch(module) is not None and _is_number(value)
    if _is_number(value):
        return name in _NUMBERS
    return _KEY.fullmatch(name) is not None and (
        value is None or isinstance(value, bool) or value in ({}, [])
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
