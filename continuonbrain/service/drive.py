"""Routes by which a person drives: the lease of the wheel, the drive socket, modes, the stop, instructions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.types import Scope

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.control_status import CONTROL_SOCKET_NAME
from continuonbrain.loops.drive_session import command_control
from continuonbrain.robot.sim.instructions import BY_PHRASING, NAMES
from continuonbrain.service.control_line import ControlLine
from continuonbrain.service.door import over_unix, session_of
from continuonbrain.service.drive_models import (
    DriverIn,
    DriverOut,
    InstructIn,
    InstructionsOut,
    ModeIn,
    Nothing,
    Said,
)
from continuonbrain.service.lateness import GOOD_S, SILENT_S, Lateness, good_for_s
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.wheel import Driven, Grip, Wheel, read_message
from continuonbrain.storage.layout import BrainLayout

_FORGOTTEN_S = 3.0
"""A drive socket that says nothing for so long is closed: its lease keeps others from driving."""
_HOLD_ANEW = "the connection or the robot was away: let go, then take hold again"
_LOCAL = "local"


def who_is(scope: Scope) -> str:
    """The name that holds a lease: a session's, or whoever may use the Unix socket."""
    session = session_of(scope)
    if session is not None:
        return session.name
    return _LOCAL if over_unix(scope) else ""


def add_drive_routes(app: FastAPI, brain: BrainRoot, wheel: Wheel) -> None:
    """`/v1/driver`, `/v1/drive`, `/v1/mode`, `/v1/stop`, `/v1/release`, `/v1/instruct`, `/v1/instructions`."""

    # Threads of their own: whatever else is asked of the service, and however often, it is not waited for.
    commands, stops = ThreadPoolExecutor(2, "command"), ThreadPoolExecutor(2, "stop")

    async def told(by: ThreadPoolExecutor, what: dict[str, object], asked_s: float | None = None) -> Said:
        tell = partial(tell_robot, brain.layout, what, asked_s)
        return Said(detail=await asyncio.get_running_loop().run_in_executor(by, tell))

    async def command(request: Request, what: dict[str, object]) -> Said:
        asked_s = time.monotonic()  # not when a thread is free for it: a stop may be heard before that
        require_wheel(wheel, request)
        return await told(commands, what, asked_s)

    @app.post("/v1/driver", responses=errors(403, 409, 422))
    async def driver(asked: DriverIn, request: Request) -> DriverOut:
        """Take the wheel, or give it back. One drives at a time; the lease ends with its drive socket, and after five
        seconds where none was opened: asking again does not renew it."""
        who = who_is(request.scope)
        if not asked.want:
            wheel.give(who)
        elif why := wheel.take(who):
            raise ServiceError(409, why, remedy="ask them, or wait until they have let go")
        return DriverOut(driver=wheel.seen_by(who))

    @app.post("/v1/mode", responses=errors(403, 409, 422))
    async def mode(asked: ModeIn, request: Request) -> Said:
        """Who drives from now on. Ends an emergency stop; in "park" the robot stands anyway."""
        return await command(request, {"type": "mode", "mode": asked.mode})

    @app.post("/v1/stop", responses=errors(403, 409, 422))
    async def stop(_asked: Nothing, _request: Request) -> Said:
        """Emergency stop. Anybody who is let in may, whoever drives."""
        return await told(stops, {"type": "stop"})

    @app.post("/v1/release", responses=errors(403, 409, 422))
    async def release(_asked: Nothing, request: Request) -> Said:
        """End the emergency stop; the robot is parked then."""
        return await command(request, {"type": "release"})

    @app.post("/v1/instruct", responses=errors(403, 409, 422))
    async def instruct(asked: InstructIn, request: Request) -> Said:
        """What the robot is told to do."""
        return await command(request, {"type": "instruct", "instruction": asked.instruction})

    @app.get("/v1/instructions")
    async def instructions() -> InstructionsOut:
        """What the shipped base was taught to follow, each first in its shortest words; others are for the model to
        understand."""
        return InstructionsOut(suggestions=list(dict.fromkeys((*NAMES, *BY_PHRASING))))

    @app.websocket("/v1/drive")
    async def drive(socket: WebSocket) -> None:
        who = who_is(socket.scope)
        await socket.accept()
        if why := wheel.open_socket(who):
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.send_json({"type": "lost", "reason": why})
                await socket.close(1008, why)
            return
        turn = wheel.turn
        line = ControlLine(brain.layout.run_dir / CONTROL_SOCKET_NAME)
        try:
            await _driven(socket, line, lambda: wheel.is_turn(turn))
        finally:
            line.close()  # the control process lets go when this connection ends
            wheel.close_socket(turn)


def tell_robot(layout: BrainLayout, command: Mapping[str, object], asked_s: float | None = None) -> str:
    """`command_control`, and a no at once where there is nobody to hear it. Raises `ServiceError`, `DriveError`."""
    if not (layout.run_dir / CONTROL_SOCKET_NAME).exists():
        remedy = "start it: continuonbrain run (a simulated robot), or systemctl start continuonbrain-control"
        raise ServiceError(409, "the control process does not run", remedy=remedy)
    return command_control(layout, command, asked_s=asked_s)


def require_wheel(wheel: Wheel, request: Request) -> None:
    """`ServiceError` 409 while somebody else drives."""
    if wheel.seen_by(who_is(request.scope)) == "other":
        raise ServiceError(409, "somebody else drives", remedy="ask them, or wait until they have let go")


async def _driven(socket: WebSocket, line: ControlLine, is_turn: Callable[[], bool]) -> None:
    """Until the driver's socket ends, or its turn. Every message is passed on at once and answered; silence lets go."""
    ages, grip, told, heard_s = _Ages(), Grip(), "", time.monotonic()
    state: Literal["silent", "there"] = "silent"
    try:
        while True:
            try:
                text = await asyncio.wait_for(socket.receive_text(), SILENT_S)
            except TimeoutError:
                if state == "there":
                    state, told = "silent", ""
                    await line.let_go()
                    await socket.send_json(
                        {"type": "lost", "reason": f"no message for {SILENT_S * 1000:.0f} ms"}
                    )
                elif time.monotonic() - heard_s > _FORGOTTEN_S:
                    await socket.close(1001, "nothing was said for too long")
                    return
                continue
            except KeyError:  # bytes instead of text
                await socket.close(1003, "messages are text")
                return
            heard_s, why = time.monotonic(), ""
            if not is_turn():
                await socket.send_json({"type": "lost", "reason": "the wheel was given back"})
                await socket.close(1008, "the wheel was given back")
                return
            try:
                said = read_message(text)
            except ValueError as error:
                await line.let_go()
                await socket.send_json({"type": "lost", "reason": str(error)})
                await socket.close(1008, "no message of a driver")
                return
            late_s, why = ages.of(said, now_s=heard_s)
            if not why and late_s is not None:
                if grip.may_drive(active=said.active, now_s=heard_s, obeyed_s=line.answered_s):
                    await line.drive(
                        said.steering,
                        said.throttle,
                        active=said.active,
                        for_s=good_for_s(late_s),
                        sent_s=heard_s - late_s,
                    )
                    state, why = "there", line.problem
                else:
                    await line.let_go()
                    why = _HOLD_ANEW
            await socket.send_json({"type": "ack", "t": said.t, "clock": time.monotonic() * 1000})
            if why and why != told:
                await socket.send_json({"type": "lost", "reason": why, "hold_anew": why == _HOLD_ANEW})
            told = why
    except (WebSocketDisconnect, RuntimeError):
        return


class _Ages:
    """Of the messages of one socket: how old each is at most, and why it is not driven by."""

    def __init__(self) -> None:
        self._lateness = Lateness()
        self._since_s: float | None = None

    def of(self, said: Driven, *, now_s: float) -> tuple[float | None, str]:
        """(None, "") for a first message, by which nobody drives: its ack is still to come back."""
        late_s = self._lateness.of(said.t, now_s=now_s, echo=said.echo)
        self._since_s = now_s if self._since_s is None else self._since_s
        if late_s is None:
            waited = now_s - self._since_s >= GOOD_S
            return None, "no ack has come back yet: how old messages are is not known" if waited else ""
        return late_s, "" if good_for_s(late_s) else f"messages come {late_s * 1000:.0f} ms late"
