"""Rows of embedding tables, read from where they lie in a base's safetensors file. No torch, nothing in memory but what
is asked for: a real vocabulary's per-layer table is several gigabytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.base_identity import BaseModelError
from continuonbrain.model.serving.spec import ModelSpec

F32 = NDArray[np.float32]
_TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "BF16": np.dtype("<u2")}


class EmbeddingTables:
    """Both tables of a base: the one of the tokens, and the one with a row for every layer and token.

    Raises:
        BaseModelError: see `Table`.
    """

    def __init__(self, base: Path, model: ModelSpec) -> None:
        self._model = model
        self._embed = Table(_shard(base, model.embed_tensor), model.embed_tensor, scale=model.embed_scale)
        self._per_layer = Table(
            _shard(base, model.per_layer_tensor), model.per_layer_tensor, scale=model.per_layer_scale
        )
        for table, width in ((self._embed, model.hidden), (self._per_layer, model.layers * model.per_layer)):
            if table.width != width:
                raise BaseModelError(
                    f"{table.name} is {table.width} wide; its bundle was made for {width}",
                    remedy="export this base again: continuonbrain model export",
                )

    def rows(self, ids: NDArray[np.int64]) -> tuple[F32, F32]:
        """Scaled rows of ids `[T]`: `[1, T, hidden]` and `[1, T, layers, per_layer]`."""
        known = np.where(ids < self._per_layer.length, ids, 0)  # what transformers does with pictures' ids
        per_layer = self._per_layer.rows(known).reshape(
            1, len(ids), self._model.layers, self._model.per_layer
        )
        return self._embed.rows(ids)[None], per_layer


def _shard(base: Path, tensor: str) -> Path:
    """The file that holds a tensor of a Hugging Face folder."""
    index = base / "model.safetensors.index.json"
    if not index.exists():
        return base / "model.safetensors"
    try:
        file = base / str(json.loads(index.read_bytes())["weight_map"][tensor])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"{index}: {tensor} cannot be found: {error!r}", remedy="copy the base again, whole"
        ) from error
    if file.parent != base:
        raise BaseModelError(f"{index} names {file}, outside the folder", remedy="copy the base again, whole")
    return file


class Table:
    """One matrix of a safetensors file (format: 8 bytes length, JSON header, data), `[length, width]`.

    Raises:
        BaseModelError: the file or the tensor is missing, cut short, or not a matrix of floating-point numbers.
    """

    def __init__(self, file: Path, tensor: str, *, scale: float) -> None:
        try:
            with file.open("rb") as raw:
                header = int.from_bytes(raw.read(8), "little")
                entry = json.loads(raw.read(header))[tensor]
            self._type = str(entry["dtype"])
            rows, width = (int(n) for n in entry["shape"])
            begin = 8 + header + int(entry["data_offsets"][0])
            kind = _TYPES[self._type]
            self._rows = np.memmap(file, dtype=kind, mode="r", offset=begin, shape=(rows, width))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise BaseModelError(
                f"{file}: {tensor} cannot be read: {error!r}", remedy="copy the base again, whole"
            ) from error
        self.name, self.length, self.width = f"{file}: {tensor}", rows, width
        self._scale = np.float32(scale)

    def rows(self, ids: NDArray[np.int64]) -> F32:
        """Scaled rows of ids `[T]`, `[T, width]`."""
        found = self._rows[ids]
        if self._type == "BF16":  # the upper half of an fp32 number
            found = (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
        scaled: F32 = found.astype(np.float32) * self._scale
        return scaled
