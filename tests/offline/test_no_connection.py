"""No command ever asks anybody for anything: each is run as a process of its own where an attempt cannot get out,
cannot fail unseen, and is told with the place that made it.

Three watchers: a hook of Python's in every Python process (`hook/sitecustomize.py`), which knows who asked, also for
names and for loopback; and, in a network namespace of its own, everything that is sent (`wire.py`) and every socket
that waits for somebody (`listeners.py`): these hear native code and other programs as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("torch")

from continuonbrain.cli.main import COMMANDS, _load
from tests.offline.commands import ENTRIES, Entry
from tests.offline.given import everything
from tests.offline.wire import way_in

HERE = Path(__file__).parent
LIMIT_S = 1500.0


def commands_of_the_program() -> set[str]:
    """Every command there is, groups resolved, as the program itself knows them."""

    def below(command: Any, words: tuple[str, ...]) -> set[str]:
        members = getattr(command, "commands", None)
        if not members:
            return {" ".join(words)}
        return set().union(*(below(member, (*words, name)) for name, member in members.items()))

    return set().union(*(below(_load(row), (row.name,)) for row in COMMANDS))


def command_of(line: str, known: set[str]) -> str:
    words = line.split()
    return next(name for name in (" ".join(words[:2]), words[0], "") if name in known or not name)


def test_every_command_is_on_trial() -> None:
    known = commands_of_the_program()
    assert {"cloud train", "serve", "demo", "base switch"} <= known
    tried = {command_of(entry.words, known) for entry in ENTRIES}
    assert known - tried == set(), "a new command needs an entry in commands.py"
    assert tried - known == set(), "no such command"


def command_line(words: str, places: dict[str, str]) -> list[str]:
    """Words with their paths put in, for a process; none for none. A star is looked up when its turn comes
    (`inside.py`)."""
    if not words:
        return []
    return [sys.executable, "-m", "continuonbrain", *(word.format(**places) for word in words.split())]


def trial(runs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Run command lines one after the other; what each did."""
    way = way_in()
    asked = {
        "log": str(folder / "log"),
        "out": str(folder / "out.json"),
        "closed": way is not None,
        "runs": [
            {
                "look_up": False,
                "local": False,
                "stop_s": None,
                "ready": "",
                "meanwhile": [],
                "limit_s": LIMIT_S,
                "given": "",
                **run,
            }
            for run in runs
        ],
    }
    (folder / "trial.json").write_text(json.dumps(asked))
    path = os.pathsep.join(p for p in (str(HERE / "hook"), os.environ.get("PYTHONPATH", "")) if p)
    command = [*(way or ()), sys.executable, "-S", str(HERE / "inside.py"), str(folder / "trial.json")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120"},
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    assert found["missed"] == 0, "packets came faster than they were looked at"
    return found | {"closed": way is not None}


TEMPTED = {
    "a connection": 'socket.create_connection(("192.0.2.1", 443), 1)',
    "loopback, which is not its job": 'socket.create_connection(("127.0.0.1", 9), 1)',
    "a name": 'socket.getaddrinfo("robots.example", 443)',
    "a name, asked the old way": 'socket.gethostbyname("robots.example")',
    "a datagram": 'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))',
    "listening to everybody": 'socket.socket().bind(("0.0.0.0", 0))',
    "over IPv6": 'socket.socket(socket.AF_INET6).connect(("2001:db8::1", 443))',
    "through urllib": 'urllib.request.urlopen("http://robots.example/", timeout=1)',
}
NATIVE = {
    "native code": 'wire.connect_natively("192.0.2.1", 443)',
    "a Python without the hook": (
        "subprocess.run([sys.executable, '-S', '-E', '-c', 'import socket; "
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9))\'])'
    ),
    "a name, looked up by connect itself": 'socket.socket().connect(("robots.example", 443))',
    "another program": 'subprocess.run(["getent", "ahosts", "robots.example"])',
}
ASKED_FOR_A_NAME = {"a name, looked up by connect itself", "another program"}
WAITING = {
    "native code that listens to everybody": 'wire.listen_natively("0.0.0.0", 1)',
    "native code that listens on loopback, which is not its job": 'wire.listen_natively("127.0.0.1", 1)',
    "a Python without the hook that listens": (
        "subprocess.run([sys.executable, '-S', '-E', '-c', 'import socket, time; s = socket.socket(); "
        's.bind(("0.0.0.0", 0)); s.listen(); time.sleep(1)\'])'
    ),
    "a Python without the hook that takes datagrams": (
        "subprocess.run([sys.executable, '-S', '-E', '-c', 'import socket, time; "
        's = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 0)); time.sleep(1)\'])'
    ),
}
HARMLESS = {
    "a Unix socket": 'a, b = socket.socketpair(); a.send(b"x")',
    "an inet socket that goes nowhere": "socket.socket().close()",
}


def names_go_out() -> bool:
    """Whether the C library asks name servers itself, and no service of this machine for it."""
    switch = Path("/etc/nsswitch.conf")
    return not switch.exists() or "resolve" not in switch.read_text()


def tempted(code: str) -> dict[str, Any]:
    """A program that tries, and is silent about what came of it."""
    program = textwrap.dedent(
        f"""
        import contextlib, socket, subprocess, sys, urllib.request
        sys.path.insert(0, {str(HERE)!r})
        import wire
        with contextlib.suppress(OSError):
            {code}
        """
    )
    return {"words": [sys.executable, "-c", program]}


def test_whoever_tries_is_caught_however_silent(tmp_path: Path) -> None:
    cases = {**TEMPTED, **NATIVE, **WAITING, **HARMLESS}
    found = trial([tempted(code) for code in cases.values()], tmp_path)
    for case, row in zip(cases, found["runs"], strict=True):
        assert row["code"] == 0, (case, row["said"])
        heard = {"hook": bool(row["attempts"]), "wire": bool(row.get("packets"))}
        assert row["processes"] >= 1
        if case in TEMPTED:
            assert heard["hook"], case
            assert not heard["wire"], (case, row["packets"])  # refused before anything was sent
            assert not row.get("listeners"), (case, row)
        elif case in HARMLESS:
            assert heard == {"hook": False, "wire": False}, (case, row)
            assert not row.get("listeners"), (case, row)
        elif case in WAITING:
            assert heard == {"hook": False, "wire": False}, (case, row)
            assert row.get("listeners") or not found["closed"], case
        else:
            assert not heard["hook"], case
            if not found["closed"] or (case in ASKED_FOR_A_NAME and not names_go_out()):
                continue
            assert heard["wire"], case
            asked = [p == "asks for the name robots.example" for p in row["packets"]]
            assert any(asked) == (case in ASKED_FOR_A_NAME), row["packets"]


def test_loopback_is_free_where_it_is_a_commands_job(tmp_path: Path) -> None:
    bound = (
        's = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); socket.create_connection(s.getsockname())'
    )
    found = trial(
        [
            tempted(bound) | {"local": True},
            tempted('socket.socket().bind(("", 0))') | {"local": True},
            tempted('wire.listen_natively("127.0.0.1", 1)') | {"local": True},
            tempted('wire.listen_natively("0.0.0.0", 1)') | {"local": True},
        ],
        tmp_path,
    )
    inside, everybody, native, natively_everybody = found["runs"]
    assert (inside["attempts"], inside.get("packets", []), inside.get("listeners", [])) == ([], [], [])
    assert [row["event"] for row in everybody["attempts"]] == ["socket.bind"]
    assert (native["attempts"], native.get("listeners", [])) == ([], [])
    assert natively_everybody.get("listeners") or not found["closed"]


def tried(entries: list[Entry], folder: Path, taught: Path) -> None:
    """Run entries, and hold each to its word."""
    work = folder / "w"
    work.mkdir()
    places = everything(work, taught)
    found = trial(
        [
            {
                "words": command_line(entry.words, places),
                "meanwhile": command_line(entry.meanwhile, places),
                "look_up": True,
                "local": entry.local,
                "stop_s": entry.stop_s,
                "ready": entry.ready.format(**places),
                "given": entry.given,
            }
            for entry in entries
        ],
        folder,
    )
    wrong = []
    for entry, row in zip(entries, found["runs"], strict=True):
        print(f"{row['seconds']:8.2f} s {row['processes']:3d} processes  {entry.words}")
        sent, waits = set(row.get("packets", ())), row.get("listeners", [])
        if row["attempts"] or sent or waits:
            wrong.append(f"{entry.words}: tried {row['attempts']}, sent {sorted(sent)}, {waits}")
        if row["code"] != entry.code and (entry.code is not None or row["code"] is None):
            wrong.append(f"{entry.words}: ended with {row['code']}, not {entry.code}: {row['said']}")
        if row["processes"] < entry.processes:
            wrong.append(f"{entry.words}: the hook was in {row['processes']} processes")
    assert not wrong, "\n\n".join(wrong)
    if not found["closed"]:
        warnings.warn("no network namespace here: only what Python asked for was seen", stacklevel=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_command_opens_a_connection(tmp_path: Path, taught: Path) -> None:
    tried([entry for entry in ENTRIES if not entry.long], tmp_path, taught)


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_no_command_opens_a_connection_nor_those_that_take_minutes(tmp_path: Path, taught: Path) -> None:
    tried(list(ENTRIES), tmp_path, taught)
