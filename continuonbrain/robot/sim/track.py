"""Closed random tracks: a smooth centreline and its picture on the ground, baked once per track.

The centreline is a circle with a few random harmonics, redrawn until no curve is tighter than 1.4 m. The
picture is a square texture of 12 m at 2 cm a texel, one 32-bit RGBX value each so that the camera can gather
a pixel with one index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from continuonbrain.robot.sim.shifts import World

POINTS = 512
"""Points of a centreline, equally spaced along the lap."""
TEXELS = 600
TEXEL_M = 0.02
_MIN_RADIUS_M = 1.4
_EDGE = 24  # texels of margin a polyline may not cross: the camera clamps there

Array = NDArray[np.float64]
Colour = tuple[int, int, int]


def centreline(rng: np.random.Generator) -> tuple[Array, Array, float]:
    """Points `[POINTS, 2]` in metres, unit tangents `[POINTS, 2]`, lap length in metres."""
    while True:
        t = np.linspace(0, 2 * np.pi, 2048, endpoint=False)
        radius = np.full_like(t, 3.4)
        for k in (2, 3, 4, 5):
            amplitude = rng.uniform(-0.42, 0.42) / (1 if k < 4 else 1.8)
            radius += amplitude * np.cos(k * t + rng.uniform(0, 2 * np.pi))
        raw = np.stack([radius * np.cos(t), radius * np.sin(t)], 1)
        if rng.random() < 0.5:
            raw = raw[::-1]
        step = np.hypot(*(np.roll(raw, -1, 0) - raw).T)
        along = np.concatenate([[0.0], step.cumsum()])
        length = float(along[-1])
        at = np.linspace(0, length, POINTS, endpoint=False)
        closed = np.concatenate([raw, raw[:1]])
        points = np.stack([np.interp(at, along, closed[:, 0]), np.interp(at, along, closed[:, 1])], 1)
        tangent = np.roll(points, -2, 0) - np.roll(points, 2, 0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        curvature = np.abs(np.gradient(heading, length / POINTS))[4:-4]
        inside = np.abs(points).max() < TEXELS / 2 * TEXEL_M - 0.7
        if curvature.max() < 1 / _MIN_RADIUS_M and inside:
            return points, tangent, length


def _jitter(rng: np.random.Generator, colour: Sequence[int], by: int) -> Colour:
    r, g, b = (int(c + rng.integers(-by, by + 1)) for c in colour)
    return r, g, b


def _palette(rng: np.random.Generator, look: str) -> tuple[Colour, Colour, Colour, Colour | None, float]:
    """Road, ground, edge line, centre line (or none) and edge width in metres of a look."""
    if look == "asphalt":
        grey = int(rng.integers(60, 131))
        ground: tuple[Colour, ...] = (
            (int(rng.integers(60, 111)), int(rng.integers(100, 151)), int(rng.integers(40, 81))),
            (int(rng.integers(120, 161)), int(rng.integers(100, 131)), int(rng.integers(60, 91))),
            (grey + int(rng.integers(25, 46)),) * 3,
        )
        edge: Colour = ((235, 235, 235), (240, 210, 60))[int(rng.integers(2))]
        centre: Colour | None = ((235, 235, 235), (240, 210, 60), None)[int(rng.integers(3))]
        return (
            _jitter(rng, (grey,) * 3, 6),
            ground[int(rng.integers(3))],
            edge,
            centre,
            float(rng.uniform(0.05, 0.1)),
        )
    if (
        look == "tape"
    ):  # wooden floor, thin blue tape on it, no road surface; stray pale lines are drawn later
        wood = _jitter(rng, (190, 150, 105), 10)
        return wood, wood, (40, 70, 170), None, 0.05
    if look == "colour":  # red-brown road on a pale blue floor, dark edges
        return _jitter(rng, (150, 60, 50), 10), _jitter(rng, (150, 170, 200), 10), (30, 30, 40), None, 0.075
    if look == "invert":  # pale road, black tape
        return _jitter(rng, (215, 215, 215), 10), _jitter(rng, (225, 205, 175), 8), (20, 20, 20), None, 0.075
    if look == "any":
        return _any_palette(rng)
    raise ValueError(f"unknown look {look!r}; known: asphalt, tape, colour, invert, any")


def _any_palette(rng: np.random.Generator) -> tuple[Colour, Colour, Colour, Colour | None, float]:
    """Colours of no place in particular: what must not depend on a look is taught on these. A road may have the
    ground's own colour (lines taped on a floor); its edge is always another one."""

    def colour() -> Colour:
        grey = rng.integers(15, 241) * np.ones(3)
        mixed = grey + rng.uniform(0, 1) * (rng.integers(0, 256, 3) - grey)
        r, g, b = (int(c) for c in mixed.clip(5, 250))
        return r, g, b

    def apart(one: Colour, other: Colour) -> float:
        return float(np.abs(np.subtract(one, other)).mean())

    ground = colour()
    road = ground if rng.random() < 0.3 else colour()
    edge = colour()
    while apart(edge, road) < 50:
        edge = colour()
    centre = None if rng.random() < 0.6 else (edge if rng.random() < 0.5 else colour())
    return road, ground, edge, centre, float(rng.uniform(0.04, 0.1))


def bake(
    rng: np.random.Generator, points: Array, tangent: Array, half_m: float, look: str
) -> NDArray[np.uint32]:
    """The ground as RGBX texels, `[TEXELS * TEXELS]` uint32, row = y."""
    road, ground, edge, centre, edge_m = _palette(rng, look)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    image = Image.new("RGB", (TEXELS, TEXELS), ground)
    draw = ImageDraw.Draw(image)

    def pixels(p: Array) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in p / TEXEL_M + TEXELS / 2]

    left, right, middle = pixels(points + half_m * normal), pixels(points - half_m * normal), pixels(points)
    for i in range(POINTS):
        k = (i + 1) % POINTS
        draw.polygon([left[i], left[k], right[k], right[i]], fill=road)
    if look == "tape" or (look == "any" and rng.random() < 0.3):
        stray: Colour = (225, 225, 215) if look == "tape" else _any_palette(rng)[0]
        for _ in range(14):
            x0, y0, x1, y1 = rng.uniform(0, TEXELS, 4)
            draw.line([(x0, y0), (x1, y1)], fill=stray, width=round(0.05 / TEXEL_M))
    for line in (left, right):
        draw.line([*line, line[0]], fill=edge, width=max(2, round(edge_m / TEXEL_M)))
    if centre is not None:
        for i in range(0, POINTS, 14):
            draw.line([middle[(i + j) % POINTS] for j in range(7)], fill=centre, width=round(0.05 / TEXEL_M))
    # Fine grain and coarse patches, so that a flat colour is never a cue.
    grain = rng.integers(-9, 10, (TEXELS, TEXELS, 1))
    patches = np.kron(rng.integers(-8, 9, (TEXELS // 20, TEXELS // 20, 1)), np.ones((20, 20, 1), np.int64))
    texture = np.zeros((TEXELS, TEXELS, 4), np.uint8)
    texture[..., :3] = (np.asarray(image).astype(np.int64) + grain + patches).clip(0, 255)
    return texture.view(np.uint32).reshape(-1)


class TrackSet:
    """Tracks by seed, stacked so that many cars on many tracks move and look in one numpy call.

    points, tangent, normal: `[tracks, POINTS, 2]`; half_m, length_m: `[tracks]`;
    texture: `[tracks * TEXELS * TEXELS]` uint32.
    """

    def __init__(self, seeds: Sequence[int], world: World) -> None:
        self.seeds = tuple(int(s) for s in seeds)
        self.world = world
        n = len(self.seeds)
        if n == 0:
            raise ValueError("a TrackSet needs at least one seed")
        self.points = np.empty((n, POINTS, 2))
        self.tangent = np.empty((n, POINTS, 2))
        self.half_m = np.empty(n)
        self.length_m = np.empty(n)
        texture = np.empty((n, TEXELS * TEXELS), np.uint32)
        for i, seed in enumerate(self.seeds):
            # The same seed is the same centreline under every look and width: shifts are compared on one road.
            shape, paint = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
            self.points[i], self.tangent[i], self.length_m[i] = centreline(shape)
            self.half_m[i] = shape.uniform(*world.road_half_m)
            texture[i] = bake(paint, self.points[i], self.tangent[i], float(self.half_m[i]), world.look)
        self.normal = np.stack([-self.tangent[..., 1], self.tangent[..., 0]], -1)
        self.texture = texture.reshape(-1)
        self.spacing_m = self.length_m / POINTS

    def __len__(self) -> int:
        return len(self.seeds)
