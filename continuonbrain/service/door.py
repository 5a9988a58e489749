"""Who comes in over TCP: by which name, from which page, in whose session. An ASGI middleware before every route and
socket. Over the Unix socket the file's mode has said who may, and there is no browser.

- Host: a name of this machine, or an address as it stands; a page whose own name was made to point here is refused.
- Origin: where one is said, it is this service's own; a WebSocket has to say one.
- Session: a cookie. On loopback pages get one for asking (`/v1/session`) and reading needs none; with a pairing code
  everything needs one but `OPEN`.
- What changes something repeats the session's token in the header X-CSRF.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from continuonbrain.service.access import Pairing, Session, Sessions
from continuonbrain.service.problems import problem

CSRF_HEADER = b"x-csrf"
OPEN = ("/pair", "/v1/pair", "/favicon.ico", "/manifest.webmanifest")
_OPEN_FOLDER = "/static/"
_CHANGES_NOTHING = ("/v1/act", "/v1/chat", "/v1/pair")
"""Posted, but nothing changes by it (or there is no session yet)."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_PLACE = "continuonbrain.session"


class Door:
    """Args: hosts: names of this machine; addresses: whether any literal address is one too (on a LAN).

    pairing: None on loopback, where whoever is on this machine may. cookie: `cookie_of` the root.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        addresses: bool,
        sessions: Sessions,
        pairing: Pairing | None,
        cookie: str,
    ) -> None:
        self._app, self._hosts, self._addresses = app, frozenset(h.lower() for h in hosts), addresses
        self._cookie = cookie
        self._sessions, self._pairing = sessions, pairing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or over_unix(scope):
            await self._app(scope, receive, _with_headers(send))
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        is_socket = scope["type"] == "websocket"
        if not self._is_ours(host):
            words = f"this is no service of the host {host[:80]!a}"
            await _refuse(scope, receive, send, 400, words, f"ask {' or '.join(sorted(self._hosts))}")
            return
        if _from_elsewhere(scope, headers):
            words = "a page of another site asks"
            await _refuse(scope, receive, send, 403, words, "open the page of this service")
            return
        origin = headers.get(b"origin")
        if (origin is None and is_socket) or (origin is not None and not _same(origin, host)):
            said = "none" if origin is None else ascii(origin.decode("latin-1")[:80])
            words = f"the page that asks is not this service's own (origin {said})"
            await _refuse(scope, receive, send, 403, words, "open the page of this service")
            return
        session = self._session_of(headers)
        scope[_PLACE] = session
        path = scope["path"]
        is_open = path in OPEN or (path.startswith(_OPEN_FOLDER) and ".." not in path)
        if session is None and not is_open and (self._pairing is not None or is_socket):
            if not is_socket and path == "/" and scope["method"] == "GET":
                await RedirectResponse("/pair", 303)(scope, receive, _with_headers(send))
                return
            await _refuse(scope, receive, send, 401, "this needs a session", "pair first, at /pair")
            return
        changes = not is_socket and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and path not in _CHANGES_NOTHING:
            said_csrf = headers.get(CSRF_HEADER, b"")
            if session is None or not hmac.compare_digest(said_csrf, session.csrf.encode()):
                words = "the header X-CSRF is not the session's"
                await _refuse(scope, receive, send, 403, words, "read it from /v1/session, with its cookie")
                return
        await self._app(scope, receive, _with_headers(send))

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._hosts:
                return True
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return self._addresses

    def _session_of(self, headers: dict[bytes, bytes]) -> Session | None:
        # Cookies do not know ports: what another service of this machine has set is none of ours, and may be anything.
        for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
            name, _, token = pair.strip().partition("=")
            if name == self._cookie and (found := self._sessions.of(token)) is not None:
                return found
        return None


def cookie_of(root: Path) -> str:
    """The name of the session's cookie: cookies do not know ports, and one browser may show two robots of a machine."""
    return f"continuonbrain_{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:8]}"


def over_unix(scope: Scope) -> bool:
    """Whether it came by the Unix socket: by the server's own end, as a peer that has hung up has no address either."""
    match scope.get("server"):
        case (str(path), None):
            return bool(path)
        case _:
            return False


def session_of(scope: Scope) -> Session | None:
    """Whose request this is; None over the Unix socket, and on loopback before a session was asked for."""
    found = scope.get(_PLACE)
    return found if isinstance(found, Session) else None


def names_of_this_machine() -> tuple[str, ...]:
    """What a browser on the LAN may call this machine, beside its addresses."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return ("localhost", "127.0.0.1", name, short, f"{short}.local")


def _same(origin: bytes, host: str) -> bool:
    try:
        parts = urlsplit(origin.decode("latin-1").lower())
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == host and not parts.path


def _from_elsewhere(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether a browser says that another site asks, for more than to open the page (Fetch Metadata, W3C). An image of
    a foreign page sends neither Origin nor our cookie."""
    if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return False
    opens = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return not (opens and scope["path"] in ("/", "/pair") and scope.get("method") == "GET")


def _with_headers(send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in _HEADERS.items() if name not in there]
            if b"cache-control" not in there:
                added.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return told


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, detail: str, remedy: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # its "connect"
        await send({"type": "websocket.close", "code": 1008, "reason": detail[:120]})  # before accept: 403
        return
    await problem(status, "the request cannot be answered", detail, remedy)(
        scope, receive, _with_headers(send)
    )
