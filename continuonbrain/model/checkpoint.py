"""Hugging Face checkpoints of KV-shared language models, read one tensor at a time.

A folder with `config.json` and `model.safetensors`, or shards listed in `model.safetensors.index.json`. Two
layouts: the multimodal one (`gemma3n`, `gemma4`: text below `model.language_model.`) and the text one
(`gemma3n_text`, `gemma4_text`: text below `model.`). The output projection is the embedding table unless
`lm_head.weight` stands in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from continuonbrain.errors import BrainError

_LAYOUTS = ("model.language_model.", "language_model.model.", "model.")
_AGAIN = "copy the checkpoint again, whole (safetensors files carry no repair data)"


class CheckpointError(BrainError):
    """A checkpoint folder is missing something, damaged, or of a kind that cannot be used."""


class Checkpoint:
    """One checkpoint folder. Opening reads headers only. before_read: called before every tensor, and every block of a
    large one; loading holds still as long as it does.

    Raises:
        CheckpointError: a file is missing, cut short or damaged, or the layout is unknown; names the file.
    """

    def __init__(self, folder: Path, *, before_read: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self._before_read = before_read
        self.raw_config = self._read_json(folder / "config.json")
        self._shards = self._index()
        self.prefix = self._find_prefix()

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            value = json.loads(path.read_bytes())
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror}",
                remedy="give the folder of a Hugging Face checkpoint",
            ) from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is not JSON: {error}", remedy=_AGAIN) from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{path} holds no JSON object", remedy=_AGAIN)
        return value

    def _index(self) -> dict[str, Path]:
        index = self.folder / "model.safetensors.index.json"
        if not index.exists():
            single = self.folder / "model.safetensors"
            return dict.fromkeys(self._names(single), single)
        listed = self._read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise CheckpointError(f"{index}: weight_map is missing or empty", remedy=_AGAIN)
        for text in (*listed, *listed.values()):
            if not isinstance(text, str) or not _is_name(text):
                raise CheckpointError(f"{index}: weight_map holds {text!a}, which is no name", remedy=_AGAIN)
        shards = {name: self.folder / file for name, file in listed.items()}
        for shard in sorted(set(shards.values())):
            if shard.parent != self.folder:
                raise CheckpointError(f"{index}: weight_map names {shard}, outside the folder", remedy=_AGAIN)
            missing = {n for n, s in shards.items() if s == shard} - set(self._names(shard))
            if missing:
                raise CheckpointError(
                    f"{shard} lacks {min(missing)}, which {index.name} lists", remedy=_AGAIN
                )
        return shards

    def _names(self, shard: Path) -> list[str]:
        with self._open(shard) as file:
            return list(file.keys())

    @contextmanager
    def _open(self, shard: Path) -> Iterator[Any]:
        # Opened anew for every read: the pages of a closed mapping no longer count as this process's memory.
        try:
            with safe_open(shard, framework="pt", device="cpu") as file:
                yield file
        except FileNotFoundError as error:
            raise CheckpointError(f"{shard} is missing", remedy=_AGAIN) from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{shard} is cut short or damaged: {error}", remedy=_AGAIN) from error

    def _find_prefix(self) -> str:
        for prefix in _LAYOUTS:
            if f"{prefix}embed_tokens.weight" in self._shards:
                return prefix
        raise CheckpointError(
            f"{self.folder} holds no language model of a known layout (no ...embed_tokens.weight)",
            remedy="give the folder of a causal or multimodal language model of transformers",
        )

    @property
    def multimodal(self) -> bool:
        """It has images beside text, and its adapters name layers below `model.language_model`."""
        return "text_config" in self.raw_config

    def end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: `generation_config.json` knows them all, `config.json` one."""
        raw = dict(self.raw_config)
        path = self.folder / "generation_config.json"
        if path.exists():
            raw |= self._read_json(path)
        text = raw.get("text_config")
        found = raw.get("eos_token_id", text.get("eos_token_id", 1) if isinstance(text, dict) else 1)
        ids = found if isinstance(found, list) else [found]
        if not ids or not all(isinstance(i, int) and i >= 0 for i in ids):
            raise CheckpointError(
                f"{self.folder}: eos_token_id is {found!r}",
                remedy="use the configs that came with the weights",
            )
        return tuple(ids)

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def names(self, prefix: str) -> list[str]:
        """Names of the tensors below a prefix, sorted."""
        return sorted(n for n in self._shards if n.startswith(prefix))

    def _shard(self, name: str) -> Path:
        if name not in self._shards:
            raise CheckpointError(f"{self.folder} lacks the tensor {name}", remedy=_AGAIN)
        return self._shards[name]

    def tensor(self, name: str) -> Tensor:
        """A tensor, copied into memory."""
        self._before_read()
        with self._open(self._shard(name)) as file:
            found: Tensor = file.get_tensor(name).clone()
        return found

    def numbers(self, name: str) -> Tensor:
        """A tensor of finite floating-point numbers, copied into memory."""
        value = self.tensor(name)
        if value.dtype not in (*_DTYPES.values(), torch.float64) or not bool(torch.isfinite(value).all()):
            raise self.not_finite(name, value.dtype)
        return value

    def not_finite(self, name: str, dtype: torch.dtype | None = None) -> CheckpointError:
        """The error for a tensor that cannot be calculated with."""
        kind = "" if dtype is None or dtype in _DTYPES.values() else f"{dtype} or "
        return CheckpointError(
            f"{self._shard(name)}: {name} holds {kind}numbers that are not finite",
            remedy="use a bf16, fp16 or fp32 checkpoint, copied whole",
        )

    def row_blocks(self, name: str, rows: int) -> Iterator[tuple[int, Tensor]]:
        """A matrix in blocks of `rows`, each with its first row's number. Read, not mapped: the file's pages never
        count as this process's memory. A block is good until the next one."""
        shard, dtype, shape, begin = self._place(name)
        width = shape[1] * dtype.itemsize
        buffer = np.empty(min(rows, shape[0]) * width, np.uint8)
        try:
            with shard.open("rb", buffering=0) as file:
                file.seek(begin)
                for start in range(0, shape[0], rows):
                    self._before_read()
                    block = buffer[: (min(start + rows, shape[0]) - start) * width]
                    if file.readinto(block.data) != len(block):
                        raise CheckpointError(f"{shard} is cut short: {name}", remedy=_AGAIN)
                    yield start, torch.from_numpy(block).view(dtype).view(-1, shape[1])
        except OSError as error:
            raise CheckpointError(f"{shard} cannot be read: {error}", remedy=_AGAIN) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the header."""
        return self._place(name)[2]

    def mapped(self, name: str) -> Tensor:
        """A tensor that stays on disk: the rows that are read come into memory, and may leave it again."""
        shard, dtype, shape, begin = self._place(name)
        end = begin + math.prod(shape) * dtype.itemsize
        if begin % dtype.itemsize:
            raise CheckpointError(
                f"{shard}: {name} begins at byte {begin}, which no {dtype} can be mapped from",
                remedy="write the file anew with safetensors' save_file, which aligns its data",
            )
        # safetensors itself hands out copies of slices only; its data section is a plain array (its format page).
        try:
            whole = torch.from_file(str(shard), shared=False, size=shard.stat().st_size, dtype=torch.uint8)
            return whole[begin:end].view(dtype).view(shape)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{shard}: {name} cannot be mapped: {error}", remedy=_AGAIN) from error

    def _place(self, name: str) -> tuple[Path, torch.dtype, tuple[int, ...], int]:
        """(shard, type, shape, offset of the first byte) of a tensor of floating-point numbers."""
        shard = self._shard(name)
        try:
            with shard.open("rb") as raw:
                header = int.from_bytes(raw.read(8), "little")
                entry = json.loads(raw.read(header))[name]
            kind, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            begin = 8 + header + int(entry["data_offsets"][0])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"{shard} is cut short or damaged: {error!r}", remedy=_AGAIN) from error
        if kind not in _DTYPES:
            raise CheckpointError(f"{shard}: {name} is of type {kind}", remedy="use a bf16, fp16 or fp32 one")
        return shard, _DTYPES[kind], shape, begin


def _is_name(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
