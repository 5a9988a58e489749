"""`python -m tests.short_course continuonbrain.loops.mid ...`: the sidecar as it is, but that candidates are judged on
half as many tracks for laps, and on one for each instruction: for a test that must not take minutes. The judging is
whole, its evidence small. Whoever looks for the sidecar among the processes finds its name.
"""

from __future__ import annotations

import functools
import sys

from continuonbrain.loops import learning, mid
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.trainer.course import Course

TRACKS = {
    "tracks": (40_000, 40_001, 40_002, 40_003),
    "follow_tracks": tuple(range(40_100, 40_100 + len(NAMES))),
    "unshifted_tracks": (40_200, 40_201, 40_202, 40_203),
}

if __name__ == "__main__":
    assert sys.argv.pop(1) == SIDECAR_MODULE
    learning.Course = functools.partial(Course, **TRACKS)  # type: ignore[misc, assignment]
    mid.main()
