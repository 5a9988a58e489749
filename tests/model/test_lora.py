"""Claims about adapters: they are PEFT's, they fit or are refused, and a swap leaves nothing of the old one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from continuonbrain.config import LORA_TARGETS, LORA_TARGETS_NOT_IN_SHARED_LAYERS  # noqa: E402
from continuonbrain.model.driving import DrivingModel  # noqa: E402
from continuonbrain.model.lora import (  # noqa: E402
    SHARED_LAYER_TARGETS,
    LoraError,
    adapter_files,
    attach_lora,
    detach_lora,
    load_adapter,
    lora_targets,
    read_adapter,
    zero_like,
)

if TYPE_CHECKING:
    from torch import Tensor

BASE_SHA256 = "ba5e" * 16
Models = Callable[..., DrivingModel]
WriteAdapter = Callable[..., Path]
Prompts = tuple["Tensor", "Tensor"]
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def outputs(model: DrivingModel, prompts: Prompts) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(*prompts)
    return out


def use(model: DrivingModel, folder: Path, name: str = "a") -> None:
    load_adapter(model, folder, base_sha256=BASE_SHA256, name=name)


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def edit_settings(folder: Path, **changes: object) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | changes))


def first_key(tensors: dict[str, Tensor], part: str) -> str:
    return sorted(k for k in tensors if part in k)[0]


# ------------------------------------------------------------------------------------------ fits


def test_our_folder_opens_in_peft_and_answers_the_same(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts
) -> None:
    folder = write_adapter("a")
    ours = untrained_model()
    use(ours, folder)
    theirs = untrained_model()
    theirs.language_model = PeftModel.from_pretrained(theirs.causal_lm, str(folder))
    assert torch.equal(outputs(ours, prompts), outputs(theirs, prompts))
    assert not torch.equal(outputs(ours, prompts), outputs(untrained_model(), prompts))


def test_a_folder_that_peft_made_is_opened_once_it_names_the_base(
    untrained_model: Models, prompts: Prompts, tmp_path: Path
) -> None:
    theirs = untrained_model()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"up_proj": 3},
        target_modules=["q_proj", "up_proj", "linear_left"],
        layers_to_transform=[5, 7],
        init_lora_weights=False,
    )
    theirs.language_model = get_peft_model(theirs.causal_lm, config)
    theirs.language_model.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = untrained_model()
    with pytest.raises(LoraError, match="names no base") as error:
        use(ours, tmp_path)
    named = f"continuonbrain:{BASE_SHA256}"
    assert named in error.value.remedy
    edit_settings(tmp_path, base_model_name_or_path=named)
    use(ours, tmp_path)
    assert torch.equal(outputs(ours, prompts), outputs(theirs, prompts))
    assert not torch.equal(outputs(ours, prompts), outputs(untrained_model(), prompts))


def test_the_compatibility_file_holds_the_same_tensors_and_nothing_that_needs_pickle(
    write_adapter: WriteAdapter,
) -> None:
    folder = write_adapter("a")
    weights = load_file(folder / WEIGHTS)
    compatible = torch.load(folder / "lora_adapters.pt", weights_only=True)
    assert compatible.keys() == weights.keys()
    assert all(torch.equal(compatible[k], weights[k]) for k in weights)


def test_fresh_lora_and_a_zeroed_adapter_answer_as_the_base(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts, tmp_path: Path
) -> None:
    base = outputs(untrained_model(), prompts)
    fresh = untrained_model()
    attach_lora(fresh, base_sha256=BASE_SHA256, rank=8, alpha=16, targets=SHARED_LAYER_TARGETS)
    assert torch.equal(outputs(fresh, prompts), base)
    zero_like(write_adapter("a"), tmp_path / "zero")
    zeroed = untrained_model()
    use(zeroed, tmp_path / "zero")
    assert torch.equal(outputs(zeroed, prompts), base)


def test_lora_sits_on_shared_layers_only_and_everything_else_is_frozen(untrained_model: Models) -> None:
    model = untrained_model()
    parameters = attach_lora(model, base_sha256=BASE_SHA256, rank=8, alpha=16, targets=["q_proj", "k_proj"])
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(names) == len(parameters) == 2 * 4
    assert all("lora_" in n and any(f".layers.{i}." in n for i in (4, 5, 6, 7)) for n in names)


def test_swapping_there_and_back_leaks_nothing(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts
) -> None:
    a, b = write_adapter("a", seed=1), write_adapter("b", seed=2, rank=8, targets=("q_proj", "o_proj"))
    model = untrained_model()
    base = outputs(model, prompts)
    seen = {}
    for round_number in range(2):
        for name, folder in (("a", a), ("b", b)):
            use(model, folder, f"{name}{round_number}")
            seen[name, round_number] = outputs(model, prompts)
            assert list(model.language_model.peft_config) == [f"{name}{round_number}"]
    assert torch.equal(seen["a", 0], seen["a", 1])
    assert torch.equal(seen["b", 0], seen["b", 1])
    assert not torch.equal(seen["a", 0], seen["b", 0])
    detach_lora(model)
    assert torch.equal(outputs(model, prompts), base)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_the_same_name_again_is_a_no_op(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts
) -> None:
    folder = write_adapter("a")
    model = untrained_model()
    use(model, folder)
    first = outputs(model, prompts)
    use(model, folder)
    assert torch.equal(outputs(model, prompts), first)


def test_streams_cached_under_one_adapter_serve_another(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts
) -> None:
    """K and V never depend on the adapter: a swap keeps them."""
    model = untrained_model()
    use(model, write_adapter("a", seed=1), "a")
    with torch.no_grad():
        streams = model.encode(*prompts)
    use(model, write_adapter("b", seed=2), "b")
    with torch.no_grad():
        assert torch.equal(model.decode(streams), model(*prompts))


def test_saving_asks_no_hub_and_warns_of_nothing(untrained_model: Models) -> None:
    model = untrained_model()
    attach_lora(model, base_sha256=BASE_SHA256, rank=2, alpha=4, targets=["q_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter_files(model)


_BYTES_OF_A_FRESH_ADAPTER = """
import hashlib, torch
from continuonbrain.model.base import load_base
from continuonbrain.model.lora import SHARED_LAYER_TARGETS, adapter_files, attach_lora
import sys, pathlib
model = load_base(pathlib.Path(sys.argv[1]))
torch.manual_seed(0)
attach_lora(model, base_sha256="0" * 64, rank=2, alpha=4, targets=SHARED_LAYER_TARGETS)
print(sorted((n, hashlib.sha256(b).hexdigest()) for n, b in adapter_files(model).items()))
"""


def test_the_files_are_the_same_bytes_in_every_process(
    untrained_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT keeps the targets in a set, whose order changes with the hash seed of the process."""
    elsewhere = subprocess.run(
        [sys.executable, "-c", _BYTES_OF_A_FRESH_ADAPTER, str(untrained_base)],
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    monkeypatch.setattr(sys, "argv", ["", str(untrained_base)])
    exec(_BYTES_OF_A_FRESH_ADAPTER, {})
    assert capsys.readouterr().out == elsewhere


# --------------------------------------------------------------------------------------- refused


def test_an_adapter_for_another_base_is_refused_and_both_bases_are_named(
    untrained_model: Models, write_adapter: WriteAdapter
) -> None:
    folder = write_adapter("a", base="f00d" * 16)
    with pytest.raises(LoraError, match=r"is f00df00df00d, this robot runs base ba5eba5eba5e") as caught:
        use(untrained_model(), folder)
    assert "base_model_path" in caught.value.remedy


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def poison(value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[first_key(tensors, "lora_B")].view(-1)[-1] = value
        return tensors

    return lambda folder: edit_weights(folder, change)


def rename(old: str, new: str) -> Callable[[Path], None]:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = first_key(tensors, old)
        tensors[name.replace(old, new)] = tensors.pop(name)
        return tensors

    return lambda folder: edit_weights(folder, change)


def drop_one(folder: Path) -> None:
    edit_weights(folder, lambda t: {k: v for k, v in t.items() if k != first_key(t, "lora_B")})


def cut_rank(folder: Path) -> None:
    edit_weights(
        folder, lambda t: {k: (v[:2] if "lora_A" in k else v[:, :2]).contiguous() for k, v in t.items()}
    )


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (truncate, "missing or damaged"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "missing or damaged"),
    "empty weights file": (lambda f: (f / WEIGHTS).write_bytes(b""), "missing or damaged"),
    "weights without tensors": (lambda f: save_file({}, f / WEIGHTS), "holds no tensors"),
    "NaN": (poison(float("nan")), "not finite"),
    "infinity": (poison(float("inf")), "not finite"),
    "a bottom layer": (rename(".layers.4.", ".layers.3."), r"not in a KV-shared layer \(>= 4\)"),
    "no layer at all": (rename(".layers.4.", ".embed."), "not in a KV-shared layer"),
    "a layer beyond the last": (rename(".layers.7.", ".layers.8."), "does not fit this base"),
    "a module that does not exist": (rename("q_proj", "z_proj"), "does not fit this base"),
    "a tensor missing": (drop_one, "does not fit this base"),
    "another rank than the settings say": (cut_rank, "does not fit this base"),
    "no settings": (lambda f: (f / SETTINGS).unlink(), "cannot be read"),
    "settings that are not JSON": (lambda f: (f / SETTINGS).write_text("{"), "cannot be read"),
    "settings that are a list": (lambda f: (f / SETTINGS).write_text("[]"), "cannot be read"),
    "settings without a base": (
        lambda f: (f / SETTINGS).write_text('{"peft_type": "LORA", "r": 4}'),
        "cannot be read",
    ),
    "an unknown method": (lambda f: edit_settings(f, peft_type="MAGIC"), "cannot be used"),
    "a rank of zero": (lambda f: edit_settings(f, r=0), "a rank of 0"),
}


@pytest.mark.parametrize(
    ("before", "damage"),
    [("an adapter", d) for d in DAMAGE]
    # What is found only while attaching takes another way when nothing is attached yet.
    + [("the base alone", d) for d, (_, said) in DAMAGE.items() if "not fit" in said],
)
def test_a_damaged_adapter_is_refused_and_leaves_everything_as_it_was(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts, before: str, damage: str
) -> None:
    model = untrained_model()
    good = write_adapter("good", seed=1)
    if before == "an adapter":
        use(model, good, "good")
    answered = outputs(model, prompts)
    modules = [n for n, _ in model.causal_lm.named_modules()]
    bad = write_adapter("bad", seed=2)
    break_it, said = DAMAGE[damage]
    break_it(bad)

    with pytest.raises(LoraError, match=said) as caught:
        use(model, bad, "bad")

    assert str(bad) in caught.value.message
    assert caught.value.remedy
    assert torch.equal(outputs(model, prompts), answered)
    assert [n for n, _ in model.causal_lm.named_modules()] == modules
    # And the next good one works.
    other = write_adapter("other", seed=3)
    use(model, other, "other")
    clean = untrained_model()
    use(clean, other, "other")
    assert torch.equal(outputs(model, prompts), outputs(clean, prompts))


def test_reading_an_adapter_checks_it_without_a_model(
    untrained_model: Models, write_adapter: WriteAdapter
) -> None:
    folder = write_adapter("a")
    tensors = read_adapter(folder, base_sha256=BASE_SHA256, config=untrained_model().causal_lm.config)
    assert tensors.keys() == load_file(folder / WEIGHTS).keys()


def test_an_unreadable_folder_is_named(untrained_model: Models, tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"nowhere/adapter_config\.json cannot be read"):
        use(untrained_model(), tmp_path / "nowhere")


# --------------------------------------------------------------------------------------- targets


def test_the_ecosystems_default_targets_lose_those_that_shared_layers_lack() -> None:
    assert lora_targets(["q_proj", "k_proj", "v_proj", "o_proj"]) == ["q_proj", "o_proj"]


@pytest.mark.parametrize("wanted", [["q_porj"], ["k_proj"], ["k_proj", "v_proj"], [], ["q_proj", "lm_head"]])
def test_targets_that_cannot_be_trained_are_refused_with_the_valid_ones(wanted: list[str]) -> None:
    with pytest.raises(LoraError, match="KV-shared") as caught:
        lora_targets(wanted)
    assert all(t in caught.value.remedy for t in SHARED_LAYER_TARGETS)


def test_what_the_config_accepts_the_model_can_train() -> None:
    assert set(LORA_TARGETS) == set(SHARED_LAYER_TARGETS)
    for target in LORA_TARGETS_NOT_IN_SHARED_LAYERS:
        assert lora_targets([target, "q_proj"]) == ["q_proj"]


def test_a_copied_adapter_is_the_same_adapter(
    untrained_model: Models, write_adapter: WriteAdapter, prompts: Prompts, tmp_path: Path
) -> None:
    folder = write_adapter("a")
    shutil.copytree(folder, tmp_path / "copy")
    one, other = untrained_model(), untrained_model()
    use(one, folder)
    use(other, tmp_path / "copy")
    assert torch.equal(outputs(one, prompts), outputs(other, prompts))
