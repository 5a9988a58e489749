"""What can be different about a simulated robot and its world: the base family, and named shifts away from it.

Ranges are drawn per car (camera, light) or per track (road width, look) from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from continuonbrain.errors import BrainError

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class World:
    """Parameters of robot and world.

    steering_trim_rad is added to the wheel angle; steering_gain and throttle_gain multiply the command
    (a negative steering gain is a servo mounted the other way round). Angles of the camera are degrees below
    the horizon (pitch) and to the left (yaw), its height is in metres. light multiplies the frame.
    disturbance is the size of the push that a bad floor or an unsteady hand puts on the wheels (fraction of
    full steering, Ornstein-Uhlenbeck, present half of the time).
    """

    look: str = "asphalt"
    road_half_m: Range = (0.40, 0.55)
    camera_pitch_deg: Range = (17.0, 23.0)
    camera_height_m: Range = (0.16, 0.20)
    camera_yaw_deg: float = 0.0
    light: Range = (0.75, 1.25)
    steering_trim_rad: float = 0.0
    steering_gain: float = 1.0
    throttle_gain: float = 1.0
    wheelbase_m: float = 0.26
    delay_ticks: int = 1
    wheel_noise_rad: float = 0.01
    odometry_error: float = 0.03
    disturbance: float = 0.0


BASE = World()

SHIFTS: dict[str, World] = {
    "none": BASE,
    "tape": replace(BASE, look="tape"),
    "trim": replace(BASE, steering_trim_rad=0.20),
    "reverse": replace(BASE, steering_gain=-1.0),
    "pitch": replace(BASE, camera_pitch_deg=(36.0, 38.0)),
    "dark": replace(BASE, light=(0.08, 0.12)),
    "gain": replace(BASE, steering_gain=0.5),
    "throttle": replace(BASE, throttle_gain=0.6),
    "wheelbase": replace(BASE, wheelbase_m=0.34),
    "height": replace(BASE, camera_height_m=(0.27, 0.30)),
    "yaw": replace(BASE, camera_yaw_deg=18.0),
    "colour": replace(BASE, look="colour"),
    "invert": replace(BASE, look="invert"),
    "narrow": replace(BASE, road_half_m=(0.24, 0.27)),
}


class UnknownShiftError(BrainError, ValueError):
    """There is no shift of this name."""


def world(name: str) -> World:
    """The world of a named shift; `UnknownShiftError` names the known ones."""
    if name not in SHIFTS:
        raise UnknownShiftError(f"unknown shift {name!r}", remedy=f"choose from {', '.join(SHIFTS)}")
    return SHIFTS[name]
