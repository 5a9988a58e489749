"""The control process: the robot, the fast loop, the recorder. It never imports torch.

    python -m continuonbrain.loops.control_process --root R [--shift S] [--track N] [--seed N]
        [--instruction TEXT] [--seconds T] [--no-record] [--cycle] [--park]

One per brain root (a lock says who). It tells how it is in `run/control.json` and `run/host.json`, takes commands
on `run/control.sock` (`control_commands.py`). What the robot sees is on `run/view.sock` (`view.py`).
SIGTERM, SIGINT and SIGHUP stop the robot, close the recording and leave `run/control_report.json`. With --cycle the
simulated robot lives: it is taught, stands still until something was learned, drives by itself, and is taught again
on other tracks; once a person has taken part it does what they say instead. With --park it stands until a person
gives it a mode, as hardware always does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import notify
from continuonbrain.loops.base_watch import MOVED, BaseWatch
from continuonbrain.loops.body import Body
from continuonbrain.loops.child_process import exit_code
from continuonbrain.loops.control_commands import ControlCommands
from continuonbrain.loops.control_options import ControlOptions, options_of
from continuonbrain.loops.control_snapshot import ControlSnapshot, ControlState
from continuonbrain.loops.control_status import (
    CONTROL_REPORT_NAME,
    CONTROL_SOCKET_NAME,
    StatusWriter,
)
from continuonbrain.loops.drive_session import read_status
from continuonbrain.loops.driving_counter import DrivingCounter, DrivingKeeper
from continuonbrain.loops.fast import FastLoop
from continuonbrain.loops.in_hand import InHand
from continuonbrain.loops.loop_report import FastReport
from continuonbrain.loops.loop_tick import LoopTick, Mode
from continuonbrain.loops.open_body import body_of
from continuonbrain.loops.own_stop import OwnStop
from continuonbrain.loops.policy_client import PolicyClient
from continuonbrain.loops.realtime import lift_other_threads, prefer_this_thread, stay_in_memory
from continuonbrain.loops.recording import Kind
from continuonbrain.loops.reflex_keeper import ReflexKeeper
from continuonbrain.loops.remote import RemoteControl
from continuonbrain.loops.sim_body import SimBody
from continuonbrain.loops.sim_life import Interrupted, SimulatedLife
from continuonbrain.loops.slack import Slack
from continuonbrain.loops.teach import episode_metadata
from continuonbrain.loops.view import VIEW_SOCKET_NAME, ViewServer
from continuonbrain.loops.wire_stream import WireServer
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.open_watch import open_watches
from continuonbrain.policy.open_world import open_vetoes
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.watch import HeadCalibration
from continuonbrain.rlds.marking import CORRECTION_TAG, LESSON_TAG
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.step import SOURCE_HUMAN
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import ProcessLock

log = logging.getLogger("continuonbrain.control")

_RECALIBRATE_EVERY = 10
"""Looks of the status thread, five a second."""


class ControlProcess:
    """One robot being driven. `run` returns after SIGTERM, SIGINT, SIGHUP or `seconds`.

    open_body: makes the body (see `open_body.body_of`); another one is for benchmarks and tests.
    """

    def __init__(
        self, brain: BrainRoot, options: ControlOptions, *, open_body: Callable[..., Body] = body_of
    ) -> None:
        robot_config = brain.config.robot
        self._layout, self._config, self._options = brain.layout, brain.config, options
        self.shift = options.shift or robot_config.shift
        self._limits = Limits.from_config(brain.config.guards)
        self._body = open_body(
            brain,
            shift=self.shift,
            track=options.track,
            seed=options.seed,
            instruction=options.instruction,
            simulated_life=options.cycle,
        )
        self._remote = RemoteControl(self._body.teleop)
        self._client = PolicyClient(
            brain.layout.policy_socket, answer_timeout_s=15.0 + robot_config.decision_time_s
        )
        self._reflexes = ReflexKeeper(
            lambda version: brain.layout.versions_dir / version if version else brain.layout.base_model_dir
        )
        watch = None
        if brain.config.heads.safety.enabled:
            watch = open_watches(brain.layout.safety_dir, brain.layout.manifest_path)()
        veto = None
        if brain.config.heads.world.enabled:
            veto = open_vetoes(brain.layout.world_dir, brain.layout.safety_dir, brain.layout.manifest_path)()
        # Hardware never drives off by itself.
        parked = options.park or brain.config.robot.kind != "sim-donkey"
        self._loop = FastLoop(
            self._body.robot,
            Pilot(calibration=Calibration(), limits=self._limits, watch=watch, veto=veto),
            self._client,
            hz=robot_config.control_hz,
            recorder_factory=self._open_recorder if options.record else None,
            instruction=options.instruction,
            mode="park" if options.cycle or parked else "autopilot",
            reflexes=self._reflexes,
            teleop=self._remote,
            hand=self._remote.hand,
        )
        self._counter = DrivingCounter()
        self._life: SimulatedLife | None = None
        if options.cycle:
            self._life = SimulatedLife(
                brain.layout,
                world(self.shift),
                shift=self.shift,
                seed=options.seed,
                limits=self._limits,
                driven=self,
                put_back=self._put_back,
            )
        self._pulse = notify.Pulse()
        self._head_fault, self._looks = "", 0
        self._stopping = self._is_hung_up = False
        self._parent = os.getppid()
        self._own_stop = OwnStop(self._body.presses)
        self._base = BaseWatch(brain.layout)
        self.moved = False
        """Another base drives now: this process has to be started anew."""
        self._state = ControlState(InHand(parked=parked))
        self._snapshot = ControlSnapshot(self._state, self._loop, self._client, self._body, self._life)
        self._commands: ControlCommands | None = None
        self._view: ViewServer | None = None
        self._slack = Slack()

    def run(self) -> FastReport:
        """Drive. Raises `LockHeldError` when another control process drives this root."""
        layout, options = self._layout, self._options
        layout.run_dir.mkdir(parents=True, exist_ok=True)
        with ProcessLock(layout.brain_lock_path, purpose=f"drive the robot of {layout.root}"):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._on_signal)
            for recovered in recover_unfinished(layout.episodes_dir):
                log.warning("closed after a crash: %s", recovered)
            (layout.run_dir / CONTROL_REPORT_NAME).unlink(missing_ok=True)
            self._go_on_as(read_status(layout))
            self._body.open()
            events = EventLog(layout.events_dir)
            writer = StatusWriter(
                layout.run_dir,
                self._snapshot.take,
                self._body.machine,
                events,
                housekeeping=self._housekeeping,
                slack=self._slack,
            )
            keeper = DrivingKeeper(layout, self._counter)
            with WireServer(layout.run_dir / CONTROL_SOCKET_NAME) as server:
                self._commands = ControlCommands(
                    server,
                    self._loop,
                    self._body,
                    self._remote,
                    change_mode=self._change_mode,
                    take_part=self._take_part,
                    hand_back=self._hand_back,
                    keep=writer.soon,
                )
                self._view = ViewServer(layout.run_dir / VIEW_SOCKET_NAME, self._snapshot.gauges, self._slack)
                writer.start()
                keeper.start()
                wanted = self._config.robot
                self._state.granted = prefer_this_thread(priority=wanted.realtime_priority, cpu=wanted.cpu)
                for refusal in filter(None, (*self._state.granted.refused, stay_in_memory())):
                    log.warning("the control loop is less punctual than it could be: %s", refusal)
                try:
                    until = time.monotonic() + options.seconds if options.seconds is not None else None
                    with suppress(Interrupted):
                        if self._life is not None:
                            self._life.live(until)
                        else:
                            self.tick_until(lambda: until is not None and time.monotonic() >= until)
                    # Who fails was not told to; nor who is asked by the kernel because its parent has died
                    # (`child_process`), nor who was hung up on, by a run that failed or a terminal that is gone:
                    # then nobody wanted anything.
                    by_somebody = not self._is_hung_up and os.getppid() == self._parent
                    self._state.told_to_end = not self.moved and by_somebody
                finally:
                    notify.stopping()
                    self._state.stopped = True
                    self._body.robot.close()
                    report = self._loop.close()
                    self._client.close()
                    self._reflexes.close()
                    self._view.close()
                    keeper.close()
                    writer.close()
            write_json_durably(layout.run_dir / CONTROL_REPORT_NAME, report.to_json())
        return report

    # The loop's surroundings.

    def _housekeeping(self) -> None:
        """On the status thread: the loop itself looks at no file."""
        lift_other_threads(self._state.granted)
        self._looks += 1
        if self._looks % _RECALIBRATE_EVERY == 0:
            self._take_head_calibration()
        if self._base.moved() and not self.moved:
            log.warning("another base drives now: the robot stops, and this process starts anew")
            self.moved = self._stopping = True

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stopping, self._is_hung_up = True, number == signal.SIGHUP

    def _on_tick(self, tick: LoopTick) -> None:
        self._state.tick = tick
        if tick.observation is not None and self._view is not None:
            self._view.show(tick.observation.frame, tick.observation.monotonic_s)
        self._pulse.beat()  # from the loop itself: one that hangs is silent, whatever other threads still do
        self._body.machine.alive(driving=tick.mode != "park", teleop=tick.mode == "teleop")
        self._counter.tick(
            now_s=tick.now_s,
            mode=tick.mode,
            reasons=tick.guarded.reasons,
            chunk=tick.chunk,
            off_road=self._body.off_road,
            served_by=self._client.connects if self._client.connected else 0,
        )
        self._body.ticked(tick)
        self._loop.astray(self._body.astray != "")
        self._loop.hold(self._body.unfit())
        asked, is_obeyed = self._body.asked(), self._loop.pilot.guard.emergency_stopped
        just_stopped = self._own_stop.just_pressed(
            self._body.presses, is_on=asked == "stop", is_obeyed=is_obeyed
        )
        if just_stopped:
            self._loop.emergency_stop()
        elif asked is not None and asked != "stop" and (refusal := self._change_mode(asked)):
            log.warning("mode %s: %s", asked, refusal)
        self._obey(just_stopped=just_stopped)
        self._slack.begin()

    def _obey(self, *, just_stopped: bool = False) -> None:
        if self._commands is not None:
            self._commands.take(just_stopped=just_stopped)

    def _go_on_as(self, before: Mapping[str, Any]) -> None:
        """What a person wanted of a control process that was not told to end (it was killed, failed, lost its parent,
        or made way for another base) still holds: an emergency stop, and that the robot does not drive by itself."""
        if before.get("told_to_end") is True:
            return
        if before.get("emergency_stop") is True:
            self._loop.emergency_stop()
            log.warning("the emergency stop of before is still on")
        self._state.hand.go_on_as(before)
        if self._state.hand.parked:
            self._loop.set_mode("park")

    def _take_head_calibration(self) -> None:
        """What the trainer has told the safety head meanwhile; a file that makes no sense changes nothing."""
        watch = self._loop.pilot.watch
        if watch is None:
            return
        try:
            watch.calibration = HeadCalibration.from_folder(self._layout.safety_dir, watch.head.sha256)
        except BrainError as error:
            if str(error) != self._head_fault:
                self._head_fault = str(error)
                log.error("the safety head keeps its calibration: %s", error)

    def _change_mode(self, mode: Mode) -> str:
        """Why it stays as it is; "" when it changed."""
        if mode != "park" and (refusal := self._body.release()):
            return refusal
        self._loop.release()
        self._state.hand.choose(mode)
        self._remote.let_go()  # what was commanded before is not meant for now
        self.enter(driving=True)
        return ""

    def _take_part(self) -> None:
        self._state.hand.take_part(drives=self._snapshot.phase == "drive")

    def _hand_back(self) -> str:
        """Let a simulated life go on by itself; why that cannot be, else ""."""
        if self._life is None:
            return "nobody but a person teaches this robot: only one of `continuonbrain run` has a simulated teacher"
        self._loop.release()
        self._state.hand.hand_back()
        self._remote.let_go()
        self._life.teach_again()
        self.enter(driving=False)
        return ""

    def _open_recorder(self, instruction: str, source: str, kind: Kind) -> EpisodeRecorder:
        by_hand = source == SOURCE_HUMAN
        metadata = episode_metadata(
            instruction,
            environment=self._body.environment,
            tags=((CORRECTION_TAG if kind == "correction" else LESSON_TAG) if by_hand else "drive",),
            robot_model=self._body.robot_model,
        )
        return EpisodeRecorder(
            self._layout.episodes_dir,
            metadata=metadata if by_hand else replace(metadata, control_role="autonomous"),
            sync_interval_s=self._config.recorder.sync_interval_s,
            jpeg_quality=self._config.recorder.jpeg_quality,
            queue_size=1200,
        )

    # What a simulated life asks of the process (`sim_life.Driven`).

    @property
    def stopping(self) -> bool:
        """Whether a signal came."""
        return self._stopping

    @property
    def taken(self) -> bool:
        """Whether a person has taken part, and has not handed it back."""
        return self._state.hand.taken

    def enter(self, *, driving: bool) -> None:
        """Drive from the next tick on, or stand; where a person has said which, that."""
        self._loop.set_mode(self._state.hand.mode(driving=driving))

    def _put_back(self) -> None:
        if isinstance(self._body, SimBody):  # nobody lifts a car of hardware by itself
            self._body.put_back()

    def taught(self) -> None:
        """A step of a lesson was driven."""
        self._pulse.beat()
        self._body.machine.alive(driving=True, teleop=True)
        self._obey()

    def tick_until(self, over: Callable[[], bool]) -> None:
        """Tick until told to stop or `over`, which is asked at every tick."""
        self._loop.run(lambda: self._stopping or over(), self._on_tick)


def main(arguments: list[str] | None = None, *, open_body: Callable[..., Body] = body_of) -> int:
    """Command line; exit 2 when a person must put something right. open_body: see `ControlProcess`."""
    root, options = options_of(arguments, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    moved: list[bool] = []

    def drive() -> None:
        process = ControlProcess(open_brain(root), options, open_body=open_body)
        process.run()
        moved.append(process.moved)

    code = exit_code(drive)
    return MOVED if code == 0 and moved[0] else code


if __name__ == "__main__":
    sys.exit(main())
