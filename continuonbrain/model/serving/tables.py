"""Rows of embedding tables, read from where they lie in a base's safetensors file. No torch, nothing in memory but what
is asked for: a real vocabulary's per-layer table is several gigabytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.base_identity import BaseModelError

F32 = NDArray[np.float32]
_TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "BF16": np.dtype("<u2")}


class Table:
    """One matrix of a safetensors file (format: 8 bytes length, JSON header, data), `[rows, width]`.

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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BaseModelError(
                f"{file}: {tensor} cannot be read: {error!r}", remedy="copy the base again, whole"
            ) from error
        self.width = width
        self._scale = np.float32(scale)

    def rows(self, ids: NDArray[np.int64]) -> F32:
        """Scaled rows of ids `[T]`, `[T, width]`."""
        found = self._rows[ids]
        if self._type == "BF16":  # the upper half of an fp32 number
            found = (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
        scaled: F32 = found.astype(np.float32) * self._scale
        return scaled
