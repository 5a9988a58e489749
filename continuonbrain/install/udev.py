"""The text of the udev rules: which group may open the devices that control drives and sees with. Pure (udev(7))."""

from __future__ import annotations

from collections.abc import Collection

RULES_NAME = "70-continuonbrain.rules"
"""After 50-udev-default and 60-*, which say what an input device is; before the 99-* of a person."""

MADE_BY = "# Made by `continuonbrain install`; `continuonbrain uninstall` takes it away."

DEVICE_GROUPS = ("video", "i2c", "gpio", "input", "render", "dialout")
"""Supplementary groups of the service's account, where the machine has them."""

_RULES = (
    ("i2c", "servo and motor driver, battery sensor", 'SUBSYSTEM=="i2c-dev"'),
    ("gpio", "emergency stop", 'SUBSYSTEM=="gpio", KERNEL=="gpiochip*"'),
    (
        "input",
        "gamepads",
        'SUBSYSTEM=="input", KERNEL=="event*", ENV{ID_INPUT_JOYSTICK}=="1"',
    ),
    ("video", "camera", 'SUBSYSTEM=="video4linux"'),
    ("video", "camera", 'SUBSYSTEM=="media"'),
    ("video", "the camera's buffers", 'SUBSYSTEM=="dma_heap"'),
)


def rules(user: str, groups: Collection[str]) -> str:
    """The file's text. groups: those that the machine has; a device whose usual group is missing goes to the group of
    `user`."""
    lines = [MADE_BY]
    for group, what, match in _RULES:
        lines += [f"# {what}", f'{match}, GROUP="{group if group in groups else user}", MODE="0660"']
    return "\n".join(lines) + "\n"
