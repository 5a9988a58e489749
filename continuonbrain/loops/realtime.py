"""What a thread that must be punctual can be given: priority, a core of its own, precise sleep, a quiet collector.

Nothing here is needed to drive. What the system refuses is told, and the loop is as punctual as the machine lets it.
A priority holds for the calling thread alone: threads that it starts afterwards, and its child processes, are ordinary.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

_NICE = -10
_OTHERS_PRIORITY, _OTHERS_NICE = 1, -5
_SWITCH_INTERVAL_S = 0.0001
_TASKS = "/proc/self/task"
_AWAKE_S = 0.0003
_SET_TIMERSLACK = 29
"""PR_SET_TIMERSLACK, linux/prctl.h."""
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
"""linux/mman.h."""
_CAP_IPC_LOCK = 14
"""linux/capability.h."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a thread got. scheduler: "fifo 50", "nice -10" or "ordinary"; cpu: its core, None is any; refused: what the
    system did not allow, in words; thread: whose all that is, the kernel's number."""

    scheduler: str
    cpu: int | None
    refused: tuple[str, ...] = ()
    thread: int = 0


def prefer_this_thread(*, priority: int | None = None, cpu: int | None = None) -> Granted:
    """Ask for punctuality for the calling thread.

    Args:
        priority: of SCHED_FIFO, 1 to 99; None asks for niceness only.
        cpu: number of the core that it stays on; None leaves the choice to the kernel.

    A priority needs CAP_SYS_NICE or RLIMIT_RTPRIO (the unit of `continuonbrain install` grants it).
    """
    refused: list[str] = []
    # Another Python thread that computes is asked for the interpreter after a tenth of a millisecond instead of 5 ms.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # The heads' products are small: more threads cost a whole core in waiting for each other, and this thread,
    # which comes before all others, would wait for helpers that do not.
    threadpool_limits(1, user_api="blas")
    _sleep_precisely()
    thread = threading.get_native_id()
    scheduler = _scheduled(thread, priority, refused)
    if cpu is not None:
        try:
            os.sched_setaffinity(thread, {cpu})
        except (OSError, ValueError) as error:
            refused.append(f"core {cpu}: {error}")
            cpu = None
    return Granted(scheduler, cpu, tuple(refused), thread)


def lift_other_threads(granted: Granted) -> None:
    """Put the process's other threads above other processes, and below the loop's. To be called now and then from one
    of them: threads that began since are found.

    Whoever holds the interpreter and is put aside for another process's work (a trainer's) makes the loop wait as
    long, whatever the loop's own priority is: priority inversion, as an interpreter lock lends no priority. Does
    nothing where the loop itself was refused.
    """
    by_priority = granted.scheduler.startswith("fifo")
    if not by_priority and not granted.scheduler.startswith("nice"):
        return
    for thread in map(int, os.listdir(_TASKS)):
        with suppress(OSError):  # it has ended meanwhile
            if thread == granted.thread or os.sched_getscheduler(thread) != os.SCHED_OTHER:
                continue
            if by_priority:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_OTHERS_PRIORITY))
            else:  # one that the loop's thread started has its niceness
                os.setpriority(os.PRIO_PROCESS, thread, _OTHERS_NICE)


def stay_in_memory() -> str:
    """Keep the pages of this process that it has used: its programs, too, which the kernel otherwise drops when a
    trainer beside it wants memory, and reads again from the disk in the middle of a tick. Why it could not, else "".

    What is mapped later is kept as well where nothing limits how much (LimitMEMLOCK=infinity of the unit of
    `continuonbrain install`): with a limit, memory that is asked for above it would be refused from then on.
    """
    kept = _MCL_CURRENT | _MCL_ONFAULT
    if _may_lock_anything():
        kept |= _MCL_FUTURE
    library = ctypes.CDLL(None, use_errno=True)
    if library.mlockall(kept):
        return f"pages kept in memory: {os.strerror(ctypes.get_errno())}"
    return ""


def _may_lock_anything() -> bool:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    with suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as status:
        told = next(line for line in status if line.startswith("CapEff:"))
        return bool(int(told.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def sleep_punctually(seconds: float) -> None:
    """Sleep, but stay awake for the last 0.3 ms: 1.5 % of a core at 50 Hz.

    Waking up takes a sleeper 50 us, and several times that now and then: a core that idles has to be woken itself, and
    that of a virtual machine be lent again by its host.
    """
    until = time.monotonic() + seconds
    if seconds > _AWAKE_S:
        time.sleep(seconds - _AWAKE_S)
    while time.monotonic() < until:
        pass


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No automatic garbage collection inside: a full one takes tens of milliseconds, more than a tick has."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _scheduled(thread: int, priority: int | None, refused: list[str]) -> str:
    if priority is not None:
        try:
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(thread, policy, os.sched_param(priority))
            return f"fifo {priority}"
        except (OSError, ValueError) as error:
            refused.append(f"SCHED_FIFO {priority}: {error}")
    # Linux keeps niceness per thread: ticks come before encoding, writing and everybody's training.
    try:
        os.setpriority(os.PRIO_PROCESS, thread, _NICE)
        return f"nice {_NICE}"
    except OSError as error:
        refused.append(f"nice {_NICE}: {error}")
    return "ordinary"


def _sleep_precisely() -> None:
    # By default a sleep may end 50 us late, so that the kernel can wake several sleepers at once.
    ctypes.CDLL(None).prctl(_SET_TIMERSLACK, 1, 0, 0, 0)
