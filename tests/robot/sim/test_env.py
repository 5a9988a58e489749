"""Claims about the gymnasium environment: it keeps gymnasium's contract, it is deterministic, it is fast."""

from __future__ import annotations

import time
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from continuonbrain.robot.sim import ENV_ID
from continuonbrain.robot.sim.env import DonkeyTrackEnv
from continuonbrain.robot.sim.instructions import HELD_OUT
from continuonbrain.robot.sim.shifts import SHIFTS, UnknownShiftError


def drive(seed: int, steps: int = 12, **options: Any) -> list[tuple[bytes, bytes, float]]:
    """What the environment answers to fixed actions."""
    env = DonkeyTrackEnv()
    observation, _ = env.reset(seed=seed, options=options or None)
    seen = [(observation["image"].tobytes(), observation["state"].tobytes(), 0.0)]
    for tick in range(steps):
        action = np.array([0.3 * np.sin(tick), 0.5], np.float32)
        observation, reward, *_ = env.step(action)
        seen.append((observation["image"].tobytes(), observation["state"].tobytes(), float(reward)))
    return seen


def test_gymnasiums_checker_has_no_complaint() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ENV_ID, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize(
    "code",
    [
        "import continuonbrain.robot.sim, gymnasium; env = gymnasium.make('continuonbrain/DonkeyTrack-v0')",
        "import gymnasium; env = gymnasium.make('continuonbrain.robot.sim:continuonbrain/DonkeyTrack-v0')",
    ],
)
def test_gymnasium_makes_the_environment_by_its_name(code: str) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(type(env.unwrapped).__name__)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "DonkeyTrackEnv", done.stderr


def test_same_seed_gives_the_same_frames_and_states_bit_for_bit() -> None:
    assert drive(3) == drive(3)


def test_another_seed_gives_other_frames() -> None:
    assert drive(3)[0] != drive(4)[0]


def test_a_second_reset_without_seed_goes_on_to_another_start() -> None:
    env = DonkeyTrackEnv()
    first, _ = env.reset(seed=3)
    second, _ = env.reset()
    assert not np.array_equal(first["image"], second["image"])


def test_options_choose_track_and_instruction() -> None:
    env = DonkeyTrackEnv()
    _, info = env.reset(seed=0, options={"track": 7, "instruction": HELD_OUT["stop"][0]})
    assert (info["track"], info["instruction"]) == (7, HELD_OUT["stop"][0])
    assert env.fleet is not None
    assert env.fleet.instruction == ["stop"]
    assert env.fleet.tracks.seeds == (7,)


def test_unknown_options_instructions_and_shifts_are_refused_with_the_known_ones() -> None:
    env = DonkeyTrackEnv()
    with pytest.raises(ValueError, match=r"unknown reset options \['trak'\]; known: instruction, track"):
        env.reset(options={"trak": 1})
    with pytest.raises(ValueError, match=r"unknown instruction 'fly'; known: drive, "):
        env.reset(options={"instruction": "fly"})
    with pytest.raises(UnknownShiftError, match="unknown shift 'tap'") as caught:
        DonkeyTrackEnv(shift="tap")
    assert all(name in caught.value.remedy for name in SHIFTS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1])
def test_an_action_that_is_not_finite_raises_and_moves_nothing(bad: float, index: int) -> None:
    env = DonkeyTrackEnv()
    env.reset(seed=1)
    assert env.fleet is not None
    before = (env.fleet.x.copy(), env.fleet.speed.copy())
    action = np.array([0.1, 0.1], np.float32)
    action[index] = bad
    with pytest.raises(ValueError, match="not finite"):
        env.step(action)
    np.testing.assert_array_equal(before, (env.fleet.x, env.fleet.speed))


def test_stepping_before_reset_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"reset\(\) first"):
        DonkeyTrackEnv().step(np.zeros(2, np.float32))


def test_leaving_the_road_terminates_and_time_truncates() -> None:
    env = DonkeyTrackEnv(max_steps=200)
    env.reset(seed=1)
    for _ in range(199):
        *_, terminated, _truncated, info = env.step(np.array([1.0, 0.6], np.float32))
        if terminated:
            break
    assert terminated
    assert info["off_road"]

    env = DonkeyTrackEnv(max_steps=3)
    env.reset(seed=1)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_the_expert_earns_more_than_a_driver_who_disobeys() -> None:
    def reward(asked: str, done: str) -> float:
        env = DonkeyTrackEnv()
        env.reset(seed=2, options={"track": 1, "instruction": asked})
        assert env.fleet is not None
        total = 0.0
        for _ in range(120):
            env.fleet.instruct([done])
            action = env.expert_action()
            env.fleet.instruct([asked])
            total += float(env.step(action)[1])
        return total

    for asked, other in (("drive", "drive fast"), ("keep left", "keep right"), ("stop", "drive")):
        assert reward(asked, asked) > 1.2 * reward(asked, other), asked


def test_every_observation_lies_in_the_declared_space_on_every_shift() -> None:
    for name in SHIFTS:
        env = DonkeyTrackEnv(shift=name)
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation), name
        observation, *_ = env.step(env.expert_action())
        assert env.observation_space.contains(observation), name


@pytest.mark.slow
def test_a_thousand_steps_a_second_with_rendering(capsys: pytest.CaptureFixture[str]) -> None:
    """The goal on an idle machine is 1,000 steps/s; a shared one must not fail the suite for being busy."""
    env = DonkeyTrackEnv(max_steps=100_000)
    env.reset(seed=0, options={"track": 0, "instruction": "drive"})
    action, best = np.array([0.0, 0.0], np.float32), 0.0
    for _ in range(4):
        started = time.perf_counter()
        for _ in range(250):
            env.step(action)
        best = max(best, 250 / (time.perf_counter() - started))
    with capsys.disabled():
        print(f"\nDonkeyTrack-v0: {best:.0f} steps/s with a 160x120 frame each")
    assert best >= 300
