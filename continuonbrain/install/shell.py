"""Carrying steps out. What a step has to change it changes whole or not at all, and looks afterwards that it is so."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from continuonbrain.install.settings import InstallError
from continuonbrain.install.steps import (
    UNIT_FOLDER,
    Account,
    AccountGone,
    BrainMade,
    Current,
    Disabled,
    Enabled,
    File,
    Folder,
    FolderGone,
    Gone,
    Loaded,
    Machine,
    Membership,
    Step,
)
from continuonbrain.storage.durable import remove_durably, sync_directory, write_bytes_durably

_COMMAND_S = 180.0
"""Stopping a trainer takes up to its TimeoutStopSec=."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Commands(Protocol):
    """What runs programs of the system."""

    def run(self, command: Sequence[str]) -> None:
        """Raises InstallError when it cannot be run or says no."""
        ...


class SystemCommands:
    """The real ones."""

    def run(self, command: Sequence[str]) -> None:
        environment = {"PATH": _SYSTEM_PATH, "LC_ALL": "C"}
        found = shutil.which(command[0], path=_SYSTEM_PATH)
        if found is None:
            raise InstallError(
                f"the program {command[0]} is not there", remedy="sudo apt install systemd udev passwd"
            )
        try:
            done = subprocess.run(
                [found, *command[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_COMMAND_S,
            )
        except subprocess.TimeoutExpired as error:
            raise InstallError(
                f"{' '.join(command)} has not ended after {_COMMAND_S:g} s",
                remedy="run it by hand, then try again",
            ) from error
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise InstallError(
                f"{' '.join(command)}: exit {done.returncode}: {words[-1] if words else 'no word why'}",
                remedy="run it by hand, then try again: what was done already is not done twice",
            )


def carry_out(
    steps: Iterable[Step],
    machine: Machine,
    commands: Commands,
    *,
    on_step: Callable[[Step], None] = lambda _step: None,
) -> int:
    """Do what is not done, in order; the number of steps that were. Raises InstallError, OSError: what was done until
    then stays, and the next run goes on from there."""
    done = 0
    for step in steps:
        if step.is_done(machine):
            continue
        _do(step, machine, commands)
        if not step.is_done(machine):
            raise InstallError(
                f"this was done and yet is not so: {step.what}", remedy="look at it by hand, then try again"
            )
        on_step(step)
        done += 1
    return done


def _do(step: Step, machine: Machine, commands: Commands) -> None:
    elsewhere = machine.top != Path("/")
    prefix = ("--prefix", str(machine.top)) if elsewhere else ()
    match step:
        case Account(user):
            group = ("--gid", user) if user in machine.groups() else ("--user-group",)
            rest = ("--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", user)
            commands.run(("useradd", *prefix, "--system", *group, *rest))
        case Membership(user, groups):
            commands.run(("usermod", *prefix, "--append", "--groups", ",".join(groups), user))
        case Folder(path, owner, mode):
            _make_folder(machine, path, owner, mode)
        case File(path, text, _, mode, outdates):
            for note in outdates:  # first: after a crash in between, what is read once too often does no harm
                if machine.lstat(note) is not None:
                    remove_durably(machine.at(note))
            _write(machine, path, text, mode)
        case Enabled(unit):
            commands.run(("systemctl", *_systemctl_root(machine), "enable", "--quiet", unit))
            _write(machine, step.note, "", 0o644)
        case Current(unit, digest):
            if _systemd_runs(machine):
                # Not waited for: a policy process may load for minutes.
                commands.run(("systemctl", "try-restart", "--no-block", unit))
            _write(machine, step.note, digest, 0o644)
        case BrainMade(root, user, python, preset):
            init = (
                str(python),
                "-I",
                "-m",
                "continuonbrain",
                "init",
                "--root",
                str(root),
                "--preset",
                preset,
            )
            commands.run(("runuser", "-u", user, "--", *init))
        case Disabled(Enabled(unit)):
            now = ("--now",) if _systemd_runs(machine) else ()
            if machine.lstat(UNIT_FOLDER / unit) is not None:
                commands.run(("systemctl", *_systemctl_root(machine), "disable", "--quiet", *now, unit))
            with contextlib.suppress(FileNotFoundError):  # a link whose unit was gone already
                remove_durably(machine.at(step.enabled.link))
            with contextlib.suppress(FileNotFoundError):
                remove_durably(machine.at(step.enabled.note))
        case Loaded(of, digest):
            _load(of, machine, commands)
            _write(machine, step.note, digest, 0o644)
        case Gone(path):
            remove_durably(machine.at(path))
        case FolderGone(path):
            shutil.rmtree(machine.at(path))
        case AccountGone(user):
            commands.run(("userdel", *prefix, user))
        case _:
            raise AssertionError(step)


def _make_folder(machine: Machine, path: Path, owner: str, mode: int) -> None:
    there = machine.at(path)
    for folder in reversed([there, *there.parents]):
        if not folder.is_dir():
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)  # mkdir applied the umask
            sync_directory(folder.parent)
    ids = machine.ids(owner)
    if ids is None:
        raise InstallError(f"{path}: there is no account {owner}", remedy="make it, then try again")
    # By descriptor, so that what is changed is the folder that was looked at.
    descriptor = os.open(there, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, *ids)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(machine: Machine, path: Path, text: str, mode: int) -> None:
    there = machine.at(path)
    there.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_durably(there, text.encode(), mode=mode)
    there.chmod(mode)  # a strict umask of whoever installs must not hide units from those who look


def _load(of: str, machine: Machine, commands: Commands) -> None:
    """Nothing runs in an image: it reads all of it when it starts."""
    if of == "units":
        if _systemd_runs(machine):
            commands.run(("systemctl", "daemon-reload"))
    elif machine.lstat(Path("/run/udev/control")) is not None:
        commands.run(("udevadm", "control", "--reload"))
        # Devices that are there already get their group now.
        commands.run(("udevadm", "trigger", "--subsystem-match=i2c-dev", "--subsystem-match=gpio"))
        commands.run(("udevadm", "trigger", "--subsystem-match=input", "--subsystem-match=video4linux"))
        commands.run(("udevadm", "trigger", "--subsystem-match=media", "--subsystem-match=dma_heap"))


def _systemd_runs(machine: Machine) -> bool:
    """As sd_booted(3) finds out."""
    return machine.lstat(Path("/run/systemd/system")) is not None


def _systemctl_root(machine: Machine) -> tuple[str, ...]:
    return () if machine.top == Path("/") else (f"--root={machine.top}",)
