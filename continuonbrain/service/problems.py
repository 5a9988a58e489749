"""Every error as application/problem+json (RFC 9457), with the remedy that `BrainError`s carry."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from continuonbrain.errors import BrainError
from continuonbrain.policy.engine import AdapterError
from continuonbrain.service.models import Problem

log = logging.getLogger(__name__)
_FRAMES = ("/v1/act", "/v1/chat")
"""Routes that take a frame."""
_LARGEST_FRAME, _LARGEST = 8 << 20, 64 << 10
"""Of a body, bytes. JSON is read on the thread that everybody waits for, a stranger's before they are known."""
MEDIA_TYPE = "application/problem+json"


class ServiceError(BrainError):
    """An error that the service itself finds, with its HTTP status."""

    def __init__(self, status: int, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class _ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def problem(status: int, title: str, detail: str, remedy: str = "") -> JSONResponse:
    """A problem as a response."""
    body = Problem(title=title, status=status, detail=detail, remedy=remedy)
    return _ProblemResponse(body.model_dump(), status)


class BodyLimit:
    """ASGI middleware: a request body of more bytes than its route takes is a 413 problem, however it is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = _LARGEST_FRAME if scope["path"] in _FRAMES else _LARGEST
        words = f"a body of more than {most >> 10} KiB"
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > most:
            too_large = problem(413, "the request is too large", words, "send less at once")
            await too_large(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, words)
            return message

        await self._app(scope, counted, send)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers these with a problem."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {s: {"content": content, "description": "Problem"} for s in statuses}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_middleware(BodyLimit)

    @app.exception_handler(BrainError)
    def _brain(_request: Request, error: BrainError) -> JSONResponse:
        status = error.status if isinstance(error, ServiceError) else 409
        title = "this cannot be done now" if status != 422 else "the request is not valid"
        title = "this adapter cannot be used" if isinstance(error, AdapterError) else title
        return problem(status, title, error.message, error.remedy or "")

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        remedy = "see /openapi.json"
        if "json" not in request.headers.get("content-type", "") and where.startswith("body"):
            remedy = "send JSON, with the header content-type: application/json; see /openapi.json"
        return problem(422, "the request is not valid", f"{where}: {first['msg']}", remedy)

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> JSONResponse:
        remedy = "the routes are in /openapi.json" if error.status_code in (404, 405) else ""
        remedy = "send JSON in UTF-8, of numbers that JSON has" if error.status_code == 400 else remedy
        answer = problem(error.status_code, "the request cannot be answered", str(error.detail), remedy)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def _unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        return problem(500, "the service failed", "the reason is in the service's log")
