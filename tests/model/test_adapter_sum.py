"""Two adapters of rank 8 side by side are one of rank 16, as torch's own sum says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
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
        {"layers_to_transform": [3, 11], "layers_pattern": "layers"},
        {"target_modules": r".*layers\.1[0-4]\..*(q_proj|down_proj)"},
    ],
    ids=[
        "same kind",
        "another rank and scale",
        "rank-stabilised",
        "other modules",
        "other layers",
        "a pattern",
    ],
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
    for changed in (
        {"r": 0},
        {"r": None},
        {"lora_alpha": "x"},
        {"rank_pattern": {"q_proj": 2}},
        {"bias": "all"},
    ):
        broken = adapter(tmp_path / "broken", 2)
        settings = json.loads((broken / "adapter_config.json").read_text())
        (broken / "adapter_config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(LoraError):
            concatenated(slow, broken)


@pytest.mark.parametrize("damage", ["a number that is none", "A without B", "another shape"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, damage: str) -> None:
    slow, fast = adapter(tmp_path / "slow", 1), adapter(tmp_path / "fast", 2)
    tensors = load_file(fast / "adapter_model.safetensors")
    name = sorted(n for n in tensors if "lora_B" in n)[0]
    if damage == "A without B":
        del tensors[name]
    elif damage == "another shape":
        tensors[name] = torch.zeros(tensors[name].shape[0] + 1, 8)
    else:
        tensors[name][0, 0] = float("nan")
    save_file(tensors, fast / "adapter_model.safetensors")
    with pytest.raises(LoraError):
        concatenated(slow, fast)
