"""What an installation, and its removal, consist of: steps in their order. Reads the machine, changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from continuonbrain.install import command, udev, units
from continuonbrain.install.settings import (
    CACHE_FOLDER,
    DEFAULT_USER,
    RECORD_FOLDER,
    InstallError,
    InstallSettings,
)
from continuonbrain.install.steps import (
    RECORD,
    RULES_FOLDER,
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

ROOT_MODE = 0o750
"""The service's own; who is in its group may read, and use the sockets."""

_ENABLED = (
    *(Enabled(name, units.TARGET) for name in units.SERVICES),
    Enabled(units.TARGET, "multi-user.target"),
)


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation has noted about itself. made_account: the account was not there before it."""

    root: str
    user: str
    made_account: bool

    @classmethod
    def of(cls, machine: Machine) -> Installed | None:
        """None when nothing was installed. Raises InstallError when the note makes no sense."""
        text = machine.read(RECORD)
        if text is None:
            return None
        try:
            told = json.loads(text)
            root, user, made = told["root"], told["user"], told["made_account"]
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable() from error
        if not (isinstance(root, str) and isinstance(user, str) and isinstance(made, bool)):
            raise _unreadable()
        return cls(root, user, made)

    def text(self) -> str:
        """As it is kept."""
        told = {"schema": 1, "root": self.root, "user": self.user, "made_account": self.made_account}
        return json.dumps(told, indent=2) + "\n"


def install_plan(settings: InstallSettings, machine: Machine) -> tuple[Step, ...]:
    """All steps, done ones too. Raises InstallError when another installation is there."""
    before = Installed.of(machine)
    if before is not None and before.user != settings.user:
        raise InstallError(
            f"the brain is installed for the account {before.user}, not {settings.user} ({RECORD})",
            remedy=f"sudo continuonbrain uninstall --purge first, or --user {before.user}",
        )
    groups = machine.groups()
    # Asked before the account is made, and kept: only what we made is ever removed.
    made = machine.ids(settings.user) is None or (before is not None and before.made_account)
    unit_files = units.unit_files(settings)
    rules = udev.rules(settings.user, groups)
    devices = tuple(group for group in udev.DEVICE_GROUPS if group in groups)
    steps: list[Step] = [
        Folder(RECORD_FOLDER, "root", 0o755),
        File(RECORD, Installed(str(settings.root), settings.user, made).text()),
        Account(settings.user),
    ]
    if devices:
        steps.append(Membership(settings.user, devices))
    steps.append(Folder(settings.root, settings.user, ROOT_MODE))
    read = Loaded("rules", _digest([rules]))
    steps.append(File(RULES_FOLDER / udev.RULES_NAME, rules, udev.MADE_BY, outdates=(read.note,)))
    steps.append(read)
    read = Loaded("units", _digest(unit_files.values()))
    running = {name: Current(name, _digest([text])) for name, text in unit_files.items()}
    for name, text in unit_files.items():
        notes = (read.note, running[name].note)
        steps.append(File(UNIT_FOLDER / name, text, units.MADE_BY, outdates=notes))
    steps.append(read)
    steps += [running[name] for name in units.SERVICES]
    if command_is_ours(machine):
        text = command.command_text(settings.python)
        steps.append(File(command.COMMAND, text, command.MADE_BY, command.MODE))
    if settings.preset is not None:
        steps.append(BrainMade(settings.root, settings.user, settings.python, settings.preset))
    steps += _ENABLED
    return tuple(steps)


def uninstall_plan(machine: Machine, *, purge: bool = False) -> tuple[Step, ...]:
    """All steps of taking it away. The brain root is in none of them; purge: the account and its cache are."""
    before = Installed.of(machine)
    ours = [step for step in _ENABLED if _is_ours(machine, step.unit)]
    steps: list[Step] = [Disabled(step) for step in reversed(ours)]
    steps += [Gone(UNIT_FOLDER / step.unit, units.MADE_BY) for step in _ENABLED]
    rules = RULES_FOLDER / udev.RULES_NAME
    steps.append(Gone(rules, udev.MADE_BY))
    steps.append(Gone(command.COMMAND, command.MADE_BY))
    if machine.lstat(RECORD_FOLDER) is not None:
        steps += [Loaded("rules", "none"), Loaded("units", "none")]
        steps += [Gone(Current(name, "").note) for name in units.SERVICES]
    if purge:
        steps.append(FolderGone(CACHE_FOLDER))
        if before is not None and before.made_account:
            steps.append(AccountGone(before.user))
    if purge or before is None or not before.made_account:
        steps.append(FolderGone(RECORD_FOLDER))  # else it has to be known who made the account
    return tuple(steps)


def pending(steps: Iterable[Step], machine: Machine) -> tuple[Step, ...]:
    """Those that are to be done. Raises InstallError where something of somebody else's is in the way."""
    return tuple(step for step in steps if not step.is_done(machine))


def command_is_ours(machine: Machine) -> bool:
    """Whether the place of the command is free, or holds ours. What else is there (pip's own for this interpreter, a
    person's link) stays, and is no reason not to install."""
    if machine.lstat(command.COMMAND) is None:
        return True
    return (machine.read(command.COMMAND) or "").startswith(command.MADE_BY)


def told_account(machine: Machine) -> str:
    """The account of the installation that is there, else the usual one."""
    before = Installed.of(machine)
    return DEFAULT_USER if before is None else before.user


def _is_ours(machine: Machine, unit: str) -> bool:
    """A link without its unit, too, is what was left of ours."""
    text = machine.read(UNIT_FOLDER / unit)
    return text is None or text.startswith(units.MADE_BY)


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _unreadable() -> InstallError:
    return InstallError(f"{RECORD} makes no sense", remedy=f"remove it and install again: sudo rm {RECORD}")
