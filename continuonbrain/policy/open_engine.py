"""The engine that a brain's config names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from continuonbrain.config import PolicyConfig
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.words_engine import WordsEngine

BUNDLES = "serving"
"""Folder of a base's driving bundles, one for each precision."""
LANGUAGE_BUNDLES = "language"
"""The same for words."""


def engine_name(base: Path, policy: PolicyConfig, bundles: str = BUNDLES) -> str:
    """ "torch" or "litert": what `open_engine` opens (`open_words`, with LANGUAGE_BUNDLES)."""
    if policy.engine != "auto":
        return policy.engine
    there = (base / bundles / policy.precision).exists() and find_spec("ai_edge_litert") is not None
    return "litert" if there else "torch"


def open_engine(base: Path, policy: PolicyConfig) -> Engine:
    """Open the base in `base` with the engine that `policy` names. torch is imported only by its own engine.

    Raises:
        BrainError: the base or its bundle is missing, damaged, or does not fit.
    """
    if engine_name(base, policy) == "litert":
        from continuonbrain.policy.litert_engine import LiteRTEngine

        return LiteRTEngine(base, base / BUNDLES / policy.precision, threads=policy.threads)
    from continuonbrain.policy.torch_engine import TorchEngine

    return TorchEngine(base, threads=policy.threads)


def largest_rank(base: Path, policy: PolicyConfig) -> int | None:
    """Of an adapter that the engine takes; None where any rank will do. Raises BrainError for a damaged bundle."""
    if engine_name(base, policy) != "litert":
        return None
    from continuonbrain.model.serving.spec import DrivingSpec

    return DrivingSpec.read(base / BUNDLES / policy.precision).lora.rank


def open_words(base: Path, policy: PolicyConfig) -> WordsEngine:
    """Open what answers in words, with the engine that `policy` names.

    Raises:
        BrainError: the base or its bundle is missing, damaged, or does not fit.
    """
    if engine_name(base, policy, LANGUAGE_BUNDLES) == "litert":
        from continuonbrain.policy.litert_words import LiteRTWords

        return LiteRTWords(base, base / LANGUAGE_BUNDLES / policy.precision, threads=policy.threads)
    from continuonbrain.policy.torch_words import TorchWords

    return TorchWords(base, threads=policy.threads)
