"""The safety head: a small convolution net beside the policy that sees where the road is, and where the car is going.

It looks at the frame alone and answers a **road grid**: for points on the ground in front of the car, how surely each
is off the road (a logit). Where the car will be in the next second follows from its motion and from the path that it
is about to drive (`lookahead.py`); what the grid says there becomes the probability that it leaves the road within
`HORIZON_S`. The net never sees the policy, its adapter or its words, and was trained on other pictures: it does not
fail for the same reason. It can slow or stop the car and never steers it (`safety/caution.py`).

Inference is numpy, as the reflex head's: the control process has no torch. `model/safety_net.py` is the torch twin that
is trained (`trainer/build_safety.py`), tested to agree.

File (`safety_head.safetensors`): the tensors of `SHAPES` in fp16 or fp32.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from continuonbrain.errors import BrainError
from continuonbrain.policy.convolution import F32, convolve, group_norm, linear, silu

SAFETY_HEAD_FILE = "safety_head.safetensors"
FRAME_SHAPE = (120, 160, 3)
HORIZON_S = 1.0
CHANNELS = (16, 32, 48, 64)
KERNELS = (5, 3, 3, 3)
GROUPS = 8
HIDDEN = 128
GRID_STEP_M = 0.2
GRID_AHEAD_M = tuple(round(GRID_STEP_M * i, 1) for i in range(13))
"""Distances ahead of the car's centre, metres: rows of the grid."""
GRID_LEFT_M = tuple(round(-1.6 + GRID_STEP_M * i, 1) for i in range(17))
"""Distances to the left, metres: columns of the grid."""
POINTS = 10
"""Points of the car's way over the horizon, equally spaced in time; the first a tenth of a second ahead."""
RISK_INPUTS = POINTS + 1
RISK_HIDDEN = 16
SEEN = CHANNELS[-1] * 4 * 5
"""Numbers of the last picture."""


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for i, (outputs, kernel) in enumerate(zip(CHANNELS, KERNELS, strict=True)):
        shapes[f"conv{i}.weight"] = (outputs, inputs, kernel, kernel)
        shapes |= {f"conv{i}.bias": (outputs,), f"norm{i}.weight": (outputs,), f"norm{i}.bias": (outputs,)}
        inputs = outputs
    for name, width, outputs in (
        ("seen", SEEN, HIDDEN),
        ("grid", HIDDEN, len(GRID_AHEAD_M) * len(GRID_LEFT_M)),
        ("risk0", RISK_INPUTS, RISK_HIDDEN),
        ("risk1", RISK_HIDDEN, 1),
    ):
        shapes |= {f"{name}.weight": (outputs, width), f"{name}.bias": (outputs,)}
    return shapes


SHAPES = _shapes()


class SafetyHeadError(BrainError):
    """A safety head's file is missing, damaged or of another make."""


class SafetyHead:
    """A safety head. data: the file's bytes; sha256: of them.

    Raises:
        SafetyHeadError: the bytes are not a safety head.
    """

    def __init__(self, data: bytes, *, source: str = SAFETY_HEAD_FILE) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise SafetyHeadError(
                f"{source} is no safety head: {error}", remedy="restore it: continuonbrain init"
            ) from error
        for name in sorted(SHAPES.keys() | tensors.keys()):
            found = tensors.get(name)
            if found is None or name not in SHAPES or found.shape != SHAPES[name]:
                made = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise SafetyHeadError(
                    f"{source}: tensor {name} is {made}; {list(SHAPES.get(name, ()))} is needed",
                    remedy="restore it: continuonbrain init",
                )
            if found.dtype not in (np.float16, np.float32) or not np.isfinite(found).all():
                raise SafetyHeadError(
                    f"{source}: tensor {name} ({found.dtype}) holds other than finite fp16 or fp32 numbers",
                    remedy="restore it: continuonbrain init",
                )
        self._wide = {name: value.astype(np.float32) for name, value in tensors.items()}
        self._kernels = [
            self._wide[f"conv{i}.weight"].transpose(2, 3, 1, 0).reshape(-1, outputs)
            for i, outputs in enumerate(CHANNELS)
        ]

    @classmethod
    def from_file(cls, path: Path) -> SafetyHead:
        """Read a safety head. Raises `SafetyHeadError`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SafetyHeadError(
                f"{path} cannot be read: {error.strerror}", remedy="restore it: continuonbrain init"
            ) from error
        return cls(data, source=str(path))

    def grids(self, frames: NDArray[np.uint8]) -> F32:
        """Frames uint8 `[B, 120, 160, 3]` -> logits of being off the road `[B, 13, 17]` at the grid's points."""
        wide = self._wide
        x = scaled(frames)
        for i, size in enumerate(KERNELS):
            x = convolve(x, self._kernels[i], size) + wide[f"conv{i}.bias"]
            x = silu(group_norm(x, wide[f"norm{i}.weight"], wide[f"norm{i}.bias"], groups=GROUPS))
        hidden = silu(linear(x.reshape(len(x), -1), wide, "seen"))
        return linear(hidden, wide, "grid").reshape(-1, len(GRID_AHEAD_M), len(GRID_LEFT_M))

    def logits(
        self,
        grids: F32,
        ways: NDArray[np.float32],
        speeds_mps: NDArray[np.float32],
        *,
        mount_yaw_rad: float = 0.0,
    ) -> F32:
        """Logits `[B]` of leaving the road within the horizon. ways `[B, POINTS, 2]`: (ahead, left) of the car in
        metres; mount_yaw_rad: the camera looks so far to the left of straight ahead."""
        along = along_ways(grids, turned_ways(ways, -mount_yaw_rad))
        inputs = np.concatenate([along, speeds_mps[:, None].astype(np.float32)], 1)
        return linear(silu(linear(inputs, self._wide, "risk0")), self._wide, "risk1")[:, 0]


def scaled(frames: NDArray[np.uint8]) -> F32:
    """Half the size, each frame by its own brightness and contrast: a dark room is no reason to see nothing."""
    batch, height, width, channels = frames.shape
    x = frames.reshape(batch, height // 2, 2, width // 2, 2, channels).astype(np.float32).mean((2, 4))
    mean = x.mean((1, 2), keepdims=True)
    spread = x.std((1, 2, 3), keepdims=True)
    out: F32 = (x - mean) / (spread + np.float32(2.0))
    return out


def turned_ways(ways: NDArray[np.float32], by_rad: float) -> NDArray[np.float32]:
    """Ways `[B, POINTS, 2]` turned around the car, to the left for a positive angle."""
    cos, sin = np.float32(math.cos(by_rad)), np.float32(math.sin(by_rad))
    x, y = ways[..., 0], ways[..., 1]
    out: NDArray[np.float32] = np.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return out


def along_ways(grids: F32, ways: NDArray[np.float32]) -> F32:
    """The grids' logits at places of ways, bilinear, `[B, POINTS]`; beyond the grid its edge counts."""
    rows = ((ways[..., 0] - GRID_AHEAD_M[0]) / GRID_STEP_M).clip(0, len(GRID_AHEAD_M) - 1.001)
    columns = ((ways[..., 1] - GRID_LEFT_M[0]) / GRID_STEP_M).clip(0, len(GRID_LEFT_M) - 1.001)
    r, c = rows.astype(np.int64), columns.astype(np.int64)
    dr, dc = (rows - r).astype(np.float32), (columns - c).astype(np.float32)
    b = np.arange(len(grids))[:, None]
    near = grids[b, r, c] * (1 - dc) + grids[b, r, c + 1] * dc
    far = grids[b, r + 1, c] * (1 - dc) + grids[b, r + 1, c + 1] * dc
    out: F32 = (near * (1 - dr) + far * dr).astype(np.float32)
    return out
