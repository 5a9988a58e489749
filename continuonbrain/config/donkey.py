"""A donkeycar-like car: its chips, what they are wired to, and what `continuonbrain calibrate` found."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from continuonbrain.config.groups import Group

PulseUs = Annotated[float, Field(ge=500, le=2500)]
"""A servo pulse, microseconds. Hobby servos and ESCs take about 1000 to 2000; none takes more than 500 to 2500."""

_LEAST_TRAVEL_US = 30.0
"""Three to four counts of the PWM chip at 60 Hz: less than that is no range, but a slip of the pen."""


def _need_order(low_name: str, low: float, rest_name: str, rest: float, high_name: str, high: float) -> None:
    """Raises ValueError unless rest lies between the two ends, in whichever direction the actuator is mounted."""
    inverted = low > high
    bottom, top = (high, low) if inverted else (low, high)
    if not (bottom + _LEAST_TRAVEL_US <= rest <= top - _LEAST_TRAVEL_US):
        raise ValueError(
            f"{rest_name} ({rest:g}) must lie between {low_name} ({low:g}) and {high_name} ({high:g}), at least "
            f"{_LEAST_TRAVEL_US:g} us from both"
        )


class PwmConfig(Group):
    """The PCA9685 on the I2C bus."""

    i2c_bus: Annotated[int, Field(ge=0, le=31)] = 1
    address: Annotated[int, Field(ge=0x40, le=0x7F)] = 0x40
    frequency_hz: Annotated[float, Field(ge=40, le=200)] = 60.0
    oscillator_hz: Annotated[float, Field(ge=20e6, le=30e6)] = 25e6
    """The chip's own oscillator, nominally 25 MHz; a measured value makes pulses exact."""


class SteeringConfig(Group):
    """The steering servo. left_us may be above or below right_us, as the servo is mounted."""

    channel: Annotated[int, Field(ge=0, le=15)] = 1
    left_us: PulseUs = 1870.0
    centre_us: PulseUs = 1525.0
    right_us: PulseUs = 1180.0

    @model_validator(mode="after")
    def _centre_is_between(self) -> SteeringConfig:
        _need_order("left_us", self.left_us, "centre_us", self.centre_us, "right_us", self.right_us)
        return self


class ThrottleConfig(Group):
    """The electronic speed controller (ESC)."""

    channel: Annotated[int, Field(ge=0, le=15)] = 0
    reverse_us: PulseUs = 1200.0
    stopped_us: PulseUs = 1500.0
    forward_us: PulseUs = 1700.0
    arming_s: Annotated[float, Field(ge=0, le=30)] = 3.0
    """The ESC must see stopped_us for this long before it takes anything else, seconds."""
    reverse: Literal["none", "direct", "double-tap"] = "none"
    """none: the car never goes back, and reverse_us is not used. double-tap: the ESC brakes first
    (`robot/donkey/reverse.py`). After a change run `continuonbrain calibrate`: it asks for reverse_us unless none."""
    tap_s: Annotated[float, Field(ge=0.05, le=1)] = 0.15
    """How long brake and neutral are held before a double-tap reverse, seconds."""

    @model_validator(mode="after")
    def _stopped_is_between(self) -> ThrottleConfig:
        if self.reverse == "none":
            if abs(self.forward_us - self.stopped_us) < _LEAST_TRAVEL_US:
                raise ValueError(
                    f"forward_us ({self.forward_us:g}) must be {_LEAST_TRAVEL_US:g} us from stopped_us "
                    f"({self.stopped_us:g}) at least"
                )
            return self
        _need_order(
            "reverse_us", self.reverse_us, "stopped_us", self.stopped_us, "forward_us", self.forward_us
        )
        return self


class CameraConfig(Group):
    """The camera."""

    backend: Literal["picamera2", "v4l2"] = "picamera2"
    index: Annotated[int, Field(ge=0, le=63)] = 0
    """Which camera: of picamera2's list, or the N of /dev/videoN."""
    timeout_s: Annotated[float, Field(gt=0, le=5)] = 0.25
    """A frame older than this is a fault, seconds."""
    frozen_s: Annotated[float, Field(ge=0.1, le=10)] = 0.5
    """Frames that are the same to the last bit for this long are a fault, seconds: a sensor that sees has noise."""


class GamepadConfig(Group):
    """A person's gamepad. Axes and buttons by their names in linux/input-event-codes.h."""

    enabled: bool = True
    name: str = ""
    """Part of the device's name; empty: the first device with these axes and buttons."""
    steering_axis: Annotated[str, Field(pattern=r"^ABS_[A-Z0-9_]+$")] = "ABS_X"
    throttle_axis: Annotated[str, Field(pattern=r"^ABS_[A-Z0-9_]+$")] = "ABS_RY"
    deadman_button: Annotated[str, Field(pattern=r"^BTN_[A-Z0-9_]+$")] = "BTN_TL"
    """Must be held for the car to move."""
    stop_button: Annotated[str, Field(pattern=r"^BTN_[A-Z0-9_]+$")] = "BTN_EAST"
    mode_button: Annotated[str, Field(pattern=r"^BTN_[A-Z0-9_]+$")] = "BTN_START"
    quiet_s: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    """A pad that reported no change at all for this long counts as out of reach, seconds."""

    @model_validator(mode="after")
    def _every_control_is_its_own(self) -> GamepadConfig:
        controls = (
            self.steering_axis,
            self.throttle_axis,
            self.deadman_button,
            self.stop_button,
            self.mode_button,
        )
        if len(set(controls)) != len(controls):
            raise ValueError(f"names one axis or button for two things: {', '.join(controls)}")
        return self


class BatteryGaugeConfig(Group):
    """An INA219 between battery and car; `battery` = "none" at the top says that there is none."""

    address: Annotated[int, Field(ge=0x40, le=0x4F)] = 0x41
    shunt_ohm: Annotated[float, Field(gt=0, le=10)] = 0.1
    internal_ohm: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The battery's own resistance and its leads': what the voltage sags by under load, per ampere."""
    empty_v: Annotated[float, Field(gt=0, le=26)] = 6.54
    full_v: Annotated[float, Field(gt=0, le=26)] = 8.4
    """Open-circuit voltages of an empty and of a full battery; the defaults are two lithium-polymer cells'."""
    stop_below: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """The car stops when the charge stays below this, 0 to 1; 0: never."""
    go_above: Annotated[float, Field(ge=0, le=1)] = 0.15
    """What the charge must come to before a person can drive on after that."""
    low_s: Annotated[float, Field(ge=0, le=120)] = 5.0
    """For how long every reading must be below, seconds: sags are ridden through."""
    silent_s: Annotated[float, Field(ge=3, le=600)] = 10.0
    """The car stops when no charge could be read for this long, seconds. It is read once a second."""

    @model_validator(mode="after")
    def _full_is_above_empty(self) -> BatteryGaugeConfig:
        if self.full_v < self.empty_v * 1.05:
            raise ValueError(
                f"full_v ({self.full_v:g}) must be above empty_v ({self.empty_v:g}) by 5 % at least"
            )
        if self.go_above < self.stop_below:
            raise ValueError(
                f"go_above ({self.go_above:g}) must not be below stop_below ({self.stop_below:g})"
            )
        return self


class StopButtonConfig(Group):
    """An emergency-stop switch between a GPIO pin and ground."""

    pin: Annotated[int, Field(ge=0, le=27)] | None = None
    """BCM number; null: the car has none."""
    wiring: Literal["normally-closed", "normally-open"] = "normally-closed"
    """normally-closed: a broken wire stops the car, too."""


class DonkeyConfig(Group):
    """A donkeycar-like car. Used when robot.kind is "donkey"."""

    calibrated: bool = False
    """A person has found the ranges below with `continuonbrain calibrate`. The car does not drive before."""
    watchdog_s: Annotated[float, Field(ge=0.1, le=2)] = 0.3
    """The throttle goes to stopped_us when the control loop gave no command for this long, seconds."""
    pwm: PwmConfig = PwmConfig()
    steering: SteeringConfig = SteeringConfig()
    throttle: ThrottleConfig = ThrottleConfig()
    camera: CameraConfig = CameraConfig()
    gamepad: GamepadConfig = GamepadConfig()
    gauge: BatteryGaugeConfig = BatteryGaugeConfig()
    stop_button: StopButtonConfig = StopButtonConfig()

    @model_validator(mode="after")
    def _chips_and_channels_are_apart(self) -> DonkeyConfig:
        if self.steering.channel == self.throttle.channel:
            raise ValueError(f"steering.channel and throttle.channel are both {self.throttle.channel}")
        if self.pwm.address == self.gauge.address:
            raise ValueError(f"pwm.address and gauge.address are both {self.pwm.address:#x}")
        return self
