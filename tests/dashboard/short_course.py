"""`python -m tests.dashboard.short_course continuonbrain.loops.mid ...`: the sidecar as it is, but that candidates are
judged on four tracks for laps and two for each other measure, for a test that must not take minutes: the judging is
whole, its evidence small. Whoever looks for the sidecar among the processes finds its name.
"""

from __future__ import annotations

import functools
import sys

from continuonbrain.loops import learning, mid
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.trainer.course import Course

TRACKS = {
    "tracks": (40_000, 40_001, 40_002, 40_003),
    "follow_tracks": (40_100, 40_101),
    "unshifted_tracks": (40_200, 40_201),
    "slow_tracks": (40_300, 40_301),
    "slow_follow_tracks": (40_400, 40_401),
}

if __name__ == "__main__":
    assert sys.argv.pop(1) == SIDECAR_MODULE
    learning.Course = functools.partial(Course, **TRACKS)  # type: ignore[misc, assignment]
    mid.main()
