"""Routes of learning: the trainer and its gates, who drives, and the history of that."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.loops.owner import go_on, is_wanted, owner_gate, pause, take_wanted, want_training
from continuonbrain.loops.probation import confirm_by_hand
from continuonbrain.loops.promotion import (
    Promotion,
    promote_candidate,
    promotion_refused,
    roll_back,
)
from continuonbrain.loops.rollout_film import before_of
from continuonbrain.loops.training_log import LIVE_LOG_FILE
from continuonbrain.robot.host import Host
from continuonbrain.service.feed import Feed
from continuonbrain.service.learn_models import (
    ChangedOut,
    DrivesIn,
    GateOut,
    HistoryEntryOut,
    HistoryOut,
    PromoteIn,
    PromotionOut,
    RolloutsOut,
    TrainingIn,
    TrainingOut,
)
from continuonbrain.service.learning_told import (
    is_alive,
    numbers,
    seconds_left,
    spent_today,
    status_of,
    steps_told,
    texts,
)
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.program import Program
from continuonbrain.service.start_rule import LEARNS, Situation, answer, waits_for
from continuonbrain.service.training_time import ran_out, time_left, worked_s
from continuonbrain.storage.adapter_version import REFLEX_FILE
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.event_log import Event
from continuonbrain.storage.history import HistoryEntry
from continuonbrain.storage.lock import is_held
from continuonbrain.storage.plain_json import plain
from continuonbrain.storage.promotion_rule import PromotionRefused
from continuonbrain.trainer.gates import GateSet
from continuonbrain.trainer.wall_time import adapter_s

FILM_MODULE = "continuonbrain.loops.rollout_film"
_FILM_S = 180.0


def add_learn_routes(
    app: FastAPI, brain: BrainRoot, gates: GateSet, host: Host, taught: Callable[[], int], feed: Feed
) -> None:
    """`/v1/training`, `/v1/history`, `/v1/adapters/.../promote` and so on, `/v1/adapters/.../rollouts`. taught: how
    many lessons there are."""
    layout, store = brain.layout, AdapterStore(brain.layout)
    films = Program("the simulator", timeout_s=_FILM_S)

    def told(events: Sequence[Event], said: str = "") -> TrainingOut:
        status = status_of(layout.status_path)
        running = is_alive(status.pid)
        phase, detail = status.phase, status.detail
        learns = running and phase in LEARNS
        if not running and phase in LEARNS | {"gates"}:  # it was killed
            phase, detail = "stopped", "its process has ended; what it had done is kept"
        log = layout.log_dir / LIVE_LOG_FILE
        trains = running and phase == "train"
        worked, most = worked_s(events, time.time()), brain.config.max_wall_time_s
        reflex = brain.config.training.reflex_steps > 0 and (layout.base_model_dir / REFLEX_FILE).is_file()
        limit = adapter_s(most, teaches_reflex=reflex)
        left = seconds_left(log, step=status.step, steps=status.steps) if trains else None
        budget, budget_state = spent_today(brain)
        owner = owner_gate(layout)
        states = [*gates.poll(host).states, budget_state, owner]
        wanted = is_wanted(layout) and not learns
        if wanted and running and not said:
            said = waits_for(states)
        # A list of another length is of another release, or of nobody.
        steps = status.loss_steps if len(status.loss_steps) == len(status.losses) else []
        return TrainingOut(
            kind=status.kind,
            phase=phase,
            detail=detail,
            step=status.step,
            steps=status.steps,
            loss=status.loss,
            losses=numbers(status.losses),
            loss_steps=[int(step) for step in numbers(steps)],
            part=status.part,
            parts=status.parts,
            candidate=status.candidate,
            episodes=status.episodes,
            left_out=texts(status.left_out),
            running=running,
            paused=not owner.open,
            wanted=wanted,
            said=said,
            seconds_left=time_left(left, worked=worked, limit_s=limit),
            short=ran_out(
                phase,
                card=_figures_of(store, status.candidate),
                max_wall_time_s=most,
                steps=steps_told(log, [int(step) for step in numbers(steps)]),
                worked=worked,
                limit_s=limit,
            ),
            holds=learns and is_held(layout.trainer_lock_path),
            budget=budget,
            gates=[
                GateOut(name=s.name, open=s.open, value=_number(s.value), reason=s.reason) for s in states
            ],
        )

    def start(events: Sequence[Event]) -> TrainingOut:
        status = status_of(layout.status_path)
        _, budget_state = spent_today(brain)
        owner = owner_gate(layout)
        # The lock alone says nothing: a sidecar that only looks for something new holds it for moments.
        at_work = status.phase if is_held(layout.trainer_lock_path) else ""
        found = answer(
            Situation(
                running=is_alive(status.pid, (SIDECAR_MODULE,)),
                phase=at_work,
                paused=not owner.open,
                lessons=taught(),
                min_episodes=brain.config.min_episodes,
                gates=[*gates.poll(host).states, budget_state],
            ),
            run_it=f"start one: continuonbrain run (a simulated robot), or continuonbrain train --root {layout.root}",
        )
        if not found.yes:
            raise ServiceError(409, found.words, remedy=found.remedy)
        want_training(layout)
        return told(events, found.words)

    @app.get("/v1/training")
    async def training() -> TrainingOut:
        """The trainer, its gates, and what today has cost."""
        return await asyncio.to_thread(told, await feed.kept())

    @app.post("/v1/training", responses=errors(403, 409, 422))
    async def steer(asked: TrainingIn) -> TrainingOut:
        """Learn now, not until resumed, or as usual again."""

        def act(events: Sequence[Event]) -> TrainingOut:
            if asked.action == "start":
                return start(events)
            if asked.action == "resume":
                go_on(layout)
            else:
                if status_of(layout.status_path).phase not in LEARNS:  # one that runs goes on later
                    take_wanted(layout)
                pause(layout)
            return told(events)

        return await asyncio.to_thread(act, await feed.kept())

    @app.get("/v1/history", responses=errors(409))
    async def history() -> HistoryOut:
        """Every change of what drives, and what each adapter was taught by."""

        def read() -> HistoryOut:
            check = store.verify_history()
            if not check.ok:
                return HistoryOut(entries=[], problem=check.problem)
            papers = {version.version_id: version for version in store.list()}
            return HistoryOut(entries=[_entry(e, papers) for e in store.history()], problem="")

        return await asyncio.to_thread(read)

    @app.post("/v1/adapters/rollback", responses=errors(403, 409))
    async def back(asked: DrivesIn | None = None) -> ChangedOut:
        """Let the adapter drive that drove before."""
        return await _changed(lambda: roll_back(brain, from_version=None if asked is None else asked.drives))

    @app.post("/v1/adapters/confirm", responses=errors(403, 409))
    async def confirm(asked: DrivesIn | None = None) -> ChangedOut:
        """Confirm the adapter that is on probation, whatever it has driven so far."""
        return await _changed(lambda: confirm_by_hand(brain, drives=None if asked is None else asked.drives))

    @app.post("/v1/adapters/{name}/promote", responses=errors(403, 404, 409, 422))
    async def promote(name: str, asked: PromoteIn | None = None) -> ChangedOut:
        """Let an adapter drive, on the verdict beside it."""
        again = asked is not None and asked.again
        return await _changed(
            lambda: promote_candidate(brain, version_id=_found(store, name).version_id, again=again)
        )

    @app.get("/v1/adapters/{name}/promotion", responses=errors(404, 422))
    async def promotion(name: str) -> PromotionOut:
        """Whether it could be promoted now, and why not: also one that drove once and was taken back."""

        def look() -> PromotionOut:
            version = _found(store, name)
            no = promotion_refused(brain, version)
            if no is None:
                return PromotionOut(may=True, again=False, reason="", remedy="")
            again = promotion_refused(brain, version, again=True) is None
            return PromotionOut(may=again, again=again, reason=_why(no), remedy=no.remedy or "")

        return await asyncio.to_thread(look)

    @app.get("/v1/adapters/{name}/rollouts", responses=errors(404, 409, 422, 429, 504))
    async def rollouts(name: str) -> RolloutsOut:
        """A lap of the simulator before and after this adapter. Driven when asked for first: that takes a while."""
        if brain.config.robot.kind != "sim-donkey":
            raise ServiceError(404, "no simulator stands in for this robot", remedy="look at how it drives")
        version = await asyncio.to_thread(_found, store, name)
        before = await asyncio.to_thread(before_of, store, version)
        of = f"{version.version_id}-after-{'base' if before is None else before.version_id}"
        kept = layout.cache_dir / "rollouts" / f"{of}-{brain.config.robot.shift}.json"
        with contextlib.suppress(OSError, ValueError):  # not driven yet, or cut short
            return RolloutsOut.model_validate_json(await asyncio.to_thread(kept.read_bytes))
        arguments = ["--root", str(layout.root), "--version", version.version_id]
        found = RolloutsOut.model_validate(await films.run(FILM_MODULE, arguments))

        def keep() -> None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            replace_file(kept, json.dumps(found.model_dump()).encode())

        with contextlib.suppress(OSError):  # a full disk: it is driven again
            await asyncio.to_thread(keep)
        return found


def _why(no: BrainError) -> str:
    return no.reason if isinstance(no, PromotionRefused) else no.message


async def _changed(change: Callable[[], Promotion]) -> ChangedOut:
    told = await asyncio.to_thread(change)
    return ChangedOut(
        id=told.version_id, sha256=told.sha256, noticed=told.noticed, running=told.running, detail=told.detail
    )


def _found(store: AdapterStore, name: str) -> AdapterVersion:
    try:
        return store.find(name)
    except BrainError as error:
        raise ServiceError(404, error.message, remedy=error.remedy or "") from error


def _entry(entry: HistoryEntry, versions: dict[str, AdapterVersion]) -> HistoryEntryOut:
    about = plain(dict(entry.about))
    version = versions.get(entry.to_version or "")
    card, verdict = ({}, None) if version is None else (_paper(version.card), _paper(version.verdict))
    taught = card.get("episodes")
    short = None
    if entry.event == "promote" and verdict:
        checks = verdict.get("checks")
        count = len(checks) if isinstance(checks, list) else 0
        short = {
            "passed": verdict.get("passed") is True,
            "checks": count,
            "reason": str(verdict.get("reason", "")),
        }
    return HistoryEntryOut.model_validate(
        {
            "at_unix_s": entry.time_unix_s,
            "event": entry.event,
            "from": entry.from_version or "",
            "to": entry.to_version or "",
            "by": str(about.get("by", "")),
            "reason": str(about.get("words") or about.get("reason") or ""),
            "episodes": texts(taught) if isinstance(taught, list) else [],
            "verdict": short,
        }
    )


def _paper(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    try:
        return read() or {}
    except BrainError:
        return {}


def _figures_of(store: AdapterStore, name: str) -> dict[str, Any]:
    """Of a training, from the card of what it made; {} where there is none."""
    if not name:
        return {}
    try:
        version = store.find(name)
    except BrainError:  # it was given up since
        return {}
    found = _paper(version.card).get("training")
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    number = float(value) if isinstance(value, int | float) else float("nan")
    return number if number == number and abs(number) != float("inf") else None
