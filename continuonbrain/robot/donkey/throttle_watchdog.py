"""The watchdog of a car's throttle as a process of its own: it stops the car when the control process stands as a
whole, or is gone. The PWM chip alone would go on with the last pulse for ever.

    python throttle_watchdog.py PARENT BUS ADDRESS REGISTER REST LIMIT_S [NOT_CPU]

`watchdog_process.py` starts it as a file, so that it is small and needs nothing but smbus2. ADDRESS of the chip, the
first REGISTER of the throttle's channel, and the four bytes that make stopped_us there (REST, hexadecimal).

stdin is a pipe. A byte `COMMAND` comes with every command; from the first one on a silence of LIMIT_S is one too many.
Then, and again every `AGAIN_S` until commands come again, the throttle's channel is looked at, and put to stopped_us
where it holds something else: a frozen process may wake up in the middle of a write.

stopped_us and not off: an ESC knows it for rest, where some coast on without pulses, and it stays armed, so that
control is in charge again with its next command. A channel that is off is left off.

The pipe's end says that control is gone, however it went: stopped_us at once, off after `LAST_PULSES_S`, as control
itself ends. `END` says that control has done so. The kernel's PR_SET_PDEATHSIG is no part of this: it would come when
the thread that started this process ends, and says nothing while control stands. A copy of the pipe in a forked child
of control would keep its end from being seen: so the parent's number is looked at, too.

On the bus are two processes then. Each transaction is one for the kernel, which never mixes two; registers are set to
whole states, never changed from what was read.

stdout, never waited for: `READY`, `HEARD` for commands, `STOPPED` and `FAILED` for what came of a look, or `!` and why
it cannot be. It says nothing on stderr, whose reader may stand, too.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Protocol

COMMAND, END = b".", b"e"
READY, HEARD, STOPPED, FAILED, WHY = b"r", b"h", b"s", b"f", b"!"

AGAIN_S = 0.05
"""Between two looks while commands are missing: how long a pulse can live that a waking process sends once more."""
_AFTER_FAILURE_S = 0.01
LAST_PULSES_S = 0.1
"""How long stopped_us is held before the channels go off, when control is gone."""
_LAST_TRIES_S = 0.6
_PARENT_S = 1.0
"""Between two looks at who the parent is, while nothing is expected."""

_ALL_LED_OFF_H, _FULL_OFF = 0xFD, 0x10
"""As in `pca9685.py`, which needs numpy by what it imports."""
_NICE = -10
_LOCK_TOUCHED_PAGES = 1 | 4
"""mlockall: MCL_CURRENT | MCL_ONFAULT, linux/mman.h."""


class RawBus(Protocol):
    """What is asked of smbus2.SMBus. Both raise OSError."""

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None: ...

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]: ...


class Silence:
    """When to look at the throttle. Pure; times are monotonic seconds."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._due_s: float | None = None

    @property
    def commanded(self) -> bool:
        """Whether there ever was a command. Before, the throttle is at rest, or the chip not set up."""
        return self._due_s is not None

    def command(self, now_s: float) -> None:
        """One came."""
        self._due_s = now_s + self._limit_s

    def left_s(self, now_s: float) -> float:
        """Until the next look; endless before the first command."""
        return float("inf") if self._due_s is None else max(0.0, self._due_s - now_s)

    def looked(self, now_s: float, *, well: bool) -> None:
        """A look was taken. well: the bus answered."""
        self._due_s = now_s + (AGAIN_S if well else _AFTER_FAILURE_S)


class Throttle:
    """The channel of one chip. Both methods raise OSError."""

    def __init__(self, bus: RawBus, address: int, register: int, rest: bytes) -> None:
        self._bus, self._address, self._register, self._rest = bus, address, register, rest

    def stop(self) -> bool:
        """At stopped_us, or off, after this. Whether anything had to be done."""
        with suppress(OSError):  # then it is written unseen: rest is right in any case
            if self._is_at_rest(self._held()):
                return False
        self._bus.write_i2c_block_data(self._address, self._register, list(self._rest))
        if not self._is_at_rest(self._held()):  # a chip that was reset takes no blocks
            self.off()
        return True

    def off(self) -> None:
        """No pulses on any channel: one byte, so that it works whatever state the chip is in."""
        self._bus.write_i2c_block_data(self._address, _ALL_LED_OFF_H, [_FULL_OFF])

    def _held(self) -> bytes:
        return bytes(self._bus.read_i2c_block_data(self._address, self._register, len(self._rest)))

    def _is_at_rest(self, held: bytes) -> bool:
        return held == self._rest or bool(held[3] & _FULL_OFF)


def watch(throttle: Throttle, silence: Silence, parent: int) -> None:
    """Until `END`, or until the parent is gone and the throttle off, or cannot be switched off for a while."""
    commands = select.poll()
    commands.register(0, select.POLLIN)
    _say(READY)
    while True:
        wait_s = min(silence.left_s(time.monotonic()), _PARENT_S)
        if commands.poll(1000 * wait_s):
            told = os.read(0, 65536)
            if END in told:
                return
            if not told:
                break
            silence.command(time.monotonic())
            _say(HEARD)
        if os.getppid() != parent:
            break
        if silence.left_s(time.monotonic()) <= 0:
            try:
                acted = throttle.stop()
            except OSError:
                silence.looked(time.monotonic(), well=False)
                _say(FAILED)
            else:
                silence.looked(time.monotonic(), well=True)
                _say(STOPPED if acted else HEARD)
    leave_off(throttle, held_s=LAST_PULSES_S if silence.commanded else 0.0)


def leave_off(throttle: Throttle, held_s: float) -> None:
    """stopped_us for held_s, then off; tried for `_LAST_TRIES_S`."""
    until = time.monotonic() + _LAST_TRIES_S
    while time.monotonic() < until:
        with suppress(OSError):
            if held_s:
                throttle.stop()
                time.sleep(held_s)
            throttle.off()
            return
        time.sleep(_AFTER_FAILURE_S)


def _say(what: bytes) -> None:
    with suppress(OSError):  # the pipe is full, or nobody listens any more
        os.write(1, what)


def _stand_apart(not_cpu: int | None) -> None:
    """From the parent: its end is what ends this process, its core and its priority may be what stands."""
    # SIGABRT: what systemd sends when a unit is silent.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    cores = set(range(os.cpu_count() or 1)) - {not_cpu} or {0}
    # What the system refuses is not needed to work.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def _stay_in_memory() -> None:
    """What stands still because of a disk must not be the watchdog, too. Needs LimitMEMLOCK= of control's unit."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).mlockall(_LOCK_TOUCHED_PAGES)


def main(arguments: list[str]) -> int:
    """See the module. Exit code 1, with `WHY`, when the bus cannot be opened."""
    parent, bus, address, register = (int(text) for text in arguments[:4])
    rest, limit_s = bytes.fromhex(arguments[4]), float(arguments[5])
    not_cpu = int(arguments[6]) if len(arguments) > 6 else None
    os.set_blocking(1, False)
    _stand_apart(not_cpu)
    try:
        from smbus2 import SMBus

        raw = SMBus(bus)
    except (ImportError, OSError) as error:
        _say(WHY + f"/dev/i2c-{bus}: {error}".encode())
        return 1
    throttle = Throttle(raw, address, register, rest)
    with suppress(OSError):  # what a look needs is in memory then
        raw.read_i2c_block_data(address, register, len(rest))
    _stay_in_memory()
    watch(throttle, Silence(limit_s), parent)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
