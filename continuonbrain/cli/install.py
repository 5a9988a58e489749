"""`continuonbrain install` and `uninstall`: the brain starts with the computer, or no longer does."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import continuonbrain
from continuonbrain.cli.dashboard import Dashboard
from continuonbrain.cli.doctor_pi import is_pi
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.configs import PRESET_NAMES, preset_bytes
from continuonbrain.install.command import COMMAND
from continuonbrain.install.plan import (
    Installed,
    command_is_ours,
    install_plan,
    pending,
    told_account,
    uninstall_plan,
)
from continuonbrain.install.settings import DASHBOARD_PORT, InstallError, InstallSettings
from continuonbrain.install.shell import Commands, SystemCommands, carry_out
from continuonbrain.install.steps import File, Machine, Step
from continuonbrain.install.units import TARGET
from continuonbrain.storage.layout import BrainLayout

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done. Needs no root, changes nothing.")
]
IntoOption = Annotated[
    Path,
    typer.Option("--into", help="The folder that is the computer's /, when an image of a disk is made."),
]


def install(
    root: RootOption = DEFAULT_ROOT,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Account that the processes run as; made when it is not there."),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option("--python", help="Interpreter that starts the processes; this one unless told."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help=f"Also make the brain of a root that has none: {', '.join(PRESET_NAMES)}."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            help="Serve the dashboard on this address: 0.0.0.0 to the LAN, behind a pairing code; 127.0.0.1 to this "
            "computer. Without it no process has a network.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Of the dashboard.")] = DASHBOARD_PORT,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    into: IntoOption = Path("/"),
) -> None:
    """Start the brain with this computer: account, systemd units, device rules. Again: only what is missing."""
    machine = Machine(into.absolute())
    if preset is not None:
        preset_bytes(preset)  # one that does not exist is said before anything is done
        if machine.top != Path("/"):
            raise InstallError(
                "--preset needs the computer itself: its Python makes the brain",
                remedy="leave it out, and run continuonbrain init when the computer has started",
            )
    layout = BrainLayout(root)
    for socket in (layout.policy_socket, layout.notice_socket, layout.service_socket):
        assert socket.parent == layout.run_dir  # asked for: a path too long for one is said now
    this = (Path(continuonbrain.__file__).parent, Path(sys.base_prefix), Path(sys.executable).resolve())
    settings = InstallSettings(
        layout.root,
        Path(sys.executable) if python is None else python,
        told_account(machine) if user is None else user,
        this if python is None else (),
        preset,
        listen,
        port,
    )
    if not dry_run:
        settings.require_visible()
    run_steps(install_plan(settings, machine), machine, SystemCommands(), dry_run=dry_run, as_json=as_json)
    if not as_json:
        _say_next(settings, machine, layout)
    if dry_run:  # the plan is worth reading also where it would not be carried out
        settings.require_visible()


def _say_next(settings: InstallSettings, machine: Machine, layout: BrainLayout) -> None:
    as_user = f"sudo -u {settings.user} {settings.python} -m continuonbrain"
    if not command_is_ours(machine):
        typer.echo(f"{COMMAND} is not of this installation and stays; the command is {as_user}")
    if settings.preset is None and machine.lstat(layout.config_path) is None:
        if machine.top != Path("/"):
            robot = "PRESET"  # an image's device tree is that of no computer
        else:
            robot = "pi5-donkey" if is_pi() else "sim-donkey"
        typer.echo(f"next, or nothing starts: {as_user} init --root {layout.root} --preset {robot}")
        if robot == "PRESET":
            typer.echo(f"PRESET is one of {', '.join(PRESET_NAMES)}")
    typer.echo(f"start: sudo systemctl start {TARGET}      look: systemctl status 'continuonbrain*'")
    typer.echo(_dashboard(settings, layout))


def _dashboard(settings: InstallSettings, layout: BrainLayout) -> str:
    if settings.listen is None:
        return "dashboard: none; to have one, install again with --listen 0.0.0.0 (or 127.0.0.1)"
    port, alone = settings.port, settings.is_own_address
    opens = "this computer alone" if alone else "private networks, behind a pairing code"
    typer.echo(f"port {port} of {settings.listen} is opened to {opens}")
    shown = Dashboard(layout, port, None if alone else settings.listen)
    if alone:
        return (
            f"dashboard: {shown.address} on this computer; from another: ssh -L {port}:127.0.0.1:{port} to it"
        )
    code = f"sudo -u {settings.user} {settings.python} -m continuonbrain pair --root {layout.root}"
    return f"dashboard: {shown.address}, pairing code: {code}"


def uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove the account, where install made it, and its cache.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    into: IntoOption = Path("/"),
) -> None:
    """Stop the processes and remove units and rules. What the robot recorded and learned stays where it is."""
    machine = Machine(into.absolute())
    before = Installed.of(machine)
    run_steps(
        uninstall_plan(machine, purge=purge), machine, SystemCommands(), dry_run=dry_run, as_json=as_json
    )
    if before is not None and not as_json:
        typer.echo(f"settings, episodes and adapters stay in {before.root}")
        if before.made_account and not purge:
            typer.echo(f"the account {before.user} stays too, as they belong to it; --purge removes it")


def run_steps(
    steps: Sequence[Step], machine: Machine, commands: Commands, *, dry_run: bool, as_json: bool
) -> None:
    """Carry steps out, or say which would be, a line each. Raises InstallError."""
    if dry_run:
        wanted = pending(steps, machine)
    else:
        require_root()
        wanted = ()
    told: list[Step] = list(wanted)

    def on_step(step: Step) -> None:
        told.append(step)
        if not as_json:
            typer.echo(step.what)

    if not dry_run:
        carry_out(steps, machine, commands, on_step=on_step)
    if as_json:
        document = {"dry_run": dry_run, "steps": [_as_json(step) for step in told]}
        typer.echo(json.dumps(document, indent=2))
        return
    if dry_run:
        for step in told:
            typer.echo(f"would {step.what}")
    if not told:
        typer.echo("nothing to do")


def require_root() -> None:
    """Raises InstallError, with the command to copy, when this is not root."""
    if os.geteuid() != 0:
        again = shlex.join(["sudo", sys.executable, "-m", "continuonbrain", *sys.argv[1:]])
        raise InstallError("accounts and systemd units need root", remedy=f"{again}   (or --dry-run to look)")


def _as_json(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": type(step).__name__.lower(), "what": step.what}
    if isinstance(step, File):
        told |= {"path": str(step.path), "text": step.text}
    return told
