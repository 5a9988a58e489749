"""Asking the model: whose turn it is, `/v1/act`, and `/v1/chat` with its stream of words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from continuonbrain.service.minds import Minds
from continuonbrain.service.models import ActIn, ActOut, ChatIn, ChatOut, ChatPiece, events_of
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.view import ViewHub

log = logging.getLogger(__name__)

_WAITING = 4
"""Requests that may wait for the model; more are told to come back."""
_STILL_THERE_S = 0.5
T = TypeVar("T")
_Told = asyncio.Queue[ChatPiece | ChatOut | Exception | None]


class _Model:
    """The thread that the engines live on, and whose turn it is. An answer keeps its turn to its end: two at once would
    read each other's conversation away. `ServiceError` 429 when too many wait already."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._turn, self._waiting = asyncio.Lock(), 0

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[None]:
        if self._waiting >= _WAITING:
            raise ServiceError(
                429, f"{self._waiting} requests wait for the model already", remedy="try again soon"
            )
        self._waiting += 1
        try:
            await self._take(request)
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _take(self, request: Request) -> None:
        """Wait for the turn, unless whoever asked has left meanwhile: others wait behind."""
        mine = asyncio.ensure_future(
            self._turn.acquire()
        )  # its place in the queue, kept while it is looked after
        try:
            while not mine.done():
                await asyncio.wait({mine}, timeout=_STILL_THERE_S)
                if not mine.done():
                    await still_there(request)
        except BaseException:
            if not mine.cancel() and not mine.cancelled():
                self._turn.release()
            raise

    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def still_there(request: Request) -> None:
    """`ServiceError` when the client has gone: nobody reads the answer."""
    if await request.is_disconnected():
        raise ServiceError(499, "the client has left", remedy="ask again")


def add_answer_routes(app: FastAPI, minds: Minds, hub: ViewHub) -> None:
    """Register act and chat. hub: says who has been sent away meanwhile."""
    model = _Model()

    @app.post("/v1/act", responses=errors(400, 409, 413, 422, 429))
    async def act(asked: ActIn, request: Request) -> ActOut:
        """Decide on a frame with the current adapter. It moves nothing."""
        async with model.turn(request):
            return await model.run(lambda: minds.act(asked))

    @app.post(
        "/v1/chat",
        response_model=ChatOut,
        responses={
            200: {"content": events_of(ChatPiece, ChatOut)},
            **errors(400, 409, 413, 422, 429),
        },
    )
    async def chat(asked: ChatIn, request: Request) -> Response:
        """Answer in words with the current adapter: events "piece" (`ChatPiece`), then one "done" (`ChatOut`); with
        `stream: false` the `ChatOut` alone."""
        told: _Told = asyncio.Queue()
        heard = hub.while_let_in(request.scope)

        def refuse_unheard() -> None:
            if not heard():
                raise ServiceError(401, "this session has ended", remedy="pair again, at /pair")

        async def tell() -> None:
            """Answer into `told`: whoever reads slowly, or not at all, keeps nobody else waiting. First None: it will
            be answered."""
            try:
                async with model.turn(request):
                    refuse_unheard()
                    pieces = await model.run(lambda: minds.answer(asked))
                    told.put_nowait(None)
                    while (item := await model.run(lambda: next(pieces, None))) is not None:
                        refuse_unheard()
                        told.put_nowait(item)
                        if not asked.stream:  # a stream ends with its client by itself
                            await still_there(request)
            except Exception as error:
                told.put_nowait(error)

        teller = asyncio.create_task(tell())
        try:
            first = await told.get()  # what it is refused for comes before the first byte
            if isinstance(first, Exception):
                raise first
            if asked.stream:
                return EventSourceResponse(_events(told, teller, heard))
            while not isinstance(item := await told.get(), ChatOut):
                if isinstance(item, Exception):
                    raise item
            return JSONResponse(item.model_dump())
        except BaseException:
            teller.cancel()
            raise


async def _events(told: _Told, teller: asyncio.Task[None], heard: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The answer, while whoever asked may hear it; a piece of a large model takes seconds, and they are looked at."""
    try:
        while heard():
            try:
                async with asyncio.timeout(_STILL_THERE_S):
                    item = await told.get()
            except TimeoutError:
                continue
            if not heard():
                return
            if isinstance(item, ChatOut):
                yield format_sse_event(event="done", data_str=item.model_dump_json())
                return
            if isinstance(item, Exception):
                log.error("an answer broke off", exc_info=item)
                return
            if item is not None:
                yield format_sse_event(event="piece", data_str=item.model_dump_json())
    finally:
        teller.cancel()
