"""One car's driver: odometry, path tracker and guard in the order in which every tick needs them.

The same object drives in the fast loop, in rollouts and in the demo: what a verdict measures is what drives.
"Stop" works without the model: an instruction that says so brakes along the path that is still known. So does the
safety head: it slows the car down or stops it, and the path stays the policy's. The world head, where there is one,
refuses paths before they are followed: the earlier one goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.convolution import F32
from continuonbrain.policy.lookahead import way_along_path, way_of_command
from continuonbrain.policy.response import Response, slow_response
from continuonbrain.policy.tracker import Odometry, PathTracker, asked_speed
from continuonbrain.policy.veto import Foreseen, Veto
from continuonbrain.policy.watch import Risk, Watch
from continuonbrain.safety.caution import FREE, Counsel
from continuonbrain.safety.guards import Guard, Guarded, Limits
from continuonbrain.safety.reasons import Reason

_STOP_WORDS = frozenset({"stop", "halt", "freeze", "whoa", "stand"})
_STANDING_MPS = 0.05
_LONGEST_BRAKING_S = 2.0
"""A car at full speed stands within one; who measures that it still drives has a sensor that hangs, and may be driving
backwards by now."""
_REFLEX_AFTER_S = 0.25
"""A path of the model that was seen longer ago than this is carried on by the reflex head."""
_REFLEX_EVERY_S = 0.09
"""Ten times a second, as often as the model itself decides where it is quick."""


def means_stop(instruction: str) -> bool:
    """True when an instruction asks for a stop in so many words; wins over anything else that it says."""
    words = "".join(c if c.isalpha() else " " for c in instruction.lower()).split()
    return not _STOP_WORDS.isdisjoint(words)


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick decided: what the tracker proposed (None: nothing to follow) and what may be sent. chunk: the
    model's latest decision; reflex: the path followed was laid by the reflex head under it; risk: what the
    safety head makes of the way ahead, None without a head; foreseen: what the world head makes of the latest chunk
    that it was shown."""

    proposed: tuple[float, float] | None
    guarded: Guarded
    chunk: ActionChunk | None
    reflex: bool = False
    risk: Risk | None = None
    foreseen: Foreseen | None = None


class Pilot:
    """Call `tick` at the control rate, `accept` whenever a decision arrives, `instruct` when told something.

    watch: the safety head over this car; None drives without one. veto: the world head over it, which reads the
    safety head's grids. Raises `BrainError` for a veto without a watch.
    """

    def __init__(
        self,
        *,
        calibration: Calibration,
        limits: Limits,
        stop_without_model: bool = True,
        watch: Watch | None = None,
        veto: Veto | None = None,
    ) -> None:
        if veto is not None and watch is None:
            raise BrainError(
                "a world head reads the safety head's grids, and there is no safety head",
                remedy="set heads.safety.enabled to true, or heads.world.enabled to false",
            )
        self.odometry = Odometry(calibration)
        self.tracker = PathTracker(calibration)
        self.guard = Guard(limits)
        self.watch = watch
        self.veto = veto
        self.vetoed: ActionChunk | None = None
        """The latest chunk that was not to be followed, while nothing fresher is."""
        self._foreseen: Foreseen | None = None
        self._observed_s: float | None = None
        self._sent = (0.0, 0.0)
        self._stop_without_model = stop_without_model
        self._stopping = False
        self._laid_s: float | None = None  # when the reflex head laid the path that is followed
        self._braking_s: float | None = None  # since when it is to stand

    def instruct(self, instruction: str) -> None:
        """Take a new instruction: only whether it means "stop" matters here."""
        self._stopping = self._stop_without_model and means_stop(instruction)

    @property
    def stopping(self) -> bool:
        """Whether the instruction means "stop", and that is obeyed without the model."""
        return self._stopping

    def recalibrate(self, calibration: Calibration) -> None:
        """Use another calibration from the next tick on (it travels with the adapter)."""
        if calibration != self.tracker.calibration:  # what was learned was beside the old one
            self.tracker.correction = slow_response()
            if self.watch is not None:
                self.watch.response = Response()
        self.odometry.calibration = calibration
        self.tracker.calibration = calibration

    def accept(self, chunk: ActionChunk) -> bool:
        """Follow a fresh chunk; False when it is older than the one followed or older than known poses, and when the
        world head forbids it: then it is `vetoed`."""
        path = self.tracker.path
        if path is not None and chunk.observed_s <= path.chunk.observed_s:
            return False
        start = self.odometry.at(chunk.observed_s)
        if start is None:
            return False
        if self.veto is not None and self.watch is not None:
            self._foreseen = self.veto.judge(
                chunk,
                calibration=self.tracker.calibration,
                response=self.watch.response,
                correction=self.tracker.correction,
                mount_yaw_rad=self.watch.calibration.mount_yaw_rad,
            )
            if self.veto.forbids(self._foreseen):
                self.vetoed = chunk
                return False
        self.tracker.follow(chunk, start)
        self._laid_s = self.vetoed = None
        return True

    def wants_reflex(self, *, now_s: float) -> bool:
        """Whether the frame of this tick should go through the reflex head: the model's path is old, and so is the
        head's last one."""
        path = self.tracker.path
        if path is None or not path.chunk.intent or now_s - path.chunk.observed_s <= _REFLEX_AFTER_S:
            return False
        return self._laid_s is None or now_s - self._laid_s >= _REFLEX_EVERY_S

    def carry(self, curvature: Sequence[float], *, now_s: float) -> None:
        """Follow the reflex head's path from here, at the speeds of the model's latest decision. Call after
        `observe` with the same frame's time. Raises `BrainError` for numbers that are no path."""
        path = self.tracker.path
        if path is None:
            return
        chunk = replace(path.chunk, curvature=tuple(float(c) for c in curvature))
        self.tracker.follow(chunk, self.odometry.pose)
        self._laid_s = now_s

    def forget(self) -> None:
        """Drop the path followed, and every decision about what was seen before now: the robot may have been moved."""
        self.tracker.path = None
        self.odometry.forget()
        self.vetoed = self._foreseen = None
        if self.watch is not None:
            self.watch.reset()
        if self.veto is not None:
            self.veto.forget()

    def observe(self, *, now_s: float, speed_mps: float | None, yaw_rate_rps: float | None) -> None:
        """Measured motion of this tick; None where the robot has no sensor."""
        self.odometry.update(
            now_s=now_s, speed_mps=speed_mps, yaw_rate_rps=yaw_rate_rps, commanded=self._sent
        )
        self._observed_s = now_s
        answers = (
            [self.tracker.correction]
            if self.watch is None
            else [self.tracker.correction, self.watch.response]
        )
        for response in answers:
            response.update(
                now_s=now_s,
                steering=self._sent[0],
                speed_mps=speed_mps,
                yaw_rate_rps=yaw_rate_rps,
                calibration=self.tracker.calibration,
            )

    def sent(self, guarded: Guarded) -> None:
        """What the body was told instead of a tick's command: dead reckoning goes by it."""
        self._sent = (guarded.steering, guarded.throttle)

    def tick(self, *, now_s: float, grid: F32 | None = None) -> Tick:
        """The command for now. Call after `observe`. grid: the safety head's of the frame of now, `[13, 17]`; where a
        head watches, none counts as a road that ends here."""
        self._remember(grid)
        path = self.tracker.path
        limit = 0.0 if self._stopping else None
        risk, counsel = self._counsel(grid, now_s, limit)
        proposed = allowed = self.tracker.command(now_s=now_s, odometry=self.odometry, speed_limit_mps=limit)
        acts = counsel.reason is not None and self.watch is not None and self.watch.acts
        most = [] if limit is None else [limit]
        if acts:
            most.append(counsel.share * self.tracker.target_speed(now_s=now_s))
        if self.vetoed is not None:
            # The policy may be braking: a path that is not followed must not leave the car faster.
            most.append(asked_speed(self.vetoed, now_s=now_s))
        if acts or self.vetoed is not None:
            limit = max(0.0, min(most))
            allowed = self.tracker.command(now_s=now_s, odometry=self.odometry, speed_limit_mps=limit)
        stop = None
        if self._stands(now_s, braking=limit == 0.0) or proposed is None:
            # Standing it stays until whoever stopped it lets it go; before, it brakes along the path.
            if self._stopping:
                stop = Reason.INSTRUCTION_STOP
            elif acts and counsel.reason is Reason.SAFETY_HEAD_BLOCK:
                stop = counsel.reason
        guarded = self.guard.step(
            allowed,
            now_s=now_s,
            chunk_age_s=None if path is None else now_s - path.chunk.observed_s,
            requested_stop=stop,
        )
        silent = risk is not None and risk.logit is None and counsel.reason is not None
        for reason in (
            counsel.reason,
            Reason.SENSOR_FAULT if silent else None,  # the head's fault, and not the adapter's
            None if self.vetoed is None else Reason.WORLD_HEAD_VETO,
        ):
            if reason is not None and reason not in guarded.reasons:
                guarded = guarded._replace(reasons=(*guarded.reasons, reason))
        self._sent = (guarded.steering, guarded.throttle)
        return Tick(
            proposed,
            guarded,
            None if path is None else path.chunk,
            path is not None and self._laid_s is not None,
            risk,
            self._foreseen,
        )

    def _stands(self, now_s: float, *, braking: bool) -> bool:
        """The car stands, or has been braking for so long that it must."""
        if not braking:
            self._braking_s = None
        elif self._braking_s is None or now_s < self._braking_s:
            self._braking_s = now_s
        overdue = self._braking_s is not None and now_s - self._braking_s > _LONGEST_BRAKING_S
        return overdue or self.odometry.speed_mps < _STANDING_MPS

    def _remember(self, grid: F32 | None) -> None:
        if self.veto is None or grid is None or self._observed_s is None:
            return
        speed = self.odometry.speed_mps
        self.veto.remember(
            self._observed_s, grid, speed_mps=speed, yaw_rate_rps=speed * self.odometry.curvature
        )

    def _counsel(self, grid: F32 | None, now_s: float, limit: float | None) -> tuple[Risk | None, Counsel]:
        """The head's probability for the way as the policy asks for it, whatever the head allows; and its counsel."""
        if self.watch is None:
            return None, FREE
        if grid is None and not self.watch.acts:
            return None, FREE
        way = way_along_path(
            self.tracker, self.odometry, self.watch.response, now_s=now_s, speed_limit_mps=limit
        )
        risk = self.watch.risk(grid, way, speed_mps=self.odometry.speed_mps)
        if self.tracker.path is None:
            return risk, FREE  # the guard stands already
        return risk, self.watch.caution.judge(risk.probability, now_s=now_s)

    def teleoperate(
        self, command: tuple[float, float], *, now_s: float, age_s: float, grid: F32 | None = None
    ) -> Tick:
        """The same for a human's command of the given age. The safety head tells its probability, no more."""
        guarded = self.guard.step(command, now_s=now_s, chunk_age_s=None, teleop_age_s=age_s)
        self._sent = (guarded.steering, guarded.throttle)
        risk = None
        if self.watch is not None:
            way = way_of_command(self._sent, self.odometry, self.watch.response, self.tracker.calibration)
            risk = self.watch.risk(grid, way, speed_mps=self.odometry.speed_mps)
        return Tick(command, guarded, None, risk=risk)
