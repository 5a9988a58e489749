"""Who looks after a probation: the watch, the policy process that cannot load it, and the supervisor."""

from __future__ import annotations

import importlib.util
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.crash_points import driving, drove, new_root, staged
from benchmarks.small_verdict import judged
from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops import policy_process, probation
from continuonbrain.loops.probation import ProbationWatch, progress
from continuonbrain.loops.promotion import promote_candidate
from continuonbrain.loops.supervisor import Supervisor
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.probation_rule import Terms
from tests.loops.probation_brain import BOOT, kinds, new_brain


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrainRoot:
    return new_brain(tmp_path, monkeypatch)


def test_the_watch_looks_before_anything_loads_and_then_again_and_again(brain: BrainRoot) -> None:
    staged(brain, "a")
    promote_candidate(brain, boot="an earlier start")
    told: list[str] = []
    watch = ProbationWatch(brain, on_change=lambda t: told.append(t.detail), every_s=0.02)
    watch.start()
    try:
        assert AdapterStore(brain.layout).current() is None
        staged(brain, "b")
        second = promote_candidate(brain, boot=BOOT)
        drove(brain, second.version_id, off_road=0)
        deadline = time.monotonic() + 10
        while len(told) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        watch.close()
    assert "taken back (boot)" in told[0]
    assert progress(brain)["state"] == "confirmed"


def test_a_damaged_history_is_said_and_changes_nothing(
    brain: BrainRoot, caplog: pytest.LogCaptureFixture
) -> None:
    driving(brain, "a", probation=True)
    text = brain.layout.history_path.read_text()
    brain.layout.history_path.write_text(text.replace('"promote"', '"confirm"'))
    watch = ProbationWatch(brain)
    watch.start()
    watch.close()
    assert caplog.text.count("was changed after it was written") == 1
    assert brain.layout.current.is_symlink()


def _stub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stub_policy", Path(__file__).with_name("stub_policy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unusable(brain: BrainRoot, tag: bytes, terms: Terms | None) -> str:
    """An adapter of another base that got to drive all the same."""
    store = AdapterStore(brain.layout)
    files = {
        "adapter_model.safetensors": tag,
        "adapter_config.json": b'{"base": "other"}',
        "card.json": b"{}",
    }
    version = store.stage(files)
    verdict = judged(version, "ba5e" * 16)
    store.promote(version.version_id, verdict, base_sha256="ba5e" * 16, terms=terms)
    return version.version_id


def test_a_policy_process_that_cannot_load_it_takes_it_back_and_serves_what_was_before(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []
    monkeypatch.setattr(
        policy_process.PolicyServer, "serve", lambda self, _stop: served.append(self._engine.adapter_sha256)
    )
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    engine = _stub().StubEngine
    try:
        unusable(brain, b"a", Terms(400, 0.0, BOOT))
        policy_process.run_policy(brain.layout.root, load_engine=lambda _base: engine())
        assert served == [""]
        entry = AdapterStore(brain.layout).last_change()
        assert entry is not None
        assert (entry.event, entry.about["reason"]) == ("revert", "unusable")
        assert kinds(brain) == ["promotion", "revert"]  # the promotion had not been told
        unusable_again = unusable(brain, b"b", None)  # confirmed by a person: it is not ours to take back
        with pytest.raises(BrainError, match="is for base other"):
            policy_process.run_policy(brain.layout.root, load_engine=lambda _base: engine())
        current = AdapterStore(brain.layout).current()
        assert current is not None
        assert current.version_id == unusable_again
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


def test_the_supervisor_watches_and_says_what_became_of_it(brain: BrainRoot) -> None:
    staged(brain, "bad")
    bad = promote_candidate(brain, boot=BOOT)
    with Supervisor(brain, []) as supervisor:
        drove(brain, bad.version_id, off_road=20)
        deadline = time.monotonic() + 10
        while progress(brain)["state"] == "probation" and time.monotonic() < deadline:
            supervisor.poll()
            time.sleep(0.05)
        while not supervisor.snapshot()["events"] and time.monotonic() < deadline:
            time.sleep(0.05)
        told = [event["text"] for event in supervisor.snapshot()["events"]]
    assert progress(brain)["state"] == "base"
    assert any("taken back (off_road)" in text for text in told)


def test_whatever_a_look_raises_the_next_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brain = new_root(tmp_path / "b")
    looks: list[int] = []

    def broken(_brain: BrainRoot) -> None:
        looks.append(1)
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(probation, "look_after", broken)
    watch = ProbationWatch(brain, every_s=0.01)
    watch.start()
    until = time.monotonic() + 10.0
    while len(looks) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    watch.close()
    assert len(looks) >= 5
