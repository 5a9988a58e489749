"""Claims about the wire: other people's bytes raise a WireError, and nobody waits for a silent listener."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.loops import wire
from continuonbrain.loops.notices import (
    NoticeBoard,
    answer_notice,
    ask_notice,
    post_notice,
    subscribe,
)
from continuonbrain.loops.wire import (
    MAX_BODY_BYTES,
    WireClosed,
    WireError,
    WireTimeout,
    connect_unix,
    encode,
    listen_unix,
    receive,
    send,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def received(data: bytes) -> tuple[dict[str, object], bytes]:
    """What `receive` makes of these bytes followed by the end of the stream."""
    left, right = socket.socketpair()
    with left, right:
        writer = threading.Thread(target=feed, args=(left, data))
        writer.start()
        try:
            return receive(right, 2.0)
        finally:
            right.close()
            writer.join()


def feed(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data, socket.MSG_NOSIGNAL)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the reader refused early


@settings(max_examples=60)
@given(header=st.dictionaries(st.text(max_size=8), json_values, max_size=4), body=st.binary(max_size=2000))
def test_a_message_arrives_as_it_was_sent(header: dict[str, object], body: bytes) -> None:
    assert received(encode(header, body)) == (header, body)


def test_a_frame_of_the_largest_size_arrives() -> None:
    body = os.urandom(MAX_BODY_BYTES)
    assert received(encode({"n": 1}, body)) == ({"n": 1}, body)


@settings(max_examples=150)
@given(data=st.binary(max_size=60))
def test_random_bytes_raise_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        received(data)


@settings(max_examples=150)
@given(position=st.integers(0, 40), value=st.integers(0, 255), cut=st.integers(0, 60))
def test_a_damaged_or_cut_message_never_raises_anything_else(position: int, value: int, cut: int) -> None:
    data = bytearray(encode({"kind": "act", "speed": 0.5}, b"0123456789"))
    data[min(position, len(data) - 1)] = value
    try:
        header, body = received(bytes(data[:cut]))
    except WireError:
        return
    assert isinstance(header, dict)
    assert isinstance(body, bytes)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"1",
        b"null",
        b"{",
        b"",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 9223372036854775809}',
        b'{"a": [-1' + b"0" * 400 + b"]}",
        b'{"a": ' + b"7" * 5000 + b"}",
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
def test_a_header_that_is_not_a_json_object_of_finite_numbers_is_refused(header: bytes) -> None:
    with pytest.raises(WireError, match="header"):
        received(struct.pack("!4sII", wire.MAGIC, len(header), 0) + header)


@pytest.mark.parametrize(("header", "body"), [(2**32 - 1, 0), (64 * 1024 + 1, 0), (2, 2**32 - 1)])
def test_an_oversize_length_is_refused_before_any_memory_is_taken(header: int, body: int) -> None:
    with pytest.raises(WireError, match="larger than"):
        received(struct.pack("!4sII", wire.MAGIC, header, body))


def test_another_version_is_refused_with_a_remedy() -> None:
    with pytest.raises(WireError, match="same version"):
        received(struct.pack("!4sII", b"CBW\x02", 2, 0) + b"{}")


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": float("nan")}, b""),
        ({"a": object()}, b""),
        ({"a": "x" * 70_000}, b""),
        ([1], b""),
        ({}, b"x" * (MAX_BODY_BYTES + 1)),
    ],
)
def test_what_cannot_be_sent_is_refused_by_the_sender(header: Any, body: bytes) -> None:
    with pytest.raises(WireError):
        encode(header, body)


def test_nothing_in_time_leaves_the_connection_usable(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    with pytest.raises(WireTimeout) as caught:
        receive(right, 0.0)
    assert caught.value.received == 0
    send(left, {"late": True})
    assert receive(right, 1.0) == ({"late": True}, b"")


def test_a_trickling_sender_cannot_stretch_the_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    stop = threading.Event()

    def trickle() -> None:
        for byte in encode({"slow": True}, b"x" * 500):
            if stop.wait(0.02):
                return
            left.send(bytes([byte]))

    writer = threading.Thread(target=trickle)
    writer.start()
    started = time.monotonic()
    try:
        with pytest.raises(WireTimeout) as caught:
            receive(right, 0.2)
    finally:
        stop.set()
        writer.join()
    assert time.monotonic() - started < 1.0
    assert caught.value.received > 0


def test_sending_to_one_who_does_not_read_times_out(pair: tuple[socket.socket, socket.socket]) -> None:
    left, _ = pair
    with pytest.raises(WireTimeout):  # 1 MiB is more than a socket buffer holds
        send(left, {}, b"x" * MAX_BODY_BYTES, timeout_s=0.05)


def test_the_end_of_the_stream_is_a_closed_error(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.close()
    with pytest.raises(WireClosed):
        receive(right, 1.0)
    with pytest.raises(WireClosed):
        send(right, {"a": 1}, timeout_s=1.0)


class TestSockets:
    def test_the_socket_file_has_the_mode_that_was_asked_for(self, tmp_path: Path) -> None:
        with listen_unix(tmp_path / "run" / "s.sock", 0o600):
            mode = (tmp_path / "run" / "s.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600

    def test_a_dead_socket_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        listen_unix(path).close()  # as a killed process leaves it
        assert path.exists()
        with listen_unix(path), connect_unix(path, 1.0):
            pass

    def test_a_living_listener_is_never_pushed_aside(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        with listen_unix(path):
            with pytest.raises(WireError, match="another process"):
                listen_unix(path)
            connect_unix(path, 0.0).close()

    def test_a_listener_with_a_full_backlog_counts_as_living(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        with listen_unix(path, backlog=0), connect_unix(path, 0.0), pytest.raises(WireError, match="another"):
            listen_unix(path)

    def test_a_file_that_is_no_socket_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        path.write_text("precious")
        with pytest.raises(WireError, match="not a socket"):
            listen_unix(path)
        assert path.read_text() == "precious"

    def test_of_two_starters_exactly_one_listens(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        listen_unix(path).close()
        outcomes: list[socket.socket | WireError] = []

        def start() -> None:
            try:
                outcomes.append(listen_unix(path))
            except WireError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        listening = [outcome for outcome in outcomes if isinstance(outcome, socket.socket)]
        assert len(listening) == 1
        listening[0].close()

    def test_connecting_waits_for_a_late_starter(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        servers: list[socket.socket] = []
        timer = threading.Timer(0.1, lambda: servers.append(listen_unix(path)))
        timer.start()
        connect_unix(path, 5.0).close()
        timer.join()
        servers[0].close()

    def test_nobody_there_is_a_timeout_that_names_the_path(self, tmp_path: Path) -> None:
        with pytest.raises(WireTimeout, match=r"absent\.sock"):
            connect_unix(tmp_path / "absent.sock", 0.05)

    def test_a_path_too_long_for_a_socket_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 120)
        with pytest.raises(WireError, match="too long"):
            listen_unix(path)
        with pytest.raises(WireError, match="too long"):
            connect_unix(path, 0.0)


class TestNoticeBoard:
    def test_every_subscriber_gets_every_event_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "notice.sock"
        with NoticeBoard(path) as board, subscribe(path) as first, subscribe(path) as second:
            for number in range(3):
                assert board.publish({"kind": "promoted", "n": number}) == number + 1
            for listener in (first, second):
                events = [listener.poll(1.0) for _ in range(3)]
                assert events == [{"kind": "promoted", "n": n, "sequence": n + 1} for n in range(3)]
                assert listener.poll(0.0) is None
                assert listener.missed == 0
        assert not path.exists(), "a board that closes takes its socket file along"

    def test_a_late_subscriber_learns_where_it_came_in(self, tmp_path: Path) -> None:
        path = tmp_path / "notice.sock"
        with NoticeBoard(path) as board:
            board.publish({"kind": "a"})
            with subscribe(path) as late:
                board.service()
                assert late.poll(0.2) is None
                assert late.sequence == 1
                board.publish({"kind": "b"})
                assert late.poll(1.0) == {"kind": "b", "sequence": 2}
                assert late.missed == 0

    def test_a_subscriber_that_never_reads_is_dropped_and_slows_nobody(self, tmp_path: Path) -> None:
        path = tmp_path / "notice.sock"
        with (
            NoticeBoard(path, max_pending_bytes=64 * 1024) as board,
            subscribe(path),
            subscribe(path) as good,
        ):
            slowest_s = 0.0
            seen = 0
            for number in range(400):
                started = time.monotonic()
                board.publish({"kind": "tick", "n": number, "pad": "x" * 4000})
                slowest_s = max(slowest_s, time.monotonic() - started)
                event = good.poll(1.0)
                assert event is not None
                assert event["n"] == number
                seen += 1
            assert seen == 400
            assert board.dropped == 1
            assert board.subscribers == 1
            assert slowest_s < 0.5

    def test_a_subscriber_that_has_gone_is_forgotten(self, tmp_path: Path) -> None:
        path = tmp_path / "notice.sock"
        with NoticeBoard(path) as board:
            subscribe(path).close()
            leaving = subscribe(path)
            board.service()
            leaving.close()
            board.publish({"kind": "a"})
            assert board.subscribers == 0
            assert board.dropped == 0

    def test_the_end_of_the_board_ends_the_iteration(self, tmp_path: Path) -> None:
        path = tmp_path / "notice.sock"
        board = NoticeBoard(path)
        listener = subscribe(path)
        board.publish({"kind": "a"})
        board.close()
        assert [event["kind"] for event in listener] == ["a"]
        with pytest.raises(WireClosed):
            listener.poll(0.1)
        listener.close()

    def test_a_board_that_closes_leaves_a_successors_socket_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "notice.sock"
        old = NoticeBoard(path)
        path.unlink()
        with NoticeBoard(path):
            old.close()
            assert path.exists()

    @pytest.mark.parametrize(
        "event", [{"a": float("nan")}, {"a": b"x"}, {"kind": "hello"}, {"a": ["x" * 70_000]}]
    )
    def test_an_event_that_is_no_notice_is_refused_and_takes_no_number(
        self, tmp_path: Path, event: Any
    ) -> None:
        with NoticeBoard(tmp_path / "notice.sock") as board:
            with pytest.raises(WireError):
                board.publish(event)
            assert board.sequence == 0

    @pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"sequence": "1"}\n', b"x" * 140_000])
    def test_a_false_board_raises_a_wire_error_in_the_listener(self, tmp_path: Path, line: bytes) -> None:
        path = tmp_path / "notice.sock"
        with listen_unix(path) as server, subscribe(path) as listener:
            sock, _ = server.accept()
            writer = threading.Thread(target=feed, args=(sock, line))
            writer.start()
            with pytest.raises(WireError):
                listener.poll(1.0)
            listener.close()
            writer.join()
            sock.close()


class TestPostNotice:
    @pytest.mark.parametrize("ok", [True, False])
    def test_the_answer_comes_back(self, tmp_path: Path, ok: bool) -> None:
        path = tmp_path / "policy.sock"
        taken: list[dict[str, object]] = []
        with listen_unix(path) as server:

            def serve() -> None:
                sock, _ = server.accept()
                with sock:
                    taken.append(receive(sock, 1.0)[0])
                    answer_notice(sock, ok=ok)

            thread = threading.Thread(target=serve)
            thread.start()
            assert post_notice(path, {"kind": "promoted", "slot": "current"}) is ok
            thread.join()
        assert taken == [{"type": "notice", "event": {"kind": "promoted", "slot": "current"}}]

    def test_nobody_there_and_no_answer_are_told_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.sock"
        nobody = ask_notice(path, {"kind": "a"}, timeout_s=0.05)
        assert (nobody.listening, nobody.answered, nobody.ok) == (False, False, False)
        with listen_unix(path):
            silent = ask_notice(path, {"kind": "a"}, timeout_s=0.1)
            assert (silent.listening, silent.answered, silent.ok) == (True, False, False)
        with listen_unix(path, backlog=0), socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))  # a stopped process: its backlog is full, and nobody accepts
            assert ask_notice(path, {"kind": "a"}, timeout_s=0.1).listening

    def test_nobody_listening_or_answering_is_a_no_in_time(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.sock"
        assert not post_notice(path, {"kind": "a"}, timeout_s=0.05)
        with listen_unix(path):
            started = time.monotonic()
            assert not post_notice(path, {"kind": "a"}, timeout_s=0.2)
            assert time.monotonic() - started < 1.0

    def test_a_nonsense_answer_is_a_no(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.sock"
        with listen_unix(path) as server:

            def serve() -> None:
                sock, _ = server.accept()
                with sock:
                    receive(sock, 1.0)
                    sock.sendall(json.dumps({"ok": True}).encode())

            thread = threading.Thread(target=serve)
            thread.start()
            assert not post_notice(path, {"kind": "a"}, timeout_s=1.0)
            thread.join()

    def test_an_event_that_is_not_json_is_the_callers_error(self, tmp_path: Path) -> None:
        with pytest.raises(WireError):
            post_notice(tmp_path / "policy.sock", {"a": object()}, timeout_s=0.0)
