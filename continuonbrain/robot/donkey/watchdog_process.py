"""The control process's end of `throttle_watchdog.py`: it starts that process, tells it of every command, never waits
for it, and starts another one when it dies or answers no more. Without one the car does not drive."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.robot.donkey import throttle_watchdog
from continuonbrain.robot.donkey.throttle_watchdog import COMMAND, END, FAILED, READY, STOPPED, WHY
from continuonbrain.robot.protocol import RobotFault

log = logging.getLogger(__name__)

_START_S = 10.0
"""Until it is ready: Python and smbus2 from a cold card."""
_MUTE_S = 1.0
"""A command without any answer for so long: it stands, and would not stop the car."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_FORGIVEN_AFTER_S = 10.0
_END_S = 1.0
_REMEDY = "see the log; a car without it is not driven"


@dataclass(frozen=True, slots=True)
class Watched:
    """What the process watches: a channel of a chip on a bus. rest: the four registers of the channel at stopped_us."""

    bus: int
    address: int
    register: int
    rest: bytes


class WatchdogProcess:
    """One, and the next one when it is gone. `beat` is the control loop's; `look` another thread's, again and again.

    Args:
        watched: what it stops.
        limit_s: after how long without a command.
        not_cpu: the control loop's core: it may be what stands.
        command: another program than `throttle_watchdog.py`; tests.
    """

    def __init__(
        self,
        watched: Watched,
        *,
        limit_s: float,
        not_cpu: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        command: Sequence[str] | None = None,
    ) -> None:
        self._arguments = [
            str(os.getpid()),
            *map(str, (watched.bus, watched.address, watched.register, watched.rest.hex(), limit_s)),
            *([] if not_cpu is None else [str(not_cpu)]),
        ]
        # As a file, and nothing is taken from this folder or the working one.
        flags = ["-I"] if sys.flags.isolated else ["-P"]
        self._command = list(command or [sys.executable, *flags, str(Path(throttle_watchdog.__file__))])
        self._limit_s, self._clock = limit_s, clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: list[subprocess.Popen[bytes]] = []
        self._ready_s: float | None = None
        self._asked_s: float | None = None
        """When the first command was told that has not been answered yet."""
        self._began_s = self._due_s = clock()
        self._pause_s = _FIRST_PAUSE_S
        self._why = "it was not started"
        self._words = b""
        self._ended = False

    @property
    def pid(self) -> int | None:
        """Of the one that watches now; None while there is none."""
        process = self._process
        return None if process is None or self._ready_s is None else process.pid

    def start(self) -> None:
        """Start it; it takes a while to be ready. Raises `RobotFault`."""
        try:
            process = subprocess.Popen(
                [*self._command, *self._arguments],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
                close_fds=True,
                # Who kills control with all that it started must not kill what stops the car then.
                start_new_session=True,
            )
        except OSError as error:
            self._lost(f"it cannot be started: {error.strerror or error}")
            raise self._fault() from error
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        with self._lock:
            self._process, self._began_s, self._words = process, self._clock(), b""
            self._ready_s = self._asked_s = None
            self._why = "it starts"
            ended = self._ended
        if ended:
            self.end(orderly=True)

    def wait(self, patience_s: float = _START_S) -> None:
        """Until it is ready. Raises `RobotFault` when it dies before, or takes longer."""
        until = self._clock() + patience_s
        while True:
            with self._lock:
                self._listen()
                if self.pid is not None:
                    return
                if self._process is None or self._clock() >= until:
                    raise self._fault()
            time.sleep(0.005)

    def beat(self) -> None:
        """There is a command. Never waits. Raises `RobotFault` while nobody watches."""
        if not self._lock.acquire(blocking=False):
            return  # `look` is at it; the next command will do, the limit is many of them
        try:
            process = self._process
            if process is None or self._ready_s is None:
                raise self._fault()
            assert process.stdin is not None
            try:
                os.write(process.stdin.fileno(), COMMAND)
            except BlockingIOError:  # full: it has enough to read, and `look` finds one that does not
                pass
            except OSError as error:
                self._lost("it is gone")
                raise self._fault() from error
            if self._asked_s is None:
                self._asked_s = self._clock()
        finally:
            self._lock.release()

    def look(self) -> None:
        """Hear what it says; another one when this one is gone or stands, after a pause that doubles. Never raises."""
        with self._lock:
            self._listen()
            self._killed = [process for process in self._killed if process.poll() is None]
            wanted = self._process is None and not self._ended and self._clock() >= self._due_s
        if wanted:
            with suppress(RobotFault):  # told; it is tried again
                self.start()

    def end(self, *, orderly: bool) -> None:
        """End it; some tenths of a second. orderly: the throttle is off; else it is told nothing, and switches it off
        itself."""
        with self._lock:
            process, self._process, self._ready_s = self._process, None, None
            self._ended, self._why = True, "the car is closed"
            killed, self._killed = self._killed, []
        if process is not None:
            if orderly:
                with suppress(OSError):
                    assert process.stdin is not None
                    os.write(process.stdin.fileno(), END)
            _close_pipes(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            killed.append(process)
        for left in killed:
            if left.poll() is None:
                left.kill()
                with suppress(subprocess.TimeoutExpired):  # it waits for a device that does not answer
                    left.wait(_END_S)

    def _listen(self) -> None:
        """With the lock held."""
        process, now_s = self._process, self._clock()
        if process is None:
            return
        assert process.stdout is not None
        gone = process.poll()  # before its last words are read
        told = b""
        with suppress(OSError):
            told = process.stdout.read(65536) or b""
        self._words = (self._words + told)[-1000:]
        if told:
            self._asked_s = None
        if STOPPED in told:
            log.error("no command for %.2f s: the watchdog process stopped the throttle", self._limit_s)
        if FAILED in told:
            log.error("the watchdog process cannot reach the PWM chip")
        if self._ready_s is None and self._words.startswith(READY):
            self._ready_s, self._asked_s, self._why = now_s, None, ""
        if gone is not None:
            why = self._words.partition(WHY)[2].decode(errors="replace")
            self._lost(why or f"it ended with {gone}")
        elif self._ready_s is None and now_s - self._began_s > _START_S:
            self._lost(f"it was not ready within {_START_S:g} s")
        elif self._asked_s is not None and now_s - self._asked_s > _MUTE_S:
            self._lost(f"it did not answer for {_MUTE_S:g} s")
        elif self._ready_s is not None and now_s - self._ready_s > _FORGIVEN_AFTER_S:
            self._pause_s = _FIRST_PAUSE_S

    def _lost(self, why: str) -> None:
        """With the lock held, or before there is anything."""
        process, self._process, self._ready_s, self._asked_s = self._process, None, None, None
        self._why = why
        log.error("the throttle's watchdog process: %s; another one in %g s", why, self._pause_s)
        self._due_s = self._clock() + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        if process is not None:
            process.kill()
            _close_pipes(process)
            self._killed.append(process)

    def _fault(self) -> RobotFault:
        return RobotFault(f"the throttle's watchdog process: {self._why}", remedy=_REMEDY)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
