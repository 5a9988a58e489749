"""A `.litertlm` bundle for flutter_gemma: the base alone, or an adapter merged into its weights. x86-64, `[export]`.

The graphs are litert-torch's own export of transformers' model; what is compared with torch at the end are their logits
over conversations that are longer than the sliding window, token by token, and the answers of the bundle in LiteRT-LM.
"""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.model.checkpoint import Checkpoint
from continuonbrain.model.decoder import decoder_of
from continuonbrain.model.lora import with_adapter
from continuonbrain.model.phases import LanguageModel, load_plain
from continuonbrain.model.serving.convert import MAX_LOGIT_DIFF, REPORT, Precision, Tools, accept
from continuonbrain.model.serving.spec import BundleError, CheckSpec

APP_FILE = "model.litertlm"
MIN_CONTEXT = 1024
"""flutter_gemma asks for at least so many tokens."""
_PREFILL = 128
_RECIPES = {"fp32": "none", "int8": "dynamic_wi8_afp32"}
_LENGTH = 48
_NEARLY = 0.1
_KEPT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class AppBundle:
    """What came of an export."""

    path: Path
    megabytes: float
    check: CheckSpec


def export_app(
    folder: Path,
    out: Path,
    *,
    adapter: Path | None,
    precision: Precision,
    context: int = MIN_CONTEXT,
    on_stage: Callable[[str], None] = lambda _: None,
) -> AppBundle:
    """Convert the checkpoint in `folder` and write the file `out`. adapter: a PEFT folder to merge, None for the base.

    Raises:
        CheckpointError, LoraError: the folder or the adapter cannot be used.
        BundleError: the converter is missing, `out` exists, or the bundle differs from torch; nothing is left there.
    """
    if context < MIN_CONTEXT:
        raise BundleError(
            f"a context of {context} tokens is less than flutter_gemma takes",
            remedy=f"give at least {MIN_CONTEXT}",
        )
    checkpoint = Checkpoint(folder)
    Tools()  # says at once when they are missing
    with tempfile.TemporaryDirectory(prefix="continuonbrain-app-") as name, _as_file(out) as making:
        on_stage("reading the checkpoint")
        model = load_plain(checkpoint)
        if model.config.model_type != "gemma3n_text":
            raise BundleError(
                f"{folder} is a {model.config.model_type} model: only Gemma 3n is exported",
                remedy="use a Gemma 3n folder",
            )
        if adapter is not None:
            on_stage("merging the adapter")
            base = checkpoint_sha256(folder)
            model = _merged(with_adapter(model, adapter, base_sha256=base, name="merged"))
        plain = Path(name) / "plain"
        _write(model, checkpoint, plain)
        model = load_plain(Checkpoint(plain))  # fp32 to the last scale, as the exporter reads it
        on_stage("converting")
        _convert(plain, making, _RECIPES[precision], context)
        on_stage("comparing with torch")
        check = compare(_graph_of(making / APP_FILE, Path(name) / "unpacked"), model)
        accept(check, precision)
        on_stage("asking LiteRT-LM")
        _check_answers(making / APP_FILE, model, plain)
    return AppBundle(out, out.stat().st_size / 1e6, check)


@contextmanager
def _as_file(out: Path) -> Iterator[Path]:
    """A folder to convert in; its bundle becomes `out` when all went well."""
    if out.exists():
        raise BundleError(f"{out} exists already", remedy="remove it, or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        making = Path(name)
        yield making
        (making / APP_FILE).chmod(0o644)
        (making / APP_FILE).rename(out)


def _merged(wrapped: Any) -> LanguageModel:
    """The model with its adapter in its weights, its logits compared before and after."""
    ids = np.random.default_rng(1).integers(3, wrapped.get_base_model().config.vocab_size, _LENGTH).tolist()
    before = _logits(wrapped, ids)
    model: LanguageModel = wrapped.merge_and_unload()
    worst = float(np.abs(_logits(model, ids) - before).max())
    if not worst <= MAX_LOGIT_DIFF["fp32"]:
        raise BundleError(
            f"the adapter does not merge: logits differ by {worst:.2g}; nothing was kept",
            remedy="use an adapter with smaller numbers",
        )
    return model


def _write(model: LanguageModel, checkpoint: Checkpoint, plain: Path) -> None:
    """The text model as a Hugging Face folder in fp32 (a merged adapter would be lost in the rounding of bf16)."""
    from safetensors.torch import save_file

    plain.mkdir()
    decoder = decoder_of(model)
    state = {
        f"model.{name}": value.float().contiguous()
        for name, value in decoder.text.state_dict().items()
        if "inv_freq" not in name and not name.endswith("embed_scale")
    }
    save_file(state, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(decoder.config.to_json_string())
    config |= {"architectures": ["Gemma3nForCausalLM"], "dtype": "float32", "tie_word_embeddings": True}
    (plain / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in _KEPT:
        if (checkpoint.folder / name).exists():
            shutil.copyfile(checkpoint.folder / name, plain / name)


def _graph_of(bundle: Path, folder: Path) -> Path:
    """The graph inside a bundle, taken out of it again: what is compared is what is shipped."""
    import io

    from litert_lm_builder import litertlm_peek

    folder.mkdir()
    litertlm_peek.peek_litertlm_file(str(bundle), dump_files_dir=str(folder), output_stream=io.StringIO())
    graphs = sorted(folder.glob("*.tflite"))
    if len(graphs) != 1:
        raise BundleError(f"the bundle holds {len(graphs)} graphs; nothing was kept", remedy=REPORT)
    return graphs[0]


def _convert(plain: Path, making: Path, recipe: str, context: int) -> None:
    with _schema_of_tensorflow():
        from litert_torch.generative.export_hf import export as exporter
        from litert_torch.generative.export_hf.model_ext.gemma3n import patch

        before = patch.Gemma3nTextMLP._gaussian_topk
        patch.Gemma3nTextMLP._gaussian_topk = _gaussian_topk
        try:
            exporter.export(
                model=str(plain),
                output_dir=str(making),
                prefill_lengths=[_PREFILL],
                cache_length=context,
                quantization_recipe=recipe,
                use_jinja_template=True,
                experimental_lightweight_conversion=True,  # weights stay out of the intermediate graph
                tokenizer_path_override=str(plain / "tokenizer.json"),
            )
        finally:
            patch.Gemma3nTextMLP._gaussian_topk = before


def compare(graph: Path, model: LanguageModel) -> CheckSpec:
    """The graph's `decode` beside torch, token by token over a conversation that is longer than the sliding window (or
    than it can be in reasonable time)."""
    from ai_edge_litert.interpreter import Interpreter

    decoder = decoder_of(model)
    config = decoder.config
    length = min(_LENGTH, int(config.sliding_window) + _LENGTH // 2)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, length).tolist()
    right = _logits(model, ids)
    decode = Interpreter(str(graph)).get_signature_runner("decode")
    details = decode.get_input_details()
    cache = {n: np.zeros(d["shape"], d["dtype"]) for n, d in details.items() if n.startswith("kv_cache")}
    worst, same = 0.0, 0
    for place, token in enumerate(ids):
        mask = np.full(details["mask"]["shape"], -1e9, np.float32)
        mask[..., : place + 1] = 0.0
        given = {
            "tokens": np.array([[token]], np.int32),
            "input_pos": np.array([place], np.int32),
            "mask": mask,
        }
        out = decode(**cache, **given)
        cache = {n: out[n] for n in cache}
        found: NDArray[np.float32] = out["logits"].ravel()
        worst = max(worst, float(np.abs(found - right[place]).max()))
        same += bool(right[place][int(found.argmax())] >= right[place].max() - _NEARLY)
    return CheckSpec(prompts=len(ids), max_logit_diff=min(worst, 1e9), agreement=same / len(ids))


def _check_answers(bundle: Path, model: LanguageModel, plain: Path) -> None:
    """The bundle in LiteRT-LM goes on with a text as torch does, by the likeliest tokens."""
    try:
        import litert_lm
    except ImportError:
        return  # it is in the extra [export], and has no wheel for some machines
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(plain / "tokenizer.json"))
    text = "hello"
    ids = [int(model.config.bos_token_id), *tokenizer.encode(text, add_special_tokens=False).ids]
    right = _greedy(model, ids, 6)
    engine = litert_lm.Engine(str(bundle))
    sampler = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
    session = engine.create_session(apply_prompt_template=False, sampler_config=sampler, max_output_tokens=6)
    session.run_prefill([text])
    found = session.run_decode().texts[0]
    wanted = tokenizer.decode(right)
    # It may end earlier, at a token that ends an answer; and int8 may part from torch after the first words.
    if not found.strip() or not wanted.strip().startswith(found.strip()[:2]):
        raise BundleError(
            f"in LiteRT-LM the bundle goes on with {found!r}, torch with {wanted!r}; nothing was kept",
            remedy=REPORT,
        )


def _greedy(model: LanguageModel, ids: Sequence[int], count: int) -> list[int]:
    out = list(ids)
    for _ in range(count):
        out.append(int(_logits(model, out)[-1].argmax()))
    return out[len(ids) :]


def _logits(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits `[T, vocabulary]` behind every token."""
    decoder = decoder_of(model)
    with torch.inference_mode():
        hidden = decoder.text(torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0]
        logits = F.linear(hidden, decoder.lm_head.weight)
    cap = decoder.soft_cap
    found: NDArray[np.float32] = (logits if cap is None else torch.tanh(logits / cap) * cap).numpy()
    return found


def _gaussian_topk(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Gemma 3n's activation sparsity with its multiplier a number: the exporter's own patch keeps it in a buffer that
    transformers 5 leaves uninitialised, and every logit is then wrong without an error."""
    from statistics import NormalDist

    multiplier = NormalDist().inv_cdf(float(layer.activation_sparsity))
    spread = torch.std(x, dim=-1, keepdim=True, unbiased=False)
    return torch.relu(x - (torch.mean(x, dim=-1, keepdim=True) + spread * multiplier))


@contextmanager
def _schema_of_tensorflow() -> Iterator[None]:
    """litert-torch 0.10 imports a generated schema from tensorflow, which it does not require; LiteRT has the same."""
    from ai_edge_litert import schema_py_generated as schema

    names = ["tensorflow", "tensorflow.lite", "tensorflow.lite.python"]
    missing = [n for n in names if n not in sys.modules]
    for name in missing:
        module = types.ModuleType(name)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
    full = "tensorflow.lite.python.schema_py_generated"
    if full not in sys.modules:
        sys.modules[full] = schema
        sys.modules["tensorflow.lite.python"].schema_py_generated = schema  # type: ignore[attr-defined]
    yield
