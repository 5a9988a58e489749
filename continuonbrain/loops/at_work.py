"""The sidecar at work: its status, gates and budget, whichever of its loops works. One trainer per brain root."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops import notify
from continuonbrain.loops.adapter_origin import ORIGIN
from continuonbrain.loops.base_watch import refuse_if_moved
from continuonbrain.loops.owner import owner_gate
from continuonbrain.loops.spending import Spending
from continuonbrain.rlds.marking import teaches
from continuonbrain.rlds.reader import list_episodes, read_metadata
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.robot.host import HOST_FILE_NAME, Host, host_for
from continuonbrain.storage.adapter_version import AdapterError
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.trainer.budget import Budget
from continuonbrain.trainer.build_gates import gates_from_config
from continuonbrain.trainer.gates import GateReport, GateSet

_STATUS_EVERY_S = 0.3
_GATES_EVERY_S = 0.5
_MAX_SAMPLES = 6000


class GaveUp(Exception):
    """A gate stayed closed for too long: the work was put down, and is taken up another time. No `BrainError`: whoever
    goes on without a damaged episode must not take it for one."""


@dataclass(slots=True)
class Status:
    """`trainer/status.json`. kind: "fast", or "slow" in a docked round; phase: waiting, check, gates, read, cache,
    train, reflex, judge, judged, promoted, refused, stopped, failed; losses: at `loss_steps`; part: of judging, which
    measurement runs, of how many `parts`; left_out: episodes that this round does not learn from,
    and why. Times are wall clock, as labels."""

    kind: str = "fast"
    phase: str = "waiting"
    detail: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    losses: list[float] = field(default_factory=list)
    loss_steps: list[int] = field(default_factory=list)
    part: int = 0
    parts: int = 0
    gates: dict[str, object] = field(default_factory=dict)
    candidate: str = ""
    verdict: dict[str, Any] | None = None
    episodes: int = 0
    left_out: list[str] = field(default_factory=list)
    pid: int = 0
    updated_unix_s: float = 0.0


class Sidecar:
    """One brain root's trainer, whatever it works at. on_status is called with every change (for a terminal's progress
    bar)."""

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
        self.patience_s: float | None = None
        """After so long with a closed gate the work is put down (`GaveUp`); None: it waits."""
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
        owner = owner_gate(self.layout)
        report = GateReport(report.open and budget.open and owner.open, (*report.states, budget, owner))
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
        candidate. What the policy drove itself is no lesson: it is kept, and not counted, as is what a person has
        marked as bad. Those that are too short to be waited for (`marking.is_short`) are among them."""
        taught = []
        for path in list_episodes(self.layout.episodes_dir, finished_only=True):
            if teaches(read_metadata(path / METADATA_FILE)):
                taught.append(path)
        # By when they came to this robot, not by name: an imported tub must not crowd out what is recorded later.
        taught.sort(key=lambda p: ((p / METADATA_FILE).stat().st_mtime_ns, p.name))
        episodes = taught[-self.config.max_episodes :]
        # A version without a verdict was cut short (a crash, a power cut): its episodes are still to be learned.
        seen: set[str] = set()
        for version in reversed(self.store.list()):
            card = paper_of(version.card) or {}
            # What came from elsewhere was judged on episodes here, and has learned nothing from them.
            if paper_of(version.verdict) is not None and ORIGIN not in card:
                seen = {str(e) for e in card.get("considered", [])}
                break
        return episodes, any(p.name not in seen for p in episodes)

    def check_current(self) -> None:
        """`BrainError` when what drives now is damaged: a candidate is judged against it, after the whole training."""
        current = self.store.current()
        if current is not None and not current.compute_sha256().startswith(current.sha8):
            raise BrainError(
                f"{current.path} is damaged: nothing can be judged against it",
                remedy=f"continuonbrain adapters rollback --root {self.layout.root}",
            )

    @contextlib.contextmanager
    def at_work(self, purpose: str, gates: GateSet | None = None) -> Iterator[None]:
        """While something is learned: the trainer's lock is held, the day's budget charged, an error told. gates:
        instead of the config's.

        Raises `LockHeldError` when another trainer works on this root, `BaseMoved` when another base drives.
        """
        with ProcessLock(self.layout.trainer_lock_path, purpose=purpose):
            refuse_if_moved(self.layout)
            before = self.gates
            self.gates = gates or before
            try:
                yield
            except BaseException as error:
                ended = isinstance(error, (SystemExit, KeyboardInterrupt))
                detail = "ended by a signal" if ended else f"{type(error).__name__}: {error}"
                with contextlib.suppress(OSError):  # a full disk must not hide the first error
                    self.say(phase="stopped" if ended else "failed", detail=detail)
                raise
            finally:
                self.gates = before
                if self._working:
                    self._spending.look(working=self._was_open)
                    self._spending.save()
                    self._working = False

    def works(self) -> None:
        """From here on time and writes are charged."""
        self._working = True

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
            if self.patience_s is not None and self._clock() - started > self.patience_s:
                raise GaveUp("put down: " + "; ".join(f"{s.name}: {s.reason}" for s in report.closed))
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


def paper_of(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """A card or verdict; None when it is absent or damaged (a damaged paper must not stop the learning)."""
    try:
        return read()
    except AdapterError:
        return None
