"""Two ways to the gradient of an adapter on a language model, behind one face.

* `SuffixRoute`: models with KV-shared layers (Gemma 3n, Gemma 4 E2B and E4B). The layers below the cut run once a
  sample and leave its streams on disk; steps run the layers above, at the answer's positions.
* `PlainRoute`: any other causal model of transformers. PEFT trains it as it always does: every step runs every layer
  at every position, forward and back. Slower by an order of magnitude, and the whole model is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from continuonbrain.errors import BrainError
from continuonbrain.model.checkpoint import Checkpoint, CheckpointError
from continuonbrain.model.decoder import Decoder, decoder_of
from continuonbrain.model.head_loss import IGNORED, RowSource, head_loss
from continuonbrain.model.lora import LoraError, add_lora, lora_config
from continuonbrain.model.phases import Precision, check_top, has_two_halves, load_bottom, load_top
from continuonbrain.model.record_cache import identity
from continuonbrain.model.stream_store import StreamStore
from continuonbrain.model.streams import Streams, collate
from continuonbrain.model.suffix import capture, keep, run_suffix
from continuonbrain.trainer.look import Look, unwatched
from continuonbrain.trainer.pausing import blocks_of, looking
from continuonbrain.trainer.seen import Seen, forget_looks
from continuonbrain.trainer.token_samples import LanguageSettings, TokenSample, padded_labels

OnSample = Callable[[int, int], None]
_PASSES = 3
"""Over samples that the cache does not hold."""


class Route(Protocol):
    """What a job needs of a model. `prepare` first, then `open`, then `loss` as often as there are steps."""

    name: str

    def prepare(self, samples: Sequence[TokenSample], on_sample: OnSample) -> int:
        """Whatever is done once a sample; how many needed nothing."""

    def open(self) -> Any:
        """The model with a fresh adapter, wrapped by PEFT."""

    def loss(self, part: Sequence[TokenSample]) -> Tensor:
        """Mean cross-entropy of the answers' tokens, a scalar."""


def route_for(
    folder: Path, settings: LanguageSettings, *, base_sha256: str, cache: Path, look: Look = unwatched
) -> Route:
    """The fastest way that a checkpoint folder allows. look: the gates', at every tensor that is read and at every
    layer that runs, forward and backward. Raises `CheckpointError`."""
    checkpoint = Checkpoint(folder, before_read=look)
    text = checkpoint.raw_config.get("text_config", checkpoint.raw_config)
    if not isinstance(text, dict) or not isinstance(text.get("model_type"), str):
        raise CheckpointError(
            f"{folder}/config.json: no model_type of a language model",
            remedy="use the config.json that came with the weights",
        )
    if has_two_halves(checkpoint):
        return SuffixRoute(checkpoint, settings, base_sha256=base_sha256, cache=cache, look=look)
    return PlainRoute(checkpoint, settings, look)


def check_vocabulary(checkpoint: Checkpoint, samples: Sequence[TokenSample]) -> None:
    """Refuse token ids that the checkpoint has no text for: `BrainError` names the first.

    A multimodal one numbers pictures and sounds behind the text; only a sample with frames may use pictures' ids.
    """
    raw = checkpoint.raw_config
    text = raw.get("text_config", raw)

    def offset(name: str) -> int:
        part = raw.get(name)
        return int(part.get("vocab_offset", words)) if isinstance(part, dict) else words

    words = int(text.get("vocab_size", 1 << 62))
    pictures, sounds = offset("vision_config"), offset("audio_config")
    for sample in samples:
        end = sounds if sample.frames else min(words, pictures)
        if max(sample.ids) >= end or max(sample.ids[-sample.answer :]) >= words:
            raise BrainError(
                f"token id {max(sample.ids)} is none that a sample {'with' if sample.frames else 'without'} frames "
                f"may have: {checkpoint.folder} has {end}",
                remedy="use the tokenizer of this checkpoint, and give pictures as frames",
            )


class SuffixRoute:
    """See the module. base_sha256 names the base in the cache's identity."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: LanguageSettings,
        *,
        base_sha256: str,
        cache: Path,
        look: Look,
    ) -> None:
        self.name = "cached suffix"
        self._checkpoint, self._settings, self._look = checkpoint, settings, look
        self._precision = Precision.of_this_machine(int8=settings.int8)
        kind = identity(
            base_sha256, "tokens", str(self._precision), str(settings.plus_one), str(settings.frame_px)
        )
        self._store = StreamStore(cache, kind, max_bytes=settings.cache_mib << 20)
        self._decoder: Decoder | None = None
        self._head: RowSource | None = None

    def prepare(self, samples: Sequence[TokenSample], on_sample: OnSample) -> int:
        forget_looks(self._store.folder)
        check_vocabulary(self._checkpoint, samples)
        check_top(self._checkpoint, plus_one=self._settings.plus_one)
        missing = [s for s in samples if self._store.get(s.key()) is None]
        recalled = len(samples) - len(missing)
        for _ in range(_PASSES):
            if not missing:
                break
            self._cache(missing, on_sample)
            lost = [sample for sample in samples if sample.key() not in self._store]
            computed = {sample.key() for sample in missing}
            # Room is made by whole files, the oldest first: what was recalled may go before what nobody needs.
            if any(sample.key() in computed for sample in lost):
                break
            missing = lost
        lost = [sample for sample in samples if sample.key() not in self._store]
        if lost:
            raise BrainError(
                f"the training cache holds {self._settings.cache_mib} MiB: too little for {len(samples)} "
                f"samples, {len(lost)} are missing",
                remedy="raise cache_mib, or train on fewer episodes (max_episodes)",
            )
        return recalled

    def _cache(self, missing: Sequence[TokenSample], on_sample: OnSample) -> None:
        # The tower goes before the layers come.
        with Seen(
            self._checkpoint,
            missing,
            self._precision,
            self._settings.frame_px,
            self._store.folder,
            self._look,
        ) as seen:
            on_sample(0, len(missing))
            decoder = load_bottom(self._checkpoint, self._precision, plus_one=self._settings.plus_one)
            for done, sample in enumerate(missing, start=1):
                inputs = seen.inputs(decoder.text, sample)
                with torch.no_grad(), looking(decoder.text.layers, self._look):
                    try:
                        bottom = capture(
                            decoder,
                            lambda inputs=inputs: decoder.text(**inputs, use_cache=False),  # type: ignore[misc]
                        )
                    except (
                        IndexError,
                        TypeError,
                        ValueError,
                    ) as error:  # a number that no check of ours knows
                        raise CheckpointError(
                            f"{self._checkpoint.folder}/config.json describes a model that does not run: {error}",
                            remedy="use the config.json that came with the weights",
                        ) from error
                    self._store.put(sample.key(), keep(decoder, bottom, [sample.positions])[0])
                on_sample(done, len(missing))

    def open(self) -> Any:
        s = self._settings
        model, self._head = load_top(self._checkpoint, self._precision, plus_one=s.plus_one, packed=s.packed)
        config = lora_config(model, s.targets, rank=s.rank, alpha=s.alpha, plus_one=s.plus_one)
        wrapped = add_lora(model, config, plus_one=s.plus_one)
        self._decoder = decoder_of(wrapped, plus_one=s.plus_one)
        return wrapped

    def loss(self, part: Sequence[TokenSample]) -> Tensor:
        assert self._decoder is not None
        assert self._head is not None
        with looking([self._decoder.text.layers[i] for i in self._decoder.layers], self._look):
            hidden = run_suffix(self._decoder, collate([self._streams(s) for s in part]))
        return head_loss(
            hidden,
            padded_labels(part),
            self._head,
            soft_cap=self._decoder.soft_cap,
            before_chunk=self._look,
        )

    def _streams(self, sample: TokenSample) -> Streams:
        found = self._store.get(sample.key())
        if found is None:
            raise BrainError(
                f"the training cache in {self._store.folder} lost a sample",
                remedy="train again: it is computed anew",
            )
        return found


class PlainRoute:
    """See the module."""

    def __init__(self, checkpoint: Checkpoint, settings: LanguageSettings, look: Look) -> None:
        self._look = look
        self._kind = str(checkpoint.raw_config.get("model_type"))
        self.name = f"plain PEFT: {self._kind} has no KV-shared layers, every step runs the whole model"
        if settings.plus_one:
            raise LoraError(
                f"plus_one: a {self._kind} model has no KV-shared layers", remedy="leave plus_one off"
            )
        self._checkpoint, self._folder, self._settings = checkpoint, checkpoint.folder, settings
        self._model: Any = None

    def prepare(self, samples: Sequence[TokenSample], on_sample: OnSample) -> int:
        if any(sample.frames for sample in samples):
            raise CheckpointError(
                f"{self._folder}: frames are learned from by Gemma 3n only",
                remedy="use samples without frames",
            )
        check_vocabulary(self._checkpoint, samples)
        return len(samples)

    def open(self) -> Any:
        from transformers import AutoModelForCausalLM

        s = self._settings
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self._folder,
                local_files_only=True,
                dtype=Precision.of_this_machine().compute,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._folder} cannot be loaded as a causal model: {error}",
                remedy="give a Hugging Face folder of a causal language model",
            ) from error
        model, found = loaded
        if found["missing_keys"]:  # transformers would leave them random
            raise CheckpointError(
                f"{self._folder} lacks the tensor {min(found['missing_keys'])}",
                remedy="copy the checkpoint again, whole",
            )
        model.requires_grad_(False)
        linears = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        for target in s.targets:
            if not any(name == target or name.endswith(f".{target}") for name in linears):
                raise LoraError(
                    f"LoRA target {target!r} is no linear layer of a {self._kind} model",
                    remedy=f"choose from {', '.join(sorted({name.rsplit('.', 1)[-1] for name in linears}))}",
                )
        config = LoraConfig(r=s.rank, lora_alpha=s.alpha, target_modules=list(s.targets))  # type: ignore[arg-type]
        try:
            self._model = get_peft_model(model, config)
        except ValueError as error:
            raise LoraError(
                f"the LoRA targets do not fit a {self._kind} model: {error}",
                remedy="choose names of its linear layers (lora_layers)",
            ) from error
        return self._model

    def loss(self, part: Sequence[TokenSample]) -> Tensor:
        longest = max(len(s.ids) for s in part)
        ids = torch.zeros(len(part), longest, dtype=torch.int64)
        attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, sample in enumerate(part):
            length = len(sample.ids)
            ids[row, :length] = torch.tensor(sample.ids)
            attention[row, :length] = 1
            labels[row, sample.positions] = sample.labels
        with looking(blocks_of(self._model), self._look):
            logits = self._model(input_ids=ids, attention_mask=attention, use_cache=False).logits
        self._look()
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
