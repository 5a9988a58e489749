"""The one base class of every error that a person can act on.

The command line prints such an error as one line and its remedy, without a traceback. Anything else that
is raised is a defect in this project, and keeps its traceback. Each room derives its own narrow errors
where they are raised.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shlex
import sys
import sysconfig
from pathlib import Path


class BrainError(Exception):
    """Something outside this program's code is wrong, and a person can put it right.

    Attributes:
        message: what is wrong, naming the file, the field and the value.
        remedy: the next step a person can take; empty when there is none to give.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class BelongsToAnotherError(BrainError):
    """What is needed is another user's. owner: who that is, as `sudo -u` takes it."""

    def __init__(self, message: str, *, owner: str) -> None:
        super().__init__(message, remedy=f"run the same command as its owner: sudo -u {owner} ...")
        self.owner = owner


def told_from(error: OSError, about: Path | None = None) -> BrainError | None:
    """The last net for what the operating system refused: the file and a remedy, or None for a defect of ours.

    A full disk is told without a file too, because a write knows none. about: what was being read or written, where the
    error itself does not say.
    """
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    if name is None and about is not None:
        name = str(about)
    if name is None and not full:
        return None
    where = "" if name is None else f"{name}: "
    if full:
        remedy = "free some space on that disk, or raise the quota"
    elif error.errno == errno.EROFS:
        remedy = "it is on a read-only file system: mount it writable, or use another folder"
    elif error.errno in (errno.EACCES, errno.EPERM):
        if name is not None and (another := belongs_to_another(Path(name))) is not None:
            return another
        remedy = "make it readable and writable for this user"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        remedy = "check that path: there is nothing of that name"
    else:
        remedy = "check that path and its disk"
    return BrainError(f"{where}{error.strerror or error}", remedy=remedy)


def belongs_to_another(path: Path) -> BelongsToAnotherError | None:
    """For a path that was refused: whose it is, or the innermost folder above it that can be looked at; None where that
    is this user's own, or the system's."""
    for place in (path, *path.parents):
        try:
            uid = place.lstat().st_uid
        except OSError:
            continue
        if uid in (os.geteuid(), 0):
            return None
        owner, us = _user(uid), _user(os.geteuid())
        what = "" if place == path else f"{path}: "
        return BelongsToAnotherError(
            f"{what}{place} belongs to the user {owner} and is closed to {us}", owner=owner
        )
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


_EXTRA_OF_MODULE = {
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "accelerate": "train",
    "matplotlib": "train",
    "ai_edge_litert": "litert",
    "tokenizers": "litert",
    "jinja2": "litert",
    "fastapi": "serve",
    "uvicorn": "serve",
    "timm": "frames",
    "torchvision": "frames",
    "smbus2": "pi",
    "gpiozero": "pi",
    "cv2": "pi",
    "evdev": "gamepad",
    "simplejpeg": "pi",
    "pyarrow": "lerobot",
}


def installing(extra: str) -> str:
    """What a person does to get an optional part into the environment that runs this: the same way as it was installed,
    as services of another account see no folder of source."""
    may_write = os.access(sysconfig.get_path("purelib"), os.W_OK)
    pip = ("" if may_write else "sudo ") + shlex.quote(sys.executable) + " -m pip"
    editable = "-e " if _is_editable() else ""
    return (
        f"in the folder of continuonbrain's source: {pip} install -c constraints.txt {editable}'.[{extra}]'"
    )


def _is_editable() -> bool:
    """As the installer noted it (PEP 610, direct_url.json)."""
    from importlib import metadata  # slow to load, and needed for this alone

    try:
        noted = metadata.distribution("continuonbrain").read_text("direct_url.json")
        return bool(json.loads(noted or "{}").get("dir_info", {}).get("editable"))
    except (metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return False


def told_from_import(error: ModuleNotFoundError) -> BrainError | None:
    """A module that belongs to an optional part which is not installed; None for a defect of ours."""
    missing = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF_MODULE.get(missing)
    if extra is None:
        return None
    return BrainError(
        f"this needs the Python module {missing}, which is not installed", remedy=installing(extra)
    )
