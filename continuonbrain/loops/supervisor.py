"""All processes of one brain together: control, policy, sidecar, service; started, watched, restarted, ended in order.

Rules:
- A process that dies is started again after a pause that doubles (0.5 s to 8 s) and is forgiven after a minute of work.
  While the policy process is away the control process stops the robot by itself; when the control process dies,
  nothing moves the robot (a simulated one stands still; hardware must stop when its commands end).
- A process hangs that is not ready in time, gives no sign of life for too long after that, or says that it ends and
  does not (`heartbeats.LIMITS`): it is killed, and so started again.
- Whenever the control process is gone, what leaves its robot stopped is run (`ChildPlan.afterwards`).
- Exit code 2 says that a person must put something right. At the first start, or three times in a row, the
  supervisor gives up and says what it was; without one that is not needed (the service) the others go on.
- A process that ends because another base drives is started again at once.
- An adapter, or a base, on probation is looked after once a second (`loops/probation.py`).
- The end: control first (it stops the robot and closes its recording), then the others together. Who has not ended in
  time (`_CONTROL_END_S`, `_OTHERS_END_S`) is killed, and the summary says so.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.base_change import BaseChange
from continuonbrain.loops.base_watch import MOVED, BaseWatch
from continuonbrain.loops.child_plan import ChildPlan
from continuonbrain.loops.child_process import ChildProcess, end_together
from continuonbrain.loops.control_status import CONTROL_REPORT_NAME
from continuonbrain.loops.drive_session import read_status
from continuonbrain.loops.heartbeats import Heartbeat
from continuonbrain.loops.loop_report import FastReport
from continuonbrain.loops.notices import Subscription, subscribe
from continuonbrain.loops.probation import ProbationWatch, progress
from continuonbrain.loops.promotion import Promotion
from continuonbrain.loops.wire import WireError
from continuonbrain.robot.host import HOST_FILE_NAME, host_for
from continuonbrain.trainer.build_gates import gates_from_config

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_FORGIVEN_AFTER_S = 60.0
_NEEDS_A_PERSON = 2
_GIVE_UP_AFTER = 3
_CONTROL_END_S, _OTHERS_END_S = 3.0, 8.0
"""The sidecar ends the step under way and puts its job down; the service gives answers under way two seconds and its
open pages their good-bye; torch is taken down. On a machine that trains and shows pages all at once each takes several
times as long as on one that rests."""
_AFTERWARDS_S = 10.0
_EVENTS = 8
_RESUBSCRIBE_S = 1.0
_FULL_BYTES = 2**20


class ChildGaveUpError(BrainError):
    """A process ended in a way that starting it again cannot mend."""


@dataclass(slots=True)
class _Watched:
    plan: ChildPlan
    child: ChildProcess
    heartbeat: Heartbeat
    restarts: int = 0
    needs_a_person: int = 0
    pause_s: float = _FIRST_PAUSE_S
    due_s: float | None = None
    last_words: str = ""
    hung: str = ""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended. report: the last control process's account, None when it left none; put_down: a training job
    lies on disk, unfinished; troubles: what did not end as it should, in words."""

    seconds: float
    restarts: dict[str, int]
    swaps: int
    report: FastReport | None
    status: dict[str, Any] = field(default_factory=dict)
    put_down: bool = False
    troubles: tuple[str, ...] = ()


class Supervisor:
    """Runs the plans. Use as a context manager and call `poll` several times a second."""

    def __init__(
        self, brain: BrainRoot, plans: Sequence[ChildPlan], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._brain, self._layout = brain, brain.layout
        self._plans = tuple(plans)
        self._clock = clock
        self._watched: list[_Watched] = []
        self._gates = gates_from_config(brain.config)
        self._host = host_for(
            brain.config.robot.kind,
            host_file=brain.layout.run_dir / HOST_FILE_NAME,
            disk_path=brain.layout.root,
        )
        self._notices: Subscription | None = None
        self._subscribe_s = 0.0
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._began_s = clock()
        self._swaps = 0
        self._phases: dict[str, str] = {}
        self._summary: RunSummary | None = None
        self._probation = ProbationWatch(brain, on_change=self._take_change)
        self._base = BaseWatch(brain.layout)

    def __enter__(self) -> Supervisor:
        self._probation.start()
        try:
            for plan in self._plans:
                heartbeat = Heartbeat(plan.name, plan.limits, clock=self._clock)
                self._watched.append(_Watched(plan, self._spawn(plan, heartbeat), heartbeat))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(failed=kind is not None and issubclass(kind, Exception))

    def child(self, name: str) -> ChildProcess:
        """The process of this name as it is now. `KeyError` when there is none."""
        return {w.plan.name: w.child for w in self._watched}[name]

    def poll(self) -> None:
        """Restart what has died, take in notices. Raises `ChildGaveUpError`."""
        now = self._clock()
        self._follow_base()
        for watched in self._watched:
            self._look_after(watched, now)
        self._take_notices(now)
        self._note_phases()

    def snapshot(self) -> dict[str, Any]:
        """Everything that a view shows, as JSON: control, training, gates, probation, processes, events."""
        control = {k: v for k, v in read_status(self._layout).items() if k != "trail"}
        running = {w.plan.name: w for w in self._watched}
        if "control" in running and control.get("pid") != running["control"].child.pid:
            control = {}  # what another control process left behind
        return {
            "uptime_s": round(self._clock() - self._began_s, 1),
            "control": control,
            "training": self._training(),
            "gates": self._gates.poll(self._host).as_dict(),
            "probation": self._told_of_probation(),
            "processes": {
                name: {
                    "pid": w.child.pid,
                    "running": w.child.exit_code is None,
                    "restarts": w.restarts,
                    "last_words": w.last_words or _said(w.child),
                }
                for name, w in running.items()
            },
            "trouble": self._trouble(),
            "swaps": self._swaps,
            "events": list(self._events),
        }

    def _told_of_probation(self) -> dict[str, Any]:
        try:
            return progress(self._brain)
        except (BrainError, OSError):  # a damaged store is told by those who need it
            return {}

    def stop(self, *, failed: bool = False) -> RunSummary:
        """End all, robot first. failed: nobody wanted that, so that what a person wanted of the robot holds for whoever
        drives it next (`ControlProcess`). Safe to call again."""
        if self._summary is not None:
            return self._summary
        self._probation.close()
        status = read_status(self._layout)
        controls = [w for w in self._watched if w.plan.name == "control"]
        troubles = self._end(controls, _CONTROL_END_S, signal.SIGHUP if failed else signal.SIGTERM)
        troubles += self._end([w for w in self._watched if w.plan.name != "control"], _OTHERS_END_S)
        for watched in self._watched:
            watched.heartbeat.close()
        if self._notices is not None:
            self._notices.close()
            self._notices = None
        try:
            report = FastReport.from_file(self._layout.run_dir / CONTROL_REPORT_NAME) if controls else None
        except BrainError:
            report = None
        self._summary = RunSummary(
            seconds=round(self._clock() - self._began_s, 1),
            restarts={w.plan.name: w.restarts for w in self._watched},
            swaps=self._swaps,
            report=report,
            status=read_status(self._layout) or status,
            put_down=self._layout.training_state_path.exists(),
            troubles=tuple(troubles),
        )
        return self._summary

    def _follow_base(self) -> None:
        """The processes see by themselves that another base drives, end and are started anew; this one has only paths
        to change."""
        if not self._base.moved():
            return
        try:
            self._brain = open_brain(self._layout.root)
        except BrainError as error:  # those that are started tell of it
            self._event(str(error))
        else:
            self._layout = self._brain.layout
            self._probation.follow(self._brain)
            self._event(f"base {self._layout.base_slot or 'of config.json'} drives from now on")
        self._base = BaseWatch(self._layout)

    def _spawn(self, plan: ChildPlan, heartbeat: Heartbeat) -> ChildProcess:
        heartbeat.begin()
        return ChildProcess(
            plan.name,
            plan.module,
            plan.arguments,
            log_path=self._layout.log_dir / f"{plan.name}.log",
            environment=heartbeat.environment,
        )

    def _end(
        self, watched: list[_Watched], timeout_s: float, number: signal.Signals = signal.SIGTERM
    ) -> list[str]:
        """End these; what did not go as it should."""
        killed = end_together([w.child for w in watched], timeout_s, number)
        told = [f"{c.name} did not end within {timeout_s:g} s of being asked and was killed" for c in killed]
        return told + [trouble for w in watched if (trouble := self._leave_stopped(w))]

    def _leave_stopped(self, watched: _Watched) -> str:
        """Run what the plan wants when its process is gone; why that failed, "" when it did not."""
        if not watched.plan.afterwards:
            return ""
        module, *arguments = watched.plan.afterwards
        try:
            after = ChildProcess(
                f"{watched.plan.name}-off", module, arguments, log_path=watched.child.log_path
            )
            code = after.wait(_AFTERWARDS_S)
            after.kill()
            why = f"no end within {_AFTERWARDS_S:g} s" if code is None else after.last_words()
        except (BrainError, OSError) as error:  # the others still have to be ended
            code, why = 1, str(error)
        return "" if code == 0 else f"the robot may still move: {' '.join(watched.plan.afterwards)}: {why}"

    def _look_after(self, watched: _Watched, now: float) -> None:
        code = watched.child.exit_code
        if code is None:
            if watched.hung:  # killed already; it waits for a device
                return
            if told := watched.heartbeat.overdue():
                self._event(f"{watched.plan.name} hangs: {told}; it is killed")
                watched.child.kill()
                watched.hung = told
                if watched.child.exit_code is None and (trouble := self._leave_stopped(watched)):
                    self._event(trouble)
            elif watched.heartbeat.worked_s() > _FORGIVEN_AFTER_S:
                watched.pause_s, watched.needs_a_person = _FIRST_PAUSE_S, 0
            return
        if watched.due_s is None:
            self._bury(watched, code, now)
        elif now >= watched.due_s:
            watched.child = self._spawn(watched.plan, watched.heartbeat)
            watched.due_s = None
            watched.restarts += 1

    def _bury(self, watched: _Watched, code: int, now: float) -> None:
        watched.child.kill()  # what it started must not outlive it
        if trouble := self._leave_stopped(watched):
            self._event(trouble)
        watched.last_words, watched.hung = watched.hung or watched.child.last_words(), ""
        watched.needs_a_person = watched.needs_a_person + 1 if code == _NEEDS_A_PERSON else 0
        hopeless = watched.restarts == 0 or watched.needs_a_person >= _GIVE_UP_AFTER
        if code == _NEEDS_A_PERSON and hopeless and watched.plan.needed:
            raise ChildGaveUpError(
                f"the {watched.plan.name} process cannot run: {watched.last_words.removeprefix('error: ')}",
                remedy=f"the whole story is in {watched.child.log_path}",
            )
        if code == MOVED:  # in good order
            watched.due_s = now
            return
        watched.due_s = now + watched.pause_s
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        self._event(f"{watched.plan.name} died ({how}); starting it again in {watched.pause_s:g} s")
        watched.pause_s = min(_LONGEST_PAUSE_S, 2 * watched.pause_s)

    def _take_notices(self, now: float) -> None:
        try:
            if self._notices is None:
                if now < self._subscribe_s:
                    return
                self._subscribe_s = now + _RESUBSCRIBE_S
                self._notices = subscribe(self._layout.notice_socket, 0.0)
            while (event := self._notices.poll(0.0)) is not None:
                self._take_notice(event)
        except WireError:  # nobody publishes yet, or any more
            if self._notices is not None:
                self._notices.close()
                self._notices = None

    def _take_notice(self, event: dict[str, object]) -> None:
        if event.get("kind") == "swapped":
            self._swaps += 1
            sha256 = str(event.get("adapter_sha256", ""))[:12] or "none (base alone)"
            self._event(f"adapter {sha256} swapped in, loaded in {event.get('load_ms')} ms")
        elif event.get("kind") == "swap_refused":
            self._event(f"adapter refused, the old one stays: {event.get('reason')}")
        else:
            self._event(f"notice: {json.dumps(event)}")

    def _take_change(self, told: Promotion | BaseChange) -> None:
        self._event(told.detail)

    def _note_phases(self) -> None:
        for who, phase in (
            ("robot", str(read_status(self._layout).get("mode", ""))),
            ("sidecar", str(self._training().get("phase", ""))),
        ):
            if phase and self._phases.get(who) != phase:
                if who in self._phases:
                    self._event(f"{who}: {self._phases[who]} -> {phase}")
                self._phases[who] = phase

    def _training(self) -> dict[str, Any]:
        try:
            value = json.loads(Path(self._layout.status_path).read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _trouble(self) -> str:
        """A full disk, asked here: the processes can then neither write their status nor their logs."""
        try:
            free = shutil.disk_usage(self._layout.root).free
        except OSError as error:
            return f"{self._layout.root}: {error.strerror or error}"
        if free >= _FULL_BYTES:
            return ""
        return f"the disk of {self._layout.root} is full ({free / 2**20:.1f} MiB free): free some space"

    def _event(self, text: str) -> None:
        self._events.append({"at_s": round(self._clock() - self._began_s, 1), "text": text})


def _said(child: ChildProcess) -> str:
    """The last line of its log, "" while it has said nothing."""
    lines = child.log_tail().splitlines()
    return lines[-1] if lines else ""
