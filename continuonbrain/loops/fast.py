"""The fast loop: look, follow the freshest path, guard, act, record; at a fixed rate, whatever else happens.

- Deadlines are absolute on the monotonic clock. A tick that starts more than one period late is a missed tick:
  it is counted and the deadlines start anew from it, so that ticks never come in a burst.
- Three such ticks in a row are an overrun: the third and every further one is a safe stop (`Reason.CLOCK`).
- A body that must stand (`hold`: an empty battery) is a safe stop with that reason.
- A robot that raises, or gives an old or unusable observation, is a safe stop (`Reason.SENSOR_FAULT`); so is one that
  moves before a picture in which nothing changes (`safety/frozen_view.py`).
- Nothing here waits: the policy is asked and answers through `PolicyClient`, steps go to a thread.
- The garbage collector is off inside the loop; once a second the young generations are collected in the slack
  before a deadline.
- A path of the model that has grown old is carried on by the reflex head, frame by frame (`policy/reflex.py`).
- The safety head looks at every frame (`policy/watch.py`): what it says stands in every step, slows the car or
  stops it.
- The world head, where it is enabled, forbids new paths that are foreseen to lead off the road (`policy/veto.py`): the
  one followed goes on until it is too old.
- No torch. Leaving `run` by any way stops the robot.

Modes: "autopilot" follows the policy's paths, "teleop" a person's commands, "park" stands still and records
nothing. "assisted" is the autopilot while a person watches, and teleoperation while they hold the wheel; when they
are gone it is a safe stop (`Reason.DEADMAN`).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from continuonbrain.loops.episode_keeper import EpisodeKeeper, Recorder
from continuonbrain.loops.heads import Heads
from continuonbrain.loops.loop_report import Durations, FastReport, Profile
from continuonbrain.loops.loop_tick import PARKED, LoopTick, Mode, PathSource, Teleop
from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.realtime import quiet_collector, sleep_punctually
from continuonbrain.loops.recording import Attended, Driven, Kind, Part, Recording, kind_of
from continuonbrain.loops.reflex_keeper import ReflexSource
from continuonbrain.loops.remote import Hand
from continuonbrain.loops.robot_link import RobotLink
from continuonbrain.loops.shadow import Shadow
from continuonbrain.loops.tally import Tally
from continuonbrain.loops.tick_step import step_of
from continuonbrain.policy.pilot import Pilot, Tick
from continuonbrain.policy.watch import WORST
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.robot.protocol import Robot
from continuonbrain.safety.reasons import Reason

log = logging.getLogger(__name__)

_OVERRUN_TICKS = 3


class FastLoop:
    """Drives one robot.

    Args:
        robot, pilot, client: body, driver, source of paths.
        hz: control rate.
        recorder_factory: opens the recorder of an episode of an instruction, source and kind (on a thread of its own);
            None records nothing.
        instruction: what the robot is told at first.
        mode: at first.
        teleop: the person's command and its age; needed in mode "teleop".
        hand: where the person is; needed in mode "assisted".
        reflexes: where reflex heads come from; None follows the model's paths alone.
        steps_per_episode: longer drives are cut into several episodes.
        clock, sleep: monotonic time; for tests.
    """

    def __init__(
        self,
        robot: Robot,
        pilot: Pilot,
        client: PathSource,
        *,
        hz: float = 20.0,
        recorder_factory: Callable[[str, str, Kind], Recorder] | None = None,
        instruction: str = "drive",
        mode: Mode = "autopilot",
        teleop: Teleop | None = None,
        hand: Callable[[], Hand] = lambda: "gone",
        reflexes: ReflexSource | None = None,
        steps_per_episode: int = 600,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = sleep_punctually,
    ) -> None:
        self.robot = robot
        self.pilot = pilot
        self.client = client
        self.hz = hz
        self.teleop = teleop
        self.recording = Recording(able=recorder_factory is not None)
        self._hand = hand
        self._by: Mode = mode
        self.mode: Mode = mode
        self.instruction = instruction
        self.ticks = 0
        self.missed_ticks = 0
        self.stopped_s = -inf
        """When somebody last stopped it for an emergency."""
        self._keeper = (
            None
            if recorder_factory is None
            else EpisodeKeeper(recorder_factory, steps_per_episode=steps_per_episode)
        )
        self._shadow = None if self._keeper is None else Shadow(pilot)
        self._clock = clock
        self._sleep = sleep
        self._lateness = Durations()
        self._work = Durations()
        self._profile = Profile()
        self._seconds = 0.0
        self._late_in_a_row = 0
        self._held = ""
        self._tally = Tally(log)
        self._heads = Heads(pilot, reflexes, self._tally)
        self._link = RobotLink(robot, pilot, self._tally, forget=self._forget, clock=clock)
        self._driven = False
        self._attended, self._is_driven, self._astray = Attended(), Driven(), False
        pilot.instruct(instruction)

    # What may be told between two ticks (from `on_tick` or `should_stop`, which run on the loop's thread).

    def instruct(self, instruction: str) -> None:
        """Follow another instruction from the next tick on; the next decision is asked with it."""
        if self._shadow is not None and instruction != self.instruction:
            self._shadow.forget(now_s=self._clock())
        self.instruction = instruction
        self.pilot.instruct(instruction)

    def set_mode(self, mode: Mode) -> None:
        """Change who drives. The episode ends; a path from before is forgotten (the robot may be moved)."""
        if mode == self.mode:
            return
        self.mode = mode
        self._by = "autopilot" if mode == "assisted" else mode
        self._driven = False
        self._forget()
        # Rest is where both modes begin: no slew from a command of long ago, no gap in the guard's clock.
        self.pilot.guard.reset()
        self._cut()

    def record(self, part: Part, on: bool) -> None:
        """Record a person's lessons, or all other drives, from the next tick on, or no more; a change ends the
        episode."""
        if self.recording.switch(part, on):
            self._cut()

    def astray(self, is_astray: bool) -> None:
        """While the body obeys nobody, because it waits to be put somewhere else, nothing is recorded; what is driven
        then is another episode."""
        if is_astray and not self._astray:
            self._cut()
        self._astray = is_astray

    def recorded_as(self) -> Kind:
        """What is recorded of the driving now, "" for nothing. From any thread."""
        kind = kind_of(self.mode, self._by)
        return kind if self.recording.takes(kind) else ""

    def recording_waits(self) -> bool:
        """Whether nothing is recorded of what `recorded_as` says, because nobody drives. From any thread."""
        return self.recorded_as() != "" and (self._astray or not self._attended.begun)

    def being_recorded(self) -> tuple[str, int]:
        """Folder name of the episode that is open and its steps; ("", 0) when none is. From any thread."""
        return ("", 0) if self._keeper is None else self._keeper.now

    def emergency_stop(self) -> None:
        """Stop until `release`, whatever the policy or a person commands."""
        self.stopped_s = self._clock()
        self.pilot.guard.emergency_stop()

    def release(self) -> None:
        """End an emergency stop: a person's decision."""
        self.pilot.guard.release()

    def hold(self, why: str) -> None:
        """Stop in every tick (`Reason.LOW_BATTERY`) until this is told ""; neither mode nor path change by it."""
        self._held = why

    def run(
        self,
        should_stop: Callable[[], bool],
        on_tick: Callable[[LoopTick], None] = lambda _tick: None,
    ) -> FastReport:
        """Tick until `should_stop` says so (asked before every tick). May be called again.

        on_tick runs after each command was sent and must be quick: what it takes delays the next tick.
        """
        period = 1.0 / self.hz
        started = self._clock()
        try:
            with quiet_collector():
                deadline, overlong = self._clock(), False
                while not should_stop():
                    now = self._clock()
                    if now < deadline:
                        self._sleep(deadline - now)
                        now = self._clock()
                    lateness = now - deadline
                    missed = int(lateness / period) if lateness > period else 0
                    # A tick that takes longer than its period is late for the next, also where that one begins within
                    # a period of a deadline that was set anew.
                    self._late_in_a_row = self._late_in_a_row + 1 if missed or overlong else 0
                    if missed:
                        self.missed_ticks += missed
                        deadline = now
                    tick = self._tick()
                    self._lateness.add(max(0.0, lateness))
                    self._work.add(self._clock() - now)
                    self.ticks += 1
                    self._tally.tick(tick)
                    on_tick(tick)
                    overlong = self._clock() - now > period
                    deadline += period
                    if self.ticks % max(1, round(self.hz)) == 0 and deadline - self._clock() > period / 2:
                        gc.collect(1)
        finally:
            self._seconds += self._clock() - started
            with contextlib.suppress(Exception):  # the way out must not be blocked by the body
                self.robot.stop()
            self._cut()
        return self.report()

    def close(self) -> FastReport:
        """Close the recording; returns the final report."""
        if self._keeper is not None:
            self._keeper.close()
        return self.report()

    def report(self) -> FastReport:
        """The account so far."""
        keeper, tally = self._keeper, self._tally
        return FastReport(
            hz=self.hz,
            ticks=self.ticks,
            missed_ticks=self.missed_ticks,
            overrun_stops=tally.overrun_stops,
            stopped_ticks=tally.stopped_ticks,
            sensor_faults=tally.faults["sensor"],
            actuator_faults=tally.faults["actuator"],
            chunks=tally.chunks,
            reflex_ticks=tally.reflex_ticks,
            reflex_faults=tally.faults["reflex"],
            safety_faults=tally.faults["safety head"],
            world_vetoes=tally.world_vetoes,
            world_faults=0 if self.pilot.veto is None else self.pilot.veto.faults,
            seconds=round(self._seconds, 3),
            **self.profile(),
            reasons=dict(tally.reasons),
            adapter_ticks=dict(tally.adapter_ticks),
            swaps=tuple(tally.swaps),
            recorded_steps=0 if keeper is None else keeper.recorded,
            dropped_steps=0 if keeper is None else keeper.dropped,
            episodes=() if keeper is None else tuple(keeper.episodes),
        )

    @property
    def chunks(self) -> int:
        """Paths that were followed."""
        return self._tally.chunks

    def profile(self) -> dict[str, Any]:
        """`lateness_us`, `work_us` and `stages_us` of the report; from any thread, some milliseconds."""
        return {
            "lateness_us": self._lateness.percentiles(),
            "work_us": self._work.percentiles(),
            "stages_us": self._profile.percentiles(),
        }

    # One tick.

    def _tick(self) -> LoopTick:
        profile = self._profile
        profile.begin()
        observation, fault = self._link.look()
        profile.over("look")
        now = self._clock()
        fault = fault or self._held
        absent = self._take_the_wheel()
        if self._by == "park":
            self.client.poll()  # answers that were still under way
            refused = self._link.send(PARKED)
            fault = fault or refused
            return LoopTick(self.ticks, now, "park", observation, None, PARKED, None, fault)
        answers = self.client.poll()
        if self.mode != "teleop":  # an assistant has a fresh path when the person lets go
            self._take_answers(answers)
        # While a person drives, what the policy would have done is compared.
        unfollowed = answers if self._by == "teleop" else []
        if observation is not None:
            speed, observed_s = observation.speed_mps, observation.monotonic_s
            taught = self._by == "teleop" and self.recorded_as() != ""
            if taught or self.mode != "teleop":
                self.client.offer(observation.frame, self.instruction, speed, observed_s, keep=taught)
        profile.over("policy")
        overrun = self._late_in_a_row >= _OVERRUN_TICKS
        if overrun:
            self._tally.overrun_stops += 1
        if observation is None or overrun or self._held or absent:
            reason = Reason.LOW_BATTERY if self._held else Reason.DEADMAN
            if overrun:
                reason = Reason.CLOCK
            if observation is None:
                reason = Reason.SENSOR_FAULT
            guarded = self.pilot.guard.step((0.0, 0.0), now_s=now, chunk_age_s=0.0, requested_stop=reason)
            self.pilot.sent(guarded)
            path = self.pilot.tracker.path
            silent = None if self.pilot.watch is None else WORST  # a head that was not asked
            decided = Tick(None, guarded, None if path is None else path.chunk, risk=silent)
        elif self._by == "teleop":
            command, age_s = self._teleop_command()
            grid = self._heads.road(observation)
            profile.over("heads")
            decided = self.pilot.teleoperate(command, now_s=now, age_s=age_s, grid=grid)
        else:
            self._heads.carry(observation, now)
            grid = self._heads.road(observation)
            profile.over("heads")
            decided = self.pilot.tick(now_s=now, grid=grid)
        profile.over("decide")
        refused = self._link.send(decided.guarded)
        fault = fault or refused
        profile.over("act")
        surprise = None
        if self._by == "teleop" and self._shadow is not None:
            surprise = self._shadow.surprise(unfollowed, decided.guarded, now_s=now)
        tick = LoopTick(
            self.ticks,
            now,
            self._by,
            observation,
            decided.proposed,
            decided.guarded,
            decided.chunk,
            fault,
            decided.reflex,
            decided.risk,
            decided.foreseen,
            surprise,
        )
        self._record(tick, driven=self._is_driven.by_somebody(tick, absent=absent))
        profile.over("record")
        return tick

    def _forget(self) -> None:
        self.pilot.forget()
        if self._shadow is not None:
            self._shadow.forget(now_s=self._clock())

    def _take_the_wheel(self) -> bool:
        """Settle who drives this tick; whether it must stand because nobody is there to assist."""
        if self.mode != "assisted":
            self._by = self.mode
            return False
        hand = self._where_is_the_hand()
        by: Mode = "teleop" if hand == "drives" else "autopilot"
        if by != self._by and self._shadow is not None:
            self._shadow.forget(now_s=self._clock())
        self._by = by
        return hand == "gone"

    def _where_is_the_hand(self) -> Hand:
        try:
            return self._hand()
        except Exception as error:  # a broken remote control is a person who has gone
            log.error("hand: %s: %s", type(error).__name__, error)
            return "gone"

    def _take_answers(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            chunk = answer.chunk
            followed = self.pilot.accept(chunk)
            vetoed = self.pilot.vetoed is chunk
            if not followed and not vetoed:
                continue  # older than the path followed, or than the poses known
            if answer.calibration != self.pilot.tracker.calibration:
                self.pilot.recalibrate(answer.calibration)
            if vetoed:
                self._tally.world_vetoes += 1
                continue
            self._heads.name = answer.reflex
            self._tally.followed(
                chunk.adapter_sha256, tick=self.ticks, missed=self.missed_ticks, now_s=self._clock()
            )

    def _teleop_command(self) -> tuple[tuple[float, float], float]:
        try:
            if self.teleop is not None:
                return self.teleop()
        except Exception as error:  # a broken remote control is a person who has gone
            log.error("teleop: %s: %s", type(error).__name__, error)
        return (0.0, 0.0), inf

    def _record(self, tick: LoopTick, *, driven: bool) -> None:
        kind = self.recorded_as()
        if self._keeper is None or self._astray or not kind:
            return
        self._driven |= tick.chunk is not None or tick.mode == "teleop"
        if not self._driven:
            return  # nothing drives yet: the policy process is still coming up
        try:
            step = step_of(tick, self.instruction, self.pilot.watch)
        except EpisodeError as error:  # what no reader would take; the robot drives on without it
            self._keeper.lose(error)
            return
        kept, ended = self._attended.take(step, driven=driven)
        for one in kept:
            self._keeper.append(one, kind)
        if ended:
            self._keeper.cut()

    def _cut(self) -> None:
        self._attended.end()
        if self._keeper is not None:
            self._keeper.cut()
