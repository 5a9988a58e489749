"""Where a KV-shared language model of transformers is cut, whichever wrapper it came in.

Gemma 3n's and Gemma 4's last `num_kv_shared_layers` layers have no key/value projections: they read what the
last sliding and the last full layer below them stored. The layer below the first of them can be trained too
("plus one"): it is one of the two that store, and its own keys and values are computed at all positions before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from continuonbrain.config import LORA_TARGETS
from continuonbrain.errors import BrainError

_GEMMA3N_ONLY = ("linear_left", "linear_right", "modality_router")
FAMILIES: dict[str, tuple[str, ...]] = {
    "gemma3n_text": LORA_TARGETS,
    "gemma4_text": tuple(name for name in LORA_TARGETS if name not in _GEMMA3N_ONLY),
}
"""Text model types that can be cut -> module names that can carry LoRA in a KV-shared layer. Not among them:
what does not exist there (k_proj, v_proj), what the library reads past its module (AltUp's correction_coefs and
prediction_coefs), what has no weight matrix."""
NOT_IN_PLUS_ONE = ("modality_router",)
"""In the layer below the first shared one this would change keys and values, and those are cached constants."""


class DecoderError(BrainError):
    """This model cannot be cut where LoRA is wanted."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A language model and its cut.

    text: the `Gemma3nTextModel` or `Gemma4TextModel`; lm_head: its output projection; first: index of the first
    trained layer.
    """

    text: Any
    lm_head: Any
    first: int

    @property
    def config(self) -> Any:
        """The text configuration."""
        return self.text.config

    @property
    def plus_one(self) -> bool:
        """The layer below the first KV-shared one is trained as well."""
        return self.first < first_shared_layer(self.config)

    @property
    def layers(self) -> range:
        """Indices of the trained layers."""
        return range(self.first, int(self.config.num_hidden_layers))

    @property
    def layer_types(self) -> list[str]:
        """The kinds of attention among the trained layers, sorted."""
        return sorted({self.config.layer_types[i] for i in self.layers})

    @property
    def soft_cap(self) -> float | None:
        """Bound of the logits, None without one."""
        cap = self.config.final_logit_softcapping
        return None if cap is None else float(cap)

    def targets(self, layer: int) -> tuple[str, ...]:
        """Names of the modules of a layer that can carry LoRA, () below the cut."""
        if layer < self.first:
            return ()
        names = FAMILIES[self.config.model_type]
        return (
            names
            if layer >= first_shared_layer(self.config)
            else tuple(n for n in names if n not in NOT_IN_PLUS_ONE)
        )

    @contextmanager
    def reading_stored_kv(self) -> Iterator[None]:
        """While this lasts the plus-one layer reads its keys and values as a shared layer does."""
        attention = self.text.layers[self.first].self_attn
        before = attention.is_kv_shared_layer, attention.store_full_length_kv
        attention.is_kv_shared_layer, attention.store_full_length_kv = True, False
        try:
            yield
        finally:
            attention.is_kv_shared_layer, attention.store_full_length_kv = before


def first_shared_layer(config: Any) -> int:
    """Index of the first layer without key/value projections."""
    return int(config.num_hidden_layers - config.num_kv_shared_layers)


def is_kv_shared(config: Any) -> bool:
    """True when a (text) configuration describes a model that `decoder_of` can cut."""
    return config.model_type in FAMILIES and int(config.num_kv_shared_layers or 0) > 0


def unwrapped(model: Any) -> Any:
    """The model itself, whether or not PEFT wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any, *, plus_one: bool = False) -> Decoder:
    """The cut of a causal or conditional model of transformers, PEFT around it or not.

    Raises:
        DecoderError: its layers share no keys and values.
    """
    inner = unwrapped(model)
    text = inner.model
    text = text.language_model if hasattr(text, "language_model") else text
    if not is_kv_shared(text.config):
        raise DecoderError(
            f"a {text.config.model_type} model with num_kv_shared_layers = "
            f"{getattr(text.config, 'num_kv_shared_layers', 0)} has no KV-shared layers to train",
            remedy=f"use one of {', '.join(FAMILIES)}; any other causal model trains through plain PEFT, slower",
        )
    if getattr(text.config, "use_bidirectional_attention", None) == "all":
        raise DecoderError(
            "use_bidirectional_attention is 'all': a position below the cut then sees later ones",
            remedy="use a causal model",
        )
    return Decoder(text, inner.lm_head, first_shared_layer(text.config) - int(plus_one))
