"""HOPE's mid loop, the sidecar: new episodes + open gates -> bounded training -> verdict -> promotion -> notice.

    python -m continuonbrain.loops.mid --root R           watch, train and promote until stopped
    python -m continuonbrain.loops.mid --root R --once    one round, then exit
    ... --hold                                            judge, but leave the promotion to `--promote`
    ... --promote                                         promote the candidate on its standing verdict
    ... --probation                                       look after a probation, where no supervisor does

One trainer per brain root (a lock says who). Progress stands in `trainer/status.json`, the loss of every step
in `trainer/logs/`. Whatever interrupts a round, `adapters/current` is what it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from continuonbrain import __version__
from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError, told_from, told_from_import
from continuonbrain.loops import notify
from continuonbrain.loops.adapter_import import ORIGIN, origin_refusal
from continuonbrain.loops.memory import keep_within_limits
from continuonbrain.loops.probation import ProbationWatch, look_after
from continuonbrain.loops.promotion import Promotion, announce_unfinished, promote_candidate
from continuonbrain.loops.spending import Spending
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.rlds.reader import is_being_recorded, list_episodes, read_metadata
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.robot.host import HOST_FILE_NAME, Host, host_for
from continuonbrain.storage.adapter_version import AdapterError
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.promotion_rule import OnProbation, PromotionRefused, StaleVerdict
from continuonbrain.trainer.budget import Budget
from continuonbrain.trainer.build_gates import gates_from_config
from continuonbrain.trainer.gates import GateReport, GateSet

_STATUS_EVERY_S = 0.3
_GATES_EVERY_S = 0.5
_MAX_SAMPLES = 6000
_NAMED = 5
"""Episodes that are named where more are counted."""


@dataclass(slots=True)
class Status:
    """`trainer/status.json`. phase: waiting, gates, read, cache, train, judge, judged, promoted, refused, stopped,
    failed; left_out: episodes that this round does not learn from, and why. Times are wall clock, as labels."""

    phase: str = "waiting"
    detail: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    losses: list[float] = field(default_factory=list)
    gates: dict[str, object] = field(default_factory=dict)
    candidate: str = ""
    verdict: dict[str, Any] | None = None
    episodes: int = 0
    left_out: list[str] = field(default_factory=list)
    pid: int = 0
    updated_unix_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a round ended. phase: waiting, gates, judged, promoted or refused; training: figures of the job; left_out:
    episodes that could not be learned from, and why; nothing_new: it waits only because all has been learned; held:
    the candidate has passed and waits for another one's probation."""

    phase: str
    detail: str
    version_id: str = ""
    verdict: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, object] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    nothing_new: bool = False
    held: bool = False

    @property
    def said_no(self) -> bool:
        """There was something to learn and nothing came of it."""
        return self.phase in ("waiting", "gates", "refused") and not self.nothing_new


class MidLoop:
    """One brain root's trainer. on_status is called with every change (for a terminal's progress bar)."""

    def __init__(
        self,
        brain: BrainRoot,
        *,
        host: Host | None = None,
        on_status: Callable[[Status], None] = lambda _s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.brain = brain
        self.layout = brain.layout
        self.config = brain.config
        self.store = AdapterStore(self.layout)
        self.events = EventLog(self.layout.events_dir)
        self.host = host or host_for(
            self.config.robot.kind, host_file=self.layout.run_dir / HOST_FILE_NAME, disk_path=self.layout.root
        )
        self.gates: GateSet = gates_from_config(self.config)
        training = self.config.training
        self._spending = Spending(
            self.layout.spent_path,
            Budget(training.daily_energy_wh, training.daily_write_mib, training.watts),
            clock=clock,
        )
        self._working = self._was_open = False
        self.status = Status(pid=os.getpid())
        self.stopping: int | None = None
        """The exit code that a signal asked for; obeyed at the next moment at which the work can be put down."""
        self._on_status = on_status
        self._clock = clock
        self._written_s = -1e9
        self._polled_s = -1e9
        self._closed: dict[str, str] | None = None
        self.pulse = notify.Pulse()

    def say(self, *, force: bool = True, **changes: Any) -> None:
        """Change the status and write it (at most a few times a second unless forced). A new phase is an event."""
        self.pulse.beat()
        before = self.status.phase
        for name, value in changes.items():
            setattr(self.status, name, value)
        if self.status.phase != before:
            told = {name: getattr(self.status, name) for name in ("phase", "detail", "candidate")}
            self.events.note("training", told)
        self._on_status(self.status)
        now = self._clock()
        if force or now - self._written_s >= _STATUS_EVERY_S:
            self._written_s = now
            self.status.updated_unix_s = time.time()
            # Nobody's learning ends because a full disk cannot be told about it.
            with contextlib.suppress(OSError):
                replace_file(self.layout.status_path, (json.dumps(asdict(self.status)) + "\n").encode())

    def poll_gates(self) -> GateReport:
        """Read the gates now; the report goes into the status."""
        report = self.gates.poll(self.host, clock=self._clock)
        # Work is what went by since the last look, if all was open then: a pause costs nothing.
        budget = self._spending.look(working=self._working and self._was_open)
        report = GateReport(report.open and budget.open, (*report.states, budget))
        self._was_open = report.open
        self.status.gates = report.as_dict()
        self._polled_s = self._clock()
        closed = {s.name: s.reason for s in report.closed}
        if self._closed is None or self._closed.keys() != closed.keys():
            self.events.note("gate", {"open": report.open, "closed": closed})
        self._closed = closed
        return report

    def new_episodes(self) -> tuple[list[Path], bool]:
        """The newest `max_episodes` finished episodes that a human drove, and whether any is new since the last
        candidate. What the policy drove itself is no lesson: it is kept, and not counted."""
        finished = list_episodes(self.layout.episodes_dir, finished_only=True)
        taught = [p for p in finished if read_metadata(p / METADATA_FILE).control_role.startswith("human")]
        # By when they came to this robot, not by name: an imported tub must not crowd out what is recorded later.
        taught.sort(key=lambda p: ((p / METADATA_FILE).stat().st_mtime_ns, p.name))
        episodes = taught[-self.config.max_episodes :]
        # A version without a verdict was cut short (a crash, a power cut): its episodes are still to be learned.
        seen: set[str] = set()
        for version in reversed(self.store.list()):
            card = _paper(version.card) or {}
            # What came from elsewhere was judged on episodes here, and has learned nothing from them.
            if _paper(version.verdict) is not None and ORIGIN not in card:
                seen = {str(e) for e in card.get("considered", [])}
                break
        return episodes, any(p.name not in seen for p in episodes)

    def _not_counted(self) -> list[str]:
        """The episodes of this root that are no lessons, in words."""
        finished = set(list_episodes(self.layout.episodes_dir, finished_only=True))
        others = [p for p in list_episodes(self.layout.episodes_dir) if p not in finished]
        unfinished = [p.name for p in others if not is_being_recorded(p)]
        roles = Counter(read_metadata(p / METADATA_FILE).control_role for p in finished)
        driven = [
            f"{n} driven by {role or 'nobody'}"
            for role, n in sorted(roles.items())
            if not role.startswith("human")
        ]
        if (recording := len(others) - len(unfinished)) > 0:
            driven.append(f"{recording} being recorded")
        if unfinished:
            more = ", ..." if len(unfinished) > _NAMED else ""
            driven.append(
                f"{len(unfinished)} unfinished or unreadable ({', '.join(unfinished[:_NAMED])}{more})"
            )
        return [f"not counted: {', '.join(driven)}"] if driven else []

    def check_current(self) -> None:
        """`BrainError` when what drives now is damaged: a candidate is judged against it, after the whole training."""
        current = self.store.current()
        if current is not None and not current.compute_sha256().startswith(current.sha8):
            raise BrainError(
                f"{current.path} is damaged: nothing can be judged against it",
                remedy=f"continuonbrain adapters rollback --root {self.layout.root}",
            )

    def _standing_candidate(self) -> Promotion | None:
        """Promote a candidate whose passing verdict stands but whose promotion never came (a crash, --hold, another one
        on probation). Raises `OnProbation` while that lasts, `StaleVerdict` where it has to be judged again: its
        verdict is then set aside."""
        candidate = self.store.candidate()
        verdict = None if candidate is None else _paper(candidate.verdict)
        if verdict is None or verdict.get("passed") is not True:
            return None
        try:
            return promote_candidate(self.brain)
        except OnProbation:
            raise
        except StaleVerdict as stale:
            self.say(detail=f"{stale.reason}: it is judged again")
            assert candidate is not None
            self.store.set_verdict_aside(candidate)
            raise
        except PromotionRefused:
            return None  # of another base, its bytes changed, or it was taken back: learn anew

    def _waits_for_judgment(self) -> AdapterVersion | None:
        """The candidate, when it came from elsewhere and this brain has not judged it yet."""
        candidate = self.store.candidate()
        if candidate is None or ORIGIN not in (_paper(candidate.card) or {}):
            return None
        if _paper(candidate.verdict) is not None or origin_refusal(self.brain, candidate) is not None:
            return None
        return candidate

    def round(self, *, hold: bool = False, again: bool = False) -> Outcome:
        """One round. again: train even when no episode is new. Raises `BrainError`s with nothing changed.

        Raises `LockHeldError` when another trainer works on this root.
        """
        with ProcessLock(self.layout.trainer_lock_path, purpose=f"train on {self.layout.root}"):
            try:
                return self._round(hold=hold, again=again)
            except BaseException as error:
                ended = isinstance(error, (SystemExit, KeyboardInterrupt))
                detail = "ended by a signal" if ended else f"{type(error).__name__}: {error}"
                with contextlib.suppress(OSError):  # a full disk must not hide the first error
                    self.say(phase="stopped" if ended else "failed", detail=detail)
                raise
            finally:
                if self._working:
                    self._spending.look(working=self._was_open)
                    self._spending.save()
                    self._working = False

    def _round(self, *, hold: bool, again: bool) -> Outcome:
        announce_unfinished(self.brain)
        look_after(self.brain)
        keep_within_limits(self.brain)
        stale = False
        try:
            if not hold and not again and (standing := self._standing_candidate()) is not None:
                return self._end("promoted", standing.detail, version_id=standing.version_id)
        except OnProbation as waits:  # another training would only replace what has been proved
            return self._end("judged", _held(waits), version_id=waits.version_id, held=True)
        except StaleVerdict:
            stale = True
        episodes, fresh = self.new_episodes()
        self.say(episodes=len(episodes))
        if len(episodes) < self.config.min_episodes:
            words = f"{len(episodes)} of {self.config.min_episodes} episodes (min_episodes) driven by a human"
            return self._end("waiting", "; ".join([words, *self._not_counted()]))
        waiting = None if again else self._waits_for_judgment()
        if waiting is None and not fresh and not again and not stale:
            words = f"nothing new in {len(episodes)} episodes since the last candidate"
            return self._end("waiting", words, nothing_new=True)
        # Names a base that cannot be taught, before an episode is read.
        base_sha256(self.layout.base_model_dir)
        report = self.poll_gates()
        if not report.open:
            return self._end("gates", "; ".join(f"{s.name}: {s.reason}" for s in report.closed))
        self._working = True
        # Imported here: a sidecar that only waits must not hold torch in memory.
        try:
            from continuonbrain.loops.learning import judge_imported, learn
        except ModuleNotFoundError as error:
            told = told_from_import(error)
            if told is None:
                raise
            raise told from error

        self.look()  # importing takes seconds
        learned = learn(self, episodes) if waiting is None else judge_imported(self, waiting, episodes)
        self.say(
            phase="judged",
            candidate=learned.version_id,
            verdict=learned.verdict,
            detail=learned.verdict["reason"],
        )
        details = {
            "version_id": learned.version_id,
            "verdict": learned.verdict,
            "training": learned.training,
            "left_out": learned.left_out,
        }
        if not learned.verdict["passed"]:
            return self._end("refused", learned.verdict["reason"], **details)
        if hold:
            return self._end("judged", "passed; not promoted yet (--hold)", **details)
        try:
            promoted = promote_candidate(self.brain)
        except OnProbation as waits:
            return self._end("judged", _held(waits), held=True, **details)
        except PromotionRefused as refused:
            return self._end("refused", refused.reason, **details)
        return self._end("promoted", promoted.detail, **details)

    def _end(self, phase: str, detail: str, **details: Any) -> Outcome:
        self.say(phase=phase, detail=detail)
        return Outcome(phase, detail, gates=self.status.gates, **details)

    def wait_until_allowed(self, save: Callable[[], None] = lambda: None) -> float:
        """Block while a gate is closed; returns the seconds waited. Polls at most twice a second.

        save puts the work on disk: called before a pause, and before a signal ends the process.
        """
        self.pulse.beat()
        if self.stopping is not None:
            save()
            raise SystemExit(self.stopping)
        if self._clock() - self._polled_s < _GATES_EVERY_S:
            return 0.0
        started = self._clock()
        report = self.poll_gates()
        if not report.open:
            save()  # it may be a long pause, and the power may go first
        while not report.open:
            if self.stopping is not None:
                raise SystemExit(self.stopping)
            self.say(detail="paused: " + "; ".join(f"{s.name}: {s.reason}" for s in report.closed))
            time.sleep(0.2)
            report = self.poll_gates()
        self.status.detail = ""
        return self._clock() - started

    def look(self) -> None:
        """`wait_until_allowed` with nothing to save."""
        self.wait_until_allowed()

    @property
    def max_samples(self) -> int:
        """Upper bound of samples per round: memory, and what `max_steps` can use."""
        return _MAX_SAMPLES


def _held(waits: OnProbation) -> str:
    return f"passed; held until that is over: {waits.reason}"


def _paper(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """A card or verdict; None when it is absent or damaged (a damaged paper must not stop the learning)."""
    try:
        return read()
    except AdapterError:
        return None


def watch(mid: MidLoop, *, every_s: float = 2.0, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Rounds until told to stop; after a failed or refused round the next try waits, up to five minutes."""
    backoff = every_s
    while not should_stop():
        try:
            outcome = mid.round()
            backoff = min(300.0, backoff * 2) if outcome.phase == "refused" else every_s
        except (BrainError, OSError):
            backoff = min(300.0, backoff * 2)
        until = time.monotonic() + backoff
        while time.monotonic() < until and not should_stop():
            mid.pulse.beat()
            time.sleep(0.1)


def end_on_signals(working: list[MidLoop], code: Callable[[int], int]) -> None:
    """End this process in good order at SIGTERM and SIGINT, with the exit code of the signal's number.

    working: the loop that runs, once there is one. Between two steps its job is put down so that it goes on later;
    elsewhere there is nothing to lose. A second signal does not wait.
    """

    def stop(number: int, _frame: object) -> None:
        if working and working[0].status.phase == "train" and working[0].stopping is None:
            working[0].stopping = code(number)
            return
        raise SystemExit(code(number))

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def main() -> None:
    """Entry of the sidecar process."""
    import argparse
    import sys

    from continuonbrain.brain_root import open_brain

    parser = argparse.ArgumentParser(prog="continuonbrain.loops.mid", description="the sidecar trainer")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="one round, then print its outcome as JSON")
    parser.add_argument("--hold", action="store_true", help="judge, but do not promote")
    parser.add_argument("--again", action="store_true", help="train even when no episode is new")
    parser.add_argument("--promote", action="store_true", help="promote the judged candidate, nothing else")
    parser.add_argument(
        "--probation", action="store_true", help="look after a probation once a second, also while it trains"
    )
    arguments = parser.parse_args()
    watching = not (arguments.once or arguments.promote)
    working: list[MidLoop] = []
    end_on_signals(working, lambda number: 0 if watching else 128 + number)
    try:
        brain = open_brain(arguments.root)
        if arguments.promote:
            print(json.dumps(asdict(promote_candidate(brain))))
            return
        os.nice(brain.config.training.nice)
        mid = MidLoop(brain)
        working.append(mid)
        if arguments.once:
            print(
                json.dumps(
                    {**asdict(mid.round(hold=arguments.hold, again=arguments.again)), "by": __version__}
                )
            )
            return
        mid.pulse.beat()
        with contextlib.ExitStack() as ending:
            if arguments.probation:
                probation = ProbationWatch(brain)
                ending.callback(probation.close)
                probation.start()
            watch(mid)
    except BrainError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    except OSError as error:
        told = told_from(error)
        if told is None:
            raise
        print(told, file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        notify.stopping()


if __name__ == "__main__":
    main()
