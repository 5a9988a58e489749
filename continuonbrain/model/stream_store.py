"""Streams of single samples in a cache on disk (`record_cache.py`), as torch tensors of any type."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from continuonbrain.model.record_cache import RecordCache
from continuonbrain.model.streams import Streams


class StreamStore:
    """Streams by key. folder, identity, max_bytes: as of `RecordCache`."""

    def __init__(self, folder: Path, identity: str, *, max_bytes: int) -> None:
        self.folder = folder
        self._records = RecordCache(folder, identity, max_bytes=max_bytes)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def refresh(self) -> None:
        """Look for what another process has put since."""
        self._records.refresh()

    def get(self, key: str) -> Streams | None:
        """The streams of a key; None when they are not there, torn or altered."""
        data = self._records.get(key)
        if data is None:
            return None
        try:
            return Streams.from_tensors(from_safetensors(data))
        except (SafetensorError, KeyError, ValueError):
            self._records.forget(key)
            return None

    def put(self, key: str, streams: Streams) -> None:
        """Keep the streams of one sample (a batch of one). Raises `RecordCacheError`."""
        if key not in self:
            self._records.put(key, to_safetensors({n: t.contiguous() for n, t in streams.tensors().items()}))
