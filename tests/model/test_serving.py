"""The graphs of the shipped base beside torch, and what they refuse. (How they are made: `test_serving_export.py`.)"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from safetensors.numpy import load_file, save_file  # noqa: E402

from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import BaseModelError, base_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.model.lora import attach_lora, load_adapter  # noqa: E402
from continuonbrain.model.serving import runtime  # noqa: E402
from continuonbrain.model.serving.adapter_inputs import AdapterInputError, adapter_inputs, no_adapter  # noqa: E402
from continuonbrain.model.serving.known_answer import (  # noqa: E402
    check_known_answer,
    known_adapter,
    live_graphs,
)
from continuonbrain.model.serving.runtime import Graphs  # noqa: E402
from continuonbrain.model.serving.signatures import Answer, Prefix, Read, See, site_key, take_lora  # noqa: E402
from continuonbrain.model.serving.spec import KNOWN_FILE, SPEC_FILE, BundleError, DrivingSpec, LoraSpec  # noqa: E402
from continuonbrain.model.serving.tables import Table  # noqa: E402
from continuonbrain.policy.litert_engine import LiteRTEngine  # noqa: E402
from continuonbrain.policy.prompt import PromptLayout  # noqa: E402

BASE = tiny_base_folder()
SHA256 = base_sha256(BASE)
FP32, INT8 = BASE / "serving" / "fp32", BASE / "serving" / "int8"
WriteAdapter = Callable[..., Path]
OtherNumbers = Callable[[Path, Callable[[float], float]], Iterator[tuple[str | int, ...]]]


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return Graphs(FP32, BASE)


@pytest.fixture(scope="module")
def asked() -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    layout = PromptLayout.from_folder(BASE)
    ids = layout.ids(["drive", "keep left slowly", "drive", "stop now"], [0.9, None, 1.4, 0.0])
    return ids, np.random.default_rng(5).integers(0, 256, (4, 120, 160, 3), np.uint8)


def right(ids: NDArray[np.int64], frames: NDArray[np.uint8], adapter: Path | None) -> NDArray[np.float32]:
    """What torch and PEFT say."""
    model = load_base(BASE)
    if adapter is not None:
        load_adapter(model, adapter, base_sha256=SHA256, name="a")
    prompt = DrivingSpec.read(FP32).prompt
    rows = slice(prompt.answer_first, prompt.answer_first + prompt.answers)
    with torch.inference_mode():
        found: NDArray[np.float32] = model(torch.from_numpy(ids), torch.from_numpy(frames))[..., rows].numpy()
    return found


def ask(graphs: Graphs, ids: NDArray[np.int64], frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    out = []
    for row, frame in zip(ids, frames, strict=True):
        graphs.read(row, frame)
        out.append(graphs.answer())
    return np.stack(out)


def test_logits_are_those_of_torch_and_peft_for_every_adapter_in_any_order(
    graphs: Graphs, asked: tuple[NDArray[np.int64], NDArray[np.uint8]], write_adapter: WriteAdapter
) -> None:
    spec = graphs.spec
    folders = [write_adapter(f"a{r}", seed=r, rank=r, base=SHA256) for r in (1, 8, 16)]
    some = write_adapter("some", seed=3, base=SHA256, targets=("q_proj", "linear_right"))
    buffers = {f: graphs.adapter(adapter_inputs(f, spec.lora, base_sha256=SHA256)) for f in (*folders, some)}
    expected = {f: right(*asked, f) for f in (None, *buffers)}
    assert np.abs(expected[some] - expected[None]).max() > 0.1
    for folder in (None, *folders, some, None, *reversed(folders), None):
        graphs.use(None if folder is None else buffers[folder])
        assert np.abs(ask(graphs, *asked) - expected[folder]).max() < 1e-4


def test_no_adapter_is_the_base_to_the_bit_whatever_was_in_use_before(
    graphs: Graphs, asked: tuple[NDArray[np.int64], NDArray[np.uint8]]
) -> None:
    graphs.use(None)
    before = ask(graphs, *asked)
    graphs.use(graphs.adapter(known_adapter(graphs.spec.lora)))
    assert np.abs(ask(graphs, *asked) - before).max() > 0.1
    graphs.use(graphs.adapter(no_adapter(graphs.spec.lora)))
    assert np.array_equal(ask(graphs, *asked), before)
    graphs.use(None)
    assert np.array_equal(ask(graphs, *asked), before)


def test_a_swap_leaves_what_was_read(
    graphs: Graphs, asked: tuple[NDArray[np.int64], NDArray[np.uint8]]
) -> None:
    adapter = graphs.adapter(known_adapter(graphs.spec.lora))
    ids, frames = asked
    graphs.use(adapter)
    expected = ask(graphs, ids[:1], frames[:1])[0]
    graphs.use(None)
    graphs.read(ids[0], frames[0])
    alone = graphs.answer()
    graphs.use(adapter)
    assert np.array_equal(graphs.answer(), expected)
    graphs.use(None)
    assert np.array_equal(graphs.answer(), alone)


def test_an_instruction_is_read_once_for_the_frames_that_follow(
    asked: tuple[NDArray[np.int64], NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(FP32, BASE)
    ran: list[str] = []

    class Counting:
        """The runtime, and which graphs ran."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def run(self, name: str, *buffers: Any) -> None:
            ran.append(name)
            self.inner.run(name, *buffers)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    monkeypatch.setattr(graphs, "_run", Counting(graphs._run))
    monkeypatch.setattr(runtime, "_INSTRUCTIONS", 2)
    ids, frames = asked
    expected = right(ids, frames, None)
    for i in (0, 2, 1, 0, 1, 3, 1, 0):  # 0 and 2: one instruction at two speeds
        graphs.read(ids[i], frames[i])
        assert np.abs(graphs.answer() - expected[i]).max() < 1e-4
    # 3 pushed 0 out, which had not been asked for as lately as 1.
    asked_for = "".join("p" if n == "prefix" else "r" for n in ran if n in ("prefix", "read"))
    assert asked_for == "prrprrrprrpr"


def test_the_int8_graphs_answer_nearly_the_same(asked: tuple[NDArray[np.int64], NDArray[np.uint8]]) -> None:
    graphs = Graphs(INT8, BASE)
    assert (
        graphs.spec.precision,
        (INT8 / DrivingSpec.graph_file).stat().st_size < 0.5 * (FP32 / DrivingSpec.graph_file).stat().st_size,
    ) == (
        "int8",
        True,
    )
    found, expected = ask(graphs, *asked), right(*asked, None)
    assert 1e-4 < np.abs(found - expected).max() < 1.0
    graphs.use(graphs.adapter(known_adapter(graphs.spec.lora)))
    assert np.abs(ask(graphs, *asked) - found).max() > 0.1


def test_the_modules_that_become_graphs_are_the_driving_model_itself(
    asked: tuple[NDArray[np.int64], NDArray[np.uint8]],
) -> None:
    """In torch, before any converter: prefix, read and answer one after the other, LoRA as inputs."""
    spec = DrivingSpec.read(FP32)
    model = load_base(BASE)
    ids, frames = (torch.from_numpy(a[1:2]) for a in asked)
    text = model.causal_lm.model
    sites = take_lora(model.decoder)
    inputs = {n: torch.from_numpy(v) for n, v in known_adapter(spec.lora).items()}
    with torch.inference_mode():
        embeds, per_layer = text.embed_tokens(ids), text.get_per_layer_inputs(ids)
        p, start = spec.prompt.prefix, spec.prompt.image_start
        embeds[:, start : start + spec.prompt.image] = See(model)(frames)["soft"]
        prefix = Prefix(model, spec.prompt)(embeds[:, :p], per_layer[:, :p])
        streams = Read(model, spec.prompt)(embeds[:, p:], per_layer[:, p:], prefix)
        found = Answer(model, spec.prompt, sites)(streams, inputs)["logits"]
        for name, module in sites.items():
            module.factors = inputs[f"{site_key(name)}_a"], inputs[f"{site_key(name)}_b"]
        expected = model(ids, frames)[..., spec.prompt.answer_first :][..., : spec.prompt.answers]
    assert torch.allclose(found, expected, atol=2e-5)
    assert model.decoder.text.layers[0].self_attn.config._attn_implementation == "sdpa"


# ------------------------------------------------------------------------------------ adapters that do not fit


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _tensors(folder: Path, change: Callable[[dict[str, NDArray[np.float32]]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _first(tensors: dict[str, NDArray[np.float32]], part: str) -> str:
    return next(n for n in sorted(tensors) if f"lora_{part}" in n)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: _edit(f, base_model_name_or_path="continuonbrain:" + "0" * 64), "this base is"),
        (lambda f: _edit(f, base_model_name_or_path=None), "base_model_name_or_path is None"),
        (lambda f: _edit(f, peft_type="LOHA"), "peft_type"),
        (lambda f: _edit(f, use_dora=True), "use_dora"),
        (lambda f: _edit(f, bias="all"), "bias"),
        (lambda f: (f / "adapter_config.json").write_text("["), "not JSON"),
        (lambda f: (f / "adapter_config.json").unlink(), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda f: _tensors(f, lambda t: t[_first(t, "A")].fill(np.nan)), "not finite"),
        (
            lambda f: _tensors(f, lambda t: t.update({_first(t, "A"): np.full((4, 7), 1e300)})),
            "not finite in fp32",
        ),
        (lambda f: _tensors(f, lambda t: t.update({_first(t, "A"): np.ones((4, 7), np.int8)})), "holds I8"),
        (lambda f: _tensors(f, lambda t: [v.fill(1e30) for v in t.values()]), "beyond 1000"),
        (lambda f: _tensors(f, lambda t: [v.fill(500) for v in t.values()]), "change a weight"),
        (
            lambda f: _tensors(
                f, lambda t: t.update({n: v[:0] if "lora_A" in n else v[:, :0] for n, v in t.items()})
            ),
            "rank 0",
        ),
        (lambda f: _edit(f, use_qalora=True), "use_qalora"),
        (lambda f: _edit(f, layer_replication=[[0, 4], [2, 8]]), "layer_replication"),
        (lambda f: _edit(f, alora_invocation_tokens=[1]), "alora_invocation_tokens"),
        (lambda f: _edit(f, lora_alpha=1e9), "no scale"),
        (
            lambda f: _tensors(
                f,
                lambda t: t.update(
                    {_first(t, "A").replace("model.layers", "other.layers"): t[_first(t, "A")]}
                ),
            ),
            "same layer",
        ),
        (lambda f: _edit(f, alpha_pattern={"(": 1}), "alpha_pattern"),
        (lambda f: _edit(f, alpha_pattern=["q_proj"]), "alpha_pattern"),
        (lambda f: _edit(f, alpha_pattern={"(a|a|b|.)*.*(.*)*(.+)+x": 1}), "too many choices"),
        (lambda f: _edit(f, alpha_pattern={".?" * 60 + "X": 1}), "too many choices"),
        (lambda f: _edit(f, alpha_pattern={"(.|.)" * 50 + "X": 1}), "too many choices"),
        (lambda f: _edit(f, alpha_pattern={"q_proj": "x"}), "no scale"),
        (lambda f: _tensors(f, lambda t: t.pop(_first(t, "B"))), "has only lora_A"),
        (lambda f: _tensors(f, lambda t: t.clear()), "no LoRA factors"),
        (lambda f: _tensors(f, lambda t: t.update(x=np.zeros(3, np.float32))), "x is no LoRA factor"),
        (
            lambda f: _tensors(f, lambda t: t.update({_first(t, "A"): np.zeros((4, 7), np.float32)})),
            "trained on this base",
        ),
        (
            lambda f: _tensors(
                f,
                lambda t: t.update(
                    {n.replace("layers.4", "layers.1"): t.pop(n) for n in [*t] if "layers.4" in n}
                ),
            ),
            "takes no adapter",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(
    write_adapter: WriteAdapter, spoil: Callable[[Path], object], said: str
) -> None:
    folder = write_adapter("a", base=SHA256)
    spoil(folder)
    with pytest.raises(AdapterInputError) as error:
        adapter_inputs(folder, DrivingSpec.read(FP32).lora, base_sha256=SHA256)
    assert said in f"{error.value.message} {error.value.remedy}"
    assert str(folder) in error.value.message


def test_a_prompt_or_frame_of_another_shape_is_no_prompt(
    graphs: Graphs, asked: tuple[NDArray[np.int64], NDArray[np.uint8]]
) -> None:
    ids, frames = asked
    for prompt, frame in (
        (ids[0][:-1], frames[0]),
        (ids[0], frames[0][:60]),
        (ids[0], frames[0].astype(np.float32)),
    ):
        with pytest.raises(ValueError, match="a prompt"):
            graphs.read(prompt, frame)
    for inputs in ({}, {n: v[:1] for n, v in no_adapter(graphs.spec.lora).items()}):
        with pytest.raises(ValueError, match="names or shapes"):
            graphs.adapter(inputs)


def test_a_rank_above_the_graphs_is_refused_with_both_numbers(write_adapter: WriteAdapter) -> None:
    folder = write_adapter("a", rank=17, base=SHA256)
    with pytest.raises(AdapterInputError, match=r"rank 17; this bundle takes 16"):
        adapter_inputs(folder, DrivingSpec.read(FP32).lora, base_sha256=SHA256)


def test_factors_stored_in_half_precision_are_read(write_adapter: WriteAdapter) -> None:
    import safetensors.torch as stored

    folder = write_adapter("a", base=SHA256)
    lora = DrivingSpec.read(FP32).lora
    wanted = adapter_inputs(folder, lora, base_sha256=SHA256)
    path = folder / "adapter_model.safetensors"
    tensors = stored.load_file(path)
    for kind in (torch.bfloat16, torch.float16):
        stored.save_file({n: t.to(kind) for n, t in tensors.items()}, path)
        found = adapter_inputs(folder, lora, base_sha256=SHA256)
        assert all(np.allclose(found[n], wanted[n], rtol=0.01, atol=1e-6) for n in wanted)
        assert any(found[n].any() for n in found)


@pytest.mark.parametrize("rslora", [False, True])
def test_scales_are_those_of_peft(write_adapter: WriteAdapter, tmp_path: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    model = load_base(BASE)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["layers.5.self_attn.q_proj", "layers.6.self_attn.q_proj", "layers.5.mlp.up_proj"],
        rank_pattern={"layers.6.self_attn.q_proj": 2},
        alpha_pattern={"up_proj": 3, r"layers\.6.*": 5, "^model.layers.5.self_attn.q_proj": 2},
        use_rslora=rslora,
    )
    wrapped = get_peft_model(model.causal_lm, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(str(tmp_path / "a"), save_embedding_layers=False)
    _edit(tmp_path / "a", base_model_name_or_path=f"continuonbrain:{SHA256}")
    inputs = adapter_inputs(tmp_path / "a", DrivingSpec.read(FP32).lora, base_sha256=SHA256)
    for name, module in wrapped.named_modules():
        if hasattr(module, "get_delta_weight"):
            key = site_key(name.split("model.model.")[-1].removeprefix("model."))
            product = (inputs[f"{key}_a"] @ inputs[f"{key}_b"]).T
            assert np.allclose(product, module.get_delta_weight("default").detach().numpy(), atol=1e-5), name


# ------------------------------------------------------------------------------------ bundles that do not hold


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder: Path = shutil.copytree(FP32, tmp_path / "bundle")
    return folder


def _json(folder: Path, **changes: object) -> None:
    path = folder / SPEC_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / SPEC_FILE).unlink(), "bundle.json cannot be read"),
        (lambda f: (f / DrivingSpec.graph_file).unlink(), "serving.tflite cannot be read"),
        (lambda f: (f / SPEC_FILE).write_text("{"), "bundle.json"),
        (lambda f: _json(f, format=2), "format"),
        (lambda f: _json(f, precision="int4"), "precision"),
        (lambda f: _json(f, surprise=1), "surprise"),
        (
            lambda f: (f / DrivingSpec.graph_file).write_bytes(
                (f / DrivingSpec.graph_file).read_bytes()[:-9]
            ),
            "damaged",
        ),
        (lambda f: (f / DrivingSpec.graph_file).write_bytes(b""), "damaged"),
    ],
)
def test_a_damaged_bundle_is_named(bundle: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(bundle)
    with pytest.raises(BundleError, match=said):
        Graphs(bundle, BASE)


def test_a_file_that_is_no_graph_is_refused_although_its_hash_is_right(bundle: Path) -> None:
    import hashlib

    # LiteRT itself crashes on a graph that is cut short; what stands between is the hash.
    for data in (b"", b"no graph" * 99):
        (bundle / DrivingSpec.graph_file).write_bytes(data)
        _json(bundle, graph_sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(BundleError, match="refuses"):
            Graphs(bundle, BASE)


def test_graphs_without_the_lora_inputs_that_are_promised_are_refused(bundle: Path) -> None:
    raw = json.loads((bundle / SPEC_FILE).read_text())
    raw["lora"]["sites"]["layers.3.mlp.up_proj"] = [128, 256]
    (bundle / SPEC_FILE).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="LoRA inputs"):
        Graphs(bundle, BASE)


@pytest.mark.parametrize("module", ["mlp.down_proj", "altup.modality_router", "self_attn.q_proj"])
def test_a_module_whose_inputs_reach_nothing_is_named_in_int8_too(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """Alone it moves int8 logits by less than processors differ: the known answer does not see it."""
    int8 = Graphs(FP32.with_name("int8"), BASE)
    site = next(s for s in int8.spec.lora.sites if s.endswith(module))
    real = Graphs.adapter

    def dead(self: Graphs, inputs: dict[str, NDArray[np.float32]]) -> object:
        key = site.replace(".", "_")
        gone = {n: np.zeros_like(v) if n.startswith(f"{key}_") else v for n, v in inputs.items()}
        return real(self, gone)

    check_known_answer(FP32.with_name("int8"), int8)
    monkeypatch.setattr(Graphs, "adapter", dead)
    with pytest.raises(BundleError, match=rf"inputs of {site} change nothing|{site}|differ by"):
        check_known_answer(FP32.with_name("int8"), int8)


def test_a_row_of_the_rank_that_reaches_nothing_is_named_in_int8_too(monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = Graphs(FP32.with_name("int8"), BASE)
    real = Graphs.adapter

    def half(self: Graphs, inputs: dict[str, NDArray[np.float32]]) -> object:
        cut = {n: v.copy() for n, v in inputs.items()}
        for name, value in cut.items():
            if name.endswith("_a"):
                value[:, 8:] = 0
        return real(self, cut)

    live_graphs(Path("b"), _having_read(int8))
    monkeypatch.setattr(Graphs, "adapter", half)
    with pytest.raises(BundleError, match="row 8 of the adapters' rank"):
        live_graphs(Path("b"), int8)


def test_looking_whether_inputs_are_alive_leaves_the_base_alone_in_use(
    graphs: Graphs, asked: tuple[NDArray[np.int64], NDArray[np.uint8]]
) -> None:
    graphs.use(None)
    graphs.read(asked[0][0], asked[1][0])
    alone = graphs.answer()
    live_graphs(FP32, graphs)
    assert np.array_equal(graphs.answer(), alone)


def test_int8_answers_may_differ_by_a_tenth_and_no_more(tmp_path: Path) -> None:
    bundle = shutil.copytree(INT8, tmp_path / "b")
    graphs = Graphs(INT8, BASE)
    known = load_file(INT8 / KNOWN_FILE)
    save_file({**known, "adapted": known["adapted"] + np.float32(0.05)}, bundle / KNOWN_FILE)
    check_known_answer(bundle, graphs)
    save_file({**known, "adapted": known["adapted"] + np.float32(0.2)}, bundle / KNOWN_FILE)
    with pytest.raises(BundleError, match="an adapter differ"):
        check_known_answer(bundle, graphs)


def test_without_an_alpha_it_is_pefts(write_adapter: WriteAdapter) -> None:
    folder = write_adapter("a", base=SHA256)
    lora = DrivingSpec.read(FP32).lora
    path = folder / "adapter_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "lora_alpha": 8}))
    eight = adapter_inputs(folder, lora, base_sha256=SHA256)
    path.write_text(json.dumps({k: v for k, v in told.items() if k != "lora_alpha"}))
    default = adapter_inputs(folder, lora, base_sha256=SHA256)
    assert all(np.array_equal(eight[name], default[name]) for name in eight)


def _having_read(graphs: Graphs) -> Graphs:
    known = load_file(FP32 / KNOWN_FILE)
    graphs.read(known["ids"], known["frame"])
    return graphs


@pytest.mark.parametrize("change", [lambda n: 2 * n, lambda n: n + 1, lambda n: 2**31])
def test_a_number_in_bundle_json_that_is_not_the_graphs_is_refused(
    bundle: Path, with_other_numbers: OtherNumbers, change: Callable[[float], float]
) -> None:
    """The runtime writes a shorter array into a longer buffer, and ends the process for a longer one."""
    for path in with_other_numbers(bundle / SPEC_FILE, change):
        try:
            LiteRTEngine(BASE, bundle)
        except BrainError:
            continue
        pytest.fail(f"{path} was not looked at")


def test_the_known_answer_is_asked_again_and_another_one_is_an_error(graphs: Graphs, bundle: Path) -> None:
    check_known_answer(bundle, graphs)
    known = load_file(bundle / KNOWN_FILE)
    for change in (
        {"alone": known["alone"] + 0.01},
        {"adapted": known["alone"]},  # LoRA inputs without effect
        {"alone": np.roll(known["alone"], 1, 0)},  # one position further
        {"alone": np.full_like(known["alone"], np.nan)},
        {"ids": known["ids"][:-1]},
    ):
        save_file(known | change, bundle / KNOWN_FILE)
        with pytest.raises(BundleError):
            check_known_answer(bundle, graphs)
    (bundle / KNOWN_FILE).unlink()
    with pytest.raises(BundleError, match="cannot be used"):
        check_known_answer(bundle, graphs)
    check_known_answer(FP32, graphs)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.bfloat16])
def test_rows_of_a_table_are_read_from_the_file(tmp_path: Path, kind: torch.dtype) -> None:
    from safetensors.torch import save_file as save_torch

    table = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).to(kind)
    save_torch({"other": torch.zeros(3), "table": table}, tmp_path / "t.safetensors")
    ids = np.array([3, 49, 0, 3])
    found = Table(tmp_path / "t.safetensors", "table", scale=3.0).rows(ids)
    assert np.array_equal(found, table[ids].float().numpy() * np.float32(3.0))
    with pytest.raises(BaseModelError, match="lacking"):
        Table(tmp_path / "t.safetensors", "lacking", scale=1.0)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:-20])
    with pytest.raises(BaseModelError, match=r"cut\.safetensors"):
        Table(tmp_path / "cut.safetensors", "table", scale=1.0)


def test_nothing_of_it_imports_torch() -> None:
    code = (
        "import sys\n"
        "from continuonbrain.policy.litert_engine import LiteRTEngine\n"
        "from continuonbrain.policy.acting_cache import ActingCache\n"
        "from continuonbrain.model.base_identity import tiny_base_folder as base\n"
        "LiteRTEngine(base(), base() / 'serving' / 'int8')\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_adapter_of_the_spec_has_every_site() -> None:
    lora = LoraSpec(rank=2, sites={"layers.4.mlp.up_proj": (3, 5)})
    inputs = no_adapter(lora)
    assert {n: v.shape for n, v in inputs.items()} == {
        "layers_4_mlp_up_proj_a": (3, 2),
        "layers_4_mlp_up_proj_b": (2, 5),
    }


def test_attach_and_graphs_name_the_same_sites() -> None:
    model = load_base(BASE)
    attach_lora(model, base_sha256=SHA256, rank=1, alpha=1.0, targets=_leaves())
    trained = {
        n.split("layers.", 1)[1].split(".lora_")[0]
        for n, p in model.language_model.named_parameters()
        if p.requires_grad
    }
    assert trained == {s.removeprefix("layers.") for s in DrivingSpec.read(FP32).lora.sites}


def _leaves() -> list[str]:
    return sorted({s.rsplit(".", 1)[-1] for s in DrivingSpec.read(FP32).lora.sites})
