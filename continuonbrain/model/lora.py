"""LoRA as PEFT folders on the trained layers of a KV-shared model.

Adapters are PEFT's own: `adapter_config.json` + `adapter_model.safetensors`. The base that an adapter was
trained on stands in `base_model_name_or_path` as `continuonbrain:<sha256>`; another base is refused.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from continuonbrain.config import LORA_TARGETS, LORA_TARGETS_NOT_IN_SHARED_LAYERS
from continuonbrain.errors import BrainError
from continuonbrain.model.decoder import Decoder, decoder_of, first_shared_layer, unwrapped
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.peft_patterns import by_pattern, fault_of
from continuonbrain.model.serving.adapter_inputs import LARGEST_CHANGE, LARGEST_FACTOR

SHARED_LAYER_TARGETS = LORA_TARGETS
"""Modules that exist in a KV-shared layer and get a gradient there. k_proj and v_proj do not exist there."""

_BASE_PREFIX = "continuonbrain:"
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class LoraError(BrainError):
    """LoRA settings or an adapter folder do not fit the model."""


def lora_targets(wanted: Sequence[str]) -> list[str]:
    """The targets of a config that exist in shared layers. k_proj and v_proj (in the ecosystem's default) are
    left out; any other unknown name raises `LoraError` with the list of valid ones."""
    known = (*SHARED_LAYER_TARGETS, *LORA_TARGETS_NOT_IN_SHARED_LAYERS)
    unknown = [t for t in wanted if t not in known]
    valid = [t for t in wanted if t in SHARED_LAYER_TARGETS]
    if unknown or not valid:
        raise LoraError(
            f"lora_layers: {', '.join(map(repr, unknown or wanted))} cannot be trained in Gemma 3n's KV-shared layers",
            remedy=f"choose from {', '.join(SHARED_LAYER_TARGETS)}",
        )
    return valid


def lora_config(
    model: Any, names: Sequence[str], *, rank: int, alpha: float, plus_one: bool = False
) -> LoraConfig:
    """LoRA on the modules of these names in every trained layer of a model's cut that can carry it there.

    Raises:
        LoraError: a name is none of a module that can be trained; the remedy lists those.
    """
    decoder = decoder_of(model, plus_one=plus_one)
    # By full names: towers for images and sound have layers of the same numbers and names.
    (stem,) = (name for name, module in model.named_modules() if module is decoder.text)
    wanted = [
        f"{stem}.layers.{layer}.{path}"
        for layer in decoder.layers
        for path, _ in decoder.text.layers[layer].named_modules()
        if path.rsplit(".", 1)[-1] in set(names) & set(decoder.targets(layer))
    ]
    missing = [name for name in names if name not in {path.rsplit(".", 1)[-1] for path in wanted}]
    if missing or not names:
        raise LoraError(
            f"LoRA targets: {', '.join(map(repr, missing or names))} cannot be trained above the cut at layer "
            f"{decoder.first}",
            remedy=f"choose from {targets_text(decoder)}",
        )
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT annotates int; it only divides
        lora_dropout=0.0,
        target_modules=wanted,
    )


def add_lora(model: Any, config: LoraConfig, *, plus_one: bool = False) -> Any:
    """Wrap a KV-shared model (causal or conditional) by PEFT with any LoRA configuration that the cut allows.

    Raises:
        LoraError: it would train something whose gradient the cut does not give, or nothing; the model is as before.
    """
    decoder = decoder_of(model, plus_one=plus_one)
    _check_config(model, decoder, config)
    try:
        wrapped = get_peft_model(model, config)
    except Exception as error:  # PEFT raises what its parts raise
        _take_out_layers(model)
        raise LoraError(
            f"the LoRA configuration does not fit: {error}", remedy=f"choose from {targets_text(decoder)}"
        ) from error
    # PEFT shortens long lists of names to what is unambiguous in the model at hand; where half of the layers are
    # absent that would name the other half as well when the adapter is opened on the whole model.
    attached: Any = wrapped.peft_config[wrapped.active_adapter]
    attached.target_modules = {
        name for name, module in unwrapped(wrapped).named_modules() if isinstance(module, BaseTunerLayer)
    }
    return wrapped


_TRAINS_MORE = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")
_NOT_PLAIN = (
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Kinds of PEFT's LoRA layers whose result or gradient depends on more than what comes into them, or on chance."""
_LARGEST_ALPHA = 1e6
_MOST_RANK = 1024
_FACTORS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PLAIN_STARTS = (True, False, "gaussian")


def _check_config(
    model: Any, decoder: Decoder, config: LoraConfig, *, name: str = "the LoRA configuration"
) -> None:
    """Before anything is touched: whatever this configuration would train must lie in the cut."""
    again = f"choose from {targets_text(decoder)}"
    where = f"{name} does not fit a cut at layer {decoder.first}"
    more = [name for name in _TRAINS_MORE if getattr(config, name, None)]
    if more or config.bias != "none":
        raise LoraError(f"{where}: {', '.join(more) or 'bias'} would train more than LoRA", remedy=again)
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise LoraError(
            f"{where}: init_lora_weights = {config.init_lora_weights!r} changes the frozen weights",
            remedy="use true, false or gaussian",
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise LoraError(
            f"{where}: task_type = {config.task_type} trains a head of its own", remedy="use CAUSAL_LM"
        )
    if config.inference_mode:
        raise LoraError(f"{where}: inference_mode trains nothing", remedy="leave it out")
    dropout: Any = config.lora_dropout
    if not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
        raise LoraError(f"{where}: lora_dropout = {config.lora_dropout!r} is no share", remedy="use 0 to 0.5")
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= _MOST_RANK:
            raise LoraError(f"{where}: a rank of {rank!r}", remedy=f"use 1 to {_MOST_RANK}")
    if (odd := _odd_alpha(config)) is not None:
        raise LoraError(
            f"{where}: lora_alpha = {odd[0]!r} is no scale", remedy="use a number, twice the rank"
        )
    other = [name for name in _NOT_PLAIN if getattr(config, name, None)]
    if other:
        raise LoraError(f"{where}: {other[0]} is not plain LoRA", remedy="leave it out")
    if getattr(config, "kasa_config", None) is not None:
        raise LoraError(f"{where}: kasa_config changes the frozen weights", remedy="leave it out")
    quantised = any(module.weight.dtype == torch.int8 for module in _linears(decoder))
    if config.use_dora and quantised:
        raise LoraError(
            f"{where}: DoRA needs the weights themselves, these are int8", remedy="load without int8"
        )
    (stem,) = (name for name, module in model.named_modules() if module is decoder.text)
    allowed = {
        f"{stem}.layers.{layer}.{path}"
        for layer in decoder.layers
        for path, _ in decoder.text.layers[layer].named_modules()
        if path.rsplit(".", 1)[-1] in decoder.targets(layer)
    }
    if config.target_modules in (None, "all-linear"):
        raise LoraError(
            f"{where}: target_modules = {config.target_modules!r} names layers below it", remedy=again
        )
    if fault := next(filter(None, map(fault_of, _patterns_of(config))), ""):
        raise LoraError(f"{where}: {fault}", remedy=again)
    names = [n for n, _ in model.named_modules() if n]
    wanted = [name for name in names if check_target_module_exists(config, name)]
    wrong = sorted(set(wanted) - allowed)
    if wrong or not wanted:
        what = f"{wrong[0]} cannot be trained" if wrong else f"nothing is named {config.target_modules}"
        raise LoraError(f"{where}: {what}", remedy=again)


def _patterns_of(config: LoraConfig) -> list[Any]:
    """All of a configuration that PEFT matches the names of modules with."""
    found: list[Any] = [*(config.rank_pattern or {}), *(config.alpha_pattern or {})]
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        value = getattr(config, name, None)
        if value is not None:
            found += [*value] if isinstance(value, list | set | tuple) else [value]
    return found


def _linears(decoder: Decoder) -> list[torch.nn.Linear]:
    layers = [decoder.text.layers[i] for i in decoder.layers]
    return [m for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]


def targets_text(decoder: Decoder) -> str:
    """What can carry LoRA, for people: names by range of layers."""
    first = first_shared_layer(decoder.config)
    shared = (
        f"{', '.join(decoder.targets(first))} of layers {first} to {decoder.config.num_hidden_layers - 1}"
    )
    if not decoder.plus_one:
        return shared
    return f"{shared}, and {', '.join(decoder.targets(decoder.first))} of layer {decoder.first}"


def attach_lora(
    model: DrivingModel, *, base_sha256: str, rank: int, alpha: float, targets: Sequence[str]
) -> list[torch.nn.Parameter]:
    """Put fresh LoRA (B = 0: same outputs) on the layers above the model's cut; returns the trainable parameters."""
    cut = model.plus_one
    config = lora_config(model.causal_lm, lora_targets(targets), rank=rank, alpha=alpha, plus_one=cut)
    model.language_model = add_lora(model.causal_lm, config, plus_one=cut)
    model.language_model.peft_config["default"].base_model_name_or_path = _BASE_PREFIX + base_sha256
    return [p for p in model.language_model.parameters() if p.requires_grad]


def peft_files(wrapped: PeftModel, scratch: Path, *, base_sha256: str) -> dict[str, bytes]:
    """The adapter of a model that PEFT wraps as the files of a PEFT folder, with its base named.

    scratch: an empty folder to write into.
    """
    active: Any = wrapped.peft_config[wrapped.active_adapter]
    active.base_model_name_or_path = _BASE_PREFIX + base_sha256
    # False: the embeddings are the base's; PEFT would ask a hub whether they were resized.
    wrapped.save_pretrained(str(scratch), save_embedding_layers=False)
    # PEFT lists the targets in the order of a set, which changes from process to process.
    settings = json.loads((scratch / "adapter_config.json").read_bytes())
    settings["target_modules"] = sorted(settings["target_modules"])
    return {
        "adapter_model.safetensors": (scratch / "adapter_model.safetensors").read_bytes(),
        "adapter_config.json": (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode(),
    }


def adapter_files(model: DrivingModel) -> dict[str, bytes]:
    """The attached adapter as the files of a PEFT folder, plus `lora_adapters.pt` (the same tensors)."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        known = model.language_model.peft_config[model.language_model.active_adapter].base_model_name_or_path
        files = peft_files(model.language_model, scratch, base_sha256=known.removeprefix(_BASE_PREFIX))
        torch.save(load_file(scratch / "adapter_model.safetensors"), scratch / "lora_adapters.pt")
        files["lora_adapters.pt"] = (scratch / "lora_adapters.pt").read_bytes()
    return files


def read_adapter(
    folder: Path, *, base_sha256: str, config: Any, plus_one: bool = False
) -> dict[str, torch.Tensor]:
    """Check an adapter folder against a base and return its tensors. plus_one: the layer below is allowed as well.

    `LoraError` when files are missing or damaged, the base is another one, a layer is not KV-shared, or a
    number is not finite.
    """
    settings_path, weights_path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    again = "train again, or choose another version (continuonbrain adapters list)"
    try:
        settings = json.loads(settings_path.read_bytes())
        named = str(settings["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoraError(f"{settings_path} cannot be read: {error!r}", remedy=again) from error
    if not named.startswith(_BASE_PREFIX):
        raise LoraError(
            f"{settings_path}: base_model_name_or_path {named[:60]!r} names no base that can be checked",
            remedy=f"if the adapter was trained on this very base, write {_BASE_PREFIX + base_sha256} there",
        )
    if named != _BASE_PREFIX + base_sha256:
        shown = named.removeprefix(_BASE_PREFIX)[:12]
        raise LoraError(
            f"{settings_path}: base_model_name_or_path is {shown}, this robot runs base {base_sha256[:12]}",
            remedy="use an adapter that was trained on this base, or set base_model_path to the base it needs",
        )
    try:
        tensors = load_file(weights_path)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{weights_path} is missing or damaged: {error}", remedy=again) from error
    if not tensors:
        raise LoraError(f"{weights_path} holds no tensors", remedy=again)
    first = first_shared_layer(config) - int(plus_one)
    for name, tensor in tensors.items():
        found = _LAYER.search(name)
        if found is not None and int(found[1]) == first - 1 and not plus_one:
            raise LoraError(
                f"{weights_path}: {name} is not in a KV-shared layer (>= {first}); it was trained with plus_one",
                remedy="only the torch engine of words takes such an adapter; train without plus_one",
            )
        if found is None or int(found[1]) < first:
            raise LoraError(f"{weights_path}: {name} is not in a KV-shared layer (>= {first})", remedy=again)
        if tensor.dtype not in _FACTORS or not bool((tensor.abs() <= LARGEST_FACTOR).all()):  # NaN is none
            raise LoraError(
                f"{weights_path}: {name} holds numbers that are not finite, or beyond {LARGEST_FACTOR:g}",
                remedy=again,
            )
    return tensors


def load_adapter(
    model: DrivingModel,
    folder: Path,
    *,
    base_sha256: str,
    name: str,
    trial: Callable[[], None] = lambda: None,
) -> None:
    """`with_adapter` for the language model of a driving base."""
    model.language_model = with_adapter(
        model.language_model, folder, base_sha256=base_sha256, name=name, trial=trial
    )


def with_adapter(
    language_model: Any,
    folder: Path,
    *,
    base_sha256: str,
    name: str,
    plus_one: bool = False,
    trial: Callable[[], None] = lambda: None,
) -> PeftModel:
    """Attach the adapter in `folder` beside any other, make it the active one, then drop the others; the model with
    PEFT around it.

    Its configuration and its tensors are checked before the model is touched. trial: called while the adapter answers
    and the others are still there; what it raises is raised. `LoraError`, as that, leaves the model as it was.
    """
    inner = unwrapped(language_model)
    tensors = read_adapter(folder, base_sha256=base_sha256, config=inner.config, plus_one=plus_one)
    named = str(folder / "adapter_config.json")
    config = _config_of(folder)
    _check_config(inner, decoder_of(inner, plus_one=plus_one), config, name=named)
    _check_changes(folder, tensors, config)
    wrapped = language_model
    previous = list(wrapped.peft_config) if isinstance(wrapped, PeftModel) else []
    if isinstance(wrapped, PeftModel) and name in previous:
        return wrapped
    try:
        if isinstance(wrapped, PeftModel):
            wrapped.load_adapter(str(folder), adapter_name=name, local_files_only=True)
            fresh = wrapped
        else:
            fresh = PeftModel.from_pretrained(inner, str(folder), adapter_name=name, local_files_only=True)
        attached = {
            # PEFT saves DoRA's magnitudes without the name of what they are in.
            k.replace(f".{name}.", ".").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            for k, _ in fresh.named_parameters()
            if f".{name}." in k
        }
        # A tensor too few would leave PEFT's random start in its place, one too many would be dropped.
        if attached != tensors.keys():
            odd = sorted(attached ^ tensors.keys())
            raise ValueError(f"{len(odd)} tensors are missing or have no place in the model, e.g. {odd[0]}")
        fresh.set_adapter(name)
        trial()
    except Exception as error:  # PEFT raises what its parts raise
        if not isinstance(wrapped, PeftModel):
            _take_out_layers(wrapped)
        elif name in wrapped.peft_config:
            wrapped.set_adapter(previous[0])
            wrapped.delete_adapter(name)
            wrapped.requires_grad_(False)
        if isinstance(error, BrainError):
            raise
        raise LoraError(
            f"the adapter in {folder} does not fit this base: {error}", remedy="train again"
        ) from error
    for old in previous:
        fresh.delete_adapter(old)
    fresh.requires_grad_(False)
    return fresh


def _check_changes(folder: Path, tensors: Mapping[str, torch.Tensor], config: LoraConfig) -> None:
    """`LoraError` when a module's factors would change a weight by more than the graphs take, too."""
    for name, down in tensors.items():
        up = tensors.get(name.replace(".lora_A.", ".lora_B."))
        if ".lora_A." not in name or up is None or not len(down):
            continue
        module = name.removeprefix("base_model.model.").partition(".lora_A.")[0]
        alpha = float(by_pattern(config.alpha_pattern, module, config.lora_alpha))
        scale = abs(alpha) / (len(down) ** 0.5 if config.use_rslora else len(down))
        if not scale * float(down.abs().max()) * float(up.abs().max()) <= LARGEST_CHANGE:
            raise LoraError(
                f"{folder}: {module} would change a weight by more than {LARGEST_CHANGE:g}",
                remedy="train again",
            )


def _config_of(folder: Path) -> LoraConfig:
    """An adapter folder's configuration. `LoraError` when PEFT cannot read it, or it scales by no number."""
    path = folder / "adapter_config.json"
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT raises what its parts raise
        raise LoraError(f"{path} cannot be used: {error}", remedy="train again") from error
    if not isinstance(config, LoraConfig):
        raise LoraError(f"{path}: peft_type is {config.peft_type}, not LORA", remedy="use a LoRA adapter")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(getattr(config, name) or {}, dict):
            raise LoraError(f"{path}: {name} is no object of patterns", remedy="train again")
    if fault := next(filter(None, map(fault_of, _patterns_of(config))), ""):
        raise LoraError(f"{path}: {fault}", remedy="name the modules as they are")
    if (odd := _odd_alpha(config)) is not None:
        raise LoraError(f"{path}: lora_alpha = {odd[0]!r} is no scale", remedy="train again")
    config.inference_mode = False  # as PEFT saves what is to be loaded for use
    return config


def _odd_alpha(config: LoraConfig) -> tuple[Any] | None:
    """The first alpha of a configuration that is no scale; NaN is none."""
    alphas = (config.lora_alpha, *(config.alpha_pattern or {}).values())
    return next(
        ((a,) for a in alphas if not isinstance(a, int | float) or not abs(a) <= _LARGEST_ALPHA), None
    )


def detach_lora(model: DrivingModel) -> None:
    """Back to the base alone: LoRA layers are taken out, base weights are as loaded."""
    wrapped = model.language_model
    if isinstance(wrapped, PeftModel):
        model.language_model = wrapped.unload()


def _take_out_layers(language_model: Any) -> None:
    # PEFT puts its layers into the base module by module: a failed first load leaves some of them there.
    for parent in list(language_model.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, child_name, child.get_base_layer())
    vars(language_model).pop("peft_config", None)


def zero_like(folder: Path, out: Path) -> None:
    """Write a copy of an adapter whose B matrices are zero: it must act as the base does (a test fixture)."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in tensors.items()},
        out / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    (out / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
