"""Claims about the reflex head: numpy says what torch says, a bad file is named, an intent is what the model means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the other half of the comparison")

import torch
from safetensors.torch import load, save

from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.model.reflex_net import load_weights, reflex_bytes
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.codec import CURVATURE_BINS
from continuonbrain.policy.engine import Decisions
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.reflex import INTENT, REFLEX_FILE, Reflex, ReflexError
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.reflex_job import new_net

PROBES = torch.full((2, 120, 160, 3), 90, dtype=torch.uint8)


def made(seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    return reflex_bytes(new_net(), PROBES)


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    tensors = load(made())
    change(tensors)
    return save(tensors)


@pytest.fixture
def seen() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 120, 160, 3), np.uint8), rng.normal(0, 1, (3, INTENT)).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
def test_numpy_answers_as_torch_does(seed: int, seen: tuple[Any, Any]) -> None:
    data = made(seed)
    net = new_net()
    load_weights(net, load(data))
    # Beyond a random net's small answers: every layer must matter.
    frames, intents = seen
    with torch.no_grad():
        wanted = net(*map(torch.from_numpy, seen)).numpy()
    found = Reflex(data).curvatures(frames, intents)
    assert found.dtype == np.float32
    assert found.shape == (3, 8)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.ptp(wanted, axis=0).max() > 1e-3


def test_the_shipped_head_answers_as_torch_does_on_a_road(seen: tuple[Any, Any]) -> None:
    from continuonbrain.trainer.build_reflex import probe_frames

    data = (tiny_base_folder() / REFLEX_FILE).read_bytes()
    head, net = Reflex(data), new_net()
    load_weights(net, load(data))
    frames = np.concatenate([probe_frames(), head.probes])
    intents = np.random.default_rng(1).normal(0, 0.5, (len(frames), INTENT)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(frames), torch.from_numpy(intents)).numpy()
    assert np.abs(head.curvatures(frames, intents) - wanted).max() < 1e-4
    assert np.array_equal(head.probes, probe_frames())


def test_one_at_a_time_is_the_same_as_together(seen: tuple[Any, Any]) -> None:
    head, (frames, intents) = Reflex(made()), seen
    together = head.curvatures(frames, intents)
    for i in range(len(frames)):
        alone = head.curvatures(frames[i : i + 1], intents[i : i + 1])
        assert np.allclose(alone, together[i : i + 1], atol=1e-6)


def test_answers_stay_within_the_bounds_of_the_codec(seen: tuple[Any, Any]) -> None:
    head = Reflex(changed(lambda t: t["answer.bias"].fill_(100.0)))
    assert (head.curvatures(*seen) == np.float32(CURVATURE_BINS.high)).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("second.bias"), "second.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({"first.bias": torch.zeros(3)}), "first.bias is float32 [3]; [160] is needed"),
        (lambda t: t["answer.weight"].fill_(float("nan")), "answer.weight (float16) holds other than finite"),
        (lambda t: t.update({"answer.bias": torch.zeros(8, dtype=torch.int32)}), "answer.bias (int32) holds"),
        (
            lambda t: t.update({"answer.bias": torch.full((8,), 1e300, dtype=torch.float64)}),
            "answer.bias (float64) holds",
        ),
        (lambda t: t.update(probes=torch.zeros(17, 120, 160, 3, dtype=torch.uint8)), "1 to 16"),
        (lambda t: t.pop("probes"), "probes"),
        (lambda t: t.update(probes=torch.zeros(0, 120, 160, 3, dtype=torch.uint8)), "probes"),
    ],
)
def test_a_file_of_another_make_is_named(change: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(ReflexError) as error:
        Reflex(changed(change), source="/somewhere/reflex.safetensors")
    assert said in error.value.message
    assert error.value.message.startswith("/somewhere/reflex.safetensors")
    assert error.value.remedy


@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04pickle", bytes(64), made()[:-1], made()[:500]])
def test_garbage_and_torn_files_are_refused(data: bytes) -> None:
    with pytest.raises(ReflexError, match="no reflex head"):
        Reflex(data)


def test_a_folder_without_a_head_has_none_and_a_folder_with_a_torn_one_says_so(tmp_path: Path) -> None:
    assert Reflex.of_folder(tmp_path) is None
    (tmp_path / REFLEX_FILE).write_bytes(made()[:900])
    with pytest.raises(ReflexError, match=str(tmp_path)):
        Reflex.of_folder(tmp_path)


class Model:
    """An engine whose answer depends on the words and the adapter."""

    base_sha256 = "b" * 64

    def __init__(self, reflex: Reflex | None) -> None:
        self.reflex, self.adapter_sha256 = reflex, ""
        self.asked: list[str] = []

    def decide(self, frames: Any, instructions: Sequence[str], speeds: Sequence[float | None]) -> Decisions:
        self.asked += instructions
        bend = len(instructions[0]) / 100 + (0.5 if self.adapter_sha256 else 0.0)
        probe = np.float32(len(self.asked) - 1)  # the speed of the first one asked is 0, of the second 1
        return Decisions(np.full((1, 8), bend, np.float32), np.full((1, 2), probe))

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        raise NotImplementedError


def test_an_intent_is_asked_for_once_and_anew_for_every_adapter() -> None:
    model = Model(Reflex(made()))
    intents = Intents(model)
    first = intents.of("keep left")
    assert first is not None
    assert first.tolist() == pytest.approx([0.09] * 8 + [0.5] * 2)
    intents.of("keep left")
    assert model.asked == ["keep left"] * 2  # one decision, two probes
    model.adapter_sha256 = "a" * 64
    again = intents.of("keep left")
    assert again is not None
    assert again[0] == pytest.approx(0.59)
    both = intents.of_all(["keep left", "go"])
    assert both is not None
    assert both.shape == (2, INTENT)
    model.reflex = Reflex(made(seed=1))
    assert intents.known("keep left") is None


def test_a_slow_model_is_asked_one_probe_at_a_time() -> None:
    model = Model(Reflex(made()))
    intents = Intents(model)
    assert intents.known("go") is None
    assert not intents.advance("go")
    assert (intents.known("go"), model.asked) == (None, ["go"])
    assert intents.advance("go")
    assert intents.known("go") is not None
    assert intents.advance("go")
    assert model.asked == ["go", "go"]


def test_without_a_head_nobody_is_asked() -> None:
    model = Model(None)
    assert Intents(model).of("go") is None
    assert Intents(model).of_all(["go"]) is None
    assert model.asked == []


def test_a_thousand_instructions_do_not_fill_the_memory() -> None:
    intents = Intents(Model(Reflex(made())))
    for i in range(600):
        intents.of(f"go {i}")
    assert len(intents._known) <= 256


def test_the_shipped_base_means_what_it_is_told() -> None:
    """Nothing but sides and speeds is in an intent, and they compose: that is what the head can rely on."""
    from continuonbrain.policy.torch_engine import TorchEngine

    intents = Intents(TorchEngine(tiny_base_folder()))

    def of(words: str) -> NDArray[np.float32]:
        found = intents.of(words)
        assert found is not None
        return found

    assert of("keep left")[0] > 0.5
    assert of("keep right")[0] < -0.5
    assert abs(of("drive")[0]) < 0.2
    assert np.abs(of("keep left")[:8] - of("drive slowly keep left")[:8]).max() < 0.1
    assert of("drive slowly keep left")[8:].max() < 0.7
    assert of("drive fast")[9] > 1.3
    # A phrasing that no base was built with.
    assert np.abs(of("stay on the left side") - of("keep left")).max() < 0.3


def chunk(observed_s: float, *, intent: bool = True) -> ActionChunk:
    return ActionChunk((0.0,) * 8, (1.0, 1.0), observed_s, "a" * 64, intent=(0.1,) * 10 if intent else ())


@pytest.fixture
def pilot() -> Pilot:
    pilot = Pilot(calibration=Calibration(), limits=Limits())
    for tick in range(10):
        pilot.observe(now_s=tick * 0.05, speed_mps=1.0, yaw_rate_rps=0.0)
    pilot.accept(chunk(0.3))
    return pilot


def test_a_fresh_path_is_the_models_and_an_old_one_the_heads(pilot: Pilot) -> None:
    assert not pilot.wants_reflex(now_s=0.5)
    assert not pilot.wants_reflex(now_s=0.54)
    assert pilot.wants_reflex(now_s=0.56)
    assert pilot.wants_reflex(now_s=0.6)
    pilot.observe(now_s=0.6, speed_mps=1.0, yaw_rate_rps=0.0)
    straight = pilot.tick(now_s=0.6)
    assert not straight.reflex
    pilot.carry([1.0] * 8, now_s=0.6)
    carried = pilot.tick(now_s=0.6)
    assert carried.reflex
    assert carried.proposed is not None
    assert straight.proposed is not None
    assert carried.proposed[0] > straight.proposed[0] + 0.2
    assert carried.chunk is not None
    assert carried.chunk.observed_s == 0.3  # how old the model's word is does not change
    assert not pilot.wants_reflex(now_s=0.68)
    assert pilot.wants_reflex(now_s=0.7)


def test_the_next_decision_takes_over(pilot: Pilot) -> None:
    pilot.observe(now_s=0.6, speed_mps=1.0, yaw_rate_rps=0.0)
    pilot.carry([1.0] * 8, now_s=0.6)
    assert pilot.accept(chunk(0.6))
    assert not pilot.tick(now_s=0.6).reflex


def test_the_head_does_not_keep_a_car_going_that_the_model_has_left(pilot: Pilot) -> None:
    now = 0.6
    for _ in range(60):
        pilot.observe(now_s=now, speed_mps=1.0, yaw_rate_rps=0.0)
        if pilot.wants_reflex(now_s=now):
            pilot.carry([0.0] * 8, now_s=now)
        tick = pilot.tick(now_s=now)
        now += 0.05
    assert tick.guarded.stopped
    assert tick.guarded.throttle <= 0.0


def test_without_an_intent_or_a_path_the_head_is_not_wanted(pilot: Pilot) -> None:
    pilot.accept(chunk(0.35, intent=False))
    assert not pilot.wants_reflex(now_s=2.0)
    pilot.tracker.path = None
    assert not pilot.wants_reflex(now_s=2.0)
    pilot.carry([0.0] * 8, now_s=2.0)
    assert pilot.tracker.path is None


def test_after_being_moved_by_hand_no_decision_of_before_counts(pilot: Pilot) -> None:
    pilot.forget()
    assert pilot.tracker.path is None
    pilot.observe(now_s=0.6, speed_mps=0.0, yaw_rate_rps=0.0)
    assert not pilot.accept(chunk(0.45))
    assert pilot.accept(chunk(0.6))
