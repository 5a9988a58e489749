"""The engines of words beside transformers: their logits, what they read again, and bundles that do not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from continuonbrain.model.serving.spec import KNOWN_FILE, SPEC_FILE, BundleError, LanguageSpec
from continuonbrain.policy.litert_words import LiteRTWords
from continuonbrain.policy.torch_words import TorchWords
from tests.policy.talking_words import ASKED, BASE, BUNDLE, damaged, edited, library, whole


@pytest.fixture(scope="module")
def model() -> Any:
    return library()


def test_logits_are_those_of_the_library_in_any_order_of_conversations(
    model: Any, litert: LiteRTWords
) -> None:
    reference = TorchWords(BASE)
    for ids in [*ASKED, *reversed(ASKED), ASKED[3][:-4], ASKED[3]]:
        right = whole(model, ids)
        assert np.abs(litert.logits(ids) - right).max() < 1e-4
        assert np.abs(reference.logits(ids) - right).max() < 1e-4


def test_of_a_longer_conversation_only_what_is_new_is_read(
    litert: LiteRTWords, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = LiteRTWords(BASE, BUNDLE)
    steps: list[tuple[str, int]] = []
    real = fresh._words._step

    def counted(graph: str, tokens: Any, start: int) -> None:
        steps.append((graph, start))
        real(graph, tokens, start)

    monkeypatch.setattr(fresh._words, "_step", counted)
    ids = list(range(5, 75))
    fresh.logits(ids)
    assert steps == [("prefill", 0), ("prefill", 32), ("prefill", 64), ("next", 69)]
    steps.clear()
    fresh.logits([*ids, 5])
    fresh.logits([*ids, 5])
    fresh.logits([*ids[:40], 7])
    fresh.logits([*ids[:40], 7, *ids[:3]])
    assert steps == [("next", 70), ("next", 70), ("next", 40), ("prefill", 41), ("next", 43)]


@pytest.mark.parametrize("ids", [[], [1] * 129, [-1], [2, 384]])
def test_ids_that_the_graphs_cannot_take_are_refused(litert: LiteRTWords, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        litert.logits(ids)
    assert np.isfinite(litert.logits([2])).all()


def _corrupt_graph(base: Path) -> None:
    graph = base / "language" / "fp32" / LanguageSpec.graph_file
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)


def _other_answer(base: Path) -> None:
    path = base / "language" / "fp32" / KNOWN_FILE
    tensors = load_file(path)
    tensors["adapted"] = tensors["alone"].clone()  # as if the adapter changed nothing
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_corrupt_graph, "is damaged"),
        (_other_answer, "logits of an adapter differ"),
        (lambda b: (b / "language" / "fp32" / KNOWN_FILE).unlink(), "cannot be used"),
        (edited("config.json", rms_norm_eps=1e-5), "was exported from base"),
        (lambda b: (b / "language" / "fp32" / SPEC_FILE).write_text("{}"), "describes no language bundle"),
    ],
)
def test_a_bundle_that_does_not_fit_is_named(
    change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    base = damaged(change, tmp_path)
    with pytest.raises(BundleError, match=words):
        LiteRTWords(base, base / "language" / "fp32")


def test_the_words_of_a_robot_never_import_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from continuonbrain.policy.chat import *; "
        "from continuonbrain.policy.open_engine import open_words; "
        "from continuonbrain.config import PolicyConfig; "
        f"b = Path({str(BASE)!r}); e = open_words(b, PolicyConfig()); "
        "print(''.join(Chat(e, ChatPrompt(b)).answer([Turn('user', 'hello')])), 'torch' in sys.modules, "
        "'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout == "Hello! I am a small robot. False False\n", out.stderr
