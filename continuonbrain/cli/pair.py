"""`continuonbrain pair`: the code that lets a browser of the LAN in, for who stands at the robot."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Annotated

import typer

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.episodes_common import print_json
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.errors import BrainError
from continuonbrain.storage.layout import BrainLayout

_ANSWERS_S = 5.0


def pair(
    root: RootOption = DEFAULT_ROOT,
    new: Annotated[
        bool,
        typer.Option(
            "--new", help="Make another code first, and hear every address again that guessed wrong."
        ),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="As --new; and whoever was let in before has to pair anew."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the pairing code of the running service. Each opens once; the next is there at once."""
    layout = open_brain(root).layout
    if new or forget:
        _renew(layout, forget=forget)
    try:
        code = layout.pairing_code_path.read_text().strip()
    except FileNotFoundError:
        raise BrainError(
            f"no code is asked for: there is no {layout.pairing_code_path}",
            remedy="a dashboard on the LAN asks for one: continuonbrain run --listen 0.0.0.0, or on a car: sudo "
            "continuonbrain install --listen 0.0.0.0",
        ) from None
    if as_json:
        print_json({"code": code})
        return
    typer.echo(code)


def _renew(layout: BrainLayout, *, forget: bool) -> None:
    connection = _UnixConnection(str(layout.service_socket))
    try:
        asked = json.dumps({"forget": forget}).encode()
        connection.request("POST", "/v1/pair/renew", asked, {"content-type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
    except OSError as error:
        raise BrainError(
            f"{layout.service_socket}: no service answers: {error.strerror or error}",
            remedy=f"continuonbrain run --root {layout.root} --listen 0.0.0.0",
        ) from error
    finally:
        connection.close()
    if answer.status >= 400:
        problem = json.loads(told)
        raise BrainError(str(problem.get("detail", answer.reason)), remedy=str(problem.get("remedy", "")))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("brain", timeout=_ANSWERS_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
