"""Our own processes as children: started in a session of their own, ended for certain.

    python -m continuonbrain.loops.child_process PARENT_PID MODULE [ARGUMENT ...]

is what a child runs first: it asks the kernel for SIGTERM when its parent dies (PR_SET_PDEATHSIG, Linux), then
becomes MODULE. A session of its own keeps a Ctrl-C in the terminal away from the children: the parent ends them
in order. The kernel's signal comes when the *thread* that started the child ends, so children are started from
a thread that lives as long as they should.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from continuonbrain.errors import BrainError, told_from, told_from_import

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_BYTES = 4000
_GONE_S = 5.0
"""A killed process that is not gone by then waits for a device that does not answer."""


class ChildLogError(BrainError):
    """The log of a child process cannot be written, so it was not started."""


def exit_code(body: Callable[[], object]) -> int:
    """Run a process's body: 0, or 2 with one line on stderr when a person must put something right.

    Any other exception is a fault of the program and passes through.
    """
    try:
        body()
    except BrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        told = told_from(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = told_from_import(error)
        if missing is None:
            raise
        print(f"error: {missing}", file=sys.stderr)
        return 2
    return 0


def launch_command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a module as a child which dies with this process."""
    return [
        sys.executable,
        "-m",
        "continuonbrain.loops.child_process",
        str(os.getpid()),
        module,
        *arguments,
    ]


class ChildProcess:
    """One Python module as a process.

    Args:
        name: for people; also the name of the log file.
        module: what `python -m` would run.
        arguments: its command line.
        log_path: where stdout and stderr go, appended.
        environment: added to this process's own.

    Raises (on construction): `ChildLogError`.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        log_path: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log = log_path.open("ab")
        except OSError as error:
            raise ChildLogError(
                f"{log_path}: the log of the {name} process cannot be written: {error.strerror or error}",
                remedy=f"make {log_path.parent} writable for this user, on a disk mounted writable and not full",
            ) from error
        self._log_start = os.fstat(log.fileno()).st_size
        with log:
            self._process = subprocess.Popen(
                launch_command(module, arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    def ask_to_end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End in good order, at this signal."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self, timeout_s: float) -> bool:
        """SIGTERM, and after `timeout_s` SIGKILL; also to whatever it left behind. True: it ended by itself."""
        self.ask_to_end()
        return self.finish(timeout_s)

    def finish(self, timeout_s: float) -> bool:
        """`end` of one that was asked already. A second SIGTERM would kill it while its interpreter is taken down,
        where no handler is in place any more."""
        orderly = self.wait(timeout_s) is not None
        self.kill()
        return orderly

    def kill(self) -> None:
        """SIGKILL to the process and everything in its session that it started. Waits until it is gone, some seconds at
        most: `exit_code` says whether it is."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait(_GONE_S)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, when it ends within that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def log_tail(self) -> str:
        """The end of what this child has printed."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(max(self._log_start, self.log_path.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
        return ""

    def last_words(self) -> str:
        """The last line of the log that tells of an error; without one the last line."""
        lines = self.log_tail().splitlines()
        told = [line for line in lines if "error" in line.lower() and not line.startswith("  ")]
        lines = told or lines
        return lines[-1] if lines else f"nothing in {self.log_path}"


def end_together(
    children: Sequence[ChildProcess], timeout_s: float, number: signal.Signals = signal.SIGTERM
) -> list[ChildProcess]:
    """Ask all to end by this signal, wait for all until `timeout_s` is over, kill the rest: these are returned."""
    deadline = time.monotonic() + timeout_s
    for child in children:
        child.ask_to_end(number)
    return [child for child in children if not child.finish(max(0.0, deadline - time.monotonic()))]


def _become(parent: int, module: str, arguments: list[str]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux: then only an orderly end works
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel knew
        raise SystemExit(0)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
