"""Events as an app hears them: resumed without loss, over connections, restarts and gaps."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from itertools import islice
from typing import Any

import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.promotion import announce
from continuonbrain.storage.event_log import EventLog
from tests.service.asking import is_problem


def test_events_resume_without_loss_over_connections_and_restarts(helpers: Any, driving: BrainRoot) -> None:
    log = EventLog(driving.layout.events_dir)
    seen: list[int] = []
    done = threading.Event()

    def happen() -> None:
        for i in range(300):
            log.append("training", {"i": i})
            time.sleep(0.005)
        done.set()

    writer = threading.Thread(target=happen)
    for life in range(3):
        with helpers.serving(driving) as running:
            if life == 0:
                writer.start()
            for _ in range(4):
                headers = {"last-event-id": str(seen[-1])} if seen else {}
                with (
                    running.client() as client,
                    client.stream(
                        "GET", "/v1/events", headers=headers, params={} if seen else {"after": 0}
                    ) as answer,
                ):
                    for event in islice(helpers.events(answer.iter_lines()), 25):
                        assert (event["event"], int(event["id"])) == ("training", event["data"]["sequence"])
                        assert event["data"]["data"] == {"i": event["data"]["sequence"] - 1}
                        seen.append(int(event["id"]))
    assert seen == list(range(1, 301))
    writer.join(10)
    assert done.is_set()


def test_without_a_number_events_begin_now_and_with_a_wrong_one_they_say_so(
    service: Any, helpers: Any
) -> None:
    brain = service.brain
    log = EventLog(brain.layout.events_dir)
    for _ in range(3):
        log.append("gate", {"open": True})
    with service.client() as client:
        with client.stream("GET", "/v1/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": after 3"
            announce(brain, "rollback", "", "")
            event = next(helpers.events(lines))
            assert (event["event"], event["id"], event["data"]["data"]) == (
                "rollback",
                "4",
                {"version_id": "", "sha256": ""},
            )
        with client.stream("GET", "/v1/events", headers={"last-event-id": "77"}) as answer:
            told = list(islice(helpers.events(answer.iter_lines()), 5))
            assert [e["event"] for e in told] == ["reset", "gate", "gate", "gate", "rollback"]
        with client.stream("GET", "/v1/events", headers={"last-event-id": ""}) as answer:
            assert next(answer.iter_lines()) == ": after 4"  # it has seen none yet: from now on
        for wrong in ("-1", "x", "9" * 40, "1.5"):
            is_problem(client.get("/v1/events", headers={"last-event-id": wrong}), 422)


def test_events_that_are_gone_are_a_gap(service: Any, helpers: Any) -> None:
    folder = service.brain.layout.events_dir
    log = EventLog(folder, segment_bytes=2000)
    for i in range(60):
        log.append("training", {"i": i})
    first = log.after(0)[0].sequence
    assert first > 2
    with service.client() as client, client.stream("GET", "/v1/events", params={"after": 1}) as answer:
        gap, event = islice(helpers.events(answer.iter_lines()), 2)
        assert (gap["event"], gap["data"]) == ("gap", {"after": 1, "next": first})
        assert event["data"]["sequence"] == first
    shutil.rmtree(folder)  # somebody tidied up: the numbers begin anew
    log.append("gate", {"open": True})
    with service.client() as client, client.stream("GET", "/v1/events", params={"after": 60}) as answer:
        assert [e["event"] for e in islice(helpers.events(answer.iter_lines()), 2)] == ["reset", "gate"]


def test_whoever_listens_hears_that_the_numbers_began_anew(service: Any, helpers: Any) -> None:
    folder = service.brain.layout.events_dir
    log = EventLog(folder)
    for _ in range(3):
        log.append("gate", {"open": True})
    with service.client() as client, client.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": after 3"
        shutil.rmtree(folder)
        # More than there were before, all within a look: they are others all the same.
        for i in range(5):
            log.append("training", {"i": i})
        told = list(islice(helpers.events(lines), 6))
        assert [(e["event"], e["id"]) for e in told] == [
            ("reset", "0"),
            *(("training", str(n)) for n in range(1, 6)),
        ]


def test_listeners_are_let_go_at_the_end_without_a_word_in_the_log(
    helpers: Any, driving: BrainRoot, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        helpers.serving(driving) as running,
        running.client() as client,
        client.stream("GET", "/v1/events") as answer,
    ):
        assert next(answer.iter_lines()) == ": after 0"
        running.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert running.process.wait(10) == 0
        assert time.monotonic() - began < 1.9
    assert capfd.readouterr().err.count("\n") <= 2  # where it served, and what to try


def test_a_listener_that_never_reads_slows_nobody(service: Any, helpers: Any) -> None:
    log = EventLog(service.brain.layout.events_dir)
    deaf = []
    for _ in range(5):
        sock = socket.socket(socket.AF_UNIX)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(service.addresses[0])
        sock.sendall(b"GET /v1/events?after=0 HTTP/1.1\r\nhost: b\r\n\r\n")
        deaf.append(sock)
    process = psutil.Process(service.process.pid)
    with service.client() as client, client.stream("GET", "/v1/events", params={"after": 0}) as answer:
        events = helpers.events(answer.iter_lines())
        late = []
        for i in range(50):
            sent = log.append("training", {"i": i, "filler": "x" * 8000}).at_unix_s
            assert next(events)["data"]["data"]["i"] == i
            late.append(time.time() - sent)
            if i == 20:
                before = process.memory_info().rss
        assert sorted(late)[45] < 1.0
        assert process.memory_info().rss - before < 16 << 20
        started = time.monotonic()
        assert client.get("/v1/manifest").status_code == 200
        assert time.monotonic() - started < 1.0
    for sock in deaf:
        sock.close()


def test_a_log_that_cannot_be_read_for_a_moment_is_no_log_that_began_anew(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from continuonbrain.service.feed import Feed

    log = EventLog(tmp_path)
    for _ in range(3):
        log.append("gate", {"open": True})

    async def listen() -> list[int | None]:
        feed = Feed(tmp_path)
        told: list[int | None] = []
        events = feed.follow(await feed.last(), feed.begun)
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.25)
        with monkeypatch.context() as patch:
            patch.setattr(
                EventLog, "after", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files"))
            )
            log.append("gate", {"open": False})
            await asyncio.sleep(0.4)
            assert not first.done()
        event = await asyncio.wait_for(first, 5)
        told.append(None if event is None else event.sequence)
        feed.close()
        return told

    assert asyncio.run(listen()) == [4]
