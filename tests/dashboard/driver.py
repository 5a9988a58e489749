"""A person who can drive: sees what the page shows, and holds a gamepad.

Eyes and sense of the road are the shipped base's, asked outside of the robot; the hands know that this car pulls to one
side, as a person's do after a minute. What is driven goes through the page, its drive socket and the guard.
"""

from __future__ import annotations

import base64
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from continuonbrain.policy.calibration import THROTTLE_PER_MPS, Calibration
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.engine import Engine

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOOK = """() => {
  const image = document.querySelector('img.live'), tick = continuonbrain.view.tick;
  if (!image?.naturalWidth || !tick) return null;
  const size = {width: image.naturalWidth, height: image.naturalHeight};
  const canvas = Object.assign(document.createElement('canvas'), size);
  canvas.getContext('2d').drawImage(image, 0, 0);
  return [canvas.toDataURL('image/png'), tick.speed_mps ?? 0];
}"""
PAD = "globalThis.pad = {connected: true, mapping: 'standard', axes: [0, 0, 0, 0], buttons: []};"
PAD += "navigator.getGamepads = () => [globalThis.pad]"
_AHEAD_M, _AHEAD_S = 0.5, 0.5


class Driver:
    """One person at one page that holds the wheel. hands: how this car's servo answers."""

    def __init__(self, page: Page, engine: Engine, hands: Calibration) -> None:
        self._page, self._engine, self._hands = page, engine, hands
        page.evaluate(PAD)

    def drive(self, instruction: str, seconds: float) -> int:
        """Drive so long; how often the hands moved. Afterwards they still hold the stick as it was."""
        return self._steer(instruction, seconds, halts=False)

    def halt(self, instruction: str) -> None:
        """Steer on without throttle until the car stands, then let go: one that rolls pulls to its side."""
        self._steer(instruction, 5.0, halts=True)
        self._page.evaluate("pad.axes = [0, 0, 0, 0]")

    def _steer(self, instruction: str, seconds: float, *, halts: bool) -> int:
        until, moves = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            seen: list[Any] | None = self._page.evaluate(LOOK)
            if seen is None:
                continue
            png = base64.b64decode(seen[0].partition(",")[2])
            if halts and seen[1] < 0.05:
                break
            frame = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.uint8)
            decided = self._engine.decide(frame[None], [instruction], [seen[1]])
            steering = self._hands.steering(pursued(decided.curvature[0], seen[1]))
            wanted = float(decided.speed[0, 0])
            throttle = max(0.0, min(1.0, THROTTLE_PER_MPS * wanted + 0.3 * (wanted - seen[1])))
            throttle = 0.0 if halts else throttle
            # A stick's left is negative; away from the driver, too.
            self._page.evaluate(f"pad.axes = [{-steering:.4f}, 0, 0, {-throttle:.4f}]")
            moves += 1
        return moves


def pursued(curvature: Any, speed_mps: float) -> float:
    """The bend (1/m) to a point of a path some way ahead: pure pursuit. curvature: `[8]` at the knots' distances."""
    ahead = _AHEAD_M + _AHEAD_S * speed_mps
    s = np.linspace(0.0, ahead, 41)
    heading = np.cumsum(np.interp(s, CURVATURE_KNOTS_M, curvature)) * (s[1] - s[0])
    x, y = np.cumsum(np.cos(heading)) * (s[1] - s[0]), np.cumsum(np.sin(heading)) * (s[1] - s[0])
    return float(2 * y[-1] / (x[-1] ** 2 + y[-1] ** 2))
