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
import torch
from numpy.typing import NDArray

from continuonbrain.model.stream_store import StreamStore, StreamStoreError, identity
from continuonbrain.model.streams import Streams
from continuonbrain.policy.engine import Decisions
from continuonbrain.policy.prompt import LAYOUT_VERSION
from continuonbrain.policy.torch_engine import TorchEngine

log = logging.getLogger(__name__)

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
        self._store = StreamStore(
            folder, identity(base_sha256, str(LAYOUT_VERSION), "fp32"), max_bytes=max_bytes
        )

    def __len__(self) -> int:
        return len(self._store)

    @staticmethod
    def _key(monotonic_ns: int, ids: NDArray[np.int64]) -> str:
        return f"{monotonic_ns}/{ids.astype('<i8').tobytes().hex()}"

    def put(
        self, monotonic_ns: int, ids: NDArray[np.int64], frame: NDArray[np.uint8], streams: Streams
    ) -> None:
        """Keep the streams (a batch of one) of the prompt `ids` `[T]` with a frame `[120, 160, 3]`.

        Raises `StreamStoreError` when the folder cannot be written.
        """
        seen = torch.from_numpy(_thumbnail(frame)).round().to(torch.uint8)[None]
        self._store.put(self._key(monotonic_ns, ids), streams, extra={"frame": seen})

    def get(self, monotonic_ns: int, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> Streams | None:
        """The streams of that moment; None when there are none or the frame was another one."""
        found = self._store.get_with_extra(self._key(monotonic_ns, ids))
        if found is None:
            return None
        streams, extra = found
        seen = extra.get("frame")
        small = _thumbnail(frame)
        if seen is None or tuple(seen.shape[1:]) != small.shape:
            return None
        difference = float(np.abs(seen[0].numpy().astype(np.float32) - small).mean())
        return streams if difference <= _LOOKS_ALIKE else None


Remember = Callable[[NDArray[np.uint8], str, float | None, int], Decisions]
"""frame `[120, 160, 3]`, instruction, speed, monotonic nanoseconds of the frame -> the decision, `B` = 1."""


def remembering(engine: TorchEngine, cache: ActingCache) -> Remember:
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
            except StreamStoreError as error:
                writable = False
                log.warning("%s", error)
        return decisions

    return decide
