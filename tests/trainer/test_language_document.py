"""The example in the documentation runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from peft import PeftConfig  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

from benchmarks.e2b_shapes import write_checkpoint  # noqa: E402
from continuonbrain.model.base_identity import checkpoint_sha256  # noqa: E402

DOCUMENT = Path(__file__).parents[2] / "docs" / "train-gemma3n.md"


def test_the_documented_script_trains_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCUMENT.read_text()
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    words = sorted(set(" ".join(re.findall(r'"([a-z ?]+)"', script)).split()))
    vocabulary = {"[unk]": 3} | {word: 10 + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "gemma-3n-E2B-it"
    write_checkpoint(folder, "small")
    tokenizer.save(str(folder / "tokenizer.json"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        exec(compile(script, str(DOCUMENT), "exec"), {})
    finally:
        torch.set_num_threads(threads)
    route, ended, first, last = capsys.readouterr().out.splitlines()[-1].rsplit(" ", 3)
    assert (route, ended) == ("cached suffix", "steps")
    assert float(last) < 0.5 * float(first)
    assert PeftConfig.from_pretrained(str(tmp_path / "adapter")).r == 8
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    # The base that it names is the one that every engine asks for.
    named = PeftConfig.from_pretrained(str(tmp_path / "adapter")).base_model_name_or_path
    assert named == f"continuonbrain:{checkpoint_sha256(folder)}"
