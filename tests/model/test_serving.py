"""The graphs of the shipped base beside torch. (How they are made: `test_serving_export.py`.)"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.serving import runtime  # noqa: E402
from continuonbrain.model.serving.adapter_inputs import adapter_inputs, no_adapter  # noqa: E402
from continuonbrain.model.serving.known_answer import known_adapter  # noqa: E402
from continuonbrain.model.serving.runtime import Graphs  # noqa: E402
from continuonbrain.model.serving.signatures import Answer, Prefix, Read, See, site_key, take_lora  # noqa: E402
from continuonbrain.model.serving.spec import DrivingSpec  # noqa: E402
from tests.model.shipped_graphs import BASE, FP32, INT8, SHA256, ask, right  # noqa: E402

WriteAdapter = Callable[..., Path]


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
