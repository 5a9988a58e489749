"""Claims about the policy process and the client inside the fast loop: swaps, refusals, and nobody waits."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.small_verdict import judged
from continuonbrain.brain_root import open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import notices, policy_client
from continuonbrain.loops.notices import NoticeBoard, post_notice, subscribe
from continuonbrain.loops.policy_client import Answer, PolicyClient
from continuonbrain.loops.policy_process import PolicyServer, _request
from continuonbrain.loops.promotion import announce
from continuonbrain.loops.wire import encode, listen_unix, receive
from continuonbrain.loops.wire_stream import MessageReader, WireServer
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout, init_brain_root

FRAME = np.full((120, 160, 3), 7, np.uint8)


def _stub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stub_policy", Path(__file__).with_name("stub_policy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stub = _stub()


@dataclass
class Rig:
    """A policy server on a thread, with its root."""

    layout: BrainLayout
    server: PolicyServer
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self) -> PolicyClient:
        return PolicyClient(self.layout.policy_socket)


@contextlib.contextmanager
def serving(layout: BrainLayout, *, decision_time_s: float = 0.0) -> Iterator[Rig]:
    with WireServer(layout.policy_socket) as wire_server, NoticeBoard(layout.notice_socket) as board:
        store = AdapterStore(layout)
        engine = stub.StubEngine()
        rig = Rig(layout, PolicyServer(engine, store, wire_server, board, decision_time_s=decision_time_s))
        rig.server.use_current_adapter()
        thread = threading.Thread(target=rig.server.serve, args=(rig.stop.is_set,))
        thread.start()
        try:
            yield rig
        finally:
            rig.stop.set()
            thread.join()


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    return init_brain_root(tmp_path / "b", "sim-donkey")


def promote(layout: BrainLayout, tag: str, *, base: str = "ba5e" * 16, gain: float = 1.0) -> str:
    """Promote an adapter that the stub engine reads; returns its sha256."""
    store = AdapterStore(layout)
    version = store.stage(
        {
            "adapter_model.safetensors": tag.encode(),
            "adapter_config.json": json.dumps({"base": base}).encode(),
            "calibration.json": json.dumps({"steering_gain": gain}).encode(),
        }
    )
    sha256 = version.compute_sha256()
    verdict = judged(version, "ba5e" * 16)
    store.promote(version.version_id, verdict, base_sha256="ba5e" * 16)
    return sha256


def until(
    client: PolicyClient, wanted: Callable[[], bool] = lambda: False, timeout_s: float = 3.0
) -> list[Answer]:
    """Poll until an answer comes, or `wanted`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answers = client.poll()
        if answers or wanted():
            return answers
        time.sleep(0.002)
    raise AssertionError(f"nothing came: {client.problem}")


def ask(client: PolicyClient, instruction: str = "drive") -> Answer:
    observed_s = time.monotonic()
    while not client.offer(FRAME, instruction, 0.5, observed_s):
        client.poll()
        time.sleep(0.002)
    (answer,) = until(client)
    assert answer.chunk.observed_s == observed_s
    return answer


def test_a_frame_is_answered_by_a_chunk_of_the_same_observation(layout: BrainLayout) -> None:
    with serving(layout) as rig:
        answer = ask(rig.client())
    assert answer.chunk.speed == (1.0, 1.0)
    assert answer.chunk.adapter_sha256 == ""
    assert answer.calibration == Calibration()


def test_a_second_frame_is_dropped_while_the_first_is_under_way(layout: BrainLayout) -> None:
    with serving(layout, decision_time_s=0.2) as rig:
        client = rig.client()
        assert client.offer(FRAME, "drive", None, time.monotonic())
        assert not client.offer(FRAME, "drive", None, time.monotonic())
        until(client)
        assert client.offer(FRAME, "drive", None, time.monotonic())


def test_an_imposed_decision_time_delays_the_answer_and_nothing_else(layout: BrainLayout) -> None:
    with serving(layout, decision_time_s=0.3) as rig:
        client, started = rig.client(), time.monotonic()
        assert client.offer(FRAME, "drive", 1.0, started)
        time.sleep(0.05)
        # A notice is taken while the answer waits: nothing is busy waiting.
        assert post_notice(layout.policy_socket, {"kind": "promotion"})
        assert time.monotonic() - started < 0.25
        until(client)
        assert 0.3 <= time.monotonic() - started < 0.6


def test_an_instruction_the_base_cannot_read_is_refused_with_a_remedy_and_gives_no_path(
    layout: BrainLayout,
) -> None:
    with serving(layout) as rig:
        client = rig.client()
        assert client.offer(FRAME, "sing", None, time.monotonic())
        assert until(client, lambda: client.refusal is not None) == []
        assert client.refusal is not None
        assert "'sing'" in client.refusal.reason
        assert client.refusal.remedy
        ask(client)
        assert client.refusal is None


def test_a_frame_of_a_wrong_size_is_refused_by_name(layout: BrainLayout) -> None:
    with serving(layout) as rig:
        client = rig.client()
        assert client.offer(FRAME[:60], "drive", None, time.monotonic())
        until(client, lambda: client.refusal is not None)
        assert client.refusal is not None
        assert "28800 bytes" in client.refusal.reason


def test_a_promotion_notice_swaps_adapter_and_calibration_and_is_published(layout: BrainLayout) -> None:
    with serving(layout) as rig, subscribe(layout.notice_socket) as notices:
        client = rig.client()
        assert ask(client).chunk.adapter_sha256 == ""
        sha256 = promote(layout, "first", gain=-1.0)
        assert post_notice(layout.policy_socket, {"kind": "promotion"})
        answer = ask(client)
        event = notices.poll(2.0)
    assert answer.chunk.adapter_sha256 == sha256
    assert answer.calibration.steering_gain == -1.0
    assert event is not None
    assert (event["kind"], event["adapter_sha256"]) == ("swapped", sha256)


def test_a_rollback_notice_brings_the_base_back(layout: BrainLayout) -> None:
    promote(layout, "first", gain=-1.0)
    with serving(layout) as rig:
        client = rig.client()
        assert ask(client).calibration.steering_gain == -1.0
        AdapterStore(layout).rollback()
        assert post_notice(layout.policy_socket, {"kind": "rollback"})
        answer = ask(client)
    assert answer.chunk.adapter_sha256 == ""
    assert answer.calibration == Calibration()


@pytest.mark.parametrize("fault", ["other base", "servo", "bytes", "what no check of ours knows"])
def test_an_adapter_that_cannot_be_used_is_refused_and_the_old_one_goes_on(
    layout: BrainLayout, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = promote(layout, "good")
    with serving(layout) as rig:
        if fault.startswith("what"):
            monkeypatch.setattr(stub.StubEngine, "use_adapter", lambda *_, **__: 1 / 0)
        promote(
            layout,
            "bad",
            base="0ther" if fault == "other base" else "ba5e" * 16,
            gain=9.0 if fault == "servo" else 1.0,
        )
        if fault == "bytes":
            (layout.current / "adapter_model.safetensors").write_bytes(b"bit rot")
        assert not post_notice(layout.policy_socket, {"kind": "promotion"})
        assert ask(rig.client()).chunk.adapter_sha256 == good


def test_a_promotion_says_what_became_of_it(layout: BrainLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    brain = open_brain(layout.root)

    def told() -> tuple[bool, bool, str]:
        promotion = announce(brain, "promotion", "", "")
        return promotion.running, promotion.noticed, promotion.detail

    assert told() == (
        False,
        False,
        "promotion of the base: done; no brain is running, the next one that starts uses it",
    )
    with serving(layout):
        assert told() == (True, True, "promotion of the base: the running brain uses it")
        promote(layout, "bad", base="0ther")
        running, noticed, detail = told()
        assert (running, noticed) == (True, False)
        assert "the running brain refused it: " in detail
    monkeypatch.setattr(notices.ask_notice, "__kwdefaults__", {"timeout_s": 0.1})
    with contextlib.closing(listen_unix(layout.policy_socket)):
        running, noticed, detail = told()
        assert (running, noticed) == (True, False)
        assert "the running brain did not answer" in detail


def test_a_number_beyond_every_float_is_an_error_of_ours_and_ends_nothing(layout: BrainLayout) -> None:
    huge = 10**400
    with pytest.raises(BrainError, match="too large"):
        _request({"observed_s": huge, "instruction": "drive"}, FRAME.tobytes())
    with pytest.raises(BrainError, match="too large"):
        policy_client._number(huge, "observed_s")
    with serving(layout) as rig:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(layout.policy_socket))
            stranger.sendall(encode({"type": "decide", "observed_s": huge, "instruction": "drive"}))
            stranger.settimeout(2.0)
            assert stranger.recv(10) == b""
        ask(rig.client())


def test_a_refusal_longer_than_a_message_is_cut_short_and_ends_nothing(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BrainError("\\" * 100_000)

    with serving(layout) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(stub.StubEngine, "use_adapter", refuse)
            promote(layout, "bad")
            answer = notices.ask_notice(layout.policy_socket, {"kind": "promotion"})
        assert (answer.answered, answer.ok) == (True, False)
        assert len(answer.detail) < 3000
        for odd in ({"instruction": 5, "speed_mps": "\\" * 30_000}, {"instruction": ["\\" * 30_000]}):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(layout.policy_socket))
                stranger.sendall(encode({"type": "decide", "observed_s": 1.0, **odd}))
                refused, _ = receive(stranger, 2.0)
                assert refused["type"] == "refused"
        assert not post_notice(layout.policy_socket, {"kind": "\\" * 30_000})
        ask(rig.client())


@pytest.mark.parametrize("speed", [1e308, -1e308, 1e9])
def test_a_speed_that_nothing_drives_is_refused_and_ends_nothing(layout: BrainLayout, speed: float) -> None:
    with serving(layout) as rig:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(layout.policy_socket))
            header = {"type": "decide", "observed_s": 1.0, "instruction": "drive", "speed_mps": speed}
            stranger.sendall(encode(header, FRAME.tobytes()))
            refused, _ = receive(stranger, 2.0)
            assert "no speed" in str(refused["reason"]) or "not a speed" in str(refused["reason"])
        ask(rig.client())


def test_an_unknown_notice_is_answered_no(layout: BrainLayout) -> None:
    with serving(layout):
        assert not post_notice(layout.policy_socket, {"kind": "selfdestruct"})


def test_the_client_finds_a_policy_process_that_comes_back(layout: BrainLayout) -> None:
    with serving(layout) as rig:
        client = rig.client()
        ask(client)
    until(client, lambda: not client.connected)
    assert not client.offer(FRAME, "drive", None, time.monotonic())
    assert "policy process" in client.problem
    with serving(layout):
        ask(client)
    assert client.connects == 2


def test_a_policy_process_that_hangs_is_left_after_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with contextlib.closing(listen_unix(path)):
        client = PolicyClient(path, answer_timeout_s=0.05)
        assert client.offer(FRAME, "drive", None, time.monotonic())
        until(client, lambda: not client.connected)
        assert "did not answer" in client.problem


def test_neither_offer_nor_poll_waits_for_a_process_that_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with contextlib.closing(listen_unix(path)):
        client = PolicyClient(path)
        client.offer(FRAME, "drive", None, time.monotonic())
        longest = 0.0
        for _ in range(200):
            started = time.perf_counter()
            client.poll()
            client.offer(FRAME, "drive", None, time.monotonic())
            longest = max(longest, time.perf_counter() - started)
    assert longest < 0.04  # a tick has 50 ms; this is microseconds but for a busy machine


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "chunk"},
        {
            "type": "chunk",
            "adapter_sha256": "",
            "observed_s": 1.0,
            "decision_ms": 1.0,
            "curvature": [0.0],
            "speed": [1, 1],
        },
        {"type": "surprise"},
    ],
)
def test_an_answer_that_makes_no_sense_closes_the_connection_and_gives_no_path(
    tmp_path: Path, answer: dict[str, object]
) -> None:
    with contextlib.closing(listen_unix(tmp_path / "p.sock")) as server:
        client = PolicyClient(tmp_path / "p.sock")
        client.offer(FRAME, "drive", None, time.monotonic())
        peer, _ = server.accept()
        with peer:
            peer.sendall(encode(answer))
            until(client, lambda: not client.connected)
    assert client.problem


def test_garbage_on_the_socket_drops_that_peer_only(layout: BrainLayout) -> None:
    with serving(layout) as rig:
        client = rig.client()
        ask(client)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(layout.policy_socket))
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.settimeout(2.0)
            assert stranger.recv(10) == b""
        ask(client)


def test_messages_are_found_in_a_stream_however_it_is_cut() -> None:
    stream = encode({"n": 1}, b"body") + encode({"n": 2}) + encode({"n": 3}, b"x" * 100)
    for size in (1, 3, 50, len(stream)):
        reader = MessageReader()
        found = [m for i in range(0, len(stream), size) for m in reader.feed(stream[i : i + size])]
        assert found == [({"n": 1}, b"body"), ({"n": 2}, b""), ({"n": 3}, b"x" * 100)]


def test_neither_the_server_nor_the_client_needs_torch_to_be_imported() -> None:
    import subprocess

    code = (
        "import continuonbrain.loops.policy_process, continuonbrain.loops.control_process, sys;"
        "print({'torch', 'transformers', 'peft', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_decision_names_the_head_of_its_adapter_and_what_the_model_means(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain.loops.reflex_keeper import ReflexName
    from continuonbrain.model.base_identity import tiny_base_folder
    from continuonbrain.policy.reflex import REFLEX_FILE, Reflex

    head = Reflex.from_file(tiny_base_folder() / REFLEX_FILE)
    with serving(layout) as rig:
        client = rig.client()
        plain = ask(client)
        assert (plain.reflex, plain.chunk.intent) == (None, ())
        monkeypatch.setattr(stub.StubEngine, "reflex", head)
        # Nobody waits for an intent: each answer is followed by one probe, of two.
        intents = [ask(client).chunk.intent for _ in range(3)]
        assert intents == [(), (), (0.0,) * 8 + (1.0,) * 2]
        assert ask(client, "keep left").chunk.intent == ()
        answer = ask(client)
        assert answer.reflex == ReflexName("", head.sha256)
        assert answer.chunk.intent == intents[-1]
        promote(layout, "one")
        rig.server.use_current_adapter()
        after = ask(client)
        assert after.chunk.intent == ()  # another adapter may mean something else
        current = AdapterStore(layout).current()
        assert current is not None
        assert after.reflex == ReflexName(current.version_id, head.sha256)
        client.close()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reflex": "abc"}, "does not name a reflex head"),
        ({"reflex": {"version": "../../etc", "sha256": "f"}}, "no version of an adapter"),
        ({"reflex": {"version": "", "sha256": 5}}, "does not name a reflex head"),
        ({"intent": [0.0] * 9}, "intent has 9 numbers"),
        ({"intent": [float("nan")] * 10}, "not finite"),
        ({"intent": "left"}, "intent = 'left'"),
    ],
)
def test_an_answer_whose_head_or_intent_makes_no_sense_is_not_followed(
    fields: dict[str, object], said: str
) -> None:
    header: dict[str, object] = {
        "type": "chunk",
        "observed_s": 1.0,
        "curvature": [0.0] * 8,
        "speed": [1.0, 1.0],
        "adapter_sha256": "",
        "decision_ms": 1.0,
        "calibration": {},
    }
    client = PolicyClient(Path("/nowhere.sock"))
    assert client._take(header) is not None
    with pytest.raises(BrainError, match=said):
        client._take(header | fields)
