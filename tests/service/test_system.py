"""Routes of the machine, and the last decision in words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import psutil
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.control_status import CONTROL_STATUS_NAME
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.safety.reasons import Reason
from continuonbrain.service.app import create_app
from continuonbrain.service.explain import in_words
from continuonbrain.service.system import Household
from continuonbrain.storage.layout import init_brain_root

DRIVES: dict[str, Any] = {
    "mode": "autopilot",
    "by": "policy",
    "instruction": "keep left",
    "proposed": [0.5, 0.4],
    "guarded": [0.25, 0.4],
    "reasons": ["steering_slew"],
    "adapter_sha256": "ab" * 32,
    "decision_ms": 7.2,
    "latency_ms": 61.0,
    "safety_head": 0.125,
    "fault": "",
}


@pytest.fixture
def brain(tmp_path: Path) -> BrainRoot:
    return open_brain(init_brain_root(tmp_path / "b", "sim-donkey").root)


@pytest.fixture
def client(brain: BrainRoot) -> Iterator[TestClient]:
    with TestClient(create_app(brain), base_url="http://127.0.0.1") as client:
        yield client


def test_the_machine_is_told_without_a_robot(client: TestClient) -> None:
    told = client.get("/v1/system").json()
    assert [p["name"] for p in told["processes"]] == ["control", "policy", "sidecar", "service"]
    assert not any(p["alive"] for p in told["processes"])
    assert told["disk"]["total_mib"] > told["disk"]["free_mib"] > 0
    assert (told["profile"], told["battery"]) == ({}, None)


def test_the_processes_of_this_root_are_found_whoever_started_them(helpers: Any, brain: BrainRoot) -> None:
    with helpers.serving(brain) as service, service.client() as client:
        by_name = {p["name"]: p for p in client.get("/v1/system").json()["processes"]}
        assert by_name["service"]["pid"] == service.process.pid
        assert by_name["service"]["rss_mib"] > 20
        assert by_name["service"]["cpu"] is None
        again = {p["name"]: p for p in client.get("/v1/system").json()["processes"]}
        assert 0 <= again["service"]["cpu"] < 4
        assert not again["control"]["alive"]


def test_who_starts_a_process_is_not_taken_for_it(brain: BrainRoot) -> None:
    sleeps = "import sys, time; print(flush=True); time.sleep(60)"
    service = [sys.executable, "-c", sleeps, "serve", "--root", str(brain.layout.root)]
    wrapper = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", wrapper, *service], stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()
        (inner,) = psutil.Process(outer.pid).children()
        try:
            told = {p.name: p.pid for p in Household(brain.layout).look()}
        finally:
            inner.kill()
    assert told == {"control": None, "policy": None, "sidecar": None, "service": inner.pid}


def test_logs_are_told_from_their_end(brain: BrainRoot, client: TestClient) -> None:
    missing = client.get("/v1/logs/control")
    assert missing.status_code == 404
    assert "journalctl" in missing.json()["remedy"]
    brain.layout.log_dir.mkdir(parents=True, exist_ok=True)
    (brain.layout.log_dir / "control.log").write_bytes(
        b"".join(b"line %d\n" % i for i in range(50_000)) + b"\xff\n"
    )
    lines = client.get("/v1/logs/control?lines=3").json()["lines"]
    assert lines == ["line 49998", "line 49999", "\N{REPLACEMENT CHARACTER}"]
    for name in ("passwd", "..%2f..%2fconfig", "control.log"):
        assert client.get(f"/v1/logs/{name}").status_code in (404, 422)
    assert client.get("/v1/logs/control?lines=0").status_code == 422


def test_the_doctor_says_what_the_command_says(client: TestClient) -> None:
    told = client.get("/v1/doctor").json()
    by_name = {c["name"]: c for c in told["checks"]}
    assert by_name["config"]["ok"]
    assert not by_name["base model"]["ok"]
    assert by_name["base model"]["reason"]
    assert told["healthy"] is False
    assert any(name.startswith("gate ") for name in by_name)


def test_the_last_decision_in_words(brain: BrainRoot, client: TestClient) -> None:
    assert "no control process" in client.get("/v1/explain").json()["text"]
    (brain.layout.run_dir).mkdir(exist_ok=True)
    (brain.layout.run_dir / CONTROL_STATUS_NAME).write_text(
        json.dumps({**DRIVES, "trail": [1], "pid": os.getpid()})
    )
    told = client.get("/v1/explain").json()
    assert told["tick"]["instruction"] == "keep left"
    assert "trail" not in told["tick"]
    text = told["text"]
    assert "keep left" in text
    assert "0.50 to the left" in text
    assert "0.25 to the left" in text
    assert "may not turn that fast" in text
    assert "adapter abababab" in text
    assert "12 %" in text


def test_every_number_in_the_words_was_told() -> None:
    words = in_words(DRIVES)
    told = {"0.50", "0.25", "0.40", "7", "61", "12"}
    assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", words)) <= told


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason: Reason) -> None:
    words = in_words({**DRIVES, "reasons": [str(reason)]})
    assert "because" in words
    assert str(reason) not in words


@given(
    st.dictionaries(
        st.sampled_from([*DRIVES]),
        st.none() | st.text(max_size=8) | st.floats() | st.lists(st.floats() | st.text(), max_size=3),
    )
)
def test_whatever_is_told_it_answers(tick: dict[str, Any]) -> None:
    assert in_words(tick)


def test_while_it_stands_the_last_recorded_decision_is_explained(
    brain: BrainRoot, client: TestClient
) -> None:
    for name, role, source in (("e1", "autonomous", "autopilot"), ("e2", "human_teleop", "human_teleop_xr")):
        metadata = replace(make_metadata_example(name), control_role=role, start_time_unix_ms=int(name[1]))
        recorder = EpisodeRecorder(brain.layout.episodes_dir, metadata=metadata)
        for tick in range(4):
            assert recorder.append(replace(make_step_example(tick), source=source))
        recorder.close()
    told = client.get("/v1/explain").json()
    assert "no control process" in told["text"]
    assert "The last that was recorded: It drives by itself, told “keep left”." in told["text"]
    assert told["tick"]["proposed"] == pytest.approx([0.13, 0.5])
    assert "throttle may not" not in told["text"]
    assert "adapter abababab, decided from a picture 7 ms old" in told["text"]
