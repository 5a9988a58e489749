"""Every kind of listener sees every promotion exactly once."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("inotify_simple")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops import promotion
from continuonbrain.loops.mid import MidLoop
from continuonbrain.loops.notices import NoticeAnswer
from continuonbrain.loops.promotion import announce, announce_unfinished, promote_candidate, roll_back
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from continuonbrain.storage.manifest import manifest_from_settings

NOBODY = (False, False, False, "")
CONSUMER = Path(__file__).with_name("reference_consumer.py")


@contextmanager
def consuming(brain: BrainRoot, *, registered: bool) -> Iterator[list[str]]:
    """The reference consumer; what it has loaded so far."""
    pid_file = (brain.layout.listeners_dir if registered else brain.layout.run_dir / "unread") / "app.pid"
    process = subprocess.Popen(
        [sys.executable, str(CONSUMER), str(brain.layout.manifest_path), str(pid_file)],
        stdout=subprocess.PIPE,
        text=True,
    )
    loaded: list[str] = []
    assert process.stdout is not None
    lines = process.stdout
    assert json.loads(lines.readline()) == {"ready": True}
    reader = threading.Thread(target=lambda: [loaded.append(json.loads(line)["adapter"]) for line in lines])
    reader.start()
    try:
        yield loaded
    finally:
        assert process.poll() is None  # SIGUSR1 did not end it
        process.kill()
        process.wait(10)
        reader.join(10)


def adapter_file(brain: BrainRoot) -> str:
    path = brain.layout.current / brain.config.adapter_filename
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


@pytest.mark.parametrize("registered", [True, False])
def test_the_existing_app_loads_every_promotion_once(
    helpers: Any, driving: BrainRoot, registered: bool
) -> None:
    versions = [helpers.stage(driving, seed=0)]
    with consuming(driving, registered=registered) as loaded:
        expected = []
        for seed in range(4):
            helpers.promote(driving, versions[-1])
            expected.append(adapter_file(driving))
            time.sleep(0.7)
            versions.append(helpers.stage(driving, seed=seed + 1))  # staging is no change
            time.sleep(0.3)
        AdapterStore(driving.layout).rollback()
        announce(driving, "rollback", "", "")
        expected.append(adapter_file(driving))
        deadline = time.monotonic() + 5
        while len(loaded) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        assert loaded == expected
        assert len(set(expected[:-1])) == 4


def test_of_a_burst_the_app_loads_every_one_and_every_event_is_there(
    helpers: Any, driving: BrainRoot
) -> None:
    with consuming(driving, registered=True) as loaded:
        told, expected = [], []
        for seed in range(5):
            version = helpers.stage(driving, seed=seed)
            told.append((version.version_id, helpers.promote(driving, version).sha256))
            expected.append(adapter_file(driving))
        time.sleep(1.0)
        assert loaded == expected
    events = [e for e in EventLog(driving.layout.events_dir).after(0) if e.kind == "promotion"]
    assert [(e.data["version_id"], e.data["sha256"]) for e in events] == told


def test_a_full_event_log_does_not_stop_a_promotion(helpers: Any, driving: BrainRoot) -> None:
    driving.layout.events_dir.parent.mkdir(parents=True, exist_ok=True)
    driving.layout.events_dir.write_text("a file where a folder should be")
    promoted = helpers.promote(driving, helpers.stage(driving, seed=0))
    current = AdapterStore(driving.layout).current()
    assert current is not None
    assert current.version_id == promoted.version_id


def test_an_event_that_could_not_be_noted_is_told_by_the_next_round_and_apps_hear_it_once(
    helpers: Any, driving: BrainRoot
) -> None:
    layout = driving.layout
    layout.events_dir.parent.mkdir(parents=True, exist_ok=True)
    layout.events_dir.write_text("a file where a folder should be")
    version = helpers.stage(driving, seed=0)
    helpers.promote(driving, version)
    written = layout.manifest_path.stat().st_mtime_ns
    layout.events_dir.unlink()
    assert announce_unfinished(driving) is not None
    assert announce_unfinished(driving) is None
    (event,) = EventLog(layout.events_dir).after(0)
    assert (event.kind, event.data["version_id"]) == ("promotion", version.version_id)
    assert layout.manifest_path.stat().st_mtime_ns == written


def test_of_changes_while_the_log_could_not_be_written_every_one_is_told(
    helpers: Any, driving: BrainRoot
) -> None:
    layout = driving.layout
    versions = [helpers.stage(driving, seed=0)]
    helpers.promote(driving, versions[0])
    shutil.move(layout.events_dir, layout.run_dir / "away")
    layout.events_dir.write_text("a file where a folder should be")
    for seed in (1, 2):
        versions.append(helpers.stage(driving, seed=seed))
        helpers.promote(driving, versions[-1])
    roll_back(driving)
    layout.events_dir.unlink()
    shutil.move(layout.run_dir / "away", layout.events_dir)
    assert announce_unfinished(driving) is not None
    told = [(e.kind, e.data["version_id"]) for e in EventLog(layout.events_dir).after(0)]
    ids = [v.version_id for v in versions]
    assert told == [*(("promotion", name) for name in ids), ("rollback", ids[1])]
    assert announce_unfinished(driving) is None


def test_what_keeps_the_last_change_from_being_told_keeps_nobody_from_a_rollback(
    helpers: Any, driving: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.promote(driving, helpers.stage(driving, seed=0))
    driving.layout.announced_path.unlink()
    EventLog(driving.layout.events_dir)
    shutil.rmtree(driving.layout.events_dir)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(promotion, "write_manifest", full)
    assert roll_back(driving).version_id == ""
    assert AdapterStore(driving.layout).current() is None
    kinds = [e.kind for e in EventLog(driving.layout.events_dir).after(0)]
    assert kinds[-1] == "rollback"  # who follows events hears of it although apps cannot
    monkeypatch.undo()
    assert announce_unfinished(driving) is not None  # they do when there is room again
    assert announce_unfinished(driving) is None


@pytest.mark.parametrize("change", ["promotion", "rollback"])
def test_the_next_change_first_tells_of_one_whose_maker_was_killed(
    helpers: Any, driving: BrainRoot, change: str
) -> None:
    store = AdapterStore(driving.layout)
    first = helpers.stage(driving, seed=0)
    store.promote(first.version_id, first.verdict(), base_sha256=base_sha256(driving.layout.base_model_dir))
    if change == "promotion":
        helpers.stage(driving, seed=1)
    (promote_candidate if change == "promotion" else roll_back)(driving)
    events = EventLog(driving.layout.events_dir).after(0)
    assert [e.kind for e in events] == ["promotion", change]
    assert events[0].data["version_id"] == first.version_id


@pytest.mark.parametrize("change", [promote_candidate, roll_back])
def test_a_change_waits_for_the_one_that_is_being_told(
    helpers: Any, driving: BrainRoot, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    helpers.promote(driving, helpers.stage(driving, seed=0))
    helpers.stage(driving, seed=1)
    monkeypatch.setattr(promotion, "TELLING_S", 0.1)
    current = AdapterStore(driving.layout).current()
    with (
        ProcessLock(driving.layout.announced_path.with_name("announced.lock"), purpose="test"),
        pytest.raises(LockHeldError),
    ):
        change(driving)
    assert AdapterStore(driving.layout).current() == current


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


@pytest.mark.parametrize("at", ["write_manifest", "signal_listeners", "_mark", "tells_of", "ask_notice"])
@pytest.mark.parametrize("change", ["promotion", "rollback"])
def test_a_change_whose_maker_was_killed_is_told_by_the_next_round_once(
    helpers: Any, driving: BrainRoot, monkeypatch: pytest.MonkeyPatch, at: str, change: str
) -> None:
    layout = driving.layout
    helpers.promote(driving, helpers.stage(driving, seed=0))
    helpers.stage(driving, seed=1)
    layout.policy_socket.touch()  # somebody would have to be asked
    asked: list[dict[str, Any]] = []

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(
            promotion, "ask_notice", lambda _path, event: asked.append(event) or NoticeAnswer(*NOBODY)
        )
        patch.setattr(EventLog if at == "tells_of" else promotion, at, kill)
        with pytest.raises(Killed):
            (promote_candidate if change == "promotion" else roll_back)(driving)
    monkeypatch.setattr(
        promotion, "ask_notice", lambda _path, event: asked.append(event) or NoticeAnswer(*NOBODY)
    )
    told = announce_unfinished(driving)
    current = AdapterStore(layout).current()
    assert told is not None
    assert told.version_id == ("" if current is None else current.version_id)
    assert announce_unfinished(driving) is None
    events = [e for e in EventLog(layout.events_dir).after(0) if e.kind in ("promotion", "rollback")]
    assert [e.kind for e in events] == ["promotion", change]
    assert asked[-1]["version_id"] == told.version_id
    manifest = json.loads(layout.manifest_path.read_text())
    assert manifest == manifest_from_settings(layout, driving.config.model_dump(mode="json"))


def test_while_somebody_is_telling_nobody_else_does(helpers: Any, driving: BrainRoot) -> None:
    helpers.promote(driving, helpers.stage(driving, seed=0))
    driving.layout.announced_path.unlink()
    with ProcessLock(driving.layout.announced_path.with_name("announced.lock"), purpose="test"):
        assert announce_unfinished(driving) is None
    assert announce_unfinished(driving) is not None
    kinds = [e.kind for e in EventLog(driving.layout.events_dir).after(0)]
    assert kinds == ["promotion"]  # it had been noted


def test_a_round_of_the_sidecar_tells_what_was_left_untold(helpers: Any, driving: BrainRoot) -> None:
    store = AdapterStore(driving.layout)
    version = helpers.stage(driving, seed=0)
    store.promote(
        version.version_id, version.verdict(), base_sha256=base_sha256(driving.layout.base_model_dir)
    )
    MidLoop(driving).round()
    (event,) = [e for e in EventLog(driving.layout.events_dir).after(0) if e.kind == "promotion"]
    assert event.data["version_id"] == version.version_id


def test_a_promotion_reaches_the_registered(
    helpers: Any, driving: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Path | str] = []
    real = promotion.write_manifest
    monkeypatch.setattr(promotion, "signal_listeners", told.append)
    monkeypatch.setattr(promotion, "write_manifest", lambda *a: (told.append("manifest"), real(*a)))
    helpers.promote(driving, helpers.stage(driving, seed=0))
    assert told == ["manifest", driving.layout.listeners_dir]  # whoever is woken reads the new one


def test_a_socket_that_a_killed_policy_process_left_keeps_nobody_waiting(
    helpers: Any, driving: BrainRoot
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(driving.layout.policy_socket))
    version = helpers.stage(driving, seed=0)
    began = time.monotonic()
    told = helpers.promote(driving, version)
    assert time.monotonic() - began < 3.0
    assert (told.running, told.noticed) == (False, False)
