"""Routes by which somebody is let in: `/v1/session` and `/v1/pair`."""

from __future__ import annotations

import socket

from fastapi import FastAPI, Request, Response

from continuonbrain import __version__
from continuonbrain.brain_root import BrainRoot
from continuonbrain.service.access import Pairing, Sessions
from continuonbrain.service.door import cookie_of, over_unix, session_of
from continuonbrain.service.drive import who_is
from continuonbrain.service.drive_models import PairIn, RenewIn, RobotOut, SessionOut
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.view import ViewHub
from continuonbrain.service.wheel import Wheel

_COOKIE_S = 7 * 24 * 3600
_WHERE = (
    "at the robot `continuonbrain pair` prints it; it also stands on the console where the service was started, and in "
    "run/pairing_code of the brain's folder"
)
"""Without the folder's own path: it would tell a stranger the owner's name."""
_SOONER = "wait; or, at the robot: continuonbrain pair --new"


def add_session_routes(
    app: FastAPI, brain: BrainRoot, sessions: Sessions, pairing: Pairing | None, wheel: Wheel, hub: ViewHub
) -> None:
    """pairing: None where nobody has to."""
    cookie = cookie_of(brain.layout.root)

    def let_in(response: Response) -> str:
        token, session = sessions.begin()
        response.set_cookie(
            cookie, token, max_age=_COOKIE_S, httponly=True, samesite="strict", secure=False, path="/"
        )
        return session.csrf

    @app.get("/v1/session", responses=errors(401))
    async def session(request: Request, response: Response) -> SessionOut:
        """Whose session this is. Where no pairing is asked for, one begins here."""
        found = session_of(request.scope)
        csrf = "" if found is None else found.csrf
        over_tcp = not over_unix(request.scope)
        if found is None and pairing is None and over_tcp:
            csrf = let_in(response)
        return SessionOut(
            paired=bool(csrf) or not over_tcp,
            csrf=csrf,
            driver=wheel.seen_by(who_is(request.scope)),
            watchers=hub.watchers,
            robot=RobotOut(kind=brain.config.robot.kind, name=socket.gethostname()),
            version=__version__,
        )

    @app.post("/v1/pair", status_code=204, responses=errors(403, 422, 429))
    async def pair(asked: PairIn, request: Request) -> Response:
        """Give the code that the robot's console shows; a session begins."""
        answer = Response(status_code=204)
        if pairing is not None:
            address = "" if request.client is None else request.client.host
            match pairing.try_code(asked.code, address):
                case "closed":
                    wait_s = pairing.closed_s(address)
                    words = f"too many wrong codes from your address: none is looked at for {wait_s:.0f} s"
                    raise ServiceError(429, words, remedy=_SOONER)
                case "used":
                    words = "this code was used already: each opens once"
                    raise ServiceError(403, words, remedy=f"there is a new one by now: {_WHERE}")
                case "wrong":
                    raise ServiceError(403, "this is not the code", remedy=_WHERE)
        let_in(answer)
        return answer

    @app.post("/v1/pair/renew", status_code=204, responses=errors(403, 409, 422))
    async def renew(asked: RenewIn, request: Request) -> Response:
        """Another pairing code, and every address is heard again. forget: nobody who was let in drives, watches,
        listens or asks any more. Over the Unix socket only."""
        if not over_unix(request.scope):
            raise ServiceError(403, "only who stands at the robot may", remedy="ask over the Unix socket")
        if pairing is None:
            raise ServiceError(409, "no code is asked for here", remedy="start the service with --listen")
        if asked.forget:
            sessions.forget()
            wheel.give(wheel.holder() or "")
            hub.turn += 1
        pairing.renew()
        return Response(status_code=204)
