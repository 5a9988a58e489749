"""Routes of learning, over the door that browsers come through."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.at_work import Status
from continuonbrain.loops.mid import MidLoop
from continuonbrain.loops.owner import is_wanted, take_wanted, want_training
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.service.app import create_app
from continuonbrain.service.learning_told import seconds_left, status_of
from continuonbrain.service.training_time import ran_out, time_left, worked_s
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.event_log import Event
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.lock import ProcessLock


@pytest.fixture
def brain(tmp_path: Path) -> BrainRoot:
    layout = init_brain_root(tmp_path / "b", "sim-donkey", base_model=tiny_base_folder())
    return open_brain(layout.root)


@pytest.fixture
def client(brain: BrainRoot) -> Iterator[TestClient]:
    with TestClient(create_app(brain), base_url="http://127.0.0.1") as client:
        client.headers["x-csrf"] = client.get("/v1/session").json()["csrf"]
        yield client


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def gate(told: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(g for g in told["gates"] if g["name"] == name)
    return found


def test_a_pause_holds_over_a_start_and_closes_the_trainers_gate(
    brain: BrainRoot, client: TestClient
) -> None:
    told = client.get("/v1/training").json()
    assert (told["phase"], told["paused"], told["running"]) == ("waiting", False, False)
    assert gate(told, "owner")["open"]
    paused = client.post("/v1/training", json={"action": "pause"}).json()
    assert paused["paused"]
    assert "paused by a person" in gate(paused, "owner")["reason"]
    state = MidLoop(open_brain(brain.layout.root)).poll_gates().state("owner")
    assert state is not None
    assert not state.open
    assert client.post("/v1/training", json={"action": "start"}).json()["detail"] == "learning is paused"
    assert not client.post("/v1/training", json={"action": "resume"}).json()["paused"]
    want_training(brain.layout)
    assert client.post("/v1/training", json={"action": "pause"}).status_code == 200
    assert not is_wanted(brain.layout)  # it does not begin by itself when it is resumed
    assert client.post("/v1/training", json={"action": "resume"}).status_code == 200
    assert client.post("/v1/training", json={"action": "resume"}).status_code == 200  # as often as one likes
    assert client.post("/v1/training", json={"action": "burn"}).status_code == 422


def test_a_start_is_a_wish_to_a_sidecar_that_lives(
    brain: BrainRoot, client: TestClient, helpers: Any, stack: ExitStack
) -> None:
    refused = client.post("/v1/training", json={"action": "start"})
    assert refused.status_code == 409
    assert "no trainer runs" in refused.json()["detail"]
    name = "continuonbrain.loops.mid"
    sidecar = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name])
    while name not in psutil.Process(sidecar.pid).cmdline():  # its fork alone is nobody yet
        time.sleep(0.01)
    try:
        status = {**{k: getattr(Status(), k) for k in Status.__dataclass_fields__}, "pid": sidecar.pid}
        brain.layout.status_path.write_text(json.dumps(status))
        too_few = client.post("/v1/training", json={"action": "start"})
        assert too_few.status_code == 409
        assert "0 of 16 lessons: 16 more are needed" in too_few.json()["detail"]
        settings = json.loads(brain.layout.config_path.read_text()) | {"min_episodes": 2}
        brain.layout.config_path.write_text(json.dumps(settings))
        brain = open_brain(brain.layout.root)
        helpers.lessons(brain, 2)
        client = stack.enter_context(TestClient(create_app(brain), base_url="http://127.0.0.1"))
        client.headers["x-csrf"] = client.get("/v1/session").json()["csrf"]
        with ProcessLock(brain.layout.trainer_lock_path, purpose="test"):
            # A sidecar that only looks whether anything is new holds the lock, too: it takes the wish all the same.
            assert client.post("/v1/training", json={"action": "start"}).status_code == 200
            brain.layout.status_path.write_text(json.dumps(status | {"phase": "reflex"}))
            learning = client.get("/v1/training").json()
            assert not learning["wanted"]  # it is being fulfilled
            assert learning["holds"]
            refused = client.post("/v1/training", json={"action": "start"})
            assert (refused.status_code, refused.json()["detail"]) == (409, "it learns already")
            brain.layout.status_path.write_text(json.dumps(status))
        told = client.post("/v1/training", json={"action": "start"}).json()
        assert told["running"]
        assert told["wanted"]
        assert not told["holds"]
        assert "begins when the gates open" in told["said"]  # no control process tells how the robot is
        assert client.get("/v1/training").json()["said"] == told["said"]
        assert is_wanted(brain.layout)
        assert take_wanted(brain.layout)
        assert not take_wanted(brain.layout)
    finally:
        sidecar.kill()
        sidecar.wait()


def test_a_trainer_that_was_killed_does_not_train(brain: BrainRoot, client: TestClient) -> None:
    brain.layout.status_path.write_text(
        json.dumps({"phase": "train", "step": 3, "steps": 9, "pid": 2**22 + 1})
    )
    told = client.get("/v1/training").json()
    assert (told["phase"], told["running"], told["seconds_left"]) == ("stopped", False, None)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"losses": "many", "step": true, "phase": 3, "left_out": [1]}', "[" * 4000]
)
def test_a_status_that_is_none_breaks_nothing(brain: BrainRoot, client: TestClient, text: str) -> None:
    brain.layout.status_path.write_text(text)
    assert status_of(brain.layout.status_path).phase == "waiting"
    told = client.get("/v1/training").json()
    assert (told["step"], told["losses"], told["left_out"]) == (0, [], [])
    brain.layout.spent_path.write_text(text or "{")
    assert not gate(client.get("/v1/training").json(), "budget")["open"]


def test_the_time_left_is_of_the_job_that_runs(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    lines = [(100.0, 10), (101.0, 20), (500.0, 10), (502.0, 20), (504.0, 30)]
    log.write_text("".join(json.dumps({"unix_s": t, "step": s}) + "\n" for t, s in lines) + "torn")
    assert seconds_left(log, step=30, steps=100) == pytest.approx(14.0)
    assert seconds_left(log, step=100, steps=100) is None
    assert seconds_left(tmp_path / "none", step=1, steps=2) is None


def event(kind: Any, at_s: float, **data: Any) -> Event:
    return Event(1, kind, at_s, data)


def test_the_time_that_a_job_worked_is_without_its_pauses_and_of_the_newest() -> None:
    earlier = [event("training", 0.0, phase="cache"), event("training", 50.0, phase="judge")]
    assert worked_s([], 9.0) is None
    assert worked_s(earlier, 1000.0) == 50.0
    newest = [
        *earlier,
        event("training", 100.0, phase="cache"),
        event("training", 104.0, phase="train"),
        event("gate", 110.0, open=False, closed={"thermal": "warm"}),
        event("safety", 112.0, mode="park"),
        event("gate", 160.0, open=True, closed={}),
    ]
    assert worked_s(newest, 165.0) == 15.0
    assert worked_s([*newest, event("training", 170.0, phase="reflex")], 900.0) == 20.0


def test_the_time_left_is_no_longer_than_the_wall_time_allows() -> None:
    assert time_left(253.0, worked=20.0, limit_s=46.4) == 26.4
    assert time_left(5.0, worked=20.0, limit_s=46.4) == 5.0
    assert time_left(253.0, worked=50.0, limit_s=46.4) == 0.0
    assert time_left(None, worked=20.0, limit_s=46.4) is None
    assert time_left(253.0, worked=None, limit_s=46.4) == 253.0


def test_a_training_that_ran_out_of_time_says_so_from_its_last_step_on(
    brain: BrainRoot, client: TestClient, helpers: Any
) -> None:
    known = {"max_wall_time_s": 58.0, "worked": 46.0, "limit_s": 46.4}
    words = "time ran out after 36 of 400 steps (max_wall_time_s = 58 in config.json)"
    assert ran_out("reflex", card={}, steps=(36, 400), **known) == words
    assert ran_out("train", card={}, steps=(36, 400), **known) == ""
    assert ran_out("reflex", card={}, steps=(400, 400), **known) == ""
    assert (
        ran_out("reflex", card={}, steps=(36, 400), **(known | {"worked": 5.0})) == ""
    )  # ended for another reason
    version = helpers.stage(brain, seed=1)
    card = {"training": {"ended": "wall time", "steps": 36, "max_steps": 400}}
    AdapterStore(brain.layout).attach(version, "card.json", json.dumps(card).encode())
    told = {"phase": "judge", "candidate": version.version_id, "pid": os.getpid()}
    brain.layout.status_path.write_text(json.dumps(told))
    short = client.get("/v1/training").json()["short"]
    assert "time ran out: the adapter made 36 of 400 steps within max_wall_time_s = " in short
    brain.layout.status_path.write_text(json.dumps(told | {"candidate": "000099-deadbeef"}))
    assert client.get("/v1/training").json()["short"] == ""


def test_promote_confirm_and_roll_back_and_the_history_of_it(
    brain: BrainRoot, client: TestClient, helpers: Any
) -> None:
    version = helpers.stage(brain, seed=1)
    AdapterStore(brain.layout).attach(version, "card.json", json.dumps({"episodes": ["e1", "e2"]}).encode())
    assert client.post("/v1/adapters/000099-deadbeef/promote").status_code == 404
    assert client.post("/v1/adapters/rollback").status_code == 409
    assert client.post("/v1/adapters/confirm").status_code == 409
    told = client.post(f"/v1/adapters/{version.version_id}/promote").json()
    assert (told["id"], told["running"]) == (version.version_id, False)
    assert client.get("/v1/status").json()["probation"]["state"] == "probation"
    assert client.post("/v1/adapters/confirm").status_code == 200
    assert client.get("/v1/status").json()["probation"]["state"] == "confirmed"
    assert client.post("/v1/adapters/rollback").json()["id"] == ""
    history = client.get("/v1/history").json()
    assert history["problem"] == ""
    assert [e["event"] for e in history["entries"]] == ["promote", "confirm", "rollback"]
    assert [e["by"] for e in history["entries"]] == ["", "person", "person"]
    first, _, last = history["entries"]
    assert (first["from"], first["to"], first["episodes"]) == ("", version.version_id, ["e1", "e2"])
    assert first["verdict"]["passed"] is True
    assert (last["from"], last["to"]) == (version.version_id, "")
    brain.layout.history_path.write_text("{}\n")
    assert client.get("/v1/history").json()["problem"]


def test_two_who_roll_back_what_they_saw_do_not_bring_it_back(
    brain: BrainRoot, client: TestClient, helpers: Any
) -> None:
    first = helpers.stage(brain, seed=1)
    assert client.post(f"/v1/adapters/{first.version_id}/promote").status_code == 200
    mine = {"drives": first.version_id}
    assert client.post("/v1/adapters/confirm", json={"drives": "000099-deadbeef"}).status_code == 409
    assert client.post("/v1/adapters/confirm", json=mine).status_code == 200
    assert client.post("/v1/adapters/confirm", json=mine).status_code == 409
    assert client.post("/v1/adapters/rollback", json=mine).json()["id"] == ""
    told = client.post("/v1/adapters/rollback", json=mine)
    assert told.status_code == 409
    assert "the base model drives now" in told.json()["detail"]
    assert AdapterStore(brain.layout).current_id() is None


def test_what_was_taken_back_may_drive_again_where_the_rules_allow_it(
    brain: BrainRoot, client: TestClient, helpers: Any
) -> None:
    first, second = helpers.stage(brain, seed=1), helpers.stage(brain, seed=2)

    def promotion(of: Any) -> dict[str, Any]:
        told: dict[str, Any] = client.get(f"/v1/adapters/{of.version_id}/promotion").json()
        return told

    assert promotion(first) == {"may": True, "again": False, "reason": "", "remedy": ""}
    assert client.post(f"/v1/adapters/{first.version_id}/promote", json={}).status_code == 200
    held = promotion(second)
    assert not held["may"]
    assert "is on probation" in held["reason"]
    assert client.post("/v1/adapters/rollback").status_code == 200  # on probation: its bytes are taken back
    told = promotion(first)
    assert (told["may"], told["again"]) == (True, True)
    assert "taken back while on probation" in told["reason"]
    assert client.post(f"/v1/adapters/{first.version_id}/promote", json={}).status_code == 409
    assert client.post(f"/v1/adapters/{first.version_id}/promote", json={"again": True}).status_code == 200
    assert client.post("/v1/adapters/confirm").status_code == 200
    told = promotion(second)  # judged against the base, and another adapter drives
    assert (told["may"], told["again"]) == (False, False)
    assert "it was judged against the base alone" in told["reason"]
    assert client.post("/v1/adapters/rollback").status_code == 200  # confirmed: by hand, no reproach
    assert promotion(first)["may"]
    events = [e.event for e in AdapterStore(brain.layout).history()]
    assert events == ["promote", "rollback", "promote", "confirm", "rollback"]
    assert client.get("/v1/adapters/none/promotion").status_code == 404


def test_nobody_changes_what_drives_from_another_page(
    brain: BrainRoot, client: TestClient, helpers: Any
) -> None:
    version = helpers.stage(brain, seed=2)
    client.headers["x-csrf"] = "guess"
    for path in (f"{version.version_id}/promote", "rollback", "confirm"):
        assert client.post(f"/v1/adapters/{path}").status_code == 403
    assert client.post("/v1/training", json={"action": "pause"}).status_code == 403
    assert AdapterStore(brain.layout).current() is None


def test_a_lap_before_and_after_is_driven_once(brain: BrainRoot, client: TestClient, helpers: Any) -> None:
    version = helpers.stage(brain, seed=3)
    told = client.get(f"/v1/adapters/{version.version_id}/rollouts").json()
    assert (told["before_id"], told["after_id"]) == ("", version.version_id)
    assert len(told["track"]) > 100
    assert told["half_m"] > 0
    assert told["completion_before"] > 0.5  # the shipped base on its own road
    assert len(told["before"]) > 100
    began = time.monotonic()
    assert client.get(f"/v1/adapters/{version.version_id}/rollouts").json() == told
    assert time.monotonic() - began < 1.0
    assert client.get("/v1/adapters/none/rollouts").status_code == 404


@pytest.mark.parametrize(
    ("ends", "stands"),
    [(SystemExit(0), True), (KeyboardInterrupt(), True), (BrainError("no"), False), (None, False)],
)
def test_a_wish_outlives_a_training_that_was_put_down_and_none_that_ended(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch, ends: BaseException | None, stands: bool
) -> None:
    from continuonbrain.loops.mid import Outcome

    asked: list[bool] = []

    def round_of(_mid: MidLoop, *, hold: bool, again: bool) -> Outcome:
        asked.append(again)
        assert is_wanted(brain.layout)  # killed here it stands, too
        if ends is not None:
            raise ends
        return Outcome("refused", "no gain")

    monkeypatch.setattr(MidLoop, "_round", round_of)
    want_training(brain.layout)
    with contextlib.suppress(SystemExit, KeyboardInterrupt, BrainError):
        MidLoop(brain).round()
    assert asked == [True]
    assert is_wanted(brain.layout) == stands


def test_what_the_owner_wants_is_done_though_nothing_is_new(brain: BrainRoot) -> None:
    from continuonbrain.loops.mid import watch

    rounds: list[bool] = []

    class Asked(MidLoop):
        def round(self, *, hold: bool = False, again: bool = False) -> Any:
            rounds.append(again)
            return super().round(hold=hold, again=again)

    mid = Asked(brain)
    began = time.monotonic()

    def over() -> bool:
        if len(rounds) == 1 and not is_wanted(brain.layout):
            want_training(brain.layout)
        return len(rounds) >= 2 or time.monotonic() - began > 20

    watch(mid, every_s=60.0, should_stop=over)
    assert rounds[:2] == [False, True]
    assert time.monotonic() - began < 20
    assert os.path.exists(brain.layout.status_path)


def test_status_says_which_base_drives(brain: BrainRoot, client: TestClient) -> None:
    assert client.get("/v1/status").json()["base"] == {"slot": "", "previous": None, "state": "confirmed"}
    brain.layout.base_slot_path.write_text("{ torn")
    assert client.get("/v1/status").json()["base"] == {}
