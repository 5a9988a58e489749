"""The log of events: numbers that count on over processes, crashes and rotation; readers that miss nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from continuonbrain.storage.event_log import MAX_EVENT_BYTES, EventLog
from continuonbrain.storage.signal_listeners import signal_listeners


def test_events_are_numbered_and_read_from_any_number_on(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events")
    assert (log.last_sequence(), log.after(0), log.mark()) == (0, [], (0, 0, 0))
    events = [log.append("training", {"phase": str(i)}) for i in range(5)]
    assert [e.sequence for e in events] == [1, 2, 3, 4, 5]
    assert log.after(0) == events
    assert EventLog(tmp_path / "events").after(3) == events[3:]
    assert log.after(5) == log.after(99) == []
    before = log.mark()
    log.append("gate", {"open": False})
    assert log.mark() != before


def test_segments_are_put_away_and_the_numbers_go_on(tmp_path: Path) -> None:
    log = EventLog(tmp_path, segment_bytes=1000)
    for i in range(60):
        log.append("training", {"i": i})
        kept = log.after(0)
        numbers = [e.sequence for e in kept]
        assert numbers == list(range(numbers[0], i + 2))  # no hole, the newest last
        assert len(numbers) >= min(i + 1, 8)
    assert sum(f.stat().st_size for f in tmp_path.glob("*.jsonl")) < 2100
    assert numbers[0] > 1


@pytest.mark.parametrize(
    "torn", [b'{"sequence": 4, "ki', b"\xff\xfe garbage\n", b"[]\n", b'{"sequence": -1}\n', b"\n"]
)
def test_what_a_crash_or_a_damaged_disk_left_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    log = EventLog(tmp_path)
    for _ in range(3):
        log.append("safety", {"stopped": True})
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(torn)
    assert [e.sequence for e in log.after(0)] == [1, 2, 3]
    assert log.append("safety", {"stopped": False}).sequence == 4
    assert [e.sequence for e in log.after(0)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("weather", {}),
        ("gate", {"x": math.nan}),
        ("gate", {"x": "y" * MAX_EVENT_BYTES}),
        ("gate", {"x": object()}),
    ],
)
def test_what_is_no_event_is_refused_and_costs_no_number(
    tmp_path: Path, kind: str, data: dict[str, object]
) -> None:
    log = EventLog(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        log.append(kind, data)  # type: ignore[arg-type]
    assert log.append("gate", {"open": True}).sequence == 1


_WRITER = """
import sys
from pathlib import Path
from continuonbrain.storage.event_log import EventLog
log = EventLog(Path(sys.argv[1]), segment_bytes=8000)
for i in range(int(sys.argv[2])):
    print(log.append("training", {"writer": sys.argv[3], "i": i}).sequence, flush=True)
"""


def test_several_processes_write_and_one_is_killed_while_a_reader_follows(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), "1000000" if name == "c" else "60", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    reader, seen = EventLog(tmp_path), []
    deadline = time.monotonic() + 60
    while any(w.poll() is None for w in writers[:2]) and time.monotonic() < deadline:
        seen += [e.sequence for e in reader.after(seen[-1] if seen else 0)]
        time.sleep(0.001)
    writers[2].send_signal(signal.SIGKILL)
    told = [int(n) for w in writers for n in w.communicate(timeout=30)[0].split()]
    seen += [e.sequence for e in reader.after(seen[-1])]
    assert seen == list(range(1, len(seen) + 1))
    assert [w.returncode for w in writers] == [0, 0, -signal.SIGKILL]  # nobody gave up at the lock
    assert len(told) == len(set(told)) >= 120
    assert set(told) <= set(seen)  # what was acknowledged is there
    assert reader.append("training", {}).sequence == seen[-1] + 1


_LISTENER = """
import os, signal, sys, time
from pathlib import Path
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
Path(sys.argv[1]).write_text(str(os.getpid()))
print("ready", flush=True)
while True:
    time.sleep(0.02)
    if got:
        print("told", flush=True)
        got.clear()
"""


def test_registered_processes_get_the_signal_and_others_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "listeners"
    assert signal_listeners(folder) == []
    folder.mkdir()
    deaf = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # dies of SIGUSR1
    listener = subprocess.Popen(
        [sys.executable, "-c", _LISTENER, str(folder / "app.pid")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        stale = folder / "gone.pid"
        stale.write_text(str(deaf.pid))
        os.utime(
            stale, (time.time() - 3600, time.time() - 3600)
        )  # of a process that ended; the number came back
        (folder / "ended.pid").write_text("4194000")
        for name, text in (("init", "1"), ("self", str(os.getpid())), ("words", "app"), ("minus", "-1")):
            (folder / f"{name}.pid").write_text(text)
        assert signal_listeners(folder) == ["app"]
        assert listener.stdout.readline() == "told\n"
        assert deaf.poll() is None
        assert stale.exists()  # it may be the clock that was wrong: not told, and kept
        assert not (folder / "ended.pid").exists()
    finally:
        for process in (listener, deaf):
            process.kill()
            process.communicate(timeout=10)
    assert signal_listeners(folder) == []


def test_a_pid_is_believed_with_its_start_time_whatever_the_clock_says(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        started = int(Path(f"/proc/{other.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        right, wrong, old = (tmp_path / f"{n}.pid" for n in ("right", "wrong", "old"))
        right.write_text(f"{other.pid} {started}")
        wrong.write_text(f"{other.pid} {started + 1}")
        old.write_text(f"{other.pid}")
        for file in (right, wrong, old):
            os.utime(file, (1.0, 1.0))  # as if the clock had been put right since
        (tmp_path / "arabic.pid").write_text("\u0663\u0664")
        (tmp_path / "many.pid").write_text("1 2 3")
        os.mkfifo(tmp_path / "pipe.pid")
        (tmp_path / "gone.pid").write_text("4194304")
        (tmp_path / "folder.pid").mkdir()
        assert signal_listeners(tmp_path) == ["right"]
        assert other.wait(5) == -signal.SIGUSR1
    assert {p.stem for p in tmp_path.iterdir()} == {
        "right",
        "wrong",
        "old",
        "arabic",
        "many",
        "pipe",
        "folder",
    }


def test_a_listener_whose_file_cannot_be_removed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone.pid").write_text("4194304")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    assert signal_listeners(tmp_path) == []


def test_text_that_nobody_could_read_on_does_not_stop_the_events_behind_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.append("training", {"detail": "lesson \udcff.json"}).data == {"detail": "lesson ?.json"}
    body = r'{"sequence": 2, "kind": "gate", "at_unix_s": 1, "data": {"why": "\ud800", "x": NaN}'
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(f'{body}, "crc32": {zlib.crc32(body.encode())}}}\n')
    log.append("promotion", {"version_id": "a"})
    events = log.after(0)
    assert [e.sequence for e in events] == [1, 2, 3]
    assert events[1].data == {"why": "?", "x": None}
    json.dumps([e.data for e in events], ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_costs_its_own_event_and_no_other(tmp_path: Path, bit: int) -> None:
    log = EventLog(tmp_path)
    for number in range(3):
        log.append("gate", {"open": True, "closed": {"n": str(number)}})
    file = tmp_path / "events.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for place in range(first, whole.index(b"\n", first)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        assert [e.sequence for e in log.after(0)] == [1, 3]
        assert log.last_sequence() == 3


@pytest.mark.parametrize("at", ["1" * 400, '"nan"', "NaN", "true", "1e999", "[]"])
def test_a_time_that_is_none_costs_its_own_event(tmp_path: Path, at: str) -> None:
    log = EventLog(tmp_path)
    body = f'{{"sequence": 1, "kind": "gate", "at_unix_s": {at}, "data": {{}}'
    (tmp_path / "events.jsonl").write_text(f'{body}, "crc32": {zlib.crc32(body.encode())}}}\n')
    assert log.after(0) == []
    assert log.append("gate", {}).sequence == 1


def test_zeros_behind_the_newest_segment_do_not_bring_numbers_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path, segment_bytes=1500)
    last = max(log.append("gate", {"open": True}).sequence for _ in range(40))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b"\0" * 40_000 + b"\n")
    assert log.append("gate", {"open": True}).sequence == last + 1


def test_a_line_that_takes_the_place_of_a_torn_one_of_its_length_is_a_change(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append("gate", {"open": True})
    file = tmp_path / "events.jsonl"
    whole = file.read_bytes()
    log.append("gate", {"open": True})
    after = file.read_bytes()
    file.write_bytes(whole + b"x" * (len(after) - len(whole)))
    marked = log.mark()
    time.sleep(0.01)
    with file.open("r+b") as opened:
        opened.write(after)
    assert log.mark() != marked


def test_lines_of_a_version_without_crcs_are_read_on(tmp_path: Path) -> None:
    old = {"sequence": 7, "kind": "gate", "at_unix_s": 1.5, "data": {"open": True}}
    (tmp_path / "events.jsonl").write_text(json.dumps(old) + "\n")
    log = EventLog(tmp_path)
    assert [e.sequence for e in log.after(0)] == [7]
    assert log.append("gate", {"open": False}).sequence == 8
