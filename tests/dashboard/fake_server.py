"""The dashboard's contract, played: `python -m tests.dashboard.fake_server --port 8123 [--pair 123456]`.

Every answer has the shape of the service's own; what is behind it is `fake_robot.py`. `POST /fake` bends it: drop all
sockets, make a candidate. It shows what the page does, and nothing of what the service does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import struct
import time
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Body, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

import continuonbrain
from tests.dashboard.fake_learning import FakeLearning
from tests.dashboard.fake_robot import FakeRobot

STATIC = Path(continuonbrain.__file__).parent / "service/static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
OPEN = ("/pair", "/v1/pair", "/static", "/fake")
COOKIE = "session"


def problem(status: int, detail: str, remedy: str = "") -> JSONResponse:
    told = {"type": "about:blank", "title": detail, "status": status, "detail": detail, "remedy": remedy}
    return JSONResponse(told, status, media_type="application/problem+json")


def create_app(robot: FakeRobot, code: str = "") -> FastAPI:
    """The app. code: asked for before anything else; "" for none, as on loopback."""
    app, learning = FastAPI(), FakeLearning(robot)
    csrf: dict[str, str] = {}
    sockets: set[WebSocket] = set()
    lease: dict[str, str] = {"driver": ""}

    def who(cookies: dict[str, str]) -> str:
        return cookies.get(COOKIE, "")

    def driver_for(me: str) -> str:
        return "none" if not lease["driver"] else "me" if lease["driver"] == me else "other"

    @app.middleware("http")
    async def guarded(request: Request, call_next: Any) -> Response:
        me, path = who(request.cookies), request.url.path
        fresh = ""
        if me not in csrf and not path.startswith(OPEN):
            if code:
                if path == "/":
                    return RedirectResponse("/pair", 303)
                return problem(401, "this page is not paired", "type the code that the console shows")
            me = fresh = secrets.token_hex(8)
            csrf[me] = secrets.token_hex(8)
        request.state.me = me
        changes = request.method not in ("GET", "HEAD") and not path.startswith(OPEN)
        if changes and request.headers.get("x-csrf") != csrf.get(me):
            return problem(403, "the CSRF token is missing", "load the page again")
        response: Response = await call_next(request)
        if fresh:
            response.set_cookie(COOKIE, fresh, httponly=True, samesite="strict")
        response.headers["content-security-policy"] = CSP
        return response

    @app.get("/")
    @app.get("/pair")
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC))

    @app.post("/fake")
    async def fake(what: dict[str, Any] = Body(...)) -> dict[str, Any]:  # noqa: B008
        if what.get("reset"):
            lease["driver"] = ""
            robot.reset()
            learning.reset()
        if what.get("drop") or what.get("reset"):
            for socket in list(sockets):
                with contextlib.suppress(Exception):  # it may be gone by now, in whichever way
                    await socket.close(1011)
        learning.fate = what.get("fate", learning.fate)
        if "training" in what:
            learning.bent = what["training"]
        if "train" in what:
            learning.seconds = what["train"]
        if "base" in what:
            learning.base = what["base"]
        if "engines" in what:
            learning.engines = what["engines"]
        if "revert" in what:
            learning.revert(what["revert"])
        since = robot.stopped_since_s
        return {"stopped_s": None if since is None else time.monotonic() - since, "driver": lease["driver"]}

    @app.get("/v1/session")
    async def session(request: Request) -> dict[str, Any]:
        me = request.state.me
        about = {"kind": "sim-donkey", "name": "Simulated car"}
        return {
            "paired": True, "csrf": csrf[me], "driver": driver_for(me), "watchers": len(sockets), "robot": about,
            "version": "0",
        }  # fmt: skip

    @app.post("/v1/pair")
    async def pair(said: dict[str, str]) -> Response:
        if said.get("code") != code:
            return problem(403, "this is not the code", "read it again on the robot's console")
        me = secrets.token_hex(8)
        csrf[me] = secrets.token_hex(8)
        response = Response(status_code=204)
        response.set_cookie(COOKIE, me, httponly=True, samesite="strict")
        return response

    @app.post("/v1/driver")
    async def driver(request: Request, said: dict[str, bool]) -> Any:
        me = request.state.me
        if lease["driver"] not in ("", me):
            return problem(409, "another person drives", "wait until they give the wheel back")
        lease["driver"] = me if said["want"] else ""
        return {"driver": driver_for(me)}

    @app.websocket("/v1/drive")
    async def drive(socket: WebSocket) -> None:
        me = who(socket.cookies)
        if not me or lease["driver"] != me:
            await socket.close(1008)
            return
        await socket.accept()
        sockets.add(socket)
        try:
            while True:
                said = json.loads(await socket.receive_text())
                with robot.lock:
                    robot.hand = (said["steering"], said["throttle"], said["active"])
                    robot.hand_at_s = time.monotonic() if said["active"] else -1e9
                await socket.send_json({"type": "ack", "t": said["t"], "clock": time.monotonic() * 1000})
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            robot.let_go()
            sockets.discard(socket)
            lease["driver"] = ""

    @app.websocket("/v1/view")
    async def view(socket: WebSocket) -> None:
        me = who(socket.cookies)
        if me not in csrf:
            await socket.close(1008)
            return
        await socket.accept()
        sockets.add(socket)
        acked = [0]

        async def listen() -> None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                while True:
                    acked[0] = json.loads(await socket.receive_text())["ack"]

        listener = asyncio.create_task(listen())
        sent = last = told = 0
        try:
            while not listener.done():
                tick, exposed, jpeg = robot.frame
                if tick != last and sent - acked[0] < 2:
                    await socket.send_bytes(struct.pack("<d", exposed) + jpeg)
                    sent, last = sent + 1, tick
                if robot.tick >= told + 2:
                    told = robot.tick
                    await socket.send_json({**robot.shot, "driver": driver_for(me), "watchers": len(sockets)})
                await asyncio.sleep(0.005)
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            listener.cancel()
            sockets.discard(socket)

    @app.post("/v1/mode")
    async def mode(said: dict[str, str]) -> dict[str, str]:
        with robot.lock:
            robot.mode = said["mode"]
            robot.life = "alone" if robot.mode == "teach" else "taken"
            robot.guard.release()
        return {"detail": ""}

    @app.post("/v1/stop")
    async def stop() -> dict[str, str]:
        robot.guard.emergency_stop()
        return {"detail": ""}

    @app.post("/v1/release")
    async def release() -> dict[str, str]:
        robot.guard.release()
        return {"detail": ""}

    @app.post("/v1/instruct")
    async def instruct(said: dict[str, str]) -> dict[str, str]:
        with robot.lock:
            robot.instruction = said["instruction"]
            robot.car.instruct(said["instruction"])
        return {"detail": ""}

    @app.get("/v1/instructions")
    async def instructions() -> dict[str, list[str]]:
        return {"suggestions": ["drive", "drive slowly", "drive fast", "keep left", "keep right", "stop"]}

    @app.post("/v1/chat")
    async def chat(asked: dict[str, Any]) -> StreamingResponse:
        answer = f"You said: {asked['messages'][-1]['content']}. I keep to the left of the road."

        async def pieces() -> Any:
            for word in answer.split(" "):
                yield f"event: piece\ndata: {json.dumps({'text': word + ' '})}\n\n"
                await asyncio.sleep(0.02)
            yield f"event: done\ndata: {json.dumps({'text': answer, 'note': ''})}\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @app.get("/v1/explain")
    async def explain() -> dict[str, Any]:
        s = robot.shot
        (proposed, _), (guarded, _) = s["proposed"], s["guarded"]
        words = (
            f"It was told “{s['instruction']}”, proposed {proposed:+.2f}, and the guard gave {guarded:+.2f}."
        )
        return {"text": words, "tick": s}

    learning.routes(app, problem)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pair", default="")
    parser.add_argument("--episodes", type=int, default=5)
    asked = parser.parse_args()
    robot = FakeRobot()
    for i in range(asked.episodes):
        robot.drive_ahead(("drive", "keep left", "drive slowly", "keep right", "drive fast")[i % 5])
    robot.keep()
    robot.start()
    uvicorn.run(
        create_app(robot, asked.pair), host="127.0.0.1", port=asked.port, log_level="warning", lifespan="off"
    )


if __name__ == "__main__":
    main()
