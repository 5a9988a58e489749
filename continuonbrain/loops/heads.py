"""The heads that look at the frame of a tick in the control process: the reflex head, and the safety head.

Whatever they raise is counted, and the tick ends with a command that is safe.
"""

from __future__ import annotations

import numpy as np

from continuonbrain.errors import BrainError
from continuonbrain.loops.reflex_keeper import ReflexName, ReflexSource
from continuonbrain.loops.tally import Tally
from continuonbrain.policy.convolution import F32
from continuonbrain.policy.pilot import Pilot
from continuonbrain.robot.protocol import Observation


class Heads:
    """Of one control loop. name: of the reflex head that belongs to the path followed; None where it has none.

    Args:
        pilot: the driver; its watch holds the safety head.
        reflexes: where reflex heads come from; None follows the model's paths alone.
        tally: counts the faults.
    """

    def __init__(self, pilot: Pilot, reflexes: ReflexSource | None, tally: Tally) -> None:
        self.name: ReflexName | None = None
        self._pilot = pilot
        self._reflexes = reflexes
        self._tally = tally

    def carry(self, observation: Observation, now_s: float) -> None:
        """Have the reflex head lay the path from here, where the model's is old."""
        path, name = self._pilot.tracker.path, self.name
        if (
            path is None
            or name is None
            or self._reflexes is None
            or not self._pilot.wants_reflex(now_s=now_s)
        ):
            return
        head = self._reflexes.get(name)
        if head is None:
            return
        intent = np.array([path.chunk.intent], np.float32)
        try:
            self._pilot.carry(head.curvatures(observation.frame[None], intent)[0].tolist(), now_s=now_s)
        except BrainError as error:  # not a path: the model's goes on, until it is too old
            self._tally.fault("reflex", error)

    def road(self, observation: Observation) -> F32 | None:
        """The safety head's grid of this frame, `[13, 17]`; None without a head, and when it fails, which its watch
        counts as the worst."""
        watch = self._pilot.watch
        if watch is None:
            return None
        try:
            grid: F32 = watch.head.grids(observation.frame[None])[0]
            return grid
        except Exception as error:  # whatever it is, this tick must end with a command that is safe
            self._tally.fault("safety head", f"{type(error).__name__}: {error}")
            return None
