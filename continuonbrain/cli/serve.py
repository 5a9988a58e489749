"""`continuonbrain serve`: the HTTP service for apps, on a Unix socket."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption


def serve(
    root: RootOption = DEFAULT_ROOT,
    tcp: Annotated[
        int | None,
        typer.Option(
            "--tcp", min=0, max=65535, help="Also on this port of 127.0.0.1 (0: any).", show_default=False
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            help="Also on this address of the LAN (0.0.0.0: all), behind a pairing code that is printed here.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the dashboard, and status, events, adapters, decisions and words to apps, until Ctrl-C."""
    from continuonbrain.loops.promotion import refresh_manifest
    from continuonbrain.service.server import serve as serve_brain

    brain = open_brain(root)
    with contextlib.suppress(OSError):  # a full disk: what apps are told stays as it was
        refresh_manifest(brain)
    console = Console(stderr=True, highlight=False)

    def ready(addresses: list[str]) -> None:
        if as_json:
            typer.echo(json.dumps({"serving": addresses}))
            return
        console.print(f"serving {brain.layout.root} at {' and '.join(addresses)}", soft_wrap=True)
        console.print(f"try: curl --unix-socket {addresses[0]} http://brain/v1/status", soft_wrap=True)

    def code(digits: str) -> None:
        if console.is_terminal:  # a log is no place for it
            console.print(f"pairing code: [bold]{digits}[/bold]")
        elif not as_json:
            console.print(f"a pairing code is in {brain.layout.pairing_code_path}", soft_wrap=True)

    serve_brain(brain, tcp_port=tcp, listen=listen, on_ready=ready, on_code=code)
