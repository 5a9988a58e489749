"""What an installation is asked to be, checked before anything is planned."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.errors import BrainError

DEFAULT_USER = "continuon"

DASHBOARD_PORT = 8080
_FIRST_PORT = 1024
"""Of those that need no capability."""

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
"""What useradd(8) takes everywhere."""
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._+@,/-]*")
"""Nothing that systemd's quoting, its % specifiers or a shell would read as something else."""
_SYSTEM_USERS = ("root", "daemon", "nobody", "systemd-network", "messagebus")
_HIDDEN = ("/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys")
_SHARED = ("/", "/opt", "/srv", "/mnt", "/media", "/var", "/var/lib", "/var/cache", "/var/log", "/var/spool")
"""Folders of the system that may hold a root, and are none."""
_SYSTEM = ("/usr", "/etc", "/boot", "/bin", "/lib", "/lib32", "/lib64", "/sbin", "/snap", "/lost+found")
"""Nothing in them is given to another account."""
RECORD_FOLDER = Path("/var/lib/continuonbrain")
"""What an installation was made with: its own, and never a root's place, for what it removes it removes whole."""
CACHE_FOLDER = Path("/var/cache/continuonbrain")
"""What the services keep and can make again: removed by `uninstall --purge`."""


VENV = "sudo python3 -m venv --system-site-packages /opt/continuonos/venv"
VENV_INSTALL = (
    "sudo /opt/continuonos/venv/bin/python -m pip install -c constraints.txt '.[train,litert,serve,pi]'"
)
VENV_COMMAND = "sudo /opt/continuonos/venv/bin/python -m continuonbrain"
"""As docs/install.md has them."""
_LISTEN_REMEDY = "0.0.0.0 for the whole LAN, behind a pairing code; 127.0.0.1 for this computer alone"
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
"""RFC 1918, RFC 4193: with link-local addresses those that a dashboard on the LAN answers."""


class InstallError(BrainError):
    """The installation cannot be made as it was asked for."""


@dataclass(frozen=True, slots=True)
class InstallSettings:
    """One installation.

    Attributes:
        root: the brain root, absolute.
        user: the account, and the group of the same name, that the processes run as.
        python: the interpreter that starts them; its environment has `continuonbrain`.
        reads: further folders that this interpreter needs (where the package lies, where its own files are).
        preset: what a root without settings is made from; None leaves that to a person.
        listen: address of this computer that the dashboard is served on; None: no process has a network.
        port: of it.

    Raises:
        InstallError: a name or path that a unit cannot hold, or a root that the units' own walls would hide.
    """

    root: Path
    python: Path
    user: str = DEFAULT_USER
    reads: tuple[Path, ...] = ()
    preset: str | None = None
    listen: str | None = None
    port: int = DASHBOARD_PORT

    def __post_init__(self) -> None:
        if not _USER.fullmatch(self.user) or self.user in _SYSTEM_USERS:
            raise InstallError(
                f"--user {self.user!r} cannot be the account of a service",
                remedy=f"a name of small letters, digits, - and _, for example {DEFAULT_USER}",
            )
        for name, path in (("--root", self.root), ("the Python", self.python)):
            if not _PLAIN_PATH.fullmatch(str(path)) or ".." in path.parts:
                raise InstallError(
                    f"{name} {str(path)!r} cannot stand in a systemd unit",
                    remedy="an absolute path of letters, digits and . _ + @ , - / without ..",
                )
        if str(self.root) in _SHARED or _is_in(self.root, *_SYSTEM):
            raise InstallError(
                f"--root {self.root} is a folder of the system",
                remedy="a folder of its own below /opt or /srv",
            )
        if _is_in(self.root, RECORD_FOLDER, CACHE_FOLDER):
            raise InstallError(
                f"--root {self.root} is where an installation keeps its own, which uninstall removes",
                remedy="a folder of its own below /opt or /srv",
            )
        if (hidden := _hides(self.root)) is not None:
            raise InstallError(
                f"--root {self.root} is below {hidden}, which the services cannot see",
                remedy="a folder below /opt or /srv",
            )
        if self.listen is not None and not _is_address(self.listen):
            raise InstallError(
                f"--listen {self.listen!r} is no IP address",
                remedy=_LISTEN_REMEDY,
            )
        if self.listen is not None and not _is_private(self.listen):
            raise InstallError(
                f"--listen {self.listen} is an address of the internet; the dashboard answers private networks alone",
                remedy=_LISTEN_REMEDY,
            )
        if not _FIRST_PORT <= self.port <= 65535:
            raise InstallError(
                f"--port {self.port} cannot be had by a service without privileges",
                remedy=f"one from {_FIRST_PORT} to 65535; usual is {DASHBOARD_PORT}",
            )

    def require_visible(self) -> None:
        """Raises InstallError when the units' own walls would hide the interpreter, or what it needs."""
        for path in (self.python, *self.reads):
            if (hidden := _hides(path)) is not None:
                raise InstallError(
                    f"{path} is below {hidden}, which the services cannot see: they could not start",
                    remedy=f"in the folder of continuonbrain's source, an environment below /opt: {VENV} && "
                    f"{VENV_INSTALL}, then {VENV_COMMAND} install",
                )

    @property
    def is_own_address(self) -> bool:
        """Whether the dashboard is for this computer alone."""
        return self.listen is not None and ipaddress.ip_address(self.listen).is_loopback


def _is_in(path: Path, *folders: str | Path) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_private(address: str) -> bool:
    """Of a private network, this computer's own, or all of its own (0.0.0.0, ::)."""
    found = ipaddress.ip_address(address)
    if found.is_loopback or found.is_unspecified or found.is_link_local:
        return True
    return any(found in network for network in map(ipaddress.ip_network, PRIVATE_NETWORKS))


def _hides(path: Path) -> str | None:
    """The folder that ProtectHome=, PrivateTmp= and the like take out of the services' sight, None when none does."""
    return next((hidden for hidden in _HIDDEN if path.is_relative_to(hidden)), None)
