"""The engine of the base that talks, and adapters for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from continuonbrain.policy.litert_words import LiteRTWords


@pytest.fixture(scope="module")
def litert() -> LiteRTWords:
    """The fp32 graphs of the base that talks. A test that gives them an adapter takes it away again."""
    from continuonbrain.policy.litert_words import LiteRTWords
    from tests.policy.talking_words import BASE, BUNDLE

    return LiteRTWords(BASE, BUNDLE)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of PEFT for the base that talks. Copy before damaging one."""
    from tests.policy.talking_words import make_adapter

    root = tmp_path_factory.mktemp("adapters")
    return [make_adapter(root / str(seed), seed=seed) for seed in range(2)]
