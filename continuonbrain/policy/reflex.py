"""The reflex head: a small convolution net that carries the car while the language model thinks.

A decision about a frame of a second ago is geometry that was guessed from afar; what lies under the wheels now, a net
of 0.4 million numbers sees in milliseconds. It answers every frame with the path ahead, *under the model's latest
intent* (`intent.py`): what the model makes of the instruction. It knows nothing of words and never chooses a speed;
without a fresh decision of the model the guard stops the car as before.

Inference is numpy: the control process has no torch, and the weights are trained on the robot, where no exporter runs.
The net is trained by `trainer/reflex_job.py` (`model/reflex_net.py` is its torch twin, tested to agree).

File (`reflex.safetensors`): the tensors of `SHAPES` in fp16 or fp32, and `probes` uint8 `[K, 120, 160, 3]`: the frames
on which intents are asked for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from continuonbrain.errors import BrainError
from continuonbrain.policy.codec import CURVATURE_BINS, CURVATURE_KNOTS_M, QUERIES
from continuonbrain.policy.convolution import F32, convolve, group_norm, linear, silu
from continuonbrain.storage.adapter_version import REFLEX_FILE as REFLEX_FILE

FRAME_SHAPE = (120, 160, 3)
PROBES = "probes"
CHANNELS = (24, 48, 64, 96)
_KERNELS = (5, 3, 3, 3)
_LAYERS = (1, 4, 7, 10)
"""Places of the convolutions in the trunk; a group norm follows each."""
_GROUPS = 8
_MOST_PROBES = 16
_GRID = 20
INTENT = QUERIES
HIDDEN = (32, 160, 96)
"""Widths: of the intent, and of the two layers that read picture and intent together."""
_INPUTS = (12, *CHANNELS[:-1])


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, inputs, outputs, kernel in zip(_LAYERS, _INPUTS, CHANNELS, _KERNELS, strict=True):
        shapes[f"trunk.{layer}.weight"] = (outputs, inputs, kernel, kernel)
        shapes |= {f"trunk.{layer}.bias": (outputs,)}
        shapes |= {f"trunk.{layer + 1}.{part}": (outputs,) for part in ("weight", "bias")}
    wide, first, second = HIDDEN
    for name, inputs, outputs in (
        ("intent", INTENT, wide),
        ("first", _GRID * CHANNELS[-1] + wide, first),
        ("second", first, second),
        ("answer", second, len(CURVATURE_KNOTS_M)),
    ):
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return shapes


SHAPES = _shapes()


class ReflexError(BrainError):
    """A reflex head's file is missing, damaged or of another make."""


class Reflex:
    """A reflex head. data: the file's bytes; sha256: of them; probes: see the module.

    Raises:
        ReflexError: the bytes are not a reflex head.
    """

    def __init__(self, data: bytes, *, source: str = REFLEX_FILE) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise ReflexError(
                f"{source} is no reflex head: {error}", remedy="train again, or copy the base again"
            ) from error
        self.probes: NDArray[np.uint8] = _checked_probes(tensors.pop(PROBES, None), source)
        for name in sorted(SHAPES.keys() | tensors.keys()):
            found = tensors.get(name)
            if found is None or name not in SHAPES or found.shape != SHAPES[name]:
                made = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise ReflexError(
                    f"{source}: tensor {name} is {made}; {list(SHAPES.get(name, ()))} is needed",
                    remedy="train again with this version",
                )
            if found.dtype not in (np.float16, np.float32) or not np.isfinite(found).all():
                raise ReflexError(
                    f"{source}: tensor {name} ({found.dtype}) holds other than finite fp16 or fp32 numbers",
                    remedy="train again",
                )
        wide = {name: value.astype(np.float32) for name, value in tensors.items()}
        self._wide = wide
        # Columns as `_convolve` lays them out: row of the window, column of the window, channel.
        self._kernels = [
            wide[f"trunk.{layer}.weight"].transpose(2, 3, 1, 0).reshape(-1, outputs)
            for layer, outputs in zip(_LAYERS, CHANNELS, strict=True)
        ]

    @classmethod
    def from_file(cls, path: Path) -> Reflex:
        """Read a reflex head. Raises `ReflexError`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ReflexError(f"{path} cannot be read: {error.strerror}", remedy="train again") from error
        return cls(data, source=str(path))

    @classmethod
    def of_folder(cls, folder: Path) -> Reflex | None:
        """The reflex head in a base's or an adapter's folder; None when there is none. Raises `ReflexError`."""
        path = folder / REFLEX_FILE
        return cls.from_file(path) if path.exists() else None

    def curvatures(self, frames: NDArray[np.uint8], intents: F32) -> F32:
        """Frames uint8 `[B, 120, 160, 3]` and intents `[B, 10]` -> curvatures `[B, 8]` in 1/m, within the codec's
        bounds, at the action chunk's distances ahead of where each frame was taken."""
        wide = self._wide
        scaled: F32 = (frames.astype(np.float32) / np.float32(255) - np.float32(0.45)) / np.float32(0.25)
        x = _unshuffled(scaled)
        for layer, kernel, size in zip(_LAYERS, self._kernels, _KERNELS, strict=True):
            x = convolve(x, kernel, size) + wide[f"trunk.{layer}.bias"]
            x = silu(
                group_norm(
                    x, wide[f"trunk.{layer + 1}.weight"], wide[f"trunk.{layer + 1}.bias"], groups=_GROUPS
                )
            )
        seen = x.reshape(len(x), -1)
        meant = silu(linear(intents, wide, "intent"))
        hidden = silu(linear(np.concatenate([seen, meant], 1), wide, "first"))
        out = linear(silu(linear(hidden, wide, "second")), wide, "answer")
        bounded: F32 = out.clip(CURVATURE_BINS.low, CURVATURE_BINS.high)
        return bounded


def _checked_probes(probes: NDArray[np.uint8] | None, source: str) -> NDArray[np.uint8]:
    if (
        probes is None
        or probes.dtype != np.uint8
        or probes.shape[1:] != FRAME_SHAPE
        or not 1 <= len(probes) <= _MOST_PROBES
    ):
        raise ReflexError(
            f"{source}: probes are not 1 to {_MOST_PROBES} uint8 frames {list(FRAME_SHAPE)}",
            remedy="train again with this version",
        )
    return probes


def _unshuffled(x: F32) -> F32:
    """`[B, H, W, C]` -> `[B, H/2, W/2, 4 C]`, channels as torch's `PixelUnshuffle(2)` orders them."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, 4 * channels)
