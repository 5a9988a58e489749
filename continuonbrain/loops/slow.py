"""HOPE's slow loop: what is done while the robot is docked, and nobody needs it.

In this order, each part for itself, so that one that fails keeps no other from its work:

  check        every episode by the doctor, every adapter against its hash, the history's chain
  remember     the reservoir takes in what was learned since (`remembering.py`)
  consolidate  the fast adapter is folded into the slow one and trained on with the reservoir (`consolidation.py`); the
               result is a candidate like any other: judged, promoted, on probation. Its verdict asks for no gain; it
               asks that no lesson was forgotten, by episodes that nobody trained on
  retention    what is over the memory's limits is forgotten, but nothing that the reservoir holds
  cache        activations that were kept for lessons that have been learned are dropped
  backup       settings, adapters and reservoir are copied (`storage/backup.py`)
  export       a bundle for a bigger machine, only where the owner has opted in

It is due when `slow.after_promotions` fast adapters were promoted since the last consolidation, or every `slow.every_h`
hours. `trainer/slow.json` holds what the last one did.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from continuonbrain.errors import BrainError, told_from_import
from continuonbrain.loops.at_work import GaveUp, Sidecar, paper_of
from continuonbrain.loops.memory import keep_within_limits, protected_versions
from continuonbrain.loops.probation import look_after
from continuonbrain.loops.promotion import announce_unfinished, promote_candidate
from continuonbrain.loops.remembering import bring_up_to_date, read_reservoir, told
from continuonbrain.loops.slow_adapter import KIND, SLOW, card_of, standing_slow
from continuonbrain.loops.two_adapters import no_room_for_two
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.backup import back_up, backup_folder
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.promotion_rule import OnProbation, PromotionRefused
from continuonbrain.trainer.build_gates import gates_from_config

log = logging.getLogger(__name__)

_PATIENCE_S = 60.0
"""A robot that was taken from its dock for longer is driving again: the work is put down, and taken up next time."""
_EXPORT_S = 600.0
"""Less than the sidecar's watchdog has patience for: the child gives no sign of life."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a docked round. outcome: "done", "nothing" (there was nothing to do), "refused" (by a rule) or
    "failed"; detail: in words; figures: of it."""

    name: str
    outcome: str
    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlowReport:
    """A docked round. parts: in their order, those before it was put down; waiting: why it did not begin or did not go
    on, "" when it did. Times are wall clock."""

    parts: tuple[Part, ...] = ()
    waiting: str = ""
    began_unix_s: float = 0.0
    seconds: float = 0.0

    def part(self, name: str) -> Part | None:
        """The part of this name, if it came to that."""
        return next((p for p in self.parts if p.name == name), None)


class SlowLoop:
    """The docked work of one root, in the process of its sidecar. docked: a person says so, nothing is asked."""

    def __init__(self, mid: Sidecar, *, docked: bool = False, wall: Callable[[], float] = time.time) -> None:
        self.mid, self.brain, self.layout, self.config = mid, mid.brain, mid.layout, mid.config
        self._docked, self._wall = docked, wall

    def due(self) -> str:
        """Why a docked round is due now, "" when none is. Reads cards and links alone."""
        rules = self.config.slow
        if not rules.enabled:
            return ""
        promoted = self._promoted_since()
        current = self._unconsolidated()
        if promoted >= rules.after_promotions and current is not None and self._tried(current) is None:
            return f"{promoted} fast adapters were promoted since the last consolidation"
        began = self._last_unix_s()
        if began is None:
            # Nothing was ever done: what there is may well wait for a night.
            first = self._first_unix_s()
            began = first if first is not None else self._wall()
        hours = (self._wall() - began) / 3600
        return f"{hours:.1f} hours since the last time" if not 0 <= hours < rules.every_h else ""

    def round(self) -> SlowReport:
        """One docked round; `waiting` says why nothing was done while a gate is closed. Raises `LockHeldError` when
        another trainer works on this root."""
        mid = self.mid
        began, clock = self._wall(), time.monotonic()
        parts: list[Part] = []
        waiting = ""
        with mid.at_work(
            f"consolidate {self.layout.root}", gates_from_config(self.config, docked=not self._docked)
        ):
            report = mid.poll_gates()
            if not report.open:
                waiting = "; ".join(f"{s.name}: {s.reason}" for s in report.closed)
                return SlowReport((), waiting, began)
            mid.say(kind=SLOW, phase="check", detail="docked", step=0, steps=0, candidate="", verdict=None)
            mid.works()
            mid.patience_s = _PATIENCE_S
            try:
                for name, work in (
                    ("check", self._check),
                    ("remember", self._remember),
                    ("consolidate", self._consolidate),
                    ("retention", self._retention),
                    ("cache", self._cache),
                    ("backup", self._backup),
                    ("export", self._export),
                ):
                    mid.look()
                    parts.append(self._one(name, work))
            except GaveUp as gave_up:
                waiting = str(gave_up)
            finally:
                mid.patience_s = None
            done = SlowReport(tuple(parts), waiting, began, round(time.monotonic() - clock, 2))
            if not waiting:
                with contextlib.suppress(OSError):  # a full disk must not end the sidecar
                    write_json_durably(self.layout.slow_path, {"schema": 1, **asdict(done)})
            mid.events.note("slow", {"waiting": waiting, "parts": [[p.name, p.outcome] for p in parts]})
            mid.say(kind="fast", phase="waiting", detail=waiting or "docked work is done")
        return done

    def _one(self, name: str, work: Callable[[], Part]) -> Part:
        try:
            return work()
        except GaveUp:
            raise
        except Exception as error:  # whatever a damaged paper leads to, the other parts have their turn
            log.exception("docked work: %s", name)
            told = (
                str(error) if isinstance(error, BrainError | OSError) else f"{type(error).__name__}: {error}"
            )
            return Part(name, "failed", told)

    def _check(self) -> Part:
        """Nothing is mended here: what is damaged is named, and a person decides."""
        damaged: list[str] = []
        episodes = list_episodes(self.layout.episodes_dir, finished_only=True)
        for i, path in enumerate(episodes):
            self.mid.say(force=False, detail=f"checking {path.name}", step=i + 1, steps=len(episodes))
            self.mid.look()
            damaged += [str(f) for f in examine(path) if f.severity == ERROR][:1]
        store = self.mid.store
        history = store.verify_history()
        if not history.ok:
            damaged.append(f"{self.layout.history_path}: {history.problem}")
        versions = store.list()
        for version in versions:
            self.mid.look()
            if not version.compute_sha256().startswith(version.sha8):
                damaged.append(f"adapter {version.version_id}: its bytes are not those that were staged")
        figures = {"episodes": len(episodes), "adapters": len(versions), "damaged": damaged[:_NAMED]}
        if damaged:
            return Part("check", "failed", f"{len(damaged)} damaged: {damaged[0]}", figures)
        return Part(
            "check", "done", f"{len(episodes)} episodes and {len(versions)} adapters are whole", figures
        )

    def _remember(self) -> Part:
        before, after, unreadable = bring_up_to_date(self.brain, self.mid.store, self.mid.look)
        if after == before:
            return Part(
                "remember",
                "nothing",
                f"{len(after.kept)} episodes that something was learned from, none is new",
                told(after),
            )
        detail = f"{len(after.kept)} episodes stand for all ({len(after.names - before.names)} are new)"
        if unreadable:
            detail += f"; {len(unreadable)} cannot be read: {unreadable[0]}"
        return Part("remember", "done", detail, told(after))

    def _consolidate(self) -> Part:
        announce_unfinished(self.brain)
        look_after(self.brain)
        current = self._unconsolidated()
        if current is None:
            return Part("consolidate", "nothing", "what drives is the base, or consolidated already")
        standing = self.mid.store.standing()
        if standing.kind == "probation":
            told = f"{current.version_id} is on probation: let it drive, or: continuonbrain adapters confirm"
            return Part("consolidate", "nothing", told)
        if (waiting := self._waiting_candidate(current)) is not None:
            return waiting
        if (tried := self._tried(current)) is not None:
            return Part("consolidate", "nothing", f"{tried.version_id} was made of it and not promoted")
        if why := no_room_for_two(self.brain):
            return Part("consolidate", "failed", f"nothing could be learned on top of it: {why}")
        known, _ = self.mid.new_episodes()
        reservoir = read_reservoir(self.layout.reservoir_path)
        lost = {p.name for p in known}
        known += [
            p
            for p in list_episodes(self.layout.episodes_dir, finished_only=True)
            if p.name in reservoir.names and p.name not in lost
        ]
        self.mid.say(phase="read", detail="loading torch")
        try:
            from continuonbrain.loops.consolidation import consolidate
        except ModuleNotFoundError as error:
            missing = told_from_import(error)
            if missing is None:
                raise
            raise missing from error
        learned = consolidate(self.mid, current, reservoir, known)
        figures = {"version": learned.version_id, "training": learned.training}
        if not learned.verdict["passed"]:
            return Part("consolidate", "refused", str(learned.verdict["reason"]), figures)
        return self._promoted(figures)

    def _waiting_candidate(self, current: AdapterVersion) -> Part | None:
        """A candidate that is to be judged or promoted must not be displaced; one that was made of what drives and
        passed is promoted now (its promotion was cut short)."""
        candidate = self.mid.store.candidate()
        if candidate is None:
            return None
        card, verdict = card_of(candidate), paper_of(candidate.verdict)
        if verdict is None and card.get(KIND) != SLOW:
            return Part("consolidate", "nothing", f"{candidate.version_id} waits for its verdict")
        if verdict is None or verdict.get("passed") is not True:
            return None
        if card.get(KIND) == SLOW and card.get("of") == current.version_id:
            return self._promoted({"version": candidate.version_id})
        return Part(
            "consolidate", "nothing", f"{candidate.version_id} has passed and waits for its promotion"
        )

    def _promoted(self, figures: dict[str, Any]) -> Part:
        try:
            promoted = promote_candidate(self.brain)
        except (OnProbation, PromotionRefused) as refused:
            return Part("consolidate", "refused", refused.reason, figures)
        return Part("consolidate", "done", f"{promoted.version_id}: {promoted.detail}", figures)

    def _retention(self) -> Part:
        gone = keep_within_limits(self.brain)
        figures = {"episodes": len(gone.episodes), "bytes": gone.bytes}
        if not gone.episodes:
            return Part("retention", "nothing", gone.over or "the memory is within its limits", figures)
        return Part(
            "retention", "done", f"{len(gone.episodes)} episodes forgotten {gone.over}".strip(), figures
        )

    def _cache(self) -> Part:
        """What the policy computed while a person drove is of use until it was learned from."""
        _, fresh = self.mid.new_episodes()
        if fresh:
            return Part("cache", "nothing", "there are lessons that were not learned yet")
        freed = 0
        for segment in sorted(self.layout.cache_dir.glob("*.tfrecord"))[:-1]:  # the newest is being written
            freed += segment.stat().st_size
            segment.unlink()
        outcome = "done" if freed else "nothing"
        return Part("cache", outcome, f"{freed / 2**20:.1f} MiB are free again", {"bytes": freed})

    def _backup(self) -> Part:
        brain = self.mid.brain
        slots = ("", *(entry.slot for entry in BaseSlots(self.layout).list()))
        versions = {slot: self._kept(slot) for slot in slots}
        folder = backup_folder(brain.configured, self.config.slow.backup_dir)
        made = back_up(brain.configured, folder, versions=versions, keep=self.config.slow.backups)
        figures = {"path": str(made.path), "files": made.files, "bytes": made.bytes}
        return Part("backup", "done", f"{made.files} files in {made.path}", figures)

    def _kept(self, slot: str) -> set[str]:
        """Ids of a base's adapters that a backup holds."""
        store = AdapterStore(self.mid.brain.on(slot).layout)
        try:
            versions = protected_versions(store)
            if (slow := standing_slow(store)) is not None:
                versions.add(slow.version.version_id)
        except BrainError:
            if slot == self.layout.base_slot:
                raise
            return set()  # what does not drive, and is damaged, keeps nobody from the others' backup
        return versions

    def _export(self) -> Part:
        if not self.config.cloud.opt_in:
            return Part("export", "nothing", "cloud.opt_in is false: nothing leaves the robot")
        # In a process of its own: the room that makes bundles is above this one, and its memory is given back.
        command = [sys.executable, "-m", "continuonbrain.cloud.outbox", "--root", str(self.layout.root)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_EXPORT_S)
        except subprocess.TimeoutExpired:
            return Part("export", "failed", f"it took longer than {_EXPORT_S:.0f} s; the next one goes on")
        if ended.returncode != 0:
            return Part("export", "failed", (ended.stderr.strip().splitlines() or ["no bundle was made"])[-1])
        figures = json.loads(ended.stdout)
        return Part("export", str(figures.pop("outcome")), str(figures.pop("detail")), figures)

    # What the store and the last report say.

    def _unconsolidated(self) -> AdapterVersion | None:
        """What drives, where that is a fast adapter."""
        current = self.mid.store.current()
        return None if current is None or card_of(current).get(KIND) == SLOW else current

    def _tried(self, current: AdapterVersion) -> AdapterVersion | None:
        """The consolidation that was made of what drives and judged."""
        for version in reversed(self.mid.store.list()):
            card = card_of(version)
            if card.get(KIND) == SLOW and card.get("of") == current.version_id:
                with contextlib.suppress(BrainError):
                    if version.verdict() is not None:
                        return version
        return None

    def _promoted_since(self) -> int:
        """Fast adapters that were promoted since a slow one was, and not taken back."""
        count = 0
        for entry in self.mid.store.history():
            if entry.event == "promote" and entry.to_version is not None:
                try:
                    kind = card_of(self.mid.store.get(entry.to_version)).get(KIND)
                except BrainError:
                    kind = None
                count = 0 if kind == SLOW else count + 1
            elif entry.event in ("revert", "rollback"):
                count = max(0, count - 1)
        return count

    def _last_unix_s(self) -> float | None:
        try:
            return float(json.loads(self.layout.slow_path.read_bytes())["began_unix_s"])
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            return None

    def _first_unix_s(self) -> float | None:
        """When the oldest adapter was staged."""
        with contextlib.suppress(OSError, BrainError):
            return min((v.path.stat().st_mtime for v in self.mid.store.list()), default=None)
        return None
