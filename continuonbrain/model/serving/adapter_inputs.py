"""A PEFT folder, or the file that it was converted to, as the LoRA inputs of a graph. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from continuonbrain.errors import BrainError
from continuonbrain.model.peft_patterns import by_pattern, fault_of, is_target
from continuonbrain.model.serving.spec import LoraSpec
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.storage.plain_json import load_strict

F32 = NDArray[np.float32]
LARGEST_ALPHA = 1e6
LARGEST_FACTOR = 1e3
"""Of a number in an adapter: trained ones are below ten."""
LARGEST_CHANGE = 1e4
"""Of a weight by one row of an adapter: a weight is below ten, and what is far beyond overflows in the graph."""
_FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FORMAT = "continuonbrain adapter inputs 1"
BASE_PREFIX = "continuonbrain:"
_TENSOR = re.compile(
    r"^base_model\.model\.(?P<module>(?:.*?\.)?(?P<site>layers\.\d+\..+))\.lora_(?P<part>[AB])(?:\.default)?\.weight$"
)
_PLAIN = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)


class AdapterInputError(BrainError):
    """An adapter cannot be an input of these graphs: damaged, of another base, of modules or a rank that they lack."""


def adapter_inputs(adapter: Path, lora: LoraSpec, *, base_sha256: str) -> dict[str, F32]:
    """LoRA inputs by name: a `[in, rank]` (with alpha / r in it) and b `[rank, out]` for every site.

    adapter: a PEFT folder, or a file that `write_inputs` made of one. Smaller ranks are filled up with zeros, sites
    that the adapter does not have are zeros: the result is exactly the adapter.

    Raises:
        AdapterInputError: names file, field and remedy.
    """
    if adapter.is_file():
        return _read_inputs(adapter, lora, base_sha256)
    files = {name: _read(adapter / name) for name in (_CONFIG, _WEIGHTS)}
    return inputs_of_files(files, lora, base_sha256=base_sha256, folder=adapter)


def inputs_of_files(
    files: Mapping[str, bytes], lora: LoraSpec, *, base_sha256: str, folder: Path = Path()
) -> dict[str, F32]:
    """The same of an adapter whose files are in memory; `folder` names it in errors."""
    config = _config(files[_CONFIG], folder / _CONFIG, base_sha256)
    path = folder / _WEIGHTS
    try:
        tensors = dict(deserialize(files[_WEIGHTS]))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise AdapterInputError(
            f"{path} cannot be read: {error}", remedy="train again, or copy it whole"
        ) from error
    found: dict[str, dict[str, F32]] = {}
    modules: dict[str, str] = {}
    for name, stored in tensors.items():
        match = _TENSOR.match(name)
        if match is None:
            raise AdapterInputError(
                f"{path}: {name} is no LoRA factor of a layer",
                remedy="use a plain LoRA adapter made for this base",
            )
        site, part = match["site"], match["part"]
        if site not in lora.sites:
            raise AdapterInputError(
                f"{path}: {site} takes no adapter in this bundle",
                remedy=f"train LoRA on modules of its layers: {', '.join(_leaves(lora))}",
            )
        factor = factor_of(stored)
        if factor is None:
            raise AdapterInputError(
                f"{path}: {name} holds {stored['dtype']}, or numbers that are not finite in fp32, or beyond "
                f"{LARGEST_FACTOR:g}",
                remedy="train again",
            )
        if part in found.setdefault(site, {}) or modules.setdefault(site, match["module"]) != match["module"]:
            raise AdapterInputError(
                f"{path}: {name} and another tensor are for the same layer",
                remedy="train a plain LoRA adapter",
            )
        found[site][part] = factor
    if not found:
        raise AdapterInputError(f"{path} holds no LoRA factors", remedy="train again")
    _check_named(
        folder / _CONFIG,
        config,
        lora,
        modules,
        {s: f["A"] for s, f in found.items() if "A" in f},
    )
    out: dict[str, F32] = {}
    for site, (inputs, outputs) in lora.sites.items():
        a, b = np.zeros((inputs, lora.rank), np.float32), np.zeros((lora.rank, outputs), np.float32)
        if site in found:
            down, up = _pair(path, site, found[site], lora, (inputs, outputs))
            rank = len(down)
            a[:, :rank], b[:rank] = down.T * np.float32(_scale(folder, config, modules[site], rank)), up.T
            _check_change(path, site, a, b)
        key = site.replace(".", "_")
        out[f"{key}_a"], out[f"{key}_b"] = a, b
    return out


def _check_change(path: Path, site: str, a: F32, b: F32) -> None:
    if not float(np.abs(a).max(initial=0.0)) * float(np.abs(b).max(initial=0.0)) <= LARGEST_CHANGE:
        raise AdapterInputError(
            f"{path}: {site} would change a weight by more than {LARGEST_CHANGE:g}", remedy="train again"
        )


def factor_of(stored: Mapping[str, Any]) -> F32 | None:
    """A tensor as safetensors' `deserialize` gives it, in fp32; None when it holds other than floating-point numbers
    that are finite there and not beyond `LARGEST_FACTOR`."""
    kind = _FLOATS.get(stored["dtype"])
    if kind is None:
        return None
    value = np.frombuffer(stored["data"], kind).reshape(stored["shape"])
    if stored["dtype"] == "BF16":  # the upper half of an fp32 number
        value = (value.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        factor = value.astype(np.float32)
    return factor if (np.abs(factor) <= LARGEST_FACTOR).all() else None  # NaN is not


def write_inputs(path: Path, inputs: Mapping[str, F32], lora: LoraSpec, *, base_sha256: str) -> None:
    """Write an adapter's inputs as one safetensors file, durably, with its base and rank named in it."""
    metadata = {"format": _FORMAT, "base_sha256": base_sha256, "rank": str(lora.rank)}
    write_bytes_durably(path, save({n: np.ascontiguousarray(v) for n, v in sorted(inputs.items())}, metadata))


def _read_inputs(path: Path, lora: LoraSpec, base_sha256: str) -> dict[str, F32]:
    again = "convert the adapter again: continuonbrain adapters convert"
    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise AdapterInputError(f"{path} cannot be read: {error}", remedy=again) from error
    if said.get("format") != _FORMAT:
        raise AdapterInputError(f"{path} holds no inputs of a serving bundle", remedy=again)
    if said.get("base_sha256") != base_sha256:
        raise AdapterInputError(
            f"{path}: base_sha256 is {said.get('base_sha256')!r}, this base is {base_sha256}",
            remedy="use an adapter that was trained on this base",
        )
    wanted = {n: (shape, np.dtype(np.float32)) for n, shape in input_shapes(lora).items()}
    if {n: (v.shape, v.dtype) for n, v in tensors.items()} != wanted:
        raise AdapterInputError(
            f"{path} was made for a bundle of rank {said.get('rank')} with other modules; this one takes rank "
            f"{lora.rank}",
            remedy=again,
        )
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise AdapterInputError(f"{path}: {name} holds numbers that are not finite", remedy=again)
    for site in lora.sites:
        key = site.replace(".", "_")
        _check_change(path, site, tensors[f"{key}_a"], tensors[f"{key}_b"])
    return tensors


def input_shapes(lora: LoraSpec) -> dict[str, tuple[int, int]]:
    """Names and shapes of the LoRA inputs: a `[in, rank]` and b `[rank, out]` of every site."""
    out: dict[str, tuple[int, int]] = {}
    for site, (inputs, outputs) in lora.sites.items():
        key = site.replace(".", "_")
        out[f"{key}_a"], out[f"{key}_b"] = (inputs, lora.rank), (lora.rank, outputs)
    return out


def no_adapter(lora: LoraSpec) -> dict[str, F32]:
    """The inputs of the base alone. Always given: a graph must never see what another adapter left behind."""
    return {name: np.zeros(shape, np.float32) for name, shape in input_shapes(lora).items()}


def _leaves(lora: LoraSpec) -> list[str]:
    return sorted({site.rsplit(".", 1)[-1] for site in lora.sites})


def _pair(
    path: Path, site: str, parts: Mapping[str, F32], lora: LoraSpec, sizes: tuple[int, int]
) -> tuple[F32, F32]:
    if set(parts) != {"A", "B"}:
        raise AdapterInputError(
            f"{path}: {site} has only lora_{''.join(parts)}", remedy="train again, or copy it whole"
        )
    down, up = parts["A"], parts["B"]
    if (
        down.ndim != 2
        or up.ndim != 2
        or (down.shape[1], up.shape[0]) != sizes
        or down.shape[0] != up.shape[1]
    ):
        raise AdapterInputError(
            f"{path}: {site} is {list(down.shape)} and {list(up.shape)}; the base has {sizes[0]} in and {sizes[1]} out",
            remedy="use an adapter that was trained on this base",
        )
    if not len(down):
        raise AdapterInputError(f"{path}: {site} has rank 0", remedy="train again, or leave the module out")
    if len(down) > lora.rank:
        raise AdapterInputError(
            f"{path}: {site} has rank {len(down)}; this bundle takes {lora.rank}",
            remedy=f"train with training.rank <= {lora.rank}, or export with a higher --rank",
        )
    return down, up


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdapterInputError(
            f"{path} cannot be read: {error.strerror}", remedy="give a PEFT folder, whole"
        ) from error


def _config(data: bytes, path: Path, base_sha256: str) -> dict[str, Any]:
    try:
        config = load_strict(data)
    except ValueError as error:
        raise AdapterInputError(
            f"{path} is not JSON: {error}", remedy="train again, or copy it whole"
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterInputError(f"{path}: peft_type is not LORA", remedy="use a LoRA adapter")
    base = config.get("base_model_name_or_path")
    if base != BASE_PREFIX + base_sha256:
        raise AdapterInputError(
            f"{path}: base_model_name_or_path is {base!r}, this base is {BASE_PREFIX}{base_sha256}",
            remedy="use an adapter that was trained on this base",
        )
    more = [name for name in _PLAIN if config.get(name)]
    if more or config.get("bias", "none") != "none":
        raise AdapterInputError(
            f"{path}: {', '.join(more) or 'bias'} is more than LoRA factors",
            remedy="train a plain LoRA adapter",
        )
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise AdapterInputError(
            f"{path}: init_lora_weights = {config['init_lora_weights']!r} was made for changed base weights",
            remedy="train a plain LoRA adapter",
        )
    for name in ("alpha_pattern", "rank_pattern"):
        patterns = config.get(name) or {}
        faults = [fault_of(p) for p in patterns] if isinstance(patterns, dict) else ["no object of patterns"]
        if any(faults):
            raise AdapterInputError(
                f"{path}: {name}: {next(filter(None, faults))}", remedy="name the modules as they are"
            )
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise AdapterInputError(
            f"{path}: task_type is {config['task_type']!r}: it has a head of its own", remedy="use CAUSAL_LM"
        )
    return config


def _check_named(
    path: Path,
    config: Mapping[str, Any],
    lora: LoraSpec,
    modules: Mapping[str, str],
    down: Mapping[str, F32],
) -> None:
    """The tensors must be those that the configuration speaks of: what PEFT would open with random numbers in their
    place, or not at all, is no adapter here either. modules: full names by site; down: the A factors by site."""
    again = "train again, or copy it whole"
    prefixes = {module.removesuffix(site) for site, module in modules.items()}
    if len(prefixes) != 1:
        raise AdapterInputError(f"{path.parent}: its tensors are of more than one model", remedy=again)
    (prefix,) = prefixes
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    for field, value in (("target_modules", targets), ("exclude_modules", excluded)):
        named = value if isinstance(value, list) else [] if value is None else [value]
        if fault := next(filter(None, map(fault_of, named)), ""):
            raise AdapterInputError(f"{path}: {field}: {fault}", remedy="name the modules")
    layers = _layers_named(path, config)
    for site in lora.sites:
        module = prefix + site
        wanted = is_target(targets, module, layers=layers) and not is_target(excluded, module)
        if wanted and site not in modules:
            raise AdapterInputError(f"{path.parent}: the factors of {site} are missing", remedy=again)
        if site in modules and not wanted:
            raise AdapterInputError(f"{path}: target_modules does not name {site}", remedy=again)
    for site, factor in down.items():
        rank = by_pattern(config.get("rank_pattern"), modules[site], config.get("r", 8))
        if isinstance(rank, bool) or not isinstance(rank, int) or (factor.ndim == 2 and rank != len(factor)):
            raise AdapterInputError(
                f"{path}: r = {rank!r}, and {site} has rank {len(factor) if factor.ndim == 2 else 'none'}",
                remedy=again,
            )


def _layers_named(path: Path, config: Mapping[str, Any]) -> set[int] | None:
    """PEFT's `layers_to_transform`: a number or a list; None, as an empty list, is every layer."""
    value = config.get("layers_to_transform")
    named = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(n, bool) or not isinstance(n, int) for n in named):
        raise AdapterInputError(f"{path}: layers_to_transform = {value!r}", remedy="use numbers of layers")
    return set(named) or None


def _scale(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r as PEFT takes it: patterns name modules by the end of their path, as regular expressions."""
    alpha = by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= LARGEST_ALPHA:
        raise AdapterInputError(
            f"{folder}/adapter_config.json: lora_alpha = {alpha!r} is no scale", remedy="train again"
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
