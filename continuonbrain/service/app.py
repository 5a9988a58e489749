"""The routes. `create_app(brain)` is everything behind the socket; `server.py` opens it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from continuonbrain import __version__
from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.base_probation import base_progress
from continuonbrain.loops.drive_session import read_status
from continuonbrain.loops.probation import progress
from continuonbrain.loops.view import VIEW_SOCKET_NAME
from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.robot.host import HOST_FILE_NAME, host_for
from continuonbrain.service import problems
from continuonbrain.service.access import Pairing, Sessions
from continuonbrain.service.answers import add_answer_routes
from continuonbrain.service.door import Door, cookie_of
from continuonbrain.service.drive import add_drive_routes
from continuonbrain.service.feed import Feed
from continuonbrain.service.learn import add_learn_routes
from continuonbrain.service.minds import Minds
from continuonbrain.service.models import AdapterOut, AdaptersOut, EventOut, Gap, StatusOut, events_of
from continuonbrain.service.page import add_page_routes
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.session_file import SESSION_FILE, read_sessions, write_sessions
from continuonbrain.service.sessions import add_session_routes
from continuonbrain.service.shelf import Shelf
from continuonbrain.service.system import add_system_routes
from continuonbrain.service.teach import add_teach_routes
from continuonbrain.service.view import ViewHub, add_view_route
from continuonbrain.service.wheel import Wheel
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.lock import is_held
from continuonbrain.storage.plain_json import load_plain, plain
from continuonbrain.trainer.build_gates import gates_from_config

LOOPBACK_NAMES = ("127.0.0.1", "localhost")


def create_app(
    brain: BrainRoot, *, hosts: Sequence[str] = LOOPBACK_NAMES, pairing: Pairing | None = None
) -> FastAPI:
    """The service of one brain root: reads its files, opens engines of its own when asked, and passes on what a person
    commands.

    hosts: names that a request over TCP may call this machine by. pairing: what lets somebody in on a LAN, where any
    address of this machine is a name too; None on loopback."""
    app = FastAPI(
        title="continuonbrain",
        version=__version__,
        description="What the robot's brain does and has learned. Errors are application/problem+json.",
        docs_url=None,  # their pages load scripts from the network
        redoc_url=None,
    )
    problems.install(app)
    session_path, cookie = brain.layout.run_dir / SESSION_FILE, cookie_of(brain.layout.root)
    if pairing is None:
        sessions = Sessions()  # on loopback a page is given another one for asking
    else:
        sessions = Sessions(read_sessions(session_path), on_change=partial(write_sessions, session_path))
    wheel, hub = Wheel(), ViewHub(brain.layout.run_dir / VIEW_SOCKET_NAME)
    app.add_middleware(
        Door, hosts=hosts, addresses=pairing is not None, sessions=sessions, pairing=pairing, cookie=cookie
    )
    layout, store, minds = brain.layout, AdapterStore(brain.layout), Minds(brain)
    feed = Feed(layout.events_dir)
    app.state.feed = feed
    gates = gates_from_config(brain.config)
    host = host_for(brain.config.robot.kind, host_file=layout.run_dir / HOST_FILE_NAME, disk_path=layout.root)

    @app.get("/v1/status", responses=errors(409))
    async def status() -> StatusOut:
        """What runs, what has been learned, and what the gates say."""

        def read() -> StatusOut:
            base, missing = _identified(layout.base_model_dir)
            (current, problem), (candidate, _) = _named(store.current), _named(store.candidate)
            return StatusOut(
                version=__version__,
                base_sha256=base,
                current=current,
                candidate=candidate,
                problem=missing or problem or minds.refused,
                running=is_held(layout.brain_lock_path),
                engines=minds.engines(),
                control=plain({k: v for k, v in read_status(layout).items() if k != "trail"}),
                training=_json_file(layout.status_path),
                gates=gates.poll(host).as_dict(),
                probation=_told(progress, brain),
                base=_told(base_progress, brain),
                last_event=0,
            )

        found = await asyncio.to_thread(read)
        return found.model_copy(update={"last_event": await feed.last()})

    @app.get("/v1/manifest", responses=errors(404))
    async def manifest() -> dict[str, Any]:
        """`model/manifest.json` as apps read it."""
        found = _json_file(layout.manifest_path)
        if not found:
            raise ServiceError(
                404,
                f"{layout.manifest_path} is missing or no JSON",
                remedy="promote or roll back: it is written anew",
            )
        return found

    @app.get("/v1/adapters", responses=errors(409))
    async def adapters() -> AdaptersOut:
        """Every adapter, oldest first."""

        def read() -> AdaptersOut:
            slots = _slots(store)
            return AdaptersOut(adapters=[_adapter(v, slots) for v in store.list()])

        return await asyncio.to_thread(read)

    @app.get("/v1/adapters/{name}", responses=errors(404, 422))
    async def adapter(name: str) -> AdapterOut:
        """One adapter, by its id or as current, candidate or previous."""

        def read() -> AdapterOut:
            try:
                return _adapter(store.find(name), _slots(store))
            except BrainError as error:
                raise ServiceError(404, error.message, remedy=error.remedy or "") from error

        return await asyncio.to_thread(read)

    @app.get(
        "/v1/events",
        response_class=EventSourceResponse,
        responses={200: {"content": events_of(EventOut, Gap)}, **errors(422)},
    )
    async def events(
        request: Request,
        last_event_id: Annotated[str | None, Header(pattern=r"^\d{0,15}$")] = None,
        after: Annotated[int | None, Query(ge=0, lt=10**15)] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """Events as they happen. With Last-Event-ID (or `after`) from that number on, without from now on.

        `event:` is the kind, `id:` the number, `data:` an `EventOut`. An event "gap" says that some are no longer kept;
        one "reset" that the numbers began anew, and that all that is kept follows.
        """
        heard = hub.while_let_in(request.scope)
        newest = await feed.last()
        begun = feed.begun
        seen = int(last_event_id) if last_event_id else after  # empty: a listener that has seen none yet
        if seen is None:
            seen = newest
        elif seen > newest:
            yield ServerSentEvent(event="reset", data=Gap(after=seen, next=1), id="0")
            seen = 0
        yield ServerSentEvent(comment=f"after {seen}")
        async for event in feed.follow(seen, begun, heard):
            if event is None:
                yield ServerSentEvent(event="reset", data=Gap(after=seen, next=1), id="0")
                seen = 0
                continue
            if event.sequence > seen + 1:
                yield ServerSentEvent(event="gap", data=Gap(after=seen, next=event.sequence))
            seen = event.sequence
            out = EventOut(
                sequence=event.sequence, kind=event.kind, at_unix_s=event.at_unix_s, data=event.data
            )
            yield ServerSentEvent(event=event.kind, id=str(event.sequence), data=out)

    add_answer_routes(app, minds, hub)
    add_session_routes(app, brain, sessions, pairing, wheel, hub)
    add_drive_routes(app, brain, wheel)
    add_view_route(app, hub, wheel)
    shelf = Shelf(layout)
    add_teach_routes(app, brain, wheel, shelf)
    add_learn_routes(app, brain, gates, host, lambda: shelf.taught(shelf.newest_first()), feed)
    add_system_routes(app, brain, host, shelf)
    add_page_routes(app)
    return app


def _json_file(path: Any) -> dict[str, Any]:
    try:
        value = load_plain(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _slots(store: AdapterStore) -> dict[str, list[str]]:
    slots: dict[str, list[str]] = {}
    found: dict[str, Callable[[], AdapterVersion | None]] = {
        "current": store.current,
        "candidate": store.candidate,
        "previous": store.previous,
    }
    for slot, read in found.items():
        version, _ = _named(read)
        if version:
            slots.setdefault(version, []).append(slot)
    return slots


def _identified(base: Path) -> tuple[str, str]:
    """The base's identity, "" where there is none, and what is wrong with it."""
    try:
        return checkpoint_sha256(base), ""
    except BrainError as error:
        return "", f"{error.message} (base_model_path in config.json)"


def _named(read: Callable[[], AdapterVersion | None]) -> tuple[str, str]:
    """The id of what a slot holds, "" for nothing, and what is wrong with it."""
    try:
        version = read()
    except BrainError as error:
        return "", error.message
    return ("" if version is None else version.version_id), ""


def _told(progress: Callable[[BrainRoot], dict[str, Any]], brain: BrainRoot) -> dict[str, Any]:
    try:
        return progress(brain)
    except BrainError:  # a damaged history, or base_slot.json, is the doctor's to tell
        return {}


def _adapter(version: AdapterVersion, slots: dict[str, list[str]]) -> AdapterOut:
    card, verdict = _paper(version.card), _paper(version.verdict)
    try:
        sha256, damaged = version.compute_sha256(), ""
        if not sha256.startswith(version.sha8):
            damaged = "its bytes are not those that were staged"
    except (BrainError, OSError) as error:
        sha256, damaged = "", str(error)
    passed = None if verdict is None else verdict.get("passed")
    return AdapterOut(
        id=version.version_id,
        sha256=sha256,
        damaged=damaged,
        slots=slots.get(version.version_id, []),
        passed=passed if isinstance(passed, bool) else None,
        verdict=verdict,
        card=card,
    )


def _paper(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """A card or verdict; None when it is absent or damaged."""
    try:
        found: dict[str, Any] | None = plain(read())
    except (BrainError, ValueError):
        return None
    return found
