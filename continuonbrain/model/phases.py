"""A checkpoint in two halves, never both in memory: what caching needs, and what training needs.

* the *bottom* (layers below the cut, projections into them) with the embedding tables mapped from disk;
* the *top* (trained layers, final projections, norm) and the rows of the output projection.

Both are transformers' own modules in transformers' own places, so that PEFT finds and names the layers as in the
whole model; what the other half needs is absent and says so when it is called. Weights are frozen: bf16 as they
stand, or int8 by row. Both halves round the same way, so that a cache belongs to the base that acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from continuonbrain.errors import BrainError
from continuonbrain.model.checkpoint import Checkpoint, CheckpointError
from continuonbrain.model.decoder import Decoder, decoder_of, is_kv_shared
from continuonbrain.model.frozen_linear import FrozenLinear, QuantisedRows, quantised_rows
from continuonbrain.model.head_loss import PlainRows, RowSource
from continuonbrain.model.packed_weight import PackedWeight, can_pack

_QUANTISED_AT_ONCE = 1 << 20
"""Numbers: 4 MiB in fp32."""
_FINITE = "use a bf16, fp16 or fp32 checkpoint, copied whole"
_OF_THE_TOP = ("norm", "altup_unembed_projections")
"""Beside the trained layers."""
_LEAST_QUANTISED = 64
"""Projections narrower than this (AltUp's mixing coefficients) stay as they are: rounding costs, memory does not."""


def has_bf16_arithmetic() -> bool:
    """Whether this CPU multiplies bf16 itself; emulation is slower than fp32."""
    return any(
        bool(ask())
        for ask in (
            getattr(torch.cpu, "_is_avx512_bf16_supported", None),
            getattr(torch.cpu, "_is_amx_tile_supported", None),
        )
        if ask is not None
    )


@dataclass(frozen=True, slots=True)
class Precision:
    """int8: frozen projections as int8 by row, else as stored; compute: type of activations and small weights."""

    int8: bool = True
    compute: torch.dtype = torch.float32

    @staticmethod
    def of_this_machine(*, int8: bool = True) -> Precision:
        """bf16 where the CPU has its arithmetic, fp32 elsewhere."""
        return Precision(int8, torch.bfloat16 if has_bf16_arithmetic() else torch.float32)


class AbsentError(BrainError):
    """A part of the model was called that this phase has not loaded."""


class Absent(nn.Module):
    """Stands where a part of the model would."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, *_: object, **__: object) -> Tensor:
        raise AbsentError(f"{self.what} is not loaded in this phase")


class MappedEmbedding(nn.Module):
    """A scaled embedding table on disk: ids int64 `[...]` -> `[..., width]`."""

    def __init__(self, table: Tensor, scale: float, compute: torch.dtype, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(table, requires_grad=False)
        self.scale, self.compute = scale, compute

    def forward(self, ids: Tensor) -> Tensor:
        # As the library does: the scale is rounded to the table's type first.
        scale = torch.tensor(self.scale).to(self.weight.dtype).to(self.compute)
        rows = self.weight[ids].to(self.compute)
        if not bool(torch.isfinite(rows).all()):  # a table of gigabytes is looked at where it is read
            raise CheckpointError(f"{self.name} holds numbers that are not finite", remedy=_FINITE)
        return rows * scale


class LanguageModel(nn.Module):
    """A language model in the module tree of its checkpoint's layout, for one phase.

    `model` (or `model.language_model`) is transformers' text model. Calling it runs that text model on token ids
    or embeddings.
    """

    base_model_prefix = "model"
    """As transformers' models say it; PEFT asks."""

    def __init__(self, text: Any, config: Any, *, multimodal: bool) -> None:
        super().__init__()
        self.config = config
        if multimodal:
            self.model: Any = nn.Module()
            self.model.language_model = text
        else:
            self.model = text
        self.lm_head: Any = Absent("the output projection")

    def prepare_inputs_for_generation(self, *_: object, **__: object) -> Any:
        """PEFT wants to know of it where a configuration says CAUSAL_LM; no phase generates."""
        raise AbsentError("a half of a model does not generate")

    def forward(self, **inputs: Any) -> Any:
        text = self.model.language_model if hasattr(self.model, "language_model") else self.model
        return text(**inputs)


def text_config_of(checkpoint: Checkpoint) -> Any:
    """The checkpoint's text configuration. `CheckpointError` when it has no KV-shared layers."""
    raw = checkpoint.raw_config.get("text_config", checkpoint.raw_config)
    if not isinstance(raw, dict):
        raise CheckpointError(
            f"{checkpoint.folder}/config.json: text_config is no object", remedy="copy the checkpoint again"
        )
    kinds = _config_kinds()
    kind = raw.get("model_type")
    if kind not in kinds:
        raise CheckpointError(
            f"{checkpoint.folder}/config.json: model_type is {kind!r}",
            remedy=f"use one of {', '.join(kinds)}",
        )
    config_path = checkpoint.folder / "config.json"
    try:
        config = kinds[kind].from_dict({k: v for k, v in raw.items() if k != "model_type"})
    except Exception as error:  # transformers raises classes of its own for a value of the wrong kind
        raise CheckpointError(
            f"{config_path} cannot be used: {error}", remedy="use the config.json that came with the weights"
        ) from error
    if not is_kv_shared(config):
        raise CheckpointError(
            f"{config_path}: num_kv_shared_layers is {config.num_kv_shared_layers}",
            remedy="use a model with KV-shared layers",
        )
    if checkpoint.raw_config.get("quantization_config") or raw.get("quantization_config"):
        raise CheckpointError(
            f"{config_path}: quantization_config: these weights are coded",
            remedy="use the bf16 checkpoint; this trainer makes its own int8 of it",
        )
    window, eps = config.sliding_window, config.rms_norm_eps
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise CheckpointError(
            f"{config_path}: sliding_window is {window!r}",
            remedy="use the config.json that came with the weights",
        )
    if not isinstance(eps, int | float) or not isfinite(eps) or eps < 0:
        raise CheckpointError(
            f"{config_path}: rms_norm_eps is {eps!r}", remedy="use the config.json that came with the weights"
        )
    config._attn_implementation = "sdpa"
    return config


def has_two_halves(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of a family with KV-shared layers, and has some."""
    raw = checkpoint.raw_config.get("text_config", checkpoint.raw_config)
    kind = _config_kinds().get(str(raw.get("model_type"))) if isinstance(raw, dict) else None
    # Where it does not say, the family's own number counts.
    return kind is not None and bool(raw.get("num_kv_shared_layers", kind().num_kv_shared_layers))


def _config_kinds() -> dict[str, Any]:
    from transformers import Gemma3nTextConfig, Gemma4TextConfig

    return {"gemma3n_text": Gemma3nTextConfig, "gemma4_text": Gemma4TextConfig}


def _skeleton(checkpoint: Checkpoint) -> tuple[LanguageModel, Any]:
    from accelerate import init_empty_weights
    from transformers import AutoModel

    config = text_config_of(checkpoint)
    try:
        with init_empty_weights(include_buffers=False):
            text = AutoModel.from_config(config)
    except Exception as error:  # whatever a value that makes no model raises
        raise CheckpointError(
            f"{checkpoint.folder}/config.json describes no model: {error!r}",
            remedy="use the config.json that came with the weights",
        ) from error
    return LanguageModel(text, config, multimodal=checkpoint.multimodal), text


class _Loader:
    """Fills modules of a skeleton with the checkpoint's tensors."""

    def __init__(
        self, checkpoint: Checkpoint, precision: Precision, *, packed: bool = False, plain: bool = False
    ) -> None:
        self._checkpoint, self._precision = checkpoint, precision
        self._packed, self._plain = packed, plain

    def fill(self, module: nn.Module, name: str) -> None:
        """Everything in `module`, which stands at `name` below the text model."""
        for child_name, child in list(module.named_children()):
            below = f"{name}.{child_name}"
            if not self._plain and isinstance(child, nn.Linear) and self._replaceable(child_name, child):
                setattr(module, child_name, self.linear(below, child))
            else:
                self.fill(child, below)
        for own, parameter in list(module.named_parameters(recurse=False)):
            value = self._checkpoint.numbers(f"{self._checkpoint.prefix}{name}.{own}")
            self._check_shape(f"{name}.{own}", value.shape, parameter)
            value = value.to(self._precision.compute)
            setattr(module, own, nn.Parameter(value, requires_grad=False))
        for own, buffer in list(module.named_buffers(recurse=False)):
            stored = f"{self._checkpoint.prefix}{name}.{own}"
            if stored in self._checkpoint:
                setattr(module, own, self._checkpoint.tensor(stored).to(buffer.dtype))

    def check(self, module: nn.Module, name: str) -> None:
        """That everything `fill` would read is there, in its shape, from the headers."""
        for own, parameter in module.named_parameters():
            stored = f"{self._checkpoint.prefix}{name}.{own}"
            self._check_shape(f"{name}.{own}", self._checkpoint.shape(stored), parameter)

    def _check_shape(self, name: str, shape: Sequence[int], wanted: Tensor) -> None:
        if tuple(shape) != tuple(wanted.shape):
            raise CheckpointError(
                f"{self._checkpoint.folder}: {name} is {tuple(shape)}, config.json asks for {tuple(wanted.shape)}",
                remedy="use the config.json that came with the weights",
            )

    def _replaceable(self, name: str, linear: nn.Linear) -> bool:
        # The library reads the coefficients' weights past their module: they stay plain layers.
        return "coefs" not in name and min(linear.weight.shape) >= _LEAST_QUANTISED and linear.bias is None

    def linear(self, name: str, wanted: nn.Linear) -> FrozenLinear:
        """The frozen form of a projection. `CheckpointError` when it is of another shape or not finite."""
        stored = f"{self._checkpoint.prefix}{name}.weight"
        self._check_shape(f"{name}.weight", self._checkpoint.shape(stored), wanted.weight)
        if self._precision.int8:
            return FrozenLinear(*_quantised(self._checkpoint, stored))
        weight = self._checkpoint.numbers(stored)
        packs = self._packed and weight.dtype == self._precision.compute and can_pack(weight.dtype)
        return FrozenLinear(weight, packed=PackedWeight(weight) if packs else None)

    def embeddings(self, text: Any) -> None:
        """Both tables of a text model (one, where it has no per-layer inputs), mapped."""
        config = text.config
        text.embed_tokens = self.embedding("embed_tokens", text.embed_tokens, config.hidden_size**0.5)
        if config.hidden_size_per_layer_input:
            scale = config.hidden_size_per_layer_input**0.5
            text.embed_tokens_per_layer = self.embedding(
                "embed_tokens_per_layer", text.embed_tokens_per_layer, scale
            )

    def embedding(self, name: str, wanted: nn.Embedding, scale: float) -> MappedEmbedding:
        """A table that stays on disk. `CheckpointError` when it is of another shape."""
        table = self._checkpoint.mapped(f"{self._checkpoint.prefix}{name}.weight")
        self._check_shape(f"{name}.weight", table.shape, wanted.weight)
        where = f"{self._checkpoint.folder}: {self._checkpoint.prefix}{name}.weight"
        return MappedEmbedding(table, scale, self._precision.compute, where)


def load_bottom(checkpoint: Checkpoint, precision: Precision, *, plus_one: bool = False) -> Decoder:
    """What the caching pass needs. Run it with `suffix.capture(decoder, lambda: decoder.text(...))`."""
    model, text = _skeleton(checkpoint)
    decoder = decoder_of(model, plus_one=plus_one)
    load = _Loader(checkpoint, precision)
    for i in range(len(text.layers)):
        if i in decoder.layers and not (plus_one and i == decoder.first):
            text.layers[i] = Absent(f"layer {i}")
        else:
            load.fill(text.layers[i], f"layers.{i}")
    for name in _OF_THE_TOP:
        if hasattr(text, name):
            setattr(text, name, Absent(name))
    load.embeddings(text)
    for name, child in list(text.named_children()):
        if name in ("altup_projections", "per_layer_projection_norm"):
            load.fill(child, name)
    if hasattr(text, "per_layer_model_projection"):
        text.per_layer_model_projection = load.linear(
            "per_layer_model_projection", text.per_layer_model_projection
        )
    model.eval()
    return decoder


def check_top(checkpoint: Checkpoint, *, plus_one: bool = False) -> None:
    """What `load_top` would refuse, as far as headers tell it: nobody waits for a caching pass to hear of it."""
    model, text = _skeleton(checkpoint)
    decoder = decoder_of(model, plus_one=plus_one)
    load = _Loader(checkpoint, Precision())
    for i in decoder.layers:
        load.check(text.layers[i], f"layers.{i}")
    for name in _OF_THE_TOP:
        if hasattr(text, name):
            load.check(getattr(text, name), name)
    _check_head(checkpoint, head_shape(checkpoint), text.config)


def load_top(
    checkpoint: Checkpoint, precision: Precision, *, plus_one: bool = False, packed: bool = False
) -> tuple[LanguageModel, RowSource]:
    """What training needs: a model to put LoRA on (`decoder_of(model, plus_one=...)`), and the output projection.

    packed: keep every large weight packed as well, for speed in three times the memory (not with int8, and only where
    they are computed with as they are stored).
    """
    model, text = _skeleton(checkpoint)
    decoder = decoder_of(model, plus_one=plus_one)
    load = _Loader(checkpoint, precision, packed=packed)
    for i in range(len(text.layers)):
        if i in decoder.layers:
            load.fill(text.layers[i], f"layers.{i}")
        else:
            text.layers[i] = Absent(f"layer {i}")
    for name, child in list(text.named_children()):
        if name in _OF_THE_TOP:
            load.fill(child, name)
        elif name not in ("layers", "rotary_emb"):
            setattr(text, name, Absent(name))
    model.eval()
    head = load_head(checkpoint, precision, packed=packed)
    _check_head(checkpoint, head.shape, text.config)
    return model, head


def _check_head(checkpoint: Checkpoint, shape: tuple[int, int], config: Any) -> None:
    if shape != (config.vocab_size, config.hidden_size):
        raise CheckpointError(
            f"{checkpoint.folder}: the output projection is {shape}, config.json asks for "
            f"{(config.vocab_size, config.hidden_size)}",
            remedy="use the config.json that came with the weights",
        )


def load_plain(checkpoint: Checkpoint, *, tables: bool = True) -> LanguageModel:
    """All layers and the output projection as plain fp32 modules: what an exporter wants, and the reference for words.

    tables: with the embedding tables, mapped from disk; without them the model takes embeddings only.
    """
    model, text = _skeleton(checkpoint)
    load = _Loader(checkpoint, Precision(int8=False), plain=True)
    for name, child in list(text.named_children()):
        if name.startswith("embed_tokens"):
            if not tables:
                setattr(text, name, Absent(name))
        elif name != "rotary_emb":
            load.fill(child, name)
    if tables:
        load.embeddings(text)
    head = load_head(checkpoint, Precision(int8=False))
    model.lm_head = nn.Linear(head.shape[1], head.shape[0], bias=False, device="meta")
    model.lm_head.weight = nn.Parameter(head.rows(0, head.shape[0], torch.float32)[0], requires_grad=False)
    model.eval()
    return model


def _head_name(checkpoint: Checkpoint) -> str:
    name = "lm_head.weight"
    return name if name in checkpoint else f"{checkpoint.prefix}embed_tokens.weight"


def head_shape(checkpoint: Checkpoint) -> tuple[int, int]:
    """(rows, columns) of the output projection, from the header."""
    name = _head_name(checkpoint)
    shape = checkpoint.shape(name)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(
            f"{checkpoint.folder}: {name} is {shape}, a matrix is needed",
            remedy="copy the checkpoint again, whole",
        )
    return shape[0], shape[1]


def load_head(checkpoint: Checkpoint, precision: Precision, *, packed: bool = False) -> RowSource:
    """The output projection: `lm_head.weight`, or the embedding table that it is tied to; by blocks of rows."""
    name, shape = _head_name(checkpoint), head_shape(checkpoint)
    if not precision.int8:
        for _, block in checkpoint.row_blocks(name, max(1, _QUANTISED_AT_ONCE // shape[1])):
            if not bool(torch.isfinite(block).all()):
                raise checkpoint.not_finite(name)
        table = checkpoint.mapped(name)
        packs = packed and table.dtype == precision.compute and can_pack(table.dtype)
        return PlainRows(table, packed=packs)
    return QuantisedRows(*_quantised(checkpoint, name))


def _quantised(checkpoint: Checkpoint, name: str) -> tuple[Tensor, Tensor]:
    """`quantised_rows` of a stored matrix, a few rows at a time: the whole is never in memory as it stands."""
    rows, columns = checkpoint.shape(name)
    numbers, scales = torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows)
    for start, block in checkpoint.row_blocks(name, max(1, _QUANTISED_AT_ONCE // columns)):
        here = slice(start, start + len(block))
        try:
            numbers[here], scales[here] = quantised_rows(block)
        except ValueError as error:
            raise checkpoint.not_finite(name) from error
    return numbers, scales
