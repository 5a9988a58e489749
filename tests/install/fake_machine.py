"""A computer that is a folder, and programs of the system that change only that folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from continuonbrain.install.steps import UNIT_FOLDER, Enabled, Machine
from continuonbrain.install.units import TARGET

GROUPS = ("video", "i2c", "gpio", "input", "render", "dialout")


@dataclass
class FakeCommands:
    """useradd, systemctl and udevadm on a folder. Accounts get this process's own ids: it need not be root."""

    machine: Machine
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, command: Sequence[str]) -> None:
        self.ran.append(tuple(command))
        words = [word for word in command if not word.startswith("--root=") and word != str(self.machine.top)]
        match words[0]:
            case "useradd":
                self._append(
                    "etc/passwd", f"{words[-1]}:x:{os.getuid()}:{os.getgid()}::/nonexistent:/bin/false"
                )
                self._append("etc/group", f"{words[-1]}:x:{os.getgid()}:")
            case "usermod":
                self._join(words[-1], words[-2].split(","))
            case "userdel":
                self._drop("etc/passwd", words[-1])
                self._drop("etc/group", words[-1])
            case "systemctl" if "enable" in words:
                link = self.machine.at(_enabled(words[-1]).link)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(UNIT_FOLDER / words[-1])
            case "systemctl" if "disable" in words:
                self.machine.at(_enabled(words[-1]).link).unlink(missing_ok=True)
            case "runuser":
                (self.machine.at(Path(words[words.index("--root") + 1])) / "config.json").write_text("{}")
            case "systemctl" if "try-restart" in words:
                pass
            case _:
                assert words in (["systemctl", "daemon-reload"],) or words[0] == "udevadm", words

    def _append(self, name: str, line: str) -> None:
        with (self.machine.top / name).open("a") as file:
            file.write(line + "\n")

    def _drop(self, name: str, first: str) -> None:
        file = self.machine.top / name
        kept = [line for line in file.read_text().splitlines() if line.split(":")[0] != first]
        file.write_text("".join(line + "\n" for line in kept))

    def _join(self, user: str, groups: list[str]) -> None:
        file = self.machine.top / "etc/group"
        lines = []
        for line in file.read_text().splitlines():
            name, _, gid, members = line.split(":")
            names = [m for m in members.split(",") if m]
            if name in groups and user not in names:
                names.append(user)
            lines.append(":".join((name, "x", gid, ",".join(names))))
        file.write_text("".join(line + "\n" for line in lines))


def _enabled(unit: str) -> Enabled:
    return Enabled(unit, "multi-user.target" if unit == TARGET else TARGET)


def fake_machine(top: Path, groups: Sequence[str] = GROUPS) -> Machine:
    """A computer with a root account and these groups."""
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text(f"root:x:{os.getuid()}:{os.getgid()}:root:/root:/bin/sh\n")
    lines = [f"root:x:{os.getgid()}:", *(f"{name}:x:{500 + i}:" for i, name in enumerate(groups))]
    (top / "etc/group").write_text("".join(line + "\n" for line in lines))
    return Machine(top)


def everything(top: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below `top`: its mode, and its content or target."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            content = os.fsencode(os.readlink(path))
        else:
            content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(top))] = (path.lstat().st_mode, content)
    return found
