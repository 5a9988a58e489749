"""The dashboard's page: its files from the package, as they are, compressed once."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request, Response

from continuonbrain.service.problems import ServiceError

STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served; anything else in the folder is for readers of the source."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file: its bytes, the same compressed, what it is, and its name by content."""

    plain: bytes
    packed: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """By path below `static/`, with slashes. Read once: a path that a browser asks for is only looked up here."""
    found = {}
    for path in sorted(STATIC.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            data = path.read_bytes()
            packed = gzip.compress(data, 9, mtime=0)
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[path.relative_to(STATIC).as_posix()] = Asset(data, packed, _TYPES[path.suffix], etag)
    return found


def _answer(name: str, request: Request) -> Response:
    asset = assets().get(name)
    if asset is None:
        raise ServiceError(404, f"the dashboard has no file {name[:80]!a}", remedy="open /")
    # Asked for anew each time, and answered with 304: the page and the service are always of one version.
    headers = {"etag": asset.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            asset.packed, media_type=asset.media_type, headers={**headers, "content-encoding": "gzip"}
        )
    return Response(asset.plain, media_type=asset.media_type, headers=headers)


def add_page_routes(app: FastAPI) -> None:
    """`/` and `/pair` (the same page: it asks for the code where one is needed), `/static/...`."""

    @app.get("/", include_in_schema=False)
    @app.get("/pair", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _answer("index.html", request)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        return _answer(name, request)
