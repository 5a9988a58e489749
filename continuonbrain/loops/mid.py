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
from continuonbrain.errors import BrainError, told_from, told_from_import
from continuonbrain.loops import notify
from continuonbrain.loops.adapter_origin import ORIGIN, origin_refusal
from continuonbrain.loops.at_work import Sidecar, Status, paper_of
from continuonbrain.loops.base_watch import MOVED, BaseWatch
from continuonbrain.loops.give_back import give_memory_back
from continuonbrain.loops.memory import keep_within_limits
from continuonbrain.loops.owner import is_wanted, take_wanted
from continuonbrain.loops.probation import ProbationWatch, look_after
from continuonbrain.loops.promotion import Promotion, announce_unfinished, promote_candidate
from continuonbrain.loops.remembering import bring_up_to_date
from continuonbrain.loops.slow import SlowLoop
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.rlds.marking import LEAST_S, bad_episodes, is_short
from continuonbrain.rlds.reader import is_being_recorded, list_episodes, read_metadata
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.storage.adapters import AdapterVersion
from continuonbrain.storage.promotion_rule import OnProbation, PromotionRefused, StaleVerdict

__all__ = ["MidLoop", "Outcome", "Status", "end_on_signals", "watch"]

_SLOW_AGAIN_S, _SLOW_AGAIN_LONGEST_S = 20.0, 3600.0
_WANTED_AGAIN_S = 1.0
_IDLE = ("waiting", "gates")
"""Ends of rounds in which nothing was learned."""
_NAMED = 5
"""Episodes that are named where more are counted."""


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


class MidLoop(Sidecar):
    """One brain root's trainer, learning what is new."""

    def _not_counted(self, short: int) -> list[str]:
        """The episodes of this root that are no lessons, in words. short: how many of a person's are too short."""
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
        if bad := len(bad_episodes(self.layout.episodes_dir)):
            driven.append(f"{bad} marked as bad")
        if short:
            driven.append(f"{short} shorter than {LEAST_S:g} s")
        if unfinished:
            more = ", ..." if len(unfinished) > _NAMED else ""
            driven.append(
                f"{len(unfinished)} unfinished or unreadable ({', '.join(unfinished[:_NAMED])}{more})"
            )
        return [f"not counted: {', '.join(driven)}"] if driven else []

    def _standing_candidate(self) -> Promotion | None:
        """Promote a candidate whose passing verdict stands but whose promotion never came (a crash, --hold, another one
        on probation). Raises `OnProbation` while that lasts, `StaleVerdict` where it has to be judged again: its
        verdict is then set aside."""
        candidate = self.store.candidate()
        verdict = None if candidate is None else paper_of(candidate.verdict)
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
        if candidate is None or ORIGIN not in (paper_of(candidate.card) or {}):
            return None
        if paper_of(candidate.verdict) is not None or origin_refusal(self.brain, candidate) is not None:
            return None
        return candidate

    def round(self, *, hold: bool = False, again: bool = False) -> Outcome:
        """One round. again: train even when no episode is new, as a person's wish says, too. Raises `BrainError`s with
        nothing changed.

        The wish stands until what it asked for has ended: a training that is put down, killed or without power is taken
        up again although nothing is new, and one that waits for a gate begins when it opens.

        Raises `LockHeldError` when another trainer works on this root.
        """
        with self.at_work(f"train on {self.layout.root}"):
            wanted = is_wanted(self.layout)
            try:
                outcome = self._round(hold=hold, again=again or wanted)
            except (BrainError, OSError):  # the same again would fail the same way
                if wanted:
                    take_wanted(self.layout)
                raise
            if wanted and outcome.phase != "gates":
                take_wanted(self.layout)
            return outcome

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
        short = sum(is_short(read_metadata(p / METADATA_FILE)) for p in episodes)
        counted = len(episodes) - short
        self.say(episodes=counted)
        if counted < self.config.min_episodes:
            words = f"{counted} of {self.config.min_episodes} episodes (min_episodes) driven by a human"
            return self._end("waiting", "; ".join([words, *self._not_counted(short)]))
        waiting = None if again else self._waits_for_judgment()
        if waiting is None and not fresh and not again and not stale:
            words = f"nothing new in {len(episodes)} episodes since the last candidate"
            return self._end("waiting", words, nothing_new=True)
        # Names a base that cannot be taught, before an episode is read.
        base_sha256(self.layout.base_model_dir)
        report = self.poll_gates()
        if not report.open:
            return self._end("gates", "; ".join(f"{s.name}: {s.reason}" for s in report.closed))
        self.works()
        self.say(phase="read", detail=f"{len(episodes)} episodes, gates open: loading torch")
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
        if self.config.slow.enabled:
            with contextlib.suppress(BrainError, OSError):  # the docked round tells of it
                bring_up_to_date(self.brain, self.store, self.look)
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


def _held(waits: OnProbation) -> str:
    return f"passed; held until that is over: {waits.reason}"


def watch(mid: MidLoop, *, every_s: float = 2.0, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Rounds until told to stop, or until another base drives; after a failed or refused round the next try waits, up
    to five minutes, unless a person wants it now. Before each the slow loop has its turn, where it is due: what was
    learned is made safe before more is learned on top of it. One that fails is due again, and waits up to an hour."""
    slow = SlowLoop(mid)
    backoff, slow_from_s, slow_backoff = every_s, -1e9, _SLOW_AGAIN_S
    base = BaseWatch(mid.layout)

    def over() -> bool:
        return should_stop() or base.moved()

    while not over():
        try:
            if time.monotonic() >= slow_from_s and slow.due():
                # A dock that nobody feels must not cost a look at all gates every two seconds.
                done = slow.round()
                give_memory_back()
                failed = (part := done.part("consolidate")) is not None and part.outcome == "failed"
                slow_from_s = time.monotonic() + (slow_backoff if done.waiting or failed else every_s)
                slow_backoff = min(_SLOW_AGAIN_LONGEST_S, 2 * slow_backoff) if failed else _SLOW_AGAIN_S
            outcome = mid.round(again=is_wanted(mid.layout))
            if outcome.phase not in _IDLE:
                give_memory_back()
            backoff = min(300.0, backoff * 2) if outcome.phase == "refused" else every_s
        except (BrainError, OSError):
            backoff = min(300.0, backoff * 2)
        until, soon = time.monotonic() + backoff, time.monotonic() + min(backoff, _WANTED_AGAIN_S)
        while time.monotonic() < (soon if is_wanted(mid.layout) else until) and not over():
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
        if BaseWatch(mid.layout).moved():
            raise SystemExit(MOVED)
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
