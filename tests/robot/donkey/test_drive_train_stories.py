"""The drive train in every story of commands, waits, resets and bus errors: no pulse that should not be."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
from drive_rig import STEERING, THROTTLE, Rig
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.config import DonkeyConfig, validate_config
from continuonbrain.robot.donkey.pca9685 import prescale_for
from continuonbrain.robot.protocol import RobotFault

pulses = st.floats(500, 2500)


@st.composite
def configs(draw: st.DrawFn) -> DonkeyConfig:
    def triple() -> tuple[float, float, float]:
        low = draw(st.floats(500, 2400))
        high = draw(st.floats(low + 61, 2500)) if low < 2439 else 2500.0
        rest = draw(st.floats(low + 30.1, max(low + 30.1, high - 30.1)))
        return (low, rest, high) if draw(st.booleans()) else (high, rest, low)

    left, centre, right = triple()
    reverse, stopped, forward = triple()
    return validate_config(
        {
            "donkey": {
                "pwm": {
                    "frequency_hz": draw(st.floats(40, 200)),
                    "oscillator_hz": draw(st.floats(24e6, 27e6)),
                },
                "steering": {"left_us": left, "centre_us": centre, "right_us": right},
                "throttle": {
                    "reverse_us": reverse,
                    "stopped_us": stopped,
                    "forward_us": forward,
                    "reverse": draw(st.sampled_from(["none", "direct"])),
                },
            }
        },
        source="test",
    ).donkey


anything = st.one_of(st.floats(-1.2, 1.2), st.floats(-1, 1), st.floats(allow_nan=True, allow_infinity=True))
act = st.tuples(st.just("act"), anything, anything)
full = st.tuples(st.just("act"), st.floats(-1, 1), st.sampled_from([-1.0, 1.0]))
broken = st.tuples(st.just("act"), st.floats(-1, 1), st.sampled_from([math.nan, math.inf]))
moves = st.one_of(
    act,
    full,
    full,
    broken,
    st.just(("stop",)),
    st.tuples(st.just("wait"), st.floats(0, 4)),
    st.just(("reset",)),
    st.tuples(st.just("trouble"), st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.9])),
    st.just(("well",)),
)
armed = st.just([("stop",), ("wait", 3.5)])
stories = st.builds(
    lambda first, rest: first + rest, st.one_of(armed, st.just([])), st.lists(moves, min_size=6, max_size=25)
)


@settings(max_examples=300, deadline=None)
@given(config=configs(), story=stories)
def test_whatever_happens_pulses_stay_in_range_faults_stop_and_arming_comes_first(
    config: DonkeyConfig, story: list[tuple[object, ...]]
) -> None:
    rig = Rig(config)
    rig.chip.oscillator_hz = config.pwm.oscillator_hz
    count_us = (
        1e6
        * (prescale_for(config.pwm.frequency_hz, config.pwm.oscillator_hz) + 1)
        / (config.pwm.oscillator_hz)
    )
    turn, drive = config.steering, config.throttle
    stopped_since: float | None = None
    reset_s: float | None = None

    def rests(pulse: float | None) -> bool:
        return pulse is None or abs(pulse - drive.stopped_us) <= count_us / 2 + 1e-6

    for step in story:
        before = len(rig.chip.seen[THROTTLE])
        well, bus_well = True, rig.bus_well
        if step[0] == "act":
            try:
                rig.train.act(step[1], step[2])  # type: ignore[arg-type]
                # Not refused: then it is what the ESC sees.
                wanted = min(1.0, max(-1.0, step[2]))  # type: ignore[type-var]
                if drive.reverse == "none":
                    wanted = max(0.0, wanted)  # type: ignore[type-var]
                end = drive.forward_us if wanted > 0 else drive.reverse_us  # type: ignore[operator]
                pulse_us = drive.stopped_us + abs(wanted) * (end - drive.stopped_us)  # type: ignore[arg-type]
                if rig.throttle_us is None:
                    assert reset_s is not None, "no pulses, and nobody says so"
                    assert rig.now - reset_s < 0.1, "a reset that was not found"
                else:
                    assert rig.throttle_us == pytest.approx(pulse_us, abs=count_us + 1e-6)
            except RobotFault:
                well = False
        elif step[0] == "stop":
            try:
                rig.train.stop()
            except RobotFault:
                well = False
        elif step[0] == "wait":
            rig.wait(step[1])  # type: ignore[arg-type]
        elif step[0] == "reset":
            rig.chip.power_on()
            reset_s = rig.now if reset_s is None else reset_s
        elif step[0] == "trouble":
            chance = random.Random(step[1])  # type: ignore[arg-type]

            def trouble(number: int, chance: random.Random = chance, share: object = step[2]) -> None:
                if chance.random() < share:  # type: ignore[operator]
                    raise OSError(121, "Remote I/O error")

            rig.raw.trouble, rig.bus_well = trouble, False
        else:
            rig.raw.trouble, rig.bus_well = lambda number: None, True
        if not well or rig.throttle_us is not None:
            reset_s = None  # found, and told
        for pulse in rig.chip.seen[THROTTLE][before:]:
            if pulse is None:
                stopped_since = None
            elif rests(pulse):
                stopped_since = rig.now if stopped_since is None else stopped_since
            else:
                assert stopped_since is not None, "an ESC that never saw stopped_us"
                assert rig.now - stopped_since >= drive.arming_s - 1e-6, "driven before it was armed"
        if not well:
            assert rests(rig.throttle_us) or not bus_well, "a fault that did not stop"
            # A bus that fails for longer than the tries may keep the last pulse: the next chance must end it.
            rig.raw.trouble, rig.bus_well = lambda number: None, True
            if not rests(rig.throttle_us):
                with contextlib.suppress(RobotFault):
                    rig.train.stop()
            assert rests(rig.throttle_us)
            if rig.throttle_us is None:
                stopped_since = None
    # stopped_us is the end of the range of a car that never goes back, and is sent as the nearest count.
    back_us, nearest_us = (
        (drive.stopped_us, count_us / 2) if drive.reverse == "none" else (drive.reverse_us, 0.0)
    )
    for channel, low, high in (
        (STEERING, min(turn.left_us, turn.right_us), max(turn.left_us, turn.right_us)),
        (THROTTLE, min(back_us, drive.forward_us) - nearest_us, max(back_us, drive.forward_us) + nearest_us),
    ):
        for pulse in rig.chip.seen[channel]:
            assert pulse is None or low - 1e-6 <= pulse <= high + 1e-6
