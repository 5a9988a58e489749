"""The service as an app meets it: a real process on a real socket; status, adapters, decisions."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.storage.adapters import AdapterStore
from tests.service.asking import FRAME, is_problem, picture


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
                "pair/renew",
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
                "adapters/{name}/promotion",
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
        ({"frame": "A" * 9_000_000}, 413, "more than 8192 KiB"),
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
