"""A pinhole camera over a flat textured ground, for many cars at once, in numpy.

For each pixel the ground point in the car's frame is computed once per camera; a frame is then one rotation,
one gather and the light. Field of view 100 degrees, as a Pi camera with a wide lens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from continuonbrain.robot.protocol import FRAME_SHAPE
from continuonbrain.robot.sim.shifts import World
from continuonbrain.robot.sim.track import TEXEL_M, TEXELS, TrackSet

HEIGHT, WIDTH, _ = FRAME_SHAPE
_FOV_DEG = 100.0
_NOISE = np.random.default_rng(9).normal(0, 4, (64, HEIGHT * WIDTH, 1)).astype(np.float32)
F32 = NDArray[np.float32]


def ground_rays(pitch_deg: float, height_m: float, yaw_deg: float) -> tuple[F32, NDArray[np.bool_]]:
    """Ground points in texels ahead and left of the car, `[2, pixels]`, and which pixels see the ground."""
    focal = WIDTH / 2 / math.tan(math.radians(_FOV_DEG / 2))
    u, v = np.meshgrid(np.arange(WIDTH) - WIDTH / 2 + 0.5, np.arange(HEIGHT) - HEIGHT / 2 + 0.5)
    pitch, yaw = math.radians(pitch_deg), math.radians(yaw_deg)
    forward = math.cos(pitch) - v / focal * math.sin(pitch)
    up = -math.sin(pitch) - v / focal * math.cos(pitch)
    ground = up < -0.012
    scale = np.where(ground, height_m / np.maximum(-up, 1e-6), 0.0) / TEXEL_M
    x, y = scale * forward, -scale * u / focal
    turned = np.stack([math.cos(yaw) * x - math.sin(yaw) * y, math.sin(yaw) * x + math.cos(yaw) * y])
    return turned.astype(np.float32).reshape(2, -1), ground.reshape(-1)


class Cameras:
    """One camera per car, drawn from the world's ranges: mounting, exposure, colour cast, sky.

    bank > 0 draws the mountings from that many precomputed ones (cheap when a fresh fleet is made per batch).
    """

    def __init__(self, world: World, cars: int, rng: np.random.Generator, *, bank: int = 0) -> None:
        kinds = bank or cars
        draws = np.random.default_rng(5) if bank else rng
        mounted = [
            ground_rays(
                draws.uniform(*world.camera_pitch_deg),
                draws.uniform(*world.camera_height_m),
                world.camera_yaw_deg,
            )
            for _ in range(kinds)
        ]
        self._ahead = np.stack([rays[0] for rays, _ in mounted])
        self._left = np.stack([rays[1] for rays, _ in mounted])
        self._ground = np.stack([ground for _, ground in mounted])
        self._bank = bank
        self.world = world
        self.redraw(cars, rng)

    def redraw(self, cars: int, rng: np.random.Generator) -> None:
        """Draw mounting (from the bank), light and sky anew for this many cars."""
        pick = rng.integers(self._bank, size=cars) if self._bank else slice(None)
        self.ahead, self.left, self.ground = self._ahead[pick], self._left[pick], self._ground[pick]
        gain = rng.uniform(*self.world.light, (cars, 1, 1)) * rng.uniform(0.92, 1.08, (cars, 1, 3))
        ramp = (
            1
            + rng.uniform(-0.15, 0.15, (cars, 1, 1))
            * np.tile(np.linspace(-1, 1, WIDTH), HEIGHT)[None, :, None]
        )
        self.light = (gain * ramp).astype(np.float32)
        sky = np.zeros((cars, 4), np.uint8)
        sky[:, :3] = rng.integers(110, 230, (cars, 3))
        self.sky = sky.view(np.uint32)[:, 0]

    def render(
        self,
        tracks: TrackSet,
        track_index: NDArray[np.int64],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        heading: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> NDArray[np.uint8]:
        """Frames `[cars, 120, 160, 3]` uint8 for poses in metres and radians."""
        cars = len(x)
        cos, sin = np.cos(heading)[:, None].astype(np.float32), np.sin(heading)[:, None].astype(np.float32)
        column = cos * self.ahead - sin * self.left
        column += (x[:, None] / TEXEL_M + TEXELS / 2).astype(np.float32)
        row = sin * self.ahead + cos * self.left
        row += (y[:, None] / TEXEL_M + TEXELS / 2).astype(np.float32)
        np.clip(column, 0, TEXELS - 1, out=column)
        np.clip(row, 0, TEXELS - 1, out=row)
        index = row.astype(np.int32)
        index *= TEXELS
        index += column.astype(np.int32)
        if len(tracks) > 1:
            texels = tracks.texture.take(index + track_index[:, None] * (TEXELS * TEXELS))
        else:
            texels = tracks.texture.take(index)
        texels = np.where(self.ground, texels, self.sky[:, None])
        lit = texels.view(np.uint8).reshape(cars, HEIGHT * WIDTH, 4)[..., :3] * self.light
        lit += _NOISE[rng.integers(64, size=cars)]
        np.clip(lit, 0, 255, out=lit)
        return lit.astype(np.uint8).reshape(cars, HEIGHT, WIDTH, 3)
