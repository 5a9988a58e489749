"""The steps that installations are made of, and whether a file system shows that one is done. Reads only.

Paths are those of the robot's computer; a `Machine` looks them up below a folder that stands for its "/".
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from continuonbrain.install.settings import RECORD_FOLDER, InstallError

UNIT_FOLDER = Path("/etc/systemd/system")
RULES_FOLDER = Path("/etc/udev/rules.d")
RECORD = RECORD_FOLDER / "install.json"


@dataclass(frozen=True, slots=True)
class Machine:
    """A file system: "/" itself, or a folder that stands for it (an image that is being built, a test)."""

    top: Path = Path("/")

    def at(self, path: Path) -> Path:
        """Where `path` of the machine lies for this process."""
        return self.top / path.relative_to("/")

    def lstat(self, path: Path) -> os.stat_result | None:
        """None when there is nothing."""
        try:
            return os.lstat(self.at(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: Path) -> str | None:
        """The file's text, None when there is no such file. Raises OSError when it cannot be read."""
        found = self.lstat(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return self.at(path).read_text(encoding="utf-8", errors="replace")

    def ids(self, user: str) -> tuple[int, int] | None:
        """uid and gid of an account (passwd(5)), None when there is none."""
        for fields in self._table("/etc/passwd"):
            if fields[0] == user and len(fields) > 3 and fields[2].isdecimal() and fields[3].isdecimal():
                return int(fields[2]), int(fields[3])
        return None

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group -> members (group(5)); those who have it as their own group are not among them."""
        return {
            fields[0]: tuple(name for name in fields[3].split(",") if name)
            for fields in self._table("/etc/group")
            if len(fields) > 3
        }

    def _table(self, path: str) -> list[list[str]]:
        return [line.split(":") for line in (self.read(Path(path)) or "").splitlines()]


class Step(Protocol):
    """One thing that is to be so. what: a line for a person."""

    @property
    def what(self) -> str: ...

    def is_done(self, machine: Machine) -> bool:
        """Whether the file system shows it. Raises InstallError where something of somebody else's is in the way."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """A system account with a group of its own name, without a shell, a password or a home."""

    user: str

    @property
    def what(self) -> str:
        return f"make the system account and group {self.user} (no login)"

    def is_done(self, machine: Machine) -> bool:
        return machine.ids(self.user) is not None


@dataclass(frozen=True, slots=True)
class Membership:
    """The account is a member of these groups, which the machine has."""

    user: str
    groups: tuple[str, ...]

    @property
    def what(self) -> str:
        return f"add {self.user} to the groups {', '.join(self.groups)} (devices)"

    def is_done(self, machine: Machine) -> bool:
        members = machine.groups()
        return all(self.user in members.get(group, ()) for group in self.groups)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with an owner and a mode; its parents belong to root."""

    path: Path
    owner: str
    mode: int

    @property
    def what(self) -> str:
        return f"make the folder {self.path} (of {self.owner}, mode {self.mode:04o})"

    def is_done(self, machine: Machine) -> bool:
        found = machine.lstat(self.path)
        if found is None:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise InstallError(
                f"{self.path} is no folder", remedy="give the real folder where it is a link, or move it away"
            )
        ids = machine.ids(self.owner)
        if (found.st_uid, found.st_gid) == ids:
            return stat.S_IMODE(found.st_mode) == self.mode
        if self.owner != "root" and any(machine.at(self.path).iterdir()):
            # Giving away whatever lies there is for a person to decide.
            raise InstallError(
                f"{self.path} holds files and belongs to uid {found.st_uid}, not to {self.owner}",
                remedy=f"sudo chown -R {self.owner}:{self.owner} {self.path} (the account is made before this), then "
                "install again; or another --root",
            )
        return False


@dataclass(frozen=True, slots=True)
class File:
    """A file of root's with this text. mark: the first line of every version of it; "" where there is none. outdates:
    notes that do not hold any more when it is written, as what runs has read what was there before."""

    path: Path
    text: str
    mark: str = ""
    mode: int = 0o644
    outdates: tuple[Path, ...] = ()

    @property
    def what(self) -> str:
        return f"write {self.path}"

    def is_done(self, machine: Machine) -> bool:
        there = machine.read(self.path)
        if there is None and machine.lstat(self.path) is not None:
            raise InstallError(
                f"{self.path} is no regular file", remedy="move it away (systemctl unmask, for a unit)"
            )
        if there is not None and not there.startswith(self.mark):
            raise InstallError(f"{self.path} was written by somebody else", remedy="move it away")
        return there == self.text


@dataclass(frozen=True, slots=True)
class Enabled:
    """A unit was told to start with another one, once: a person may disable it afterwards, and then it stays so.

    wanted_by: "multi-user.target" or the brain's own.
    """

    unit: str
    wanted_by: str

    @property
    def link(self) -> Path:
        """What systemd keeps of it."""
        return UNIT_FOLDER / f"{self.wanted_by}.wants" / self.unit

    @property
    def note(self) -> Path:
        """What says that it was done."""
        return RECORD_FOLDER / f"enabled-{self.unit}"

    @property
    def what(self) -> str:
        return f"enable {self.unit} (starts with {self.wanted_by})"

    def is_done(self, machine: Machine) -> bool:
        return machine.lstat(self.note) is not None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What runs has read the files anew. of: "units" (systemd) or "rules" (udev); digest: of those files, kept in a
    note so that a crash between writing and reading is made good by the next run."""

    of: str
    digest: str

    @property
    def note(self) -> Path:
        return RECORD_FOLDER / f"loaded-{self.of}"

    @property
    def what(self) -> str:
        return "let systemd read its units anew" if self.of == "units" else "let udev read its rules anew"

    def is_done(self, machine: Machine) -> bool:
        return machine.read(self.note) == self.digest


@dataclass(frozen=True, slots=True)
class Current:
    """What runs of a service is what its unit says. digest: of the unit, kept in a note when a process with an earlier
    one was ended; a service that does not run stays as it is."""

    unit: str
    digest: str

    @property
    def note(self) -> Path:
        return RECORD_FOLDER / f"current-{self.unit}"

    @property
    def what(self) -> str:
        return f"start {self.unit} anew if it runs (its unit is new)"

    def is_done(self, machine: Machine) -> bool:
        return machine.read(self.note) == self.digest


@dataclass(frozen=True, slots=True)
class BrainMade:
    """The brain root has settings and a base: what `continuonbrain init` makes, run as the services' account."""

    root: Path
    user: str
    python: Path
    preset: str

    @property
    def what(self) -> str:
        return f"make the brain in {self.root} from preset {self.preset}"

    def is_done(self, machine: Machine) -> bool:
        return machine.lstat(self.root / "config.json") is not None


@dataclass(frozen=True, slots=True)
class Disabled:
    """A unit is stopped and starts with nothing."""

    enabled: Enabled

    @property
    def what(self) -> str:
        return f"stop and disable {self.enabled.unit}"

    def is_done(self, machine: Machine) -> bool:
        # One that a person disabled may run all the same, so the note counts, too.
        return machine.lstat(self.enabled.link) is None and machine.lstat(self.enabled.note) is None


@dataclass(frozen=True, slots=True)
class Gone:
    """A file of ours is not there. mark: as of `File`; a file that does not begin with it is not ours, and stays."""

    path: Path
    mark: str = ""

    @property
    def what(self) -> str:
        return f"remove {self.path}"

    def is_done(self, machine: Machine) -> bool:
        there = machine.read(self.path)
        return there is None or not there.startswith(self.mark)


@dataclass(frozen=True, slots=True)
class FolderGone:
    """A folder of ours, with what is in it, is not there."""

    path: Path

    @property
    def what(self) -> str:
        return f"remove {self.path}"

    def is_done(self, machine: Machine) -> bool:
        return machine.lstat(self.path) is None


@dataclass(frozen=True, slots=True)
class AccountGone:
    """The account that we made is not there."""

    user: str

    @property
    def what(self) -> str:
        return f"remove the account {self.user}"

    def is_done(self, machine: Machine) -> bool:
        return machine.ids(self.user) is None
