"""The process lock: one holder, named; gone with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from continuonbrain.storage.lock import LockFileError, LockHeldError, ProcessLock

HOLD = """
import sys, time
from pathlib import Path
from continuonbrain.storage.lock import ProcessLock
with ProcessLock(Path(sys.argv[1]), purpose="train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path, holder) -> None:
    with pytest.raises(LockHeldError) as caught, ProcessLock(tmp_path / "lock", purpose="train on /brain"):
        pass
    assert caught.value.pid == holder.pid
    assert "train on /brain" in caught.value.message
    assert str(holder.pid) in caught.value.message
    assert "Ctrl-C" in caught.value.remedy


def test_sigkill_of_the_holder_frees_the_lock(tmp_path: Path, holder) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with ProcessLock(tmp_path / "lock", purpose="train"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_can_be_taken_again_after_release(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path / "lock", purpose="train")
    for _ in range(2):
        with lock:
            pass
    lock.release()


def test_two_locks_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    first = ProcessLock(tmp_path / "lock", purpose="a")
    second = ProcessLock(tmp_path / "lock", purpose="b", timeout_s=0.15)
    with first:
        with pytest.raises(LockHeldError):
            second.acquire()
        with pytest.raises(RuntimeError):
            first.acquire()
    second.acquire()
    second.release()


def test_a_lock_file_that_cannot_be_opened_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(LockFileError, match="lock") as caught,
        ProcessLock(tmp_path / "lock", purpose="train"),
    ):
        pass
    assert str(tmp_path) in caught.value.remedy
