"""The world head: what the road ahead will look like a second after a new path is taken up, and whether it leads off.

It starts from the safety head's road grid of the frame that the path answers and **moves** it: where the car will be
in a second follows from its motion and the tracker's own law (`veto.py`), and so does the ground in front of it, as far
as it was seen. What the net adds is a correction: the road behind the edge of what was seen, and the safety head's own
errors. The probability of leaving the road within `FORESEEN_S` is read along the way: the first second in the grid
that was seen, the second one also in the grid that is foreseen.

It judges a path before it is followed and never lays one (`veto.py`). Inference is numpy; `model/world_net.py` is the
torch twin that is trained (`trainer/build_world.py`), tested to agree.

File (`world_head.safetensors`): the tensors of `SHAPES` in fp16 or fp32.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from continuonbrain.errors import BrainError
from continuonbrain.policy.codec import QUERIES
from continuonbrain.policy.convolution import F32, linear, silu
from continuonbrain.policy.safety_head import (
    GRID_AHEAD_M,
    GRID_LEFT_M,
    HORIZON_S,
    POINTS,
    along_ways,
    turned_ways,
)

WORLD_HEAD_FILE = "world_head.safetensors"
FORESEEN_S = 2.0
FORESEEN_POINTS = round(FORESEEN_S / HORIZON_S) * POINTS
"""Places of the car's way over `FORESEEN_S`, a tenth of a second apart."""
CELLS = len(GRID_AHEAD_M) * len(GRID_LEFT_M)
CONTEXT = 2 + QUERIES + 3
"""Speed, yaw rate, the chunk's numbers, and where the car will be a second on (ahead, left, heading)."""
LOGIT_BOUND = 8.0
"""What the safety head says beyond this is no surer."""
GRID_SCALE = 0.25
FEATURE_HIDDEN = 128
LATER = FORESEEN_POINTS - POINTS
RISK_INPUTS = FORESEEN_POINTS + LATER + CONTEXT
RISK_HIDDEN = 32
_REMEDY = "make it again: continuonbrain model build-world"


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs in (
        ("feature0", 2 * CELLS + CONTEXT, FEATURE_HIDDEN),
        ("feature1", FEATURE_HIDDEN, CELLS),
        ("risk0", RISK_INPUTS, RISK_HIDDEN),
        ("risk1", RISK_HIDDEN, 1),
    ):
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return shapes


SHAPES = _shapes()


class WorldHeadError(BrainError):
    """A world head's file is missing, damaged or of another make."""


class WorldHead:
    """A world head. data: the file's bytes; sha256: of them.

    Raises:
        WorldHeadError: the bytes are not a world head.
    """

    def __init__(self, data: bytes, *, source: str = WORLD_HEAD_FILE) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise WorldHeadError(f"{source} is no world head: {error}", remedy=_REMEDY) from error
        for name in sorted(SHAPES.keys() | tensors.keys()):
            found = tensors.get(name)
            if found is None or name not in SHAPES or found.shape != SHAPES[name]:
                made = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise WorldHeadError(
                    f"{source}: tensor {name} is {made}; {list(SHAPES.get(name, ()))} is needed",
                    remedy=_REMEDY,
                )
            if found.dtype not in (np.float16, np.float32) or not np.isfinite(found).all():
                raise WorldHeadError(
                    f"{source}: tensor {name} ({found.dtype}) holds other than finite fp16 or fp32 numbers",
                    remedy=_REMEDY,
                )
        self._wide = {name: value.astype(np.float32) for name, value in tensors.items()}

    @classmethod
    def from_file(cls, path: Path) -> WorldHead:
        """Read a world head. Raises `WorldHeadError`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorldHeadError(f"{path} cannot be read: {error.strerror}", remedy=_REMEDY) from error
        return cls(data, source=str(path))

    def foresee(
        self,
        grids: F32,
        plans: NDArray[np.float32],
        motions: NDArray[np.float32],
        chunks: NDArray[np.float32],
        *,
        mount_yaw_rad: float = 0.0,
    ) -> tuple[F32, F32]:
        """(grid logits a second on `[B, 13, 17]`, logits `[B]` of leaving the road within `FORESEEN_S`).

        grids `[B, 13, 17]`: the safety head's of the frame; plans `[B, FORESEEN_POINTS, 3]`: (ahead, left, heading) of
        the car; motions `[B, 2]`: speed (m/s), yaw rate (rad/s); chunks `[B, 10]`: curvatures, speeds;
        mount_yaw_rad: the camera looks so far to the left of straight ahead. What is no number comes out as none.
        """
        plans = seen_plans(plans, mount_yaw_rad)
        seen = bounded(grids)
        moved = moved_grids(seen, plans[:, POINTS - 1])
        context = context_of(plans, motions, chunks)
        flat = np.concatenate(
            [GRID_SCALE * moved.reshape(len(moved), -1), GRID_SCALE * seen.reshape(len(seen), -1)], 1
        )
        hidden = silu(linear(np.concatenate([flat, context], 1), self._wide, "feature0"))
        later: F32 = moved + linear(hidden, self._wide, "feature1").reshape(moved.shape)
        inputs = np.concatenate(
            [
                GRID_SCALE * along_ways(seen, plans[..., :2]),
                GRID_SCALE * along_ways(later, later_ways(plans)),
                context,
            ],
            1,
        )
        risk = linear(silu(linear(inputs, self._wide, "risk0")), self._wide, "risk1")[:, 0]
        return later, risk


def bounded(grids: F32) -> F32:
    """Grid logits within `LOGIT_BOUND`; NaN stays."""
    out: F32 = grids.astype(np.float32).clip(-LOGIT_BOUND, LOGIT_BOUND)
    return out


def seen_plans(plans: NDArray[np.float32], mount_yaw_rad: float) -> NDArray[np.float32]:
    """Plans as a camera sees them that looks so far to the left."""
    out: NDArray[np.float32] = np.concatenate(
        [turned_ways(plans[..., :2], -mount_yaw_rad), plans[..., 2:]], -1
    ).astype(np.float32)
    return out


def moved_grids(grids: F32, poses: NDArray[np.float32]) -> F32:
    """Grids as they look from poses `[B, 3]` (ahead, left, heading), if the ground is what was seen; beyond what was
    seen its edge counts."""
    ahead, left = np.meshgrid(
        np.asarray(GRID_AHEAD_M, np.float32), np.asarray(GRID_LEFT_M, np.float32), indexing="ij"
    )
    cos, sin = np.cos(poses[:, 2:]), np.sin(poses[:, 2:])
    x = poses[:, :1] + cos * ahead.ravel() - sin * left.ravel()
    y = poses[:, 1:2] + sin * ahead.ravel() + cos * left.ravel()
    return along_ways(grids, np.stack([x, y], -1).astype(np.float32)).reshape(grids.shape)


def later_ways(plans: NDArray[np.float32]) -> NDArray[np.float32]:
    """The plans' second second as seen from where the car is a second on, `[B, LATER, 2]`."""
    here = plans[:, POINTS - 1 : POINTS]
    d = plans[:, POINTS:, :2] - here[..., :2]
    cos, sin = np.cos(here[..., 2]), np.sin(here[..., 2])
    out: NDArray[np.float32] = np.stack(
        [cos * d[..., 0] + sin * d[..., 1], cos * d[..., 1] - sin * d[..., 0]], -1
    ).astype(np.float32)
    return out


def context_of(
    plans: NDArray[np.float32], motions: NDArray[np.float32], chunks: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the net is told beside grids, `[B, CONTEXT]`."""
    out: NDArray[np.float32] = np.concatenate([motions, chunks, plans[:, POINTS - 1]], 1).astype(np.float32)
    return out
