"""A checkpoint in two halves trains exactly what the whole model trains, and damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora.config import BdLoraConfig, KasaConfig  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import Gemma3nForCausalLM  # noqa: E402

from benchmarks.e2b_shapes import text_config, write_checkpoint  # noqa: E402
from continuonbrain.model import phases  # noqa: E402
from continuonbrain.model.checkpoint import Checkpoint, CheckpointError  # noqa: E402
from continuonbrain.model.decoder import decoder_of  # noqa: E402
from continuonbrain.model.frozen_linear import FrozenLinear  # noqa: E402
from continuonbrain.model.head_loss import IGNORED, PlainRows, head_loss  # noqa: E402
from continuonbrain.model.lora import LoraError, add_lora, lora_config, peft_files, with_adapter  # noqa: E402
from continuonbrain.model.packed_weight import can_pack  # noqa: E402
from continuonbrain.model.phases import AbsentError, Precision, load_bottom, load_top  # noqa: E402
from continuonbrain.model.streams import Streams, collate  # noqa: E402
from continuonbrain.model.suffix import capture, keep, run_suffix  # noqa: E402

TARGETS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EXACT = Precision(int8=False, compute=torch.float32)
Labels = torch.Tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, "small")
    return folder


def whole_model(folder: Path) -> Gemma3nForCausalLM:
    """The checkpoint read by other code: all tensors at once, into a text model."""
    model = Gemma3nForCausalLM(text_config("small"))
    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        weights |= load_file(shard)
    named = {n.replace("model.language_model.", "model."): t.float() for n, t in weights.items()}
    named["lm_head.weight"] = named["model.embed_tokens.weight"]
    model.load_state_dict(named)
    return model.eval()


def as_text_only(model: Gemma3nForCausalLM, folder: Path) -> Path:
    """The checkpoint of a text model."""
    folder.mkdir()
    weights = {n: p.detach().clone() for n, p in model.state_dict().items() if n != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


def prompts() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
    ids = torch.randint(3, 4000, (3, 80), generator=torch.Generator().manual_seed(3))
    attention = torch.ones_like(ids)
    attention[1, 60:] = 0
    places = [torch.arange(75, 79), torch.arange(50, 59), torch.tensor([20, 78])]
    labels = torch.full((3, 9), IGNORED)
    for row, place in enumerate(places):
        labels[row, : len(place)] = ids[row, place + 1]
    return ids, attention, places, labels


def cached(folder: Path, precision: Precision, *, plus_one: bool = False) -> Streams:
    ids, attention, places, _ = prompts()
    bottom = load_bottom(Checkpoint(folder), precision, plus_one=plus_one)
    with torch.no_grad():
        seen = capture(bottom, lambda: bottom.text(input_ids=ids, attention_mask=attention, use_cache=False))
        return collate(keep(bottom, seen, places, attention))


@pytest.mark.parametrize("plus_one", [False, True])
def test_two_halves_give_the_loss_and_the_gradients_of_the_whole(folder: Path, plus_one: bool) -> None:
    ids, attention, places, labels = prompts()
    reference = whole_model(folder)
    decoder = decoder_of(reference, plus_one=plus_one)
    first = decoder.first
    wrapped = get_peft_model(
        reference,
        LoraConfig(
            r=4,
            target_modules=list(TARGETS),
            layers_to_transform=list(range(first, 15)),
            layers_pattern="layers",
            init_lora_weights=False,
        ),
    )
    answers = torch.full_like(ids, IGNORED)
    for row, place in enumerate(places):
        answers[row, place] = ids[row, place + 1]
    logits = wrapped(input_ids=ids, attention_mask=attention, use_cache=False).logits
    right = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED)
    right.backward()
    expected = {n.split("layers.")[1]: p for n, p in wrapped.named_parameters() if p.requires_grad}

    streams = cached(folder, EXACT, plus_one=plus_one)
    model, head = load_top(Checkpoint(folder), EXACT, plus_one=plus_one)
    config = lora_config(model, TARGETS, rank=4, alpha=8, plus_one=plus_one)
    ours = add_lora(model, config, plus_one=plus_one)
    mine = {n.split("layers.")[1]: p for n, p in ours.named_parameters() if p.requires_grad}
    assert mine.keys() == expected.keys()
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(expected[name])
    cut = decoder_of(ours, plus_one=plus_one)
    loss = head_loss(run_suffix(cut, streams), labels, head, soft_cap=cut.soft_cap)
    loss.backward()
    assert float(loss) == pytest.approx(float(right), rel=1e-5)
    for name, parameter in mine.items():
        wanted = expected[name].grad
        assert parameter.grad is not None
        assert wanted is not None
        assert float((parameter.grad - wanted).norm() / wanted.norm()) < 1e-3, name


def test_each_half_holds_only_its_own_layers(folder: Path) -> None:
    ids = prompts()[0]
    bottom = load_bottom(Checkpoint(folder), EXACT)
    with pytest.raises(AbsentError, match="layer 10"):
        bottom.text(input_ids=ids, use_cache=False)
    model, _ = load_top(Checkpoint(folder), EXACT)
    with pytest.raises(AbsentError, match="embed_tokens"):
        model(input_ids=ids, use_cache=False)
    held = [n for n, p in model.named_parameters() if not p.is_meta]
    assert not any(".layers.9." in n or "embed_tokens" in n for n in held)


def test_int8_is_close_to_the_base_and_the_same_in_both_halves(folder: Path) -> None:
    labels = prompts()[3]
    losses = {}
    for int8 in (False, True):
        precision = Precision(int8, torch.float32)
        streams = cached(folder, precision)
        model, head = load_top(Checkpoint(folder), precision)
        cut = decoder_of(model)
        losses[int8] = float(head_loss(run_suffix(cut, streams), labels, head, soft_cap=cut.soft_cap))
    assert losses[True] == pytest.approx(losses[False], rel=0.02)
    assert losses[True] != losses[False]


def test_packed_copies_change_nothing_but_the_time(folder: Path) -> None:
    precision = Precision(int8=False, compute=torch.bfloat16)
    streams, (_, _, _, labels) = cached(folder, precision), prompts()
    found = []
    for packed in (False, True):
        model, head = load_top(Checkpoint(folder), precision, packed=packed)
        copies = [m.packed is not None for m in model.modules() if isinstance(m, FrozenLinear)]
        assert all(c == (packed and can_pack(torch.bfloat16)) for c in copies)
        wrapped = add_lora(model, lora_config(model, TARGETS, rank=4, alpha=8))
        torch.manual_seed(0)
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        for parameter in trained:
            torch.nn.init.normal_(parameter, std=0.1)
        cut = decoder_of(wrapped)
        head_loss(run_suffix(cut, streams), labels, head, soft_cap=cut.soft_cap).backward()
        found.append(torch.cat([p.grad.flatten().double() for p in trained if p.grad is not None]))
    plain, packed_too = found
    assert float((plain - packed_too).norm() / plain.norm()) < 0.1  # bf16 rounds otherwise in another order


def test_nothing_is_packed_that_could_not_be_used(folder: Path) -> None:
    model, _ = load_top(Checkpoint(folder), EXACT, packed=True)  # bf16 weights, computing in fp32
    assert all(m.packed is None for m in model.modules() if isinstance(m, FrozenLinear))


def test_int8_weights_are_read_in_blocks_and_a_file_that_ends_early_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dict(load_top(Checkpoint(folder), Precision())[0].named_parameters())
    monkeypatch.setattr(phases, "_QUANTISED_AT_ONCE", 1000)
    blocks = dict(load_top(Checkpoint(folder), Precision())[0].named_parameters())
    assert all(torch.equal(blocks[n], p) for n, p in whole.items() if p.device.type != "meta")
    checkpoint = Checkpoint(folder)
    name = f"{checkpoint.prefix}layers.12.mlp.gate_proj.weight"
    shard = checkpoint._shard(name)
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    late = Checkpoint(cut)  # its headers are whole when it is opened
    with (cut / shard.name).open("r+b") as file:
        file.truncate(late._place(name)[3] + 10)
    with pytest.raises(CheckpointError, match="cut short"):
        list(late.row_blocks(name, 8))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("layers.12.input_layernorm.weight", "nan"),
        ("layers.12.altup.correction_coefs.weight", "nan"),
        ("layers.12.mlp.gate_proj.weight", "nan"),
        ("norm.weight", "int8"),
        ("layers.12.mlp.gate_proj.weight", "int8"),
        ("embed_tokens.weight", "nan"),
    ],
)
def test_weights_that_cannot_be_calculated_with_are_named(
    folder: Path, tmp_path: Path, name: str, damage: str, int8: bool
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    checkpoint = Checkpoint(bad)
    stored = f"{checkpoint.prefix}{name}"
    shard = checkpoint._shard(stored)
    tensors = load_file(shard)
    tensors[stored] = tensors[stored].to(torch.int8) if damage == "int8" else tensors[stored].clone()
    if damage == "nan":
        tensors[stored].view(-1)[-1] = torch.nan
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load_top(Checkpoint(bad), Precision(int8))
    assert stored in str(error.value)
    assert error.value.remedy


def test_our_adapter_opens_in_peft_on_the_whole_model(folder: Path, tmp_path: Path) -> None:
    model = whole_model(folder)
    text_only = as_text_only(model, tmp_path / "text")
    top, _ = load_top(Checkpoint(text_only), EXACT)
    ours = add_lora(top, lora_config(top, TARGETS, rank=4, alpha=8))
    ours.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    theirs = PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    saved = {n: p for n, p in ours.named_parameters() if "lora_" in n}
    opened = {n: p for n, p in theirs.named_parameters() if "lora_" in n}
    assert saved.keys() == opened.keys()
    assert all(torch.equal(saved[n], opened[n]) for n in saved)


REFUSED: dict[str, dict[str, object]] = {
    "a layer below the cut": {"target_modules": ["layers.3.self_attn.q_proj"]},
    "every layer": {"target_modules": ["q_proj"]},
    "a final projection": {"target_modules": ["altup_unembed_projections.0"]},
    "what the library reads past its module": {"target_modules": ["layers.12.altup.correction_coefs"]},
    "what is not there": {"target_modules": ["layers.12.self_attn.k_proj"]},
    "a norm beside a projection": {
        "target_modules": ["layers.11.self_attn.q_proj", "layers.11.input_layernorm"]
    },
    "all": {"target_modules": "all-linear"},
    "none": {},
    "whole modules": {"target_modules": ["layers.12.self_attn.q_proj"], "modules_to_save": ["norm"]},
    "biases": {"target_modules": ["layers.12.self_attn.q_proj"], "bias": "all"},
    "a start that changes the base": {
        "target_modules": ["layers.12.self_attn.q_proj"],
        "init_lora_weights": "pissa",
    },
    "singular values of the base": {
        "target_modules": ["layers.12.self_attn.q_proj"],
        "kasa_config": KasaConfig(),
    },
    "not plain: tokens that switch it on": {
        "target_modules": ["layers.12.self_attn.q_proj"],
        "alora_invocation_tokens": [5, 6],
    },
    "a pattern that matches for ever": {"target_modules": r".*(a|a|b|.)*.*(.*)*(.+)+x"},
    "a rank by such a pattern": {
        "target_modules": ["layers.12.self_attn.q_proj"],
        "rank_pattern": {"(.*)*(.*)*x": 4},
    },
    "a broken pattern": {"target_modules": "("},
    "nothing: only for use": {"target_modules": ["layers.12.self_attn.q_proj"], "inference_mode": True},
    "nothing: all dropped": {"target_modules": ["layers.12.self_attn.q_proj"], "lora_dropout": 1.0},
    "a scale: of no number": {"target_modules": ["layers.12.self_attn.q_proj"], "lora_alpha": float("nan")},
    "a scale: of a module": {
        "target_modules": ["layers.12.self_attn.q_proj"],
        "alpha_pattern": {"q_proj": float("inf")},
    },
    "a rank: that fills the memory": {"target_modules": ["layers.12.self_attn.q_proj"], "r": 10**6},
    "a rank: of a module": {"target_modules": ["layers.12.self_attn.q_proj"], "rank_pattern": {"q_proj": 0}},
    "a head: of another task": {"target_modules": ["layers.12.self_attn.q_proj"], "task_type": "SEQ_CLS"},
    "not plain: blocks": {"target_modules": ["layers.12.self_attn.q_proj"], "use_bdlora": BdLoraConfig()},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_cut_does_not_allow_is_refused_with_what_it_does_and_leaves_the_model(
    folder: Path, kind: str
) -> None:
    model = whole_model(folder)
    before = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    modules = [n for n, _ in model.named_modules()]
    with pytest.raises(LoraError) as error:
        add_lora(model, LoraConfig(**REFUSED[kind]))
    assert error.value.remedy
    if "start" not in kind and "singular" not in kind and ":" not in kind:
        assert "q_proj" in error.value.remedy
        assert "layers 10 to 14" in error.value.remedy
    assert [n for n, _ in model.named_modules()] == modules
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])


@pytest.mark.parametrize("more", [{"use_dora": True}, {"task_type": "CAUSAL_LM"}, {"lora_dropout": 0.1}])
def test_adapters_of_every_kind_that_is_trained_open_again(
    folder: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    """Trained on a half, opened on a half, and on the whole by PEFT."""
    model = whole_model(folder)
    text_only = Checkpoint(as_text_only(model, tmp_path / "text"))
    top = load_top(text_only, EXACT)[0]
    config = LoraConfig(r=2, target_modules=r".*layers\.1[0-4]\.self_attn\.q_proj", **more)
    wrapped = add_lora(top, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    out, scratch = tmp_path / "a", tmp_path / "s"
    out.mkdir()
    scratch.mkdir()
    for name, data in peft_files(wrapped, scratch, base_sha256="ba5e" * 16).items():
        (out / name).write_bytes(data)
    half = with_adapter(load_top(text_only, EXACT)[0], out, base_sha256="ba5e" * 16, name="a")
    trained = {n.replace(".default", ""): p for n, p in wrapped.named_parameters() if "lora_" in n}
    opened = {n.replace(".a.", "."): p for n, p in half.named_parameters() if "lora_" in n}
    assert trained.keys() == opened.keys()
    assert all(torch.equal(trained[n], opened[n]) for n in trained)
    whole = PeftModel.from_pretrained(model, str(out))
    assert {n.replace(".default", "") for n, _ in whole.named_parameters() if "lora_" in n} == trained.keys()


def test_dora_is_refused_where_the_weights_are_int8(folder: Path) -> None:
    model, _ = load_top(Checkpoint(folder), Precision())
    with pytest.raises(LoraError, match="int8"):
        add_lora(model, LoraConfig(target_modules=["layers.12.self_attn.q_proj"], use_dora=True))


WRONG: dict[str, dict[str, object]] = {
    "another width": {"hidden_size": 128},
    "another depth of the feed-forward": {"intermediate_size": 512},
    "more heads": {"num_attention_heads": 8},
    "more words": {"vocab_size": 8192},
    "no number": {"hidden_size": "abc"},
    "no layers": {"num_hidden_layers": 0},
    "more shared layers than layers": {"num_kv_shared_layers": 99},
    "an unknown activation": {"hidden_activation": "no such thing"},
    "a window of nothing": {"sliding_window": -4},
    "a norm of no number": {"rms_norm_eps": float("nan")},
    "coded weights": {"quantization_config": {"bits": 4}},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_config_that_does_not_fit_the_weights_is_named(folder: Path, tmp_path: Path, kind: str) -> None:
    for shard in folder.iterdir():
        (tmp_path / shard.name).symlink_to(shard)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= WRONG[kind]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (load_bottom, load_top):
        with pytest.raises(CheckpointError, match="config") as error:
            load(Checkpoint(tmp_path), EXACT)
        assert error.value.remedy


def test_a_cut_shard_a_missing_tensor_and_a_foreign_model_are_named(folder: Path, tmp_path: Path) -> None:
    for shard in folder.iterdir():
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=last.name):
        Checkpoint(tmp_path)
    last.unlink()
    with pytest.raises(CheckpointError, match=f"{last.name} is missing"):
        Checkpoint(tmp_path)
    last.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["hidden_size"] = 128
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="json asks for"):
        load_top(Checkpoint(tmp_path), EXACT)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="llama"):
        load_top(Checkpoint(tmp_path), EXACT)


def test_every_read_of_a_checkpoint_is_told_before(folder: Path) -> None:
    told = 0

    def before() -> None:
        nonlocal told
        told += 1

    checkpoint = Checkpoint(folder, before_read=before)
    (name,) = checkpoint.names(f"{checkpoint.prefix}norm.")
    checkpoint.tensor(name)
    assert told == 1
    table = f"{checkpoint.prefix}embed_tokens.weight"
    blocks = len(list(checkpoint.row_blocks(table, 1000)))
    assert told == 1 + blocks > 2


@pytest.mark.parametrize(
    "listed", [{"\ud800": "model.safetensors"}, {"a": "\ud800"}, {"a": "x\0y"}, {"a": 3}, {"a": ""}]
)
def test_an_index_of_what_are_no_names_is_refused_in_words_that_can_be_printed(
    folder: Path, tmp_path: Path, listed: dict[str, object]
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    (bad / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(CheckpointError, match="no name") as error:
        Checkpoint(bad)
    str(error.value).encode()


def test_the_one_pass_head_is_cross_entropy_with_and_without_a_cap() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 32, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 1000, (3, 4), generator=generator)
    labels[1, 2] = IGNORED
    for cap in (30.0, None):
        ours = torch.randn(3, 4, 32, generator=generator, dtype=torch.float64).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        loss = head_loss(ours, labels, PlainRows(weight), soft_cap=cap, chunk=77)
        logits = theirs @ weight.T
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        right = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
        (3 * loss).backward()
        (3 * right).backward()
        assert float(loss) == pytest.approx(float(right), rel=1e-12)
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
