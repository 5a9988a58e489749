"""One whole round of the sidecar: what it tells, what it leaves behind, and what a failure leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.small_verdict import judged  # noqa: E402
from continuonbrain.brain_root import BrainRoot  # noqa: E402
from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.loops import at_work, learning, training_log  # noqa: E402
from continuonbrain.loops.mid import MidLoop, Status  # noqa: E402
from continuonbrain.loops.promotion import promote_candidate  # noqa: E402
from continuonbrain.model.base_identity import base_sha256  # noqa: E402
from continuonbrain.rlds.examples import make_metadata_example  # noqa: E402
from continuonbrain.rlds.reader import list_episodes  # noqa: E402
from continuonbrain.rlds.recorder import EpisodeRecorder  # noqa: E402
from continuonbrain.rlds.step import Step  # noqa: E402
from continuonbrain.robot.host import SimulatedHost  # noqa: E402
from continuonbrain.storage.adapters import AdapterStore, PromotionRefused  # noqa: E402
from continuonbrain.storage.event_log import EventLog  # noqa: E402
from continuonbrain.storage.lock import ProcessLock  # noqa: E402
from continuonbrain.trainer.course import Course  # noqa: E402
from continuonbrain.trainer.steps import Progress  # noqa: E402
from tests.loops.sidecar import (  # noqa: E402
    Brain,
    Evidences,
    damage_frames,
    damage_steps,
    loop,
    make_brain,
    nothing_staged,
    status_on_disk,
)

pytestmark = pytest.mark.usefixtures("torch_threads")


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
        patch.setattr(at_work, "_MAX_SAMPLES", 48)
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
    brain: Brain, evidence: Evidences
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
