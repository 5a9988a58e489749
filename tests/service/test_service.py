"""The service as an app meets it: a real process on a real socket."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.promotion import announce
from continuonbrain.policy.chat import Chat, ChatPrompt, Sampling, Turn
from continuonbrain.policy.open_engine import open_engine, open_words
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.event_log import EventLog

FRAME = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def picture(frame: Any = FRAME, kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture
def service(helpers: Any, driving: BrainRoot) -> Iterator[Any]:
    with helpers.serving(driving) as running:
        yield running


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["detail"]
    return body


def test_the_socket_is_for_the_group_and_goes_with_the_process(service: Any) -> None:
    path = service.brain.layout.service_socket
    assert service.addresses == [str(path)]
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o660
    listening = psutil.Process(service.process.pid).net_connections("inet")
    assert listening == []  # no network unless asked
    other = subprocess.run(
        [sys.executable, "-m", "continuonbrain.cli.main", "serve", "--root", str(service.brain.layout.root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert other.returncode == 2
    assert "Traceback" not in other.stderr
    with service.client() as client:
        assert client.get("/v1/status").status_code == 200
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(5)
    assert not path.exists()


def test_a_socket_that_a_killed_service_left_is_taken_over(helpers: Any, driving: BrainRoot) -> None:
    with helpers.serving(driving) as first:
        first.process.kill()
        first.process.wait(5)
    assert driving.layout.service_socket.exists()
    with helpers.serving(driving) as second, second.client() as client:
        assert client.get("/v1/status").status_code == 200


def test_loopback_only_when_asked(helpers: Any, driving: BrainRoot) -> None:
    with helpers.serving(driving, "--tcp", "0") as running:
        assert running.addresses[1].startswith("http://127.0.0.1:")
        url = f"{running.addresses[1]}/v1/status"
        assert httpx.get(url).status_code == 200
        assert httpx.get(url, headers={"host": "localhost:1"}).status_code == 200
        # A page in a browser may have made its own name point here.
        for host in ("evil.example.com", "127.0.0.1.evil.example.com:80", ""):
            is_problem(httpx.get(url, headers={"host": host}), 400)
        with running.client() as client:  # over the Unix socket it may be called by any name
            assert client.get("/v1/status").status_code == 200
        (listening,) = [
            c for c in psutil.Process(running.process.pid).net_connections("inet") if c.status == "LISTEN"
        ]
        assert listening.laddr.ip == "127.0.0.1"


def test_status_manifest_and_adapters(service: Any, helpers: Any) -> None:
    brain = service.brain
    with service.client() as client:
        status = client.get("/v1/status").json()
        assert (status["current"], status["candidate"], status["last_event"]) == ("", "", 0)
        assert status["engines"] == {"driving": "litert", "words": None}
        assert status["gates"]["open"] is False
        assert {"idle", "battery", "thermal", "teleop", "memory", "disk"} <= set(status["gates"]["gates"])
        assert all(gate["reason"] for gate in status["gates"]["gates"].values())
        assert client.get("/v1/adapters").json() == {"adapters": []}
        version = helpers.stage(brain, seed=0)
        assert client.get("/v1/adapters/candidate").json()["slots"] == ["candidate"]
        helpers.promote(brain, version)
        (listed,) = client.get("/v1/adapters").json()["adapters"]
        assert listed == client.get("/v1/adapters/current").json()
        assert (listed["id"], listed["slots"], listed["passed"]) == (version.version_id, ["current"], True)
        assert listed["sha256"] == version.compute_sha256()
        assert client.get("/v1/status").json()["current"] == version.version_id
        manifest = client.get("/v1/manifest").json()
        assert manifest == json.loads(brain.layout.manifest_path.read_text())
        is_problem(client.get("/v1/adapters/previous"), 404)
        is_problem(client.get("/v1/adapters/..%2f..%2fconfig.json"), 404)
        is_problem(client.get("/v1/nothing"), 404)
        is_problem(client.delete("/v1/status"), 405)
        brain.layout.manifest_path.write_text("{")
        assert "promote" in is_problem(client.get("/v1/manifest"), 404)["remedy"]
        assert client.get("/openapi.json").json()["paths"].keys() == {
            f"/v1/{name}"
            for name in [
                "status",
                "events",
                "manifest",
                "act",
                "chat",
                "adapters",
                "adapters/{name}",
                "session",
                "pair",
                "driver",
                "mode",
                "stop",
                "release",
                "instruct",
                "instructions",
                "recording",
                "episodes",
                "episodes/{name}",
                "episodes/{name}/frames/{index}.jpg",
                "training",
                "history",
                "adapters/rollback",
                "adapters/confirm",
                "adapters/{name}/promote",
                "adapters/{name}/rollouts",
                "system",
                "logs/{name}",
                "doctor",
                "explain",
            ]
        }


def test_it_decides_as_the_robot_does_and_follows_promotions(service: Any, helpers: Any) -> None:
    brain, asked = service.brain, {"instruction": "keep left", "frame": picture(), "speed_mps": 0.8}
    engine = open_engine(brain.layout.base_model_dir, brain.config.policy)
    with service.client() as client:
        for seed in range(3):
            if seed:
                version = helpers.stage(brain, seed=seed)
                helpers.promote(brain, version)
                engine.use_adapter(version.path, sha256=version.compute_sha256())
            told = client.post("/v1/act", json=asked).json()
            right = engine.decide(FRAME[None], ["keep left"], [0.8])
            assert told["curvature_per_m"] == pytest.approx(right.curvature[0].tolist(), abs=1e-6)
            assert told["speed_mps"] == pytest.approx(right.speed[0].tolist(), abs=1e-6)
            assert (told["adapter_sha256"], told["note"]) == (engine.adapter_sha256, "")
        # One that does not fit is named, and the one before it decides.
        helpers.promote(brain, helpers.stage(brain, seed=5, rank=17))
        refused = client.post("/v1/act", json=asked).json()
        assert "rank 17; this bundle takes 16" in refused["note"]
        assert refused["adapter_sha256"] == told["adapter_sha256"]
        assert refused["curvature_per_m"] == told["curvature_per_m"]
        back = AdapterStore(brain.layout).rollback()
        assert back is not None
        assert client.post("/v1/act", json=asked).json()["note"] == ""
        jpeg = {**asked, "frame": picture(np.full((240, 320, 3), 90, np.uint8), "JPEG"), "speed_mps": None}
        assert client.post("/v1/act", json=jpeg).status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"frame": "AAAA"}, 422, "no picture"),
        ({"frame": "no base64!"}, 422, "no picture"),
        ({"frame": base64.b64encode(b"GIF89a" + bytes(20)).decode()}, 422, "no picture"),
        ({"frame": "A" * 7_000_000}, 422, "frame"),
        ({"frame": "A" * 9_000_000}, 413, "more than 8 MiB"),
        ({"instruction": ""}, 422, "instruction"),
        ({"instruction": "left right " * 50}, 422, "tokens long"),
        ({"instruction": "\ud800"}, 422, ""),
        ({"speed_mps": "fast"}, 422, "speed_mps"),
        ({"speed_mps": 1e9}, 422, "speed_mps"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_what_cannot_be_decided_on_is_named(
    service: Any, change: dict[str, Any], status: int, words: str
) -> None:
    asked = {"instruction": "drive", "frame": picture()} | change
    with service.client() as client:
        body = json.dumps(asked).encode()
        answer = client.post("/v1/act", content=body, headers={"content-type": "application/json"})
        assert words in is_problem(answer, status)["detail"]
        is_problem(client.post("/v1/act", content=b"{", headers={"content-type": "application/json"}), 422)
        if status == 413:  # sent in pieces, its length untold
            pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
            answer = client.post("/v1/act", content=pieces, headers={"content-type": "application/json"})
            assert words in is_problem(answer, status)["detail"]


def test_a_damaged_base_is_a_problem_and_the_service_goes_on(service: Any) -> None:
    bundle = service.brain.layout.base_model_dir / "serving" / "fp32" / "serving.tflite"
    data = bundle.read_bytes()
    bundle.write_bytes(data[:1000])
    with service.client() as client:
        told = is_problem(client.post("/v1/act", json={"instruction": "drive", "frame": picture()}), 409)
        assert "is damaged" in told["detail"]
        bundle.write_bytes(data)
        assert client.post("/v1/act", json={"instruction": "drive", "frame": picture()}).status_code == 200


def test_a_base_that_drives_only_says_so(service: Any) -> None:
    with service.client() as client:
        asked = {"messages": [{"role": "user", "content": "hello"}]}
        assert "built to drive" in is_problem(client.post("/v1/chat", json=asked), 409)["detail"]


def said(client: httpx.Client, text: str, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": text}], "stream": False} | more
    answer = client.post("/v1/chat", json=asked)
    assert answer.status_code == 200, answer.text
    out: dict[str, Any] = answer.json()
    return out


def test_it_talks_in_pieces_and_with_the_adapter_in_use(helpers: Any, talking: BrainRoot) -> None:
    with helpers.serving(talking) as running, running.client() as client:
        assert client.get("/v1/status").json()["engines"]["words"] == "litert"
        asked = {"messages": [{"role": "user", "content": "hello"}]}
        with client.stream("POST", "/v1/chat", json=asked) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            told = list(helpers.events(answer.iter_lines()))
        assert [e["event"] for e in told[:-1]] == ["piece"] * (len(told) - 1)
        assert told[-1]["event"] == "done"
        assert "".join(e["data"]["text"] for e in told[:-1]) == told[-1]["data"]["text"]
        assert told[-1]["data"]["text"] == "Hello! I am a small robot."
        assert said(client, "hello")["text"] == "Hello! I am a small robot."
        hot = {"temperature": 1.5, "seed": 3, "max_tokens": 40}
        before = said(client, "who are you", **hot)
        version = helpers.stage(talking, seed=1)
        helpers.promote(talking, version)
        adapted = said(client, "who are you", **hot)
        assert adapted["adapter_sha256"] == version.compute_sha256()
        engine = open_words(talking.layout.base_model_dir, talking.config.policy)
        engine.use_adapter(version.path)
        asked = [Turn("user", "who are you")]
        right = Chat(engine, ChatPrompt(helpers.talking_base)).answer(asked, Sampling(40, 1.5, 3))
        assert adapted["text"] == "".join(right) != before["text"]
        for wrong in (
            [{"role": "assistant", "content": "hello"}],
            [{"role": "user", "content": "hello"}] * 2,
            [{"role": "user", "content": "hello " * 500}],
        ):
            is_problem(client.post("/v1/chat", json={"messages": wrong}), 422)
        body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
        is_problem(client.post("/v1/chat", content=body, headers={"content-type": "application/json"}), 422)
        assert AdapterStore(talking.layout).rollback() is None
        assert said(client, "who are you", **hot) == before


def test_who_leaves_in_the_middle_of_an_answer_does_not_keep_the_model(
    helpers: Any, talking: BrainRoot
) -> None:
    with helpers.serving(talking) as running:
        asked = json.dumps(
            {"messages": [{"role": "user", "content": "hello"}], "temperature": 2.0, "max_tokens": 4000}
        ).encode()
        head = b"POST /v1/chat HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        for wait_s in (0.0, 0.02, 0.1, 0.0, 0.05, 0.0):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(running.addresses[0])
                sock.sendall(head % len(asked) + asked)
                time.sleep(wait_s)
        with running.client() as client:
            deadline = time.monotonic() + 30
            asked_again = {"messages": [{"role": "user", "content": "hello"}], "stream": False}
            # On a busy machine those who left may still be waiting in front: come back, as the problem says.
            while (answer := client.post("/v1/chat", json=asked_again)).status_code == 429:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert answer.json()["text"] == "Hello! I am a small robot."


def test_who_leaves_without_a_stream_does_not_keep_the_model_either(helpers: Any, talking: BrainRoot) -> None:
    with helpers.serving(talking) as running:
        turns = [{"role": "user", "content": "hello"}]
        long = {"messages": turns, "temperature": 2.0, "max_tokens": 4000, "stream": False}
        asked = json.dumps(long).encode()
        head = b"POST /v1/chat HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        for _ in range(4):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(running.addresses[0])
                sock.sendall(head % len(asked) + asked)
                time.sleep(0.05)
        with running.client() as client:
            began = time.monotonic()
            while client.post("/v1/chat", json={"messages": turns, "stream": False}).status_code == 429:
                assert time.monotonic() - began < 10
                time.sleep(0.1)


def test_who_never_reads_its_answer_keeps_nobody_waiting_longer_than_the_answer_takes(
    helpers: Any, talking: BrainRoot
) -> None:
    """Its buffers are full after some kilobytes; the model is free when it has said all."""
    with helpers.serving(talking) as running:
        turns = [{"role": "user", "content": "hello"}]
        asked = json.dumps({"messages": turns, "temperature": 2.0, "max_tokens": 4000}).encode()
        head = b"POST /v1/chat HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        deaf = []
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            sock.connect(running.addresses[0])
            sock.sendall(head % len(asked) + asked)
            deaf.append(sock)
        time.sleep(0.3)
        with running.client() as client:
            answer = client.post("/v1/chat", json={"messages": turns, "stream": False})
            assert answer.json()["text"] == "Hello! I am a small robot."
        for sock in deaf:
            sock.close()


def test_a_damaged_version_hides_no_other(service: Any, helpers: Any) -> None:
    brain = service.brain
    first = helpers.stage(brain, seed=0)
    helpers.promote(brain, first)
    second = helpers.stage(brain, seed=1)
    (second.path / "adapter_config.json").unlink()
    with service.client() as client:
        rows = {row["id"]: row for row in client.get("/v1/adapters").json()["adapters"]}
        assert (rows[first.version_id]["damaged"], rows[first.version_id]["slots"]) == ("", ["current"])
        assert "adapter_config.json" in rows[second.version_id]["damaged"]
        assert client.get("/v1/status").json()["problem"] == ""
        shutil.rmtree(first.path)
        status = client.get("/v1/status").json()
        assert (status["current"], first.version_id in status["problem"]) == ("", True)
        assert client.get("/v1/adapters").status_code == 200


def test_a_picture_that_is_too_large_or_a_body_that_is_no_json_is_named(service: Any) -> None:
    with service.client() as client:
        blank = np.zeros((4097, 4097, 3), np.uint8)
        asked = {"instruction": "drive", "frame": picture(blank)}
        assert "too large" in is_problem(client.post("/v1/act", json=asked), 422)["detail"]
        headers = {"content-type": "application/json"}
        for body in (b'{"instruction": "\xff"}', b"[" * 100_000):
            answer = client.post("/v1/act", content=body, headers=headers)
            assert is_problem(answer, answer.status_code)["remedy"]
            assert answer.status_code in (400, 422)


def test_an_answer_of_any_length_can_be_sent_back(helpers: Any, talking: BrainRoot) -> None:
    with helpers.serving(talking) as running, running.client() as client:
        turns = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "so " * 10_000},
            {"role": "user", "content": "on"},
        ]
        told = is_problem(client.post("/v1/chat", json={"messages": turns}), 422)
        assert "tokens long" in told["detail"]  # its base's context, not a count of characters


def test_files_that_hold_what_nobody_can_pass_on_are_no_500(service: Any, helpers: Any) -> None:
    layout = service.brain.layout
    version = helpers.stage(service.brain, seed=0)
    with service.client() as client:
        for broken in (
            r'{"detail": "\ud800"}',
            '{"x": NaN}',
            '{"x": ' + "[" * 600 + "]" * 600 + "}",
            "[" * 100_000,
        ):
            for path in (layout.status_path, layout.manifest_path, version.path / "card.json"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(broken)
            for route in ("status", "manifest", "adapters"):
                assert client.get(f"/v1/{route}").status_code in (200, 404)


def test_an_adapter_that_is_damaged_on_disk_is_not_used(service: Any, helpers: Any) -> None:
    brain = service.brain
    helpers.promote(brain, helpers.stage(brain, seed=0))
    asked = {"instruction": "drive", "frame": picture(), "speed_mps": None}
    with service.client() as client:
        good = client.post("/v1/act", json=asked).json()
        helpers.promote(brain, helpers.stage(brain, seed=1))
        weights = brain.layout.current / "adapter_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        damaged = client.post("/v1/act", json=asked).json()
    assert "damaged" in damaged["note"]
    assert damaged["adapter_sha256"] == good["adapter_sha256"]


def test_too_many_that_wait_are_told_to_come_back(helpers: Any, talking: BrainRoot) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with running.client() as client:
            body = {"messages": [{"role": "user", "content": "hello"}], "stream": False}
            statuses.append(client.post("/v1/chat", json=body).status_code)

    with helpers.serving(talking) as running:
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert set(statuses) == {200, 429}
    assert len(statuses) == 16


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


def test_the_service_holds_no_torch(service: Any) -> None:
    with service.client() as client:
        assert client.post("/v1/act", json={"instruction": "drive", "frame": picture()}).status_code == 200
    maps = open(f"/proc/{service.process.pid}/maps").read()  # noqa: SIM115
    assert "libLiteRt" in maps
    assert "libtorch" not in maps


def test_a_root_that_is_none_is_named(tmp_path: Any) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "continuonbrain.cli.main", "serve", "--root", str(tmp_path / "no")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.returncode == 2
    assert "is not a brain root" in out.stderr


def test_a_base_that_is_not_there_is_told_in_the_status(service: Any) -> None:
    shutil.rmtree(service.brain.layout.base_model_dir)
    with service.client() as client:
        status = client.get("/v1/status").json()
        assert status["base_sha256"] == ""
        assert "base_model_path" in status["problem"]
        assert status["running"] is False


def test_base64_is_taken_as_phones_make_it(service: Any) -> None:
    plain = picture(kind="JPEG")
    lines = "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    with service.client() as client:
        answers = [
            client.post("/v1/act", json={"instruction": "drive", "frame": frame}).json()["curvature_per_m"]
            for frame in (plain, lines, f"data:image/jpeg;base64,{plain}")
        ]
    assert answers[0] == answers[1] == answers[2]


def test_the_manifest_names_the_base_that_answers(helpers: Any, driving: BrainRoot) -> None:
    settings = json.loads(driving.layout.config_path.read_text())
    settings["base_model_path"] = str(helpers.talking_base)
    driving.layout.config_path.write_text(json.dumps(settings))
    with helpers.serving(driving) as running, running.client() as client:
        assert client.get("/v1/manifest").json()["paths"]["base_model"] == str(helpers.talking_base)
        assert client.get("/v1/status").json()["engines"] == {"driving": None, "words": "litert"}


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


def test_the_model_is_asked_in_the_order_in_which_requests_came() -> None:
    import asyncio

    from continuonbrain.service import app as module

    class There:
        async def is_disconnected(self) -> bool:
            return False

    async def ask() -> list[int]:
        model, served = module._Model(), []

        async def one(number: int) -> None:
            async with model.turn(There()):  # type: ignore[arg-type]
                served.append(number)
                await asyncio.sleep(1.2 if number == 0 else 0.0)

        tasks = []
        for number in range(4):
            tasks.append(asyncio.ensure_future(one(number)))
            await asyncio.sleep(0.15)
        await asyncio.gather(*tasks)
        return served

    assert asyncio.run(ask()) == [0, 1, 2, 3]
