"""How the graphs are made. Only where the converter is: in the export's own environment, which `make test` has not.

pip install -c constraints-export.txt -e '.[train,export]' pytest hypothesis
python -m pytest tests/model/test_serving_export.py          (some minutes)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("litert_torch")
torch = pytest.importorskip("torch")

from transformers import Gemma3nForCausalLM  # noqa: E402

from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.model.base_identity import checkpoint_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.model.lora import add_lora, lora_config, peft_files  # noqa: E402
from continuonbrain.model.serving import export_app, export_language, signatures  # noqa: E402
from continuonbrain.model.serving.spec import BundleError, LanguageSpec  # noqa: E402

TALKING_BASE = Path(__file__).parents[1] / "talking_base" / "base"


def export(out: Path, **options: Any) -> LanguageSpec:
    settings = {"precision": "fp32", "rank": 8, "context": 64} | options
    return export_language.export_language(TALKING_BASE, out, **settings)


def nothing_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def test_the_shipped_graphs_are_made_again_to_the_byte(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from continuonbrain.cli.model import app

    done = CliRunner().invoke(
        app, ["export", str(tiny_base_folder()), str(tmp_path / "b"), "--precision", "fp32"]
    )
    assert done.exit_code == 0, done.output
    shipped = tiny_base_folder() / "serving" / "fp32" / "serving.tflite"
    assert (tmp_path / "b" / "serving.tflite").read_bytes() == shipped.read_bytes()


def test_a_language_bundle_is_compared_and_kept_whole(tmp_path: Path) -> None:
    spec = export(tmp_path / "b")
    assert spec.check.max_logit_diff < 1e-4
    assert (spec.context, spec.lora.rank, spec.end) == (64, 8, (1, 5))
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "language.tflite",
        "bundle.json",
        "known_answer.safetensors",
    }
    with pytest.raises(BundleError, match="exists already"):
        export(tmp_path / "b")


def _without_sparsity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_gaussian_topk", lambda _multiplier, x: x)


def _dead_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Any) -> Any:
        if self.factors is None or self.base.in_features == 96:  # down_proj's inputs lead nowhere
            return self.base(x)
        a, b = self.factors
        return self.base(x) + (x @ a) @ b

    monkeypatch.setattr(signatures.LoraLinear, "forward", forward)


def _another_position(monkeypatch: pytest.MonkeyPatch) -> None:
    real = export_language.Next.run

    def run(self: Any, embeds: Any, per_layer: Any, start: Any, cache: Any) -> Any:
        return real(self, embeds, per_layer, start + 1, cache)

    monkeypatch.setattr(export_language.Next, "run", run)


@pytest.mark.parametrize("break_it", [_without_sparsity, _dead_lora, _another_position])
def test_a_graph_that_is_wrong_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
) -> None:
    # torch, beside which it is compared, must stay right where both would be wrong alike.
    if break_it is _without_sparsity:
        monkeypatch.setattr(export_language, "_torch_logits", _right_logits(export_language._torch_logits))
    break_it(monkeypatch)
    with pytest.raises(BrainError):
        export(tmp_path / "b")
    assert nothing_left(tmp_path)


def _right_logits(real: Callable[..., Any]) -> Callable[..., Any]:
    """torch's logits from a model of its own, which no patch has touched."""
    from continuonbrain.model.checkpoint import Checkpoint
    from continuonbrain.model.decoder import decoder_of
    from continuonbrain.model.phases import load_plain

    untouched = decoder_of(load_plain(Checkpoint(TALKING_BASE), tables=False))
    return lambda _decoder, tables, ids: real(untouched, tables, ids)


def make_adapter(folder: Path) -> Path:
    torch.manual_seed(0)
    model = Gemma3nForCausalLM.from_pretrained(TALKING_BASE, dtype=torch.float32)
    wrapped = add_lora(model, lora_config(model, ["q_proj", "down_proj"], rank=4, alpha=8.0))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3)
    folder.mkdir()
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    for name, data in peft_files(wrapped, scratch, base_sha256=checkpoint_sha256(TALKING_BASE)).items():
        (folder / name).write_bytes(data)
    shutil.rmtree(scratch)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("merged", [False, True])
def test_an_app_bundle_answers_as_torch_does(tmp_path: Path, precision: Any, merged: bool) -> None:
    adapter = make_adapter(tmp_path / "adapter") if merged else None
    made = export_app.export_app(TALKING_BASE, tmp_path / "x.litertlm", adapter=adapter, precision=precision)
    assert made.check.agreement >= {"fp32": 1.0, "int8": 0.9}[precision]
    assert made.check.max_logit_diff < {"fp32": 1e-4, "int8": 2.0}[precision]
    assert {p.name for p in tmp_path.iterdir()} <= {"x.litertlm", "adapter"}


def test_a_merged_bundle_is_another_one(tmp_path: Path) -> None:
    plain, merged = tmp_path / "p.litertlm", tmp_path / "m.litertlm"
    export_app.export_app(TALKING_BASE, plain, adapter=None, precision="fp32")
    export_app.export_app(TALKING_BASE, merged, adapter=make_adapter(tmp_path / "a"), precision="fp32")
    assert plain.read_bytes() != merged.read_bytes()


def test_what_an_app_cannot_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "x.litertlm"
    with pytest.raises(BundleError, match="less than flutter_gemma takes"):
        export_app.export_app(TALKING_BASE, out, adapter=None, precision="fp32", context=512)
    with pytest.raises(BrainError, match="cannot be read"):
        export_app.export_app(TALKING_BASE, out, adapter=tmp_path / "none", precision="fp32")
    monkeypatch.setattr(export_app, "_gaussian_topk", lambda _layer, x: x)
    with pytest.raises(BundleError, match="differ from torch"):
        export_app.export_app(TALKING_BASE, out, adapter=None, precision="fp32")
    assert nothing_left(out.parent)
