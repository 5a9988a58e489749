"""What the policy computed while a person drove, kept for the trainer: no second pass through the frozen layers.

A decision is found again by when its frame was taken (the step's monotonic time) and by the prompt's tokens. Clocks
start anew with every boot, so a small picture of the frame is kept beside the streams and compared: what does not
look like the recorded frame was another moment and is computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from continuonbrain.model.record_cache import RecordCache, RecordCacheError, identity
from continuonbrain.policy.engine import Arrays, Decisions, ShowingEngine
from continuonbrain.policy.prompt import LAYOUT_VERSION

log = logging.getLogger(__name__)

_FRAME = "frame"
_THUMB = 8
"""Every eighth pixel of every eighth row, blocks averaged: 15 x 20."""
_LOOKS_ALIKE = 6.0
"""Mean absolute difference, of 255: above what JPEG does to a frame, below two scenes of different days."""


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    rows, columns = frame.shape[0] // _THUMB, frame.shape[1] // _THUMB
    blocks = frame[: rows * _THUMB, : columns * _THUMB].reshape(rows, _THUMB, columns, _THUMB, 3)
    small: NDArray[np.float32] = blocks.mean((1, 3, 4), dtype=np.float32)
    return small


class ActingCache:
    """Streams of decisions. base_sha256: the base that computes them; max_bytes bounds the folder."""

    def __init__(self, folder: Path, base_sha256: str, *, max_bytes: int) -> None:
        self._records = RecordCache(
            folder, identity(base_sha256, str(LAYOUT_VERSION), "fp32"), max_bytes=max_bytes
        )

    def __len__(self) -> int:
        return len(self._records)

    @staticmethod
    def _key(monotonic_ns: int, ids: NDArray[np.int64]) -> str:
        return f"{monotonic_ns}/{ids.astype('<i8').tobytes().hex()}"

    def put(
        self, monotonic_ns: int, ids: NDArray[np.int64], frame: NDArray[np.uint8], streams: Arrays
    ) -> None:
        """Keep the streams (a batch of one, `Streams.tensors`) of the prompt `ids` `[T]` with a frame `[120, 160, 3]`.

        Raises `RecordCacheError` when the folder cannot be written.
        """
        arrays = {n: np.ascontiguousarray(a) for n, a in streams.items()}
        arrays[_FRAME] = _thumbnail(frame).round().astype(np.uint8)
        self._records.put(self._key(monotonic_ns, ids), to_safetensors(arrays))

    def get(self, monotonic_ns: int, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> Arrays | None:
        """The streams of that moment; None when there are none or the frame was another one."""
        key = self._key(monotonic_ns, ids)
        data = self._records.get(key)
        try:
            arrays = {} if data is None else dict(from_safetensors(data))
        except (SafetensorError, KeyError, ValueError):
            arrays = {}
        seen, small = arrays.pop(_FRAME, None), _thumbnail(frame)
        if seen is None or seen.shape != small.shape:
            return None
        difference = float(np.abs(seen.astype(np.float32) - small).mean())
        return arrays if difference <= _LOOKS_ALIKE else None


Remember = Callable[[NDArray[np.uint8], str, float | None, int], Decisions]
"""frame `[120, 160, 3]`, instruction, speed, monotonic nanoseconds of the frame -> the decision, `B` = 1."""


def remembering(engine: ShowingEngine, cache: ActingCache) -> Remember:
    """Decide with `engine` and keep what it computed. A cache that cannot be written is left alone from then on:
    the robot drives as before, and training takes longer."""
    writable = True

    def decide(
        frame: NDArray[np.uint8], instruction: str, speed: float | None, monotonic_ns: int
    ) -> Decisions:
        nonlocal writable
        decisions, ids, streams = engine.decide_and_show(frame[None], [instruction], [speed])
        if writable:
            try:
                cache.put(monotonic_ns, ids[0], frame, streams)
            except RecordCacheError as error:
                writable = False
                log.warning("%s", error)
        return decisions

    return decide
