"""Claims about the sidecar: it learns only when it may, names what it left out, and changes nothing unproven."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.small_verdict import judged  # noqa: E402
from continuonbrain.brain_root import BrainRoot, open_brain  # noqa: E402
from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.loops import judging, learning, mid, training_log  # noqa: E402
from continuonbrain.loops import lessons as lessons_module  # noqa: E402
from continuonbrain.loops.mid import MidLoop, Status, watch  # noqa: E402
from continuonbrain.loops.probation import confirm_by_hand  # noqa: E402
from continuonbrain.loops.promotion import promote_candidate  # noqa: E402
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex  # noqa: E402
from continuonbrain.rlds.examples import make_metadata_example  # noqa: E402
from continuonbrain.rlds.metadata import RecordingState  # noqa: E402
from continuonbrain.rlds.reader import list_episodes, open_episode  # noqa: E402
from continuonbrain.rlds.recorder import EpisodeRecorder  # noqa: E402
from continuonbrain.rlds.step import Step  # noqa: E402
from continuonbrain.rlds.writer import metadata_bytes  # noqa: E402
from continuonbrain.robot.host import SimulatedHost  # noqa: E402
from continuonbrain.storage.adapters import AdapterStore, PromotionRefused, StaleVerdict  # noqa: E402
from continuonbrain.storage.event_log import EventLog  # noqa: E402
from continuonbrain.storage.layout import init_brain_root  # noqa: E402
from continuonbrain.storage.lock import LockHeldError, ProcessLock  # noqa: E402
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys  # noqa: E402
from continuonbrain.trainer.course import Course  # noqa: E402
from continuonbrain.trainer.evidence import Closed, Evidence, HeldOut, Imitation, Laps, Slow, Sources  # noqa: E402
from continuonbrain.trainer.reflex_job import TaughtReflex  # noqa: E402
from continuonbrain.trainer.steps import Progress  # noqa: E402

QUICK = {
    "min_episodes": 4,
    "max_steps": 3,
    "batch_size": 4,
    "max_wall_time_s": 600,
    "training.rank": 2,
    "training.threads": 1,
}
Brain = Callable[..., BrainRoot]


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    """The sidecar sets them for its own process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_brain(root: Path, base: Path, taught: Path, *, episodes: int = 6, **overrides: Any) -> BrainRoot:
    layout = init_brain_root(root, "sim-donkey", base_model=base)
    for path in list_episodes(taught)[:episodes]:
        shutil.copytree(path, layout.episodes_dir / path.name)
    brain = open_brain(root)
    return BrainRoot(brain.layout, brain.config.with_overrides(QUICK | overrides))


@pytest.fixture
def brain(tmp_path: Path, untrained_base: Path, taught: Path) -> Brain:
    """brain(episodes=6, **overrides): a fresh root with taught episodes and an untrained base."""
    return lambda **changes: make_brain(tmp_path / "brain", untrained_base, taught, **changes)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence that passes, bound to the real hashes, without driving anything."""
    ones, nothing = (1.0,) * 4, (0.0,) * 4
    good = Closed(1.0, 0.02, 0.0, 1.0, 1.0, 1.0, ones, nothing, nothing, ones)
    slow = Slow(1.0, 1.0, ones, ones)
    held = HeldOut((0, 1, 2, 3), (25.0,) * 4, (0.1,) * 4, (0.2,) * 4, (0.3,) * 4)
    held = replace(held, speed_candidate=(0.03,) * 4, speed_current=(0.03,) * 4)

    def gathered(engine: Any, *, candidate: Any, current: Any, on_part: Any, **_rest: Any) -> Evidence:
        on_part("candidate: laps", 1, 2)  # as every tick of a rollout does
        return Evidence(
            candidate.sha256,
            engine.base_sha256,
            "e" * 64,
            100,
            Imitation(0.1, 0.1),
            Imitation(0.2, 0.2),
            distance=0.1,
            difference=0.1,
            closed_candidate=good,
            closed_current=good,
            held=held,
            unshifted_candidate=Laps(1.0, ones),
            unshifted_base=Laps(1.0, ones),
            has_reflex=(candidate.folder / REFLEX_FILE).exists(),
            slow_candidate=slow,
            slow_current=slow,
            sources=Sources(current_sha256=current.sha256),
        )

    monkeypatch.setattr(judging, "gather_evidence", gathered)


def loop(brain: BrainRoot, host: SimulatedHost | None = None) -> MidLoop:
    return MidLoop(brain, host=host or SimulatedHost())


def status_on_disk(brain: BrainRoot) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(brain.layout.status_path.read_text())
    return status


def nothing_staged(brain: BrainRoot) -> bool:
    store = AdapterStore(brain.layout)
    return store.list() == () and store.candidate() is None and store.current() is None


def damage_steps(episode: Path) -> None:
    file = episode / "steps" / "000000.jsonl"
    file.write_bytes(file.read_bytes()[:-200])


def damage_frames(episode: Path) -> None:
    file = episode / "blobs" / "000000.tfrecord"
    data = bytearray(file.read_bytes())
    for i in range(0, len(data), 1000):  # not every frame is read: damage all
        data[i] ^= 0xFF
    file.write_bytes(data)


# ------------------------------------------------------------------------------ when not to learn


def test_fewer_episodes_than_the_config_asks_for_means_waiting(brain: Brain) -> None:
    root = brain(episodes=3)
    outcome = loop(root).round()
    assert outcome.phase == "waiting"
    assert "3 of 4 episodes" in outcome.detail
    assert nothing_staged(root)
    assert status_on_disk(root)["phase"] == "waiting"


def test_unfinished_and_self_driven_episodes_do_not_count(brain: Brain) -> None:
    root = brain(episodes=5)
    first, second, *_ = list_episodes(root.layout.episodes_dir)
    unfinished = RecordingState().into(open_episode(first).metadata)
    by_itself = replace(open_episode(second).metadata, control_role="autopilot")
    for path, metadata in ((first, unfinished), (second, by_itself)):
        (path / "metadata.json").write_bytes(metadata_bytes(metadata))
    episodes, _ = loop(root).new_episodes()
    assert first not in episodes
    assert second not in episodes
    outcome = loop(root).round()
    assert outcome.phase == "waiting"
    assert f"not counted: 1 driven by autopilot, 1 unfinished or unreadable ({first.name})" in outcome.detail


@pytest.mark.parametrize(
    ("close", "gate"),
    [
        (lambda h: h.set(battery_fraction=0.1), "battery"),
        (lambda h: h.set(teleop_active=1.0), "teleop"),
        (lambda h: h.set(cpu_temp_c=90.0), "thermal"),
        (lambda h: h.set(idle_s=0.0), "idle"),
        (lambda h: h.fail("cpu_temp_c"), "thermal"),
    ],
)
def test_a_closed_gate_means_no_training_and_says_which(
    brain: Brain, close: Callable[[SimulatedHost], None], gate: str
) -> None:
    root, host = brain(), SimulatedHost()
    close(host)
    outcome = loop(root, host).round()
    assert outcome.phase == "gates"
    assert f"{gate}: " in outcome.detail
    assert outcome.gates == status_on_disk(root)["gates"]
    assert nothing_staged(root)


def test_a_second_trainer_on_the_same_root_is_refused_and_changes_no_status(brain: Brain) -> None:
    root = brain()
    first = loop(root)
    first.say(phase="train", detail="the first one at work")
    with (
        ProcessLock(root.layout.trainer_lock_path, purpose="train"),
        pytest.raises(LockHeldError, match="already"),
    ):
        loop(root).round()
    assert status_on_disk(root)["detail"] == "the first one at work"
    assert nothing_staged(root)


# ----------------------------------------------------------------------------------- a whole round


@pytest.fixture(scope="module")
def refused(
    tmp_path_factory: pytest.TempPathFactory, untrained_base: Path, taught: Path
) -> tuple[BrainRoot, Any, list[Status]]:
    """One real round, rollouts and all, on an untrained base, with two damaged episodes among six.

    An untrained base drives so badly that three steps do no harm; what refuses is the distance to the driver.
    """
    root = make_brain(
        tmp_path_factory.mktemp("round") / "brain",
        untrained_base,
        taught,
        **{"promotion.avg_action_delta_threshold": 0.001, "training.threads": 2},
    )
    episodes = list_episodes(root.layout.episodes_dir)
    damage_steps(episodes[1])
    damage_frames(episodes[4])
    seen: list[Status] = []
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            learning,
            "Course",
            lambda world: Course(world, (40_000,), (40_100,), (40_200,), (40_300,), (40_400,)),
        )
        outcome = MidLoop(
            root, host=SimulatedHost(), on_status=lambda s: seen.append(replace(s, losses=list(s.losses)))
        ).round()
    assert torch.get_num_threads() == 2  # as the config says
    torch.set_num_threads(threads)
    return root, outcome, seen


Refused = tuple[BrainRoot, Any, list[Status]]


def test_a_candidate_far_from_the_driver_is_refused_and_nothing_drives_differently(refused: Refused) -> None:
    root, outcome, _ = refused
    store = AdapterStore(root.layout)
    assert outcome.phase == "refused"
    assert outcome.detail == outcome.verdict["reason"]
    # Which rule comes first depends on which episodes were held out; that of the distance is always broken.
    failed = [check["name"] for check in outcome.verdict["checks"] if not check["passed"]]
    assert outcome.detail.startswith(f"{failed[0]}: ")
    assert {"action_distance", "held_out_steps"} & set(failed)
    assert store.current() is None
    candidate = store.candidate()
    assert candidate is not None
    assert candidate.version_id == outcome.version_id
    with pytest.raises(PromotionRefused, match="did not pass"):
        promote_candidate(root)


def test_the_verdict_is_bound_to_the_bytes_that_were_judged(refused: Refused) -> None:
    root, outcome, _ = refused
    candidate = AdapterStore(root.layout).get(outcome.version_id)
    verdict = candidate.verdict()
    assert verdict == outcome.verdict
    assert verdict is not None
    assert verdict["candidate_sha256"] == candidate.compute_sha256()
    assert verdict["base_sha256"] == base_sha256(root.layout.base_model_dir)
    assert len(verdict["evaluation_sha256"]) == 64
    assert verdict["evidence"]["closed_candidate"] is not None


def test_damaged_episodes_are_named_and_the_others_are_learned_from(refused: Refused) -> None:
    root, outcome, seen = refused
    card = AdapterStore(root.layout).get(outcome.version_id).card()
    assert card is not None
    names = [p.name for p in list_episodes(root.layout.episodes_dir)]
    assert len(card["left_out"]) == 2
    assert any(names[1] in said for said in card["left_out"])
    assert any(names[4] in said for said in card["left_out"])
    first_step = next(i for i, status in enumerate(seen) if status.phase == "train")
    assert seen[first_step].left_out == card["left_out"]  # said while there is time to stop it
    assert sorted(card["episodes"] + card["held_out"]) == sorted(set(names) - {names[1], names[4]})
    assert not set(card["episodes"]) & set(card["held_out"])
    assert card["base_sha256"] == base_sha256(root.layout.base_model_dir)


def test_the_log_grows_while_it_trains_and_goes_on_with_a_job_that_was_put_down(tmp_path: Path) -> None:
    path = tmp_path / "logs" / training_log.LIVE_LOG_FILE

    def steps() -> list[int]:
        return [json.loads(line)["step"] for line in path.read_text().splitlines()]

    first = training_log.LiveLog(path)
    first.write(Progress("train", 10, 40, 0.5))
    first.write(Progress("train", 20, 40, 0.4))
    assert steps() == [10, 20]
    training_log.LiveLog(path).write(Progress("train", 30, 40, 0.3))  # gone on with
    assert steps() == [10, 20, 30]
    other = training_log.LiveLog(path)  # another job
    other.write(Progress("train", 10, 40, 0.5))
    other.write(Progress("train", 20, 40, 0.4))
    assert steps() == [10, 20]
    path.unlink()
    path.mkdir()
    other.write(Progress("train", 30, 40, 0.3))  # costs the line, not the job


def test_every_phase_was_told_and_every_loss_is_in_the_log(refused: Refused) -> None:
    root, outcome, seen = refused
    order = list(dict.fromkeys(s.phase for s in seen))
    assert [p for p in order if p in ("read", "cache", "train", "judge", "judged", "refused")] == [
        "read",
        "cache",
        "train",
        "judge",
        "judged",
        "refused",
    ]
    lines = (root.layout.log_dir / f"{outcome.version_id}.jsonl").read_text().splitlines()
    picture = ElementTree.parse(root.layout.log_dir / f"{outcome.version_id}.svg")
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) > 3
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert np.isfinite([json.loads(line)["loss"] for line in lines]).all()
    assert outcome.training["steps"] == 3
    on_disk = status_on_disk(root)
    assert on_disk["phase"] == "refused"
    assert on_disk["candidate"] == outcome.version_id


def test_the_same_episodes_are_not_learned_from_twice(refused: Refused) -> None:
    root, _, _ = refused
    outcome = loop(root).round()
    assert outcome.phase == "waiting"
    assert "nothing new" in outcome.detail
    assert not outcome.said_no


# ---------------------------------------------------------------------------------------- promotion


def test_a_held_candidate_drives_only_after_it_is_promoted(brain: Brain, proven: None) -> None:
    root = brain()
    outcome = loop(root).round(hold=True)
    store = AdapterStore(root.layout)
    assert outcome.phase == "judged"
    assert store.current() is None
    promotion = promote_candidate(root)
    current = store.current()
    assert current is not None
    assert current.version_id == promotion.version_id == outcome.version_id
    assert promotion.sha256 == current.compute_sha256()
    assert not promotion.noticed
    assert "no brain is running" in promotion.detail


def test_without_hold_a_proven_candidate_is_promoted_and_the_next_one_is_judged_against_it(
    brain: Brain, proven: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    first = loop(root).round()
    assert first.phase == "promoted"
    rivals = []
    gathered = judging.gather_evidence

    def remember(engine: Any, *, current: Any, **rest: Any) -> Evidence:
        rivals.append(current.sha256)
        return gathered(engine, current=current, **rest)

    monkeypatch.setattr(judging, "gather_evidence", remember)
    sha256 = AdapterStore(root.layout).get(first.version_id).compute_sha256()
    held = loop(root).round(again=True)
    assert held.phase == "judged"
    assert "is on probation" in held.detail
    assert rivals == [sha256]
    assert loop(root).round().version_id == held.version_id  # held, not learned anew
    confirm_by_hand(root)
    outcome = loop(root).round()
    assert (outcome.phase, outcome.version_id) == ("promoted", held.version_id)


def test_a_candidate_that_was_judged_against_what_no_longer_drives_is_judged_again(
    brain: Brain, proven: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    first = loop(root).round()
    assert first.phase == "promoted"
    other = BrainRoot(root.layout, root.config.with_overrides({"training.seed": 1}))
    held = loop(other).round(again=True)
    store = AdapterStore(root.layout)
    sha256 = store.get(first.version_id).compute_sha256()
    assert held.verdict is not None
    assert (held.held, held.verdict["hashes"]["current"]) == (True, sha256)
    store.revert(sha256=sha256)  # what it was found better than is taken back
    with pytest.raises(StaleVerdict, match=f"judged against {sha256[:8]}, the base alone drives now"):
        promote_candidate(root)
    assert store.current() is None

    def trained(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is judged, not trained")

    monkeypatch.setattr(learning, "train_adapter", trained)
    outcome = loop(other).round()
    assert (outcome.phase, outcome.version_id) == ("promoted", held.version_id)
    assert outcome.verdict is not None
    assert outcome.verdict["hashes"]["current"] == ""
    assert (store.get(held.version_id).path / "verdict.stale.json").is_file()


def test_bytes_that_changed_after_the_verdict_are_not_promoted(brain: Brain, proven: None) -> None:
    root = brain()
    outcome = loop(root).round(hold=True)
    weights = AdapterStore(root.layout).get(outcome.version_id).path / "calibration.json"
    weights.write_bytes(weights.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(PromotionRefused, match="changed after staging"):
        promote_candidate(root)
    assert AdapterStore(root.layout).current() is None


def test_a_proven_candidate_whose_promotion_never_came_is_promoted_by_the_next_round(
    brain: Brain, proven: None
) -> None:
    root = brain()
    held = loop(root).round(hold=True)
    outcome = loop(root).round()
    assert (outcome.phase, outcome.version_id) == ("promoted", held.version_id)
    current = AdapterStore(root.layout).current()
    assert current is not None
    assert current.version_id == held.version_id


def test_a_candidate_whose_judging_was_cut_short_is_judged_and_not_trained_again(
    brain: Brain, proven: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    gathered, trained = judging.gather_evidence, learning.train_adapter

    def interrupted(*_: Any, **__: Any) -> Any:
        raise SystemExit(130)

    monkeypatch.setattr(judging, "gather_evidence", interrupted)
    with pytest.raises(SystemExit):
        loop(root).round()
    monkeypatch.setattr(judging, "gather_evidence", gathered)
    candidate = AdapterStore(root.layout).candidate()
    assert candidate is not None
    monkeypatch.setattr(learning, "train_adapter", lambda *_a, **_k: pytest.fail("it trained"))
    outcome = loop(root).round(hold=True)
    assert (outcome.phase, outcome.version_id) == ("judged", candidate.version_id)
    assert outcome.training["steps"] == 3
    # Judged, it stands; other settings, or bytes that changed, are a job of their own.
    monkeypatch.setattr(learning, "train_adapter", trained)
    assert loop(root).round(hold=True, again=True).version_id != candidate.version_id


@pytest.mark.parametrize("change", ["settings", "bytes"])
def test_a_candidate_of_another_plan_is_not_gone_on_with(
    brain: Brain, proven: None, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    root = brain()
    gathered = judging.gather_evidence

    def interrupted(*_: Any, **__: Any) -> Any:
        raise SystemExit(130)

    monkeypatch.setattr(judging, "gather_evidence", interrupted)
    with pytest.raises(SystemExit):
        loop(root).round()
    monkeypatch.setattr(judging, "gather_evidence", gathered)
    candidate = AdapterStore(root.layout).candidate()
    assert candidate is not None
    if change == "bytes":
        weights = candidate.path / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    else:
        root = replace(root, config=root.config.with_overrides({"learning_rate": 0.002}))
    assert loop(root).round(hold=True).version_id != candidate.version_id


def test_episodes_of_a_candidate_that_was_never_judged_are_still_new(brain: Brain, proven: None) -> None:
    root = brain()
    held = loop(root).round(hold=True)
    assert loop(root).new_episodes()[1] is False
    (
        AdapterStore(root.layout).get(held.version_id).path / "verdict.json"
    ).unlink()  # as SIGKILL while judging
    assert loop(root).new_episodes()[1] is True


def test_a_damaged_card_does_not_stop_the_learning(brain: Brain, proven: None) -> None:
    root = brain()
    held = loop(root).round(hold=True)
    card = AdapterStore(root.layout).get(held.version_id).path / "card.json"
    card.write_bytes(card.read_bytes()[:100])
    assert loop(root).new_episodes()[1] is True


def test_the_newest_episodes_are_the_last_that_came_and_not_the_last_by_name(brain: Brain) -> None:
    root = brain(episodes=6, max_episodes=4)
    paths = list_episodes(root.layout.episodes_dir)
    for age, path in enumerate(paths):  # the first by name is the newest
        os.utime(path / "metadata.json", (1_000_000 - age, 1_000_000 - age))
    episodes, _ = loop(root).new_episodes()
    assert episodes == [paths[3], paths[2], paths[1], paths[0]]


def test_judging_holds_still_while_a_gate_is_closed(brain: Brain, proven: None) -> None:
    root = brain()
    mid = loop(root)
    asked_while: list[str] = []
    allowed = mid.wait_until_allowed

    def remember(save: Callable[[], None] = lambda: None) -> float:
        asked_while.append(mid.status.phase)
        return allowed(save)

    mid.wait_until_allowed = remember  # type: ignore[method-assign]
    mid.round(hold=True)
    assert {"cache", "train", "judge"} <= set(asked_while)


def test_promoting_without_a_candidate_says_what_to_do(brain: Brain) -> None:
    with pytest.raises(BrainError, match="no candidate") as caught:
        promote_candidate(brain())
    assert "train" in caught.value.remedy


# ----------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrainError("no"), MemoryError()])
def test_whatever_interrupts_a_round_frees_the_lock_and_says_failed(
    brain: Brain, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    root = brain()

    def interrupted(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(learning, "train_adapter", interrupted)
    with pytest.raises(type(error)):
        loop(root).round()
    stopped = isinstance(error, KeyboardInterrupt)
    assert status_on_disk(root)["phase"] == ("stopped" if stopped else "failed")
    assert ("signal" if stopped else type(error).__name__) in status_on_disk(root)["detail"]
    assert nothing_staged(root)
    with ProcessLock(root.layout.trainer_lock_path, purpose="look"):
        pass


def test_an_unknown_shift_is_an_error_before_anything_is_trained(
    brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain(**{"robot.shift": "snow"})
    monkeypatch.setattr(learning, "train_adapter", lambda *a, **k: pytest.fail("it trained"))
    with pytest.raises(BrainError, match="unknown shift 'snow'"):
        loop(root).round()


def test_only_damaged_episodes_are_an_error_that_counts_them(brain: Brain) -> None:
    root = brain(episodes=4)
    for path in list_episodes(root.layout.episodes_dir):
        damage_steps(path)
    with pytest.raises(BrainError, match=r"none of 4 episodes .* 4 were left out"):
        loop(root).round()
    assert nothing_staged(root)


def test_an_instruction_too_long_for_the_base_costs_one_episode_and_not_the_round(
    brain: Brain, proven: None
) -> None:
    root = brain(episodes=6)
    told = "follow the outdoor circuit counter clockwise at full speed and then come home"
    recorder = EpisodeRecorder(root.layout.episodes_dir, metadata=make_metadata_example(), queue_size=50)
    for tick in range(40):
        frame = np.zeros((24, 32, 3), np.uint8)
        recorder.append(
            Step(command=(0.1, 0.4), source="human_teleop_xr", instruction=told, frame=frame, tick=tick)
        )
    spoken = recorder.close()
    (list_episodes(root.layout.episodes_dir)[4] / "metadata.json").write_bytes(b'{"xr_mode')
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "judged"
    assert len(outcome.left_out) == 2
    assert spoken.name in outcome.left_out[0]
    assert "tokens long" in outcome.left_out[0]
    assert "metadata.json" in outcome.left_out[1]


def test_a_job_without_time_for_a_step_stages_nothing(brain: Brain) -> None:
    root = brain(max_wall_time_s=1e-6)
    with pytest.raises(BrainError, match="before its first step") as caught:
        loop(root).round()
    assert "max_wall_time_s" in caught.value.remedy
    assert nothing_staged(root)


def test_gates_are_looked_at_while_episodes_are_read_and_samples_built(
    brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    trainer = loop(root, SimulatedHost())
    looked: list[str] = []
    built = lessons_module.build_samples

    def look(*_: Any) -> float:
        looked.append(trainer.status.phase)
        return 0.0

    def build(*args: Any, **options: Any) -> Any:
        looked.append("build")
        out = built(*args, **options)
        looked.append("built")
        return out

    monkeypatch.setattr(trainer, "wait_until_allowed", look)
    monkeypatch.setattr(lessons_module, "build_samples", build)
    monkeypatch.setattr(learning, "TorchEngine", lambda *_: (_ for _ in ()).throw(BrainError("far enough")))
    with pytest.raises(BrainError, match="far enough"):
        trainer.round()
    assert looked.index("build") >= 6 * 100  # at every step that is read
    frames = looked[looked.index("build") + 1 : looked.index("built")]
    assert len(frames) >= 30  # and at every frame


def test_judging_looks_at_the_gates_in_every_batch_of_recorded_steps(
    brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = loop(brain(), SimulatedHost())
    looked: list[str] = []

    def look(*_: Any) -> float:
        if "slow decisions" in trainer.status.detail:
            raise BrainError("far enough")
        looked.append(trainer.status.detail)
        return 0.0

    monkeypatch.setattr(trainer, "wait_until_allowed", look)
    with pytest.raises(BrainError, match="far enough"):
        trainer.round(hold=True)
    steps = [s for s in looked if s.endswith(": recorded steps")]
    assert len(steps) >= 100 // 16  # of the base: at least a hundred held-out steps, sixteen at a time


def test_a_damaged_adapter_in_use_is_told_before_anything_is_trained(brain: Brain) -> None:
    root = brain()
    store = AdapterStore(root.layout)
    names = ("adapter_model.safetensors", "adapter_config.json", "calibration.json")
    version = store.stage(dict.fromkeys(names, b"{}"))
    base = base_sha256(root.layout.base_model_dir)
    verdict = judged(version, base)
    store.promote(version.version_id, verdict, base_sha256=base)
    (version.path / "adapter_model.safetensors").write_bytes(b"cut")
    trainer = loop(root)
    with pytest.raises(BrainError, match="is damaged") as caught:
        trainer.round()
    assert "rollback" in caught.value.remedy
    assert trainer.status.losses == []


def test_phases_and_gates_are_events(refused: Refused, brain: Brain) -> None:
    events = EventLog(refused[0].layout.events_dir).after(0)
    phases = [e.data["phase"] for e in events if e.kind == "training"]
    assert phases[0] == "read"
    assert phases[-1] == "refused"
    assert {"cache", "train", "judge"} <= set(phases)
    assert next(e.data for e in events if e.kind == "gate") == {"open": True, "closed": {}}
    now = [100.0]
    host, root = SimulatedHost(clock=lambda: now[0]), brain()
    trainer = MidLoop(root, host=host, clock=lambda: now[0])
    for teleop in (0.0, 0.0, 1.0, 1.0, 0.0):
        host.set(teleop_active=teleop)
        now[0] += 2.0  # more than the dwell time
        trainer.poll_gates()
    gates = [e.data for e in EventLog(root.layout.events_dir).after(0)]
    assert [g["open"] for g in gates] == [True, False, True]  # changes only
    assert list(gates[1]["closed"]) == ["teleop"]


def test_training_waits_while_a_gate_is_closed_and_tells_how_long(brain: Brain) -> None:
    host = SimulatedHost()
    trainer = loop(brain(), host)
    host.set(teleop_active=1.0)
    threading.Timer(0.3, lambda: host.set(teleop_active=0.0)).start()
    started = time.monotonic()
    saved: list[bool] = []
    waited = trainer.wait_until_allowed(lambda: saved.append(trainer.poll_gates().open))
    assert 0.2 < waited <= time.monotonic() - started
    assert saved == [False]  # once, before the pause: the power may go in it
    assert trainer.wait_until_allowed(lambda: saved.append(True)) == 0.0
    assert saved == [False]
    time.sleep(1.0)  # of the two seconds in which a closing gate must hold the training
    host.set(teleop_active=1.0)
    threading.Timer(0.3, lambda: host.set(teleop_active=0.0)).start()
    assert trainer.wait_until_allowed(lambda: saved.append(True)) > 0.2
    assert saved == [False, True]


def test_watching_outlives_errors_and_backs_off(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = loop(brain())
    rounds: list[float] = []
    stop = False

    def failing(**_: Any) -> Any:
        nonlocal stop
        rounds.append(time.monotonic())
        stop = len(rounds) == 3
        raise BrainError("not today")

    monkeypatch.setattr(trainer, "round", failing)
    watch(trainer, every_s=0.1, should_stop=lambda: stop)
    assert len(rounds) == 3
    assert rounds[2] - rounds[1] > rounds[1] - rounds[0]


def test_a_waiting_sidecar_holds_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, continuonbrain.loops.mid; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert mid.__doc__ is not None


# ------------------------------------------------------------------------------ the reflex head


@pytest.fixture
def headed(tmp_path: Path, untrained_base: Path, taught: Path) -> Brain:
    """As `brain`, with a base that has a reflex head."""
    base = tmp_path / "base"
    shutil.copytree(untrained_base, base)
    shutil.copy(tiny_base_folder() / REFLEX_FILE, base)
    return lambda **changes: make_brain(tmp_path / "brain", base, taught, **changes)


def head_of(root: BrainRoot, version_id: str) -> Reflex | None:
    return Reflex.of_folder(root.layout.versions_dir / version_id)


@pytest.mark.usefixtures("proven")
def test_the_adapter_travels_with_a_head_that_the_same_lessons_taught(headed: Brain) -> None:
    root = headed(**{"training.reflex_steps": 4})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "judged"
    head = head_of(root, outcome.version_id)
    assert head is not None
    assert head.sha256 != Reflex.from_file(tiny_base_folder() / REFLEX_FILE).sha256
    version = AdapterStore(root.layout).candidate()
    assert version is not None
    card = version.card()
    assert card is not None
    assert len(card["reflex_losses"]) == card["training"]["reflex_steps"] == 4
    assert card["training"]["wall_s"] >= card["training"]["reflex_s"] > 0
    assert {c["name"] for c in outcome.verdict["checks"]} >= {"reflex", "slow_completion", "slow_following"}
    # A head that was changed after the verdict is another adapter.
    path = version.path / REFLEX_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert version.compute_sha256() != outcome.verdict["candidate_sha256"]


@pytest.mark.usefixtures("proven")
def test_no_steps_for_the_head_mean_no_head_and_no_reproach(headed: Brain) -> None:
    root = headed(**{"training.reflex_steps": 0})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "judged"
    assert head_of(root, outcome.version_id) is None


@pytest.mark.usefixtures("proven")
def test_a_head_that_came_to_nothing_is_missed_by_the_verdict(
    headed: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        learning, "teach_reflex", lambda *_a, **_k: TaughtReflex(b"", [], 0.1, "loss not finite")
    )
    root = headed(**{"training.reflex_steps": 4})
    outcome = loop(root).round(hold=True)
    assert outcome.phase == "refused"
    assert outcome.verdict["reason"].startswith("reflex:")


@pytest.mark.parametrize(("engine", "name"), [("torch", "TorchEngine"), ("auto", "LiteRTEngine")])
def test_the_engine_that_will_serve_judges_the_bytes(
    tmp_path: Path, taught: Path, proven: None, monkeypatch: pytest.MonkeyPatch, engine: str, name: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    root = make_brain(
        tmp_path / "b", tiny_base_folder(), taught, **{"policy.engine": engine, "training.reflex_steps": 0}
    )
    gathered = judging.gather_evidence
    judges: list[Any] = []

    def seen(judge: Any, **rest: Any) -> Evidence:
        judges.append(judge)
        candidate = rest["candidate"]
        judge.use_adapter(candidate.folder, sha256=candidate.sha256)  # it reads what was staged
        return gathered(judge, **rest)

    monkeypatch.setattr(judging, "gather_evidence", seen)
    outcome = loop(root).round(hold=True)
    assert [type(judge).__name__ for judge in judges] == [name]
    assert judges[0].adapter_sha256 == outcome.verdict["candidate_sha256"]


# ------------------------------------------------------------------------------ what came from elsewhere


def trusted(root: BrainRoot) -> str:
    """A key that this brain trusts."""
    key = PrivateKeys(root.layout).new("shop")
    TrustedKeys(root.layout).trust(key)
    return key.key_id


def test_a_candidate_of_a_revoked_key_is_neither_judged_nor_promoted(brain: Brain, proven: None) -> None:
    root = brain(**{"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0})
    key_id = trusted(root)
    store = AdapterStore(root.layout)
    own = loop(root).round(hold=True)
    assert own.phase == "judged"
    foreign = store.get(own.version_id)
    card = (foreign.card() or {}) | {"origin": {}, "imported": {"key_id": key_id}}
    store.attach(foreign, "card.json", json.dumps(card).encode())
    TrustedKeys(root.layout).revoke(key_id)
    with pytest.raises(PromotionRefused, match="not trusted"):
        promote_candidate(root)
    learned = loop(root).round()
    assert learned.version_id != foreign.version_id, "it learns for itself"
    current = store.current()
    assert current is not None
    assert current.version_id == learned.version_id


def test_a_candidate_from_elsewhere_is_judged_here_once_and_promoted_on_that(
    brain: Brain, proven: None
) -> None:
    root = brain(**{"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0})
    own = loop(root).round()
    assert own.phase == "promoted"
    store = AdapterStore(root.layout)
    folder = store.get(own.version_id).path
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".safetensors", ".pt")}
    config = json.loads((folder / "adapter_config.json").read_bytes()) | {"lora_dropout": 0.25}
    files |= {
        "adapter_config.json": json.dumps(config).encode(),
        "calibration.json": (folder / "calibration.json").read_bytes(),
        "card.json": b'{"origin": {}, "imported": {"key_id": "%s"}}' % trusted(root).encode(),
    }
    foreign = store.stage(files)
    assert foreign.verdict() is None
    judged = loop(root).round()
    assert (judged.phase, judged.version_id) == ("promoted", foreign.version_id)
    assert foreign.verdict() is not None
    current = store.current()
    assert current is not None
    assert current.version_id == foreign.version_id
    after = loop(root).round()
    assert (after.phase, after.nothing_new) == ("waiting", True), (
        "its episodes were learned from before it came"
    )


def test_a_candidate_from_elsewhere_that_fails_does_not_drive(brain: Brain) -> None:
    root = brain(**{"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0})
    store = AdapterStore(root.layout)
    foreign = store.stage(
        {
            "adapter_model.safetensors": b"no weights",
            "adapter_config.json": b"{}",
            "card.json": b'{"origin": {}, "imported": {"key_id": "%s"}}' % trusted(root).encode(),
        }
    )
    outcome = loop(root).round()
    assert (outcome.phase, outcome.version_id) == ("refused", foreign.version_id)
    assert outcome.detail.startswith("loads")
    assert store.current() is None


def test_a_day_whose_budget_is_spent_closes_a_gate_and_work_is_charged(
    untrained_base: Path, taught: Path, tmp_path: Path
) -> None:
    brain = make_brain(tmp_path / "b", untrained_base, taught, **QUICK, **{"training.daily_energy_wh": 5.0})
    path = brain.layout.spent_path
    now = [100.0]
    loop = MidLoop(brain, host=SimulatedHost(clock=lambda: now[0]), clock=lambda: now[0])
    assert loop.poll_gates().state("budget") is not None
    now[0] += 3600.0
    loop.poll_gates()
    assert not path.exists()  # it only waited
    loop._working = True
    now[0] += 60.0
    loop.poll_gates()
    assert json.loads(path.read_text())["seconds"] == 60.0
    now[0] += 3600.0
    report = loop.poll_gates()
    budget = report.state("budget")
    assert budget is not None
    assert not budget.open
    assert not report.open
    now[0] += 3600.0
    loop.poll_gates()
    spent = json.loads(path.read_text())["seconds"]
    assert spent == 3660.0  # a pause costs nothing
    # Another process goes on from there; a file that cannot be read closes the gate and says so.
    assert MidLoop(brain, host=SimulatedHost()).round().phase == "gates"
    path.write_text("{")
    outcome = MidLoop(brain, host=SimulatedHost()).round()
    assert outcome.phase == "gates"
    assert "remove it" in outcome.detail
