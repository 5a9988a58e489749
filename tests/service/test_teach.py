"""Routes of episodes, over the door that browsers come through."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.mid import MidLoop
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.marking import CORRECTION_TAG, LESSON_TAG
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.writer import STEPS_FILE
from continuonbrain.service.app import create_app
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.lock import ProcessLock

TAGS = {1: ("teleop",), 2: ("correction",), 3: ("teach", "track:7"), 4: ("drive",)}


@pytest.fixture
def brain(tmp_path: Path) -> BrainRoot:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    for i in range(5):
        metadata = replace(
            make_metadata_example(f"e{i}"),
            start_time_unix_ms=1_700_000_000_000 + i,
            tags=(*TAGS[i], "instruction:keep left") if i else ("teleop",),
            control_role="autonomous" if i == 4 else "human_teleop",
        )
        recorder = EpisodeRecorder(layout.episodes_dir, metadata=metadata)
        for tick in range(6):
            step, at_ns = make_step_example(tick), 1_000_000_000 + tick * 1_200_000_000
            assert recorder.append(replace(step, monotonic_ns=at_ns, frame_monotonic_ns=at_ns - 2_000_000))
        recorder.close()
    return open_brain(layout.root)


@pytest.fixture
def client(brain: BrainRoot) -> Iterator[TestClient]:
    with TestClient(create_app(brain), base_url="http://127.0.0.1") as client:
        client.headers["x-csrf"] = client.get("/v1/session").json()["csrf"]
        yield client


def until(true: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found


def test_the_list_is_newest_first_and_in_pages(client: TestClient) -> None:
    told = client.get("/v1/episodes?limit=3").json()
    assert [e["id"] for e in told["episodes"]] == ["e4", "e3", "e2"]
    assert (told["taught"], told["min_episodes"]) == (4, 16)
    first = told["episodes"][1]
    assert (first["instruction"], first["role"], first["steps"]) == ("keep left", "human_teleop", 6)
    assert (first["bad"], first["learned"], first["fate"]) == (False, False, "")
    assert [e["kind"] for e in told["episodes"]] == ["drive", "simulated lesson", "correction"]
    rest = client.get("/v1/episodes?limit=3&before=e2").json()["episodes"]
    assert [e["kind"] for e in rest] == ["lesson", "lesson"]
    assert [e["id"] for e in rest] == ["e1", "e0"]
    assert rest[1]["instruction"] == "keep left"  # no tag says it: the first step does
    assert client.get("/v1/episodes?before=gone").json()["episodes"] == []


def test_the_doctor_looks_behind_and_again_when_the_files_changed(
    brain: BrainRoot, client: TestClient
) -> None:
    def findings(name: str) -> Any:
        episodes = client.get("/v1/episodes").json()["episodes"]
        return next(e["findings"] for e in episodes if e["id"] == name)

    assert until(lambda: findings("e2") is not None)
    assert findings("e2") == []
    steps = brain.layout.episodes_dir / "e2" / STEPS_FILE
    steps.write_bytes(steps.read_bytes().replace(b"keep left", b"keep lefd", 1))
    found = until(lambda: findings("e2"))
    assert found[0]["severity"] == "error"
    assert "CRC" in found[0]["problem"]
    assert found[0]["remedy"]


def test_a_replay_is_what_was_recorded(brain: BrainRoot, client: TestClient) -> None:
    told = client.get("/v1/episodes/e1").json()
    episode = open_episode(brain.layout.episodes_dir / "e1")
    assert told["steps"] == len(episode) == 6
    assert told["time_s"] == pytest.approx([1.2 * i for i in range(6)])
    assert told["guarded_steering"] == pytest.approx([s.command[0] for s in episode])
    assert told["steering"] == pytest.approx([s.proposed[0] for s in episode if s.proposed])
    assert told["reasons"][0] == ["slew"]
    assert told["surprise"] == [0.5] * 6
    for index in (0, 5):
        answer = client.get(f"/v1/episodes/e1/frames/{index}.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content == episode.frame_jpeg(index)
    assert client.get("/v1/episodes/e1/frames/6.jpg").status_code == 404


def test_a_label_a_mark_and_the_end_of_an_episode(brain: BrainRoot, client: TestClient) -> None:
    folder = brain.layout.episodes_dir
    assert client.post("/v1/episodes/e1", json={"instruction": "stop", "bad": True}).json() == {
        "id": "e1",
        "instruction": "stop",
        "bad": True,
    }
    assert {s.instruction for s in open_episode(folder / "e1")} == {"stop"}
    assert examine(folder / "e1") == []
    told = client.get("/v1/episodes").json()
    assert told["taught"] == 3
    assert next(e for e in told["episodes"] if e["id"] == "e1")["bad"]
    # The trainer leaves it out, and says so.
    mid = MidLoop(brain)
    assert [p.name for p in mid.new_episodes()[0]] == ["e0", "e2", "e3"]
    assert "1 marked as bad" in mid.round().detail
    assert client.delete("/v1/episodes/e2").status_code == 204
    assert client.delete("/v1/episodes/e2").status_code == 404
    assert sorted(p.name for p in folder.iterdir()) == ["e0", "e1", "e3", "e4"]


def test_a_lesson_of_a_moment_teaches_and_is_not_waited_for(brain: BrainRoot, client: TestClient) -> None:
    for name, tag, steps in (
        ("blip", LESSON_TAG, 100),
        ("nudge", CORRECTION_TAG, 60),
        ("lesson", LESSON_TAG, 101),
        ("long", CORRECTION_TAG, 140),
    ):
        metadata = replace(make_metadata_example(name), tags=(tag,), control_role="human_teleop")
        with EpisodeRecorder(brain.layout.episodes_dir, metadata=metadata, queue_size=200) as recorder:
            for tick in range(steps):
                assert recorder.append(make_step_example(tick, size=(1, 1)))
    assert client.get("/v1/episodes").json()["taught"] == 6
    mid = MidLoop(brain)
    assert {"blip", "nudge", "lesson", "long"} <= {p.name for p in mid.new_episodes()[0]}
    told = mid.round().detail
    assert told.startswith("6 of 16 episodes")
    assert "2 shorter than 5 s" in told


def test_while_somebody_learns_nothing_is_changed_under_them(brain: BrainRoot, client: TestClient) -> None:
    with ProcessLock(brain.layout.trainer_lock_path, purpose="test"):
        for answer in (
            client.post("/v1/episodes/e1", json={"instruction": "stop"}),
            client.delete("/v1/episodes/e1"),
        ):
            assert answer.status_code == 409
            assert "trainer" in answer.json()["detail"]
        assert client.post("/v1/episodes/e1", json={"bad": True}).status_code == 200
    assert {s.instruction for s in open_episode(brain.layout.episodes_dir / "e1")} == {"keep left"}


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fconfig.json", ".hidden", "e1%00", "e1%2f..%2fe2", "x" * 200, "-e1"]
)
def test_names_that_lead_elsewhere(brain: BrainRoot, client: TestClient, name: str) -> None:
    before = sorted(p.name for p in brain.layout.root.rglob("*"))
    for method, path in (
        ("GET", f"/v1/episodes/{name}"),
        ("GET", f"/v1/episodes/{name}/frames/0.jpg"),
        ("DELETE", f"/v1/episodes/{name}"),
        ("POST", f"/v1/episodes/{name}"),
    ):
        answer = client.request(method, path, json={"bad": True} if method == "POST" else None)
        assert answer.status_code in (404, 405, 422), (method, path)
    after = sorted(p.name for p in brain.layout.root.rglob("*"))
    assert [n for n in after if n not in before] in ([], [".lock"])


def test_what_is_no_change(brain: BrainRoot, client: TestClient) -> None:
    for body in ({}, {"instruction": ""}, {"instruction": "x" * 201}, {"bad": "yes please"}, {"steps": 3}):
        assert client.post("/v1/episodes/e1", json=body).status_code == 422, body
    client.headers["x-csrf"] = "guess"
    assert client.post("/v1/episodes/e1", json={"bad": True}).status_code == 403
    assert client.delete("/v1/episodes/e1").status_code == 403
    link = brain.layout.episodes_dir / "link"
    os.symlink(brain.layout.episodes_dir / "e1", link)
    client.headers["x-csrf"] = client.get("/v1/session").json()["csrf"]
    assert client.delete("/v1/episodes/link").status_code == 409
    assert (brain.layout.episodes_dir / "e1").is_dir()
