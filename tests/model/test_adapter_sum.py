"""Two adapters of rank 8 side by side are one of rank 16: in torch's own sum, and trained one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import Gemma3nForCausalLM  # noqa: E402

from benchmarks.e2b_shapes import text_config  # noqa: E402
from continuonbrain.model.adapter_sum import concatenated  # noqa: E402
from continuonbrain.model.lora import LoraError  # noqa: E402


def base() -> Any:
    torch.manual_seed(0)
    return Gemma3nForCausalLM(text_config("small", vocab_size=512)).double().eval()


def adapter(folder: Path, seed: int, **settings: Any) -> Path:
    torch.manual_seed(seed)
    model = get_peft_model(
        base(),
        LoraConfig(**({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]} | settings)),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize(
    "fast",
    [
        {},
        {"lora_alpha": 5, "r": 3},
        {"use_rslora": True},
        {"target_modules": ["o_proj", "down_proj"]},
    ],
    ids=["same kind", "another rank and scale", "rank-stabilised", "other modules"],
)
def test_the_sum_of_both_in_torch_is_the_concatenation(tmp_path: Path, fast: dict[str, Any]) -> None:
    slow, quick = adapter(tmp_path / "slow", 1), adapter(tmp_path / "fast", 2, **fast)
    both = PeftModel.from_pretrained(base(), str(slow), adapter_name="slow")
    both.load_adapter(str(quick), adapter_name="fast")
    both.base_model.set_adapter(["slow", "fast"])
    files = concatenated(slow, quick)
    out = tmp_path / "sum"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(data)
    one = PeftModel.from_pretrained(base(), str(out)).double()
    ids = torch.randint(3, 500, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = both.double()(input_ids=ids, use_cache=False).logits
        found = one(input_ids=ids, use_cache=False).logits
        alone = base()(input_ids=ids, use_cache=False).logits
    assert float((found - expected).norm() / (expected - alone).norm()) < 1e-6  # adapters are stored in fp32
    assert float((expected - alone).norm()) > 0
    assert json.loads(files["adapter_config.json"])["r"] == 8 + fast.get("r", 8)


def test_what_is_not_a_plain_pair_is_refused_by_name(tmp_path: Path) -> None:
    slow = adapter(tmp_path / "slow", 1)
    dora = adapter(tmp_path / "dora", 2, use_dora=True)
    with pytest.raises(LoraError, match="use_dora"):
        concatenated(slow, dora)
    other = adapter(tmp_path / "other", 2)
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "another"}))
    with pytest.raises(LoraError, match="belongs to base"):
        concatenated(slow, other)
    with pytest.raises(LoraError, match="cannot be read"):
        concatenated(slow, tmp_path / "nothing")
