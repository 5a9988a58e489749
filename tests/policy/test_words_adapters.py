"""Adapters of the engines of words: they answer as with PEFT, and one that does not fit leaves the one in use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from continuonbrain.policy.engine import AdapterError  # noqa: E402
from continuonbrain.policy.litert_words import LiteRTWords  # noqa: E402
from continuonbrain.policy.torch_words import TorchWords  # noqa: E402
from continuonbrain.policy.words_engine import WordsEngine  # noqa: E402
from tests.policy.talking_words import ASKED, BASE, BUNDLE, library, make_adapter, whole  # noqa: E402


def test_an_adapter_answers_as_with_peft_and_what_was_read_stays_read(
    litert: LiteRTWords, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    reference = TorchWords(BASE)
    ran: list[str] = []
    real = litert._words._step

    def counted(graph: str, *rest: Any) -> None:
        ran.append(graph)
        real(graph, *rest)

    monkeypatch.setattr(litert._words, "_step", counted)
    ids = ASKED[3]
    alone = litert.logits(ids)
    ran.clear()
    for folder in [*adapters, adapters[0]]:
        for engine in (litert, reference):
            engine.use_adapter(folder)
        right = whole(
            PeftModel.from_pretrained(library(), str(folder)).eval(),
            ids,
        )
        assert np.abs(litert.logits(ids) - right).max() < 1e-4
        assert np.abs(reference.logits(ids) - right).max() < 1e-4
        assert np.abs(right - alone).max() > 0.1
        assert litert.adapter_sha256 == reference.adapter_sha256 != ""
    assert ran == ["next"] * 6  # a trial and an answer each; nothing was read again
    for engine in (litert, reference):
        engine.use_adapter(None)
        assert engine.adapter_sha256 == ""
    assert np.array_equal(litert.logits(ids), alone)
    assert np.abs(reference.logits(ids) - alone).max() < 1e-4


@pytest.mark.parametrize("name", ["torch", "litert"])
def test_an_adapter_that_does_not_fit_leaves_the_one_in_use(
    name: str, adapters: list[Path], tmp_path: Path
) -> None:
    engine: WordsEngine = TorchWords(BASE) if name == "torch" else LiteRTWords(BASE, BUNDLE)
    engine.use_adapter(adapters[0])
    before, kept = engine.logits([2, 5, 9]), engine.adapter_sha256
    broken = tmp_path / "broken"
    shutil.copytree(adapters[1], broken)
    (broken / "adapter_model.safetensors").write_bytes(b"no")
    for wrong in (broken, make_adapter(tmp_path / "other", seed=9, base="f" * 64), tmp_path / "nowhere"):
        with pytest.raises(AdapterError):
            engine.use_adapter(wrong)
        assert engine.adapter_sha256 == kept
        assert np.array_equal(engine.logits([2, 5, 9]), before)


def test_an_adapter_converted_to_one_file_is_the_same_adapter(
    litert: LiteRTWords, adapters: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    convert = [sys.executable, "-m", "continuonbrain.cli.main", "adapters", "convert"]
    command = [*convert, str(adapters[0]), str(file), "--bundle", str(BUNDLE)]
    told = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=60).stdout
    )
    assert told["path"] == str(file)
    assert told["modules"] == 3 * 4  # three layers, four modules each
    litert.use_adapter(adapters[0])
    right, name = litert.logits(ASKED[1]), litert.adapter_sha256
    litert.use_adapter(file)
    assert np.array_equal(litert.logits(ASKED[1]), right)
    assert litert.adapter_sha256 not in ("", name)
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    kept = litert.adapter_sha256
    tensors = load_file(file)
    first = next(iter(tensors))
    for change, words in (
        ({first: torch.full_like(tensors[first], torch.nan)}, "not finite"),
        ({first: tensors[first][:, :8].contiguous()}, "other modules"),
        ({"more": torch.zeros(2)}, "other modules"),
    ):
        wrong = tmp_path / "wrong.safetensors"
        save_file(tensors | change, wrong, metadata=_metadata(file))
        with pytest.raises(AdapterError, match=words):
            litert.use_adapter(wrong)
        assert litert.adapter_sha256 == kept
    for metadata, words in (
        ({}, "no inputs of a serving bundle"),
        (_metadata(file) | {"base_sha256": "0" * 64}, "this base is"),
    ):
        save_file(tensors, wrong, metadata=metadata)
        with pytest.raises(AdapterError, match=words):
            litert.use_adapter(wrong)
    wrong.write_bytes(file.read_bytes()[:500])
    with pytest.raises(AdapterError, match="cannot be read"):
        litert.use_adapter(wrong)
    assert np.array_equal(litert.logits(ASKED[1]), right)
    litert.use_adapter(None)


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="numpy") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("name", ["torch", "litert"])
@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"layer_replication": [[0, 6], [0, 6]]},
        {"modules_to_save": ["mlp"]},
        {"trainable_token_indices": [1]},
        {"bias": "foo"},
        {"bias": "all"},
        {"lora_alpha": float("nan")},
        {"lora_alpha": 1e308},
        {"target_modules": ".*(q_proj"},
        {"rank_pattern": {"*": 3}},
        {"peft_type": "IA3"},
        {"peft_type": "nonsense"},
        {"loftq_config": {"loftq_bits": 4}, "init_lora_weights": "loftq"},
    ],
    ids=lambda c: "-".join(f"{k}={str(v)[:12]}" for k, v in c.items()),
)
def test_a_configuration_that_is_more_than_lora_never_touches_the_base(
    name: str, change: dict[str, Any], adapters: list[Path], tmp_path: Path
) -> None:
    if name == "litert" and set(change) & {"rank_pattern", "target_modules"}:
        pytest.skip("these graphs take the tensors as they are named")
    engine: WordsEngine = TorchWords(BASE) if name == "torch" else LiteRTWords(BASE, BUNDLE)
    alone = engine.logits([2, 5, 9])
    engine.use_adapter(adapters[0])
    good = engine.logits([2, 5, 9])
    odd = tmp_path / "odd"
    shutil.copytree(adapters[1], odd)
    settings = json.loads((odd / "adapter_config.json").read_text()) | change
    (odd / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(AdapterError):
        engine.use_adapter(odd)
    assert np.array_equal(engine.logits([2, 5, 9]), good)
    engine.use_adapter(adapters[1])
    engine.use_adapter(adapters[0])
    assert np.abs(engine.logits([2, 5, 9]) - good).max() < 1e-5
    engine.use_adapter(None)
    assert np.abs(engine.logits([2, 5, 9]) - alone).max() < 1e-5
    with pytest.raises(AdapterError):  # with no adapter in the way
        engine.use_adapter(odd)
    assert np.abs(engine.logits([2, 5, 9]) - alone).max() < 1e-5
