"""The known answer of a bundle, asked again: another one is an error, and so are inputs that reach nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from safetensors.numpy import load_file, save_file

from continuonbrain.model.serving.known_answer import check_known_answer, live_graphs
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.spec import KNOWN_FILE, BundleError
from tests.model.shipped_graphs import BASE, FP32, INT8


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


def _having_read(graphs: Graphs) -> Graphs:
    known = load_file(FP32 / KNOWN_FILE)
    graphs.read(known["ids"], known["frame"])
    return graphs


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
