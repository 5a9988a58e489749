"""A gamepad by python-evdev (https://python-evdev.readthedocs.io): apt python3-evdev, it has no wheel."""

from __future__ import annotations

import errno
import select
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from continuonbrain.config import GamepadConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.gamepad import EV_ABS, EV_KEY


@dataclass(frozen=True, slots=True)
class PadCodes:
    """Numbers of axes and buttons."""

    steering: int
    throttle: int
    deadman: int
    stop: int
    mode: int


def _evdev() -> Any:
    try:
        import evdev
    except ModuleNotFoundError as error:
        raise BrainError(
            "the gamepad needs the Python module evdev, which is not installed",
            remedy="sudo apt install python3-evdev and make the venv with --system-site-packages (or build it: pip "
            "install evdev), or set donkey.gamepad.enabled to false",
        ) from error
    return evdev


def codes_of(config: GamepadConfig) -> PadCodes:
    """The numbers of the configured names. Raises BrainError naming the setting that the kernel does not know."""
    known = _evdev().ecodes.ecodes

    def number(key: str) -> int:
        name = getattr(config, key)
        if name not in known:
            raise BrainError(
                f"donkey.gamepad.{key} = {name!r} is no axis or button",
                remedy="names are those of linux/input-event-codes.h; evtest shows what a pad sends",
            )
        return int(known[name])

    return PadCodes(
        number("steering_axis"),
        number("throttle_axis"),
        number("deadman_button"),
        number("stop_button"),
        number("mode_button"),
    )


class EvdevPad:
    """One open device. See `gamepad.Pad`."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def read(self, timeout_s: float) -> Sequence[tuple[int, int, int]]:
        """See `gamepad.Pad.read`."""
        ready, _, _ = select.select([self._device.fd], [], [], timeout_s)
        if not ready:
            return []
        events = [(event.type, event.code, event.value) for event in self._device.read()]
        if not events:
            # Readable, and nothing to read: an end of file. A device that has gone says ENODEV by itself.
            raise OSError(errno.ENODEV, "the gamepad's events have ended")
        return events

    def range_of(self, axis: int) -> tuple[int, int]:
        """See `gamepad.Pad.range_of`."""
        info = self._device.absinfo(axis)
        return info.min, info.max

    def close(self) -> None:
        """Release the device."""
        self._device.close()


def connect(config: GamepadConfig, codes: PadCodes) -> EvdevPad:
    """The first device of this name with these axes and buttons. Raises OSError while there is none."""
    evdev = _evdev()
    axes, buttons = {codes.steering, codes.throttle}, {codes.deadman, codes.stop, codes.mode}
    for path in sorted(evdev.list_devices()):
        device = evdev.InputDevice(path)
        able = device.capabilities(absinfo=False)
        if (
            config.name.lower() in device.name.lower()
            and axes <= set(able.get(EV_ABS, ()))
            and buttons <= set(able.get(EV_KEY, ()))
        ):
            return EvdevPad(device)
        device.close()
    wanted = f"called {config.name!r} " if config.name else ""
    raise OSError(f"no gamepad {wanted}with the configured axes and buttons is connected")
