"""What the doctor looks for in the order of an episode's steps: flags, time, duplicates, frame against state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from continuonbrain.rlds.checked import shown
from continuonbrain.rlds.finding import ASIDE, ERROR, WARNING, Finding
from continuonbrain.rlds.step import DROPPED_BEFORE, Step

MAX_SKEW_MS = 5.0
"""Between a frame and the state recorded with it: a car at 2 m/s has moved a centimetre in that time."""
_SHORT = 20  # characters that a count of dropped steps has at most


class StepOrder:
    """Looks at steps as they come and keeps two of them: whether one is the last, the next one or the end tells."""

    def __init__(self) -> None:
        self._held: tuple[int, Path, Step] | None = None
        self._before: tuple[int, Step] | None = None

    def take(self, index: int, file: Path, step: Step) -> Iterator[Finding]:
        """One more whole step; what is wrong with the one before it."""
        yield from self._judged(count=None, cut=False)
        self._held = index, file, step

    def finish(self, count: int, *, cut: bool) -> Iterator[Finding]:
        """What is wrong with the last one. `count` is the episode's length; a `cut` one need not say is_last."""
        yield from self._judged(count=count, cut=cut)
        self._held = None

    def _judged(self, *, count: int | None, cut: bool) -> Iterator[Finding]:
        if self._held is None:
            return
        index, file, step = self._held
        is_end = count is not None and index == count - 1
        if step.is_first != (index == 0):
            yield Finding(str(file), index, "is_first", f"is_first is {step.is_first} here", ERROR, ASIDE)
        if step.is_last != is_end and (step.is_last or not cut):
            yield Finding(str(file), index, "is_last", f"is_last is {step.is_last} here", ERROR, ASIDE)
        if step.is_terminal and not step.is_last:
            yield Finding(str(file), index, "is_terminal", "terminal, but not the last step", WARNING, "")
        if (dropped := step.extra.get(DROPPED_BEFORE)) is not None:
            number = dropped if len(dropped) <= _SHORT else shown(dropped)
            text = f"{number} steps were dropped before this one: the disk could not keep up"
            field = f"step_metadata.{DROPPED_BEFORE}"
            yield Finding(str(file), index, field, text, WARNING, "use a faster disk or card")
        if step.frame_monotonic_ns is not None:
            skew_ms = (step.frame_monotonic_ns - step.monotonic_ns) / 1e6
            if abs(skew_ms) > MAX_SKEW_MS:
                # A warning: both times are true, nothing is lost, and no repair could bring them nearer.
                text = (
                    f"the frame is {abs(skew_ms):.1f} ms {'younger' if skew_ms > 0 else 'older'} than its state; "
                    f"at most {MAX_SKEW_MS:g} ms"
                )
                remedy = "read speed and yaw rate at the exposure"
                yield Finding(str(file), index, "observation.frame.monotonic_ns", text, WARNING, remedy)
        if self._before is not None and index == self._before[0] + 1:
            earlier = self._before[1]
            if step.monotonic_ns < earlier.monotonic_ns:
                text = f"time runs backwards, from {earlier.monotonic_ns} to {step.monotonic_ns} ns"
                yield Finding(str(file), index, "step_metadata.monotonic_ns", text, ERROR, ASIDE)
            elif (
                step.monotonic_ns == earlier.monotonic_ns and step.monotonic_ns and step.tick == earlier.tick
            ):
                text = f"the same tick {step.tick} and time as the step before"
                yield Finding(str(file), index, "step_metadata.fast_loop_tick", text, WARNING, "")
        self._before = index, step
