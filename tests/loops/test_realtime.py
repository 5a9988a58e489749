"""What is asked of the operating system: granted where it may be, told where not, and for one thread only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from continuonbrain.loops.realtime import Granted

ASK = """
import json, os, sys, threading
from dataclasses import asdict
from continuonbrain.loops.realtime import prefer_this_thread
granted = asdict(prefer_this_thread(**json.loads(sys.argv[1])))
seen = []
def look():
    seen.append(os.sched_getscheduler(threading.get_native_id()))
thread = threading.Thread(target=look)
thread.start(); thread.join()
me = threading.get_native_id()
print(json.dumps([granted, os.sched_getscheduler(me) & 7, sorted(os.sched_getaffinity(me)), seen[0] & 7,
                  sys.getswitchinterval()]))
"""


def ask(code: str = ASK, **wanted: object) -> tuple[dict[str, object], int, list[int], int, float]:
    """In a process of its own, as what is granted stays with the thread."""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(wanted)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    granted, scheduler, cores, of_another, interval = json.loads(done.stdout)
    return granted, scheduler, cores, of_another, interval


def may_have_priority() -> bool:
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_without_wishes_the_thread_is_ordinary_or_nice() -> None:
    granted, scheduler, _, _, interval = ask()
    assert scheduler == os.SCHED_OTHER
    assert granted["scheduler"] in ("nice -10", "ordinary")
    assert (granted["scheduler"] == "ordinary") == bool(granted["refused"])
    assert interval == pytest.approx(0.0001)


def test_a_priority_is_the_threads_own() -> None:
    if not may_have_priority():
        pytest.skip("this user may not use SCHED_FIFO")
    granted, scheduler, _, of_another, _ = ask(priority=7)
    thread = granted.pop("thread")
    assert isinstance(thread, int)
    assert thread > 0
    assert granted == {"scheduler": "fifo 7", "cpu": None, "refused": []}
    assert scheduler == os.SCHED_FIFO
    assert of_another == os.SCHED_OTHER


LIFT = """
import json, os, sys, threading
from continuonbrain.loops.realtime import lift_other_threads, prefer_this_thread
granted = prefer_this_thread(**json.loads(sys.argv[1]))
done, here = threading.Event(), threading.Event()
ids = []
def wait():
    ids.append(threading.get_native_id()); here.set(); done.wait(10)
thread = threading.Thread(target=wait); thread.start(); here.wait(10)
lift_other_threads(granted)
me = threading.get_native_id()
print(json.dumps([granted.scheduler, os.sched_getscheduler(me) & 7, [os.sched_getparam(me).sched_priority],
    os.sched_getscheduler(ids[0]) & 7,
    os.sched_getparam(ids[0]).sched_priority - os.getpriority(os.PRIO_PROCESS, ids[0])]))
done.set()
"""


def test_the_other_threads_come_after_the_loop_and_before_other_processes() -> None:
    granted, mine, priority, of_another, level = ask(LIFT, priority=7)
    if granted == "fifo 7":
        assert (mine, priority) == (os.SCHED_FIFO, [7])
        assert (of_another, level) == (os.SCHED_FIFO, 1)
    granted, _, _, of_another, level = ask(LIFT)
    assert of_another == os.SCHED_OTHER
    assert level == (5 if granted == "nice -10" else 0)


def test_a_core_is_taken_and_one_that_is_not_there_is_told() -> None:
    core = min(os.sched_getaffinity(0))
    granted, _, cores, _, _ = ask(cpu=core)
    assert (granted["cpu"], cores) == (core, [core])
    granted, _, cores, _, _ = ask(cpu=1000)
    assert granted["cpu"] is None
    assert "core 1000" in str(granted["refused"])
    assert cores == sorted(os.sched_getaffinity(0))


def test_what_the_system_refuses_is_told_and_the_loop_runs_all_the_same() -> None:
    refuse = """
import os
def no(*_): raise PermissionError(1, "Operation not permitted")
os.sched_setscheduler = os.setpriority = no
"""
    granted, scheduler, _, _, _ = ask(refuse + ASK, priority=50)
    assert granted["scheduler"] == "ordinary"
    assert [str(r).split(":")[0] for r in granted["refused"]] == ["SCHED_FIFO 50", "nice -10"]  # type: ignore[attr-defined]
    assert scheduler == os.SCHED_OTHER


def test_granted_is_nothing_by_default() -> None:
    assert Granted("ordinary", None).refused == ()


def test_a_punctual_sleep_ends_on_time_and_is_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    from continuonbrain.loops import realtime

    now, slept = 100.0, []

    def clock() -> float:
        nonlocal now
        now += 1e-5  # what a look at the clock takes
        return now

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds + 8e-5  # woken up late

    monkeypatch.setattr(realtime.time, "monotonic", clock)
    monkeypatch.setattr(realtime.time, "sleep", sleep)
    for seconds in (0.02, 0.001, 0.0002, 0.0, -0.1):
        began = now
        realtime.sleep_punctually(seconds)
        assert max(seconds, 0.0) <= now - began <= max(seconds, 0.0) + 3e-5
    assert slept == pytest.approx([0.0197, 0.0007])


KEPT = """
import json, mmap, os, sys
from continuonbrain.loops.realtime import stay_in_memory
if len(sys.argv) > 1:
    import resource
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
    os.setgid(65534)
    os.setuid(65534)
def locked_kib():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmLck:")).split()[1])
why = stay_in_memory()
before = locked_kib()
later = mmap.mmap(-1, 64 << 20)
later[: 1 << 20] = bytes(1 << 20)
print(json.dumps([why, before, locked_kib()]))
"""


def test_what_was_used_stays_in_memory_and_what_comes_later_as_well() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    why, before, after = json.loads(done.stdout)
    if why:
        pytest.skip(f"this user may not keep memory: {why}")
    assert before > 10_000
    assert after >= before + (64 << 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_who_may_not_is_told_and_has_memory_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT, "x"], capture_output=True, text=True, check=True)
    why, before, after = json.loads(done.stdout)
    assert why == "pages kept in memory: Cannot allocate memory"
    assert before == after == 0
