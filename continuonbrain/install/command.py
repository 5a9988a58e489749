"""The command `continuonbrain` for everybody on this computer: a line of shell that starts the environment's. Pure.

A person's `sudo` looks in its own folders alone (sudoers(5), secure_path), of which /usr/local/bin is one; the
environment's `bin` is not.
"""

from __future__ import annotations

from pathlib import Path

COMMAND = Path("/usr/local/bin/continuonbrain")
MADE_BY = "#!/bin/sh\n# Made by `continuonbrain install`; `continuonbrain uninstall` takes it away.\n"
MODE = 0o755


def command_text(python: Path) -> str:
    """The file's text. python: the interpreter whose environment has `continuonbrain`."""
    # -I as in the units: nothing of the folder that a person happens to stand in.
    return f'{MADE_BY}exec {python} -I -m continuonbrain "$@"\n'
