from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.rlds.checked import finite_pair, parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.step import FrameRef, Step
from continuonbrain.rlds.stepline import decode_step_line, encode_step_line

REF = FrameRef("blobs/000000.tfrecord", 3, 120, 40)


def test_step_round_trips_through_its_line() -> None:
    step = replace(make_step_example(3), frame=None, frame_ref=REF)
    back = decode_step_line(encode_step_line(step)[:-1], index=3, count=9, sealed=True)
    assert back == step
    assert back.frame_ref == REF


def test_step_metadata_maps_text_to_text_with_the_ecosystems_keys() -> None:
    notes = make_step_example(3).to_json()["step_metadata"]
    assert all(isinstance(value, str) for value in notes.values())
    assert notes["safety_clamped"] == "true"
    assert notes["safety_violations"] == "slew"
    assert notes["fast_loop_tick"] == "3"
    assert notes["surprise"] == "0.5"
    assert notes["mid_loop_train_id"] == ""
    assert notes["latency_ms"] == "7.25"


def test_every_flipped_bit_of_a_line_is_detected() -> None:
    line = encode_step_line(replace(make_step_example(1), frame=None, frame_ref=REF))[:-1]
    for bit in range(len(line) * 8):
        bad = bytearray(line)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EpisodeError):
            decode_step_line(bytes(bad), index=1, count=None, sealed=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", lambda bad: (bad, 0.0)),
        ("proposed", lambda bad: (0.0, bad)),
        ("speed_mps", lambda bad: bad),
        ("yaw_rate_rps", lambda bad: bad),
        ("latency_ms", lambda bad: bad),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_name(field: str, value: Any, bad: float) -> None:
    with pytest.raises(EpisodeError, match=field):
        replace(make_step_example(), **{field: value(bad)})


def test_nan_in_a_file_is_refused() -> None:
    for token in ("NaN", "Infinity", "1e999"):
        with pytest.raises(EpisodeError):
            Step.from_json(parse_json(json.dumps(_plain_step()).replace("0.25", token)))


def test_a_proposal_of_nan_is_recorded_as_no_proposal() -> None:
    assert finite_pair(math.nan, 0.5) is None
    assert finite_pair(0.25, np.float32(0.5)) == (0.25, 0.5)


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_a_frame_that_is_not_rgb_bytes_is_refused(frame: Any) -> None:
    with pytest.raises(EpisodeError, match="uint8"):
        replace(make_step_example(), frame=frame)


def test_a_misspelt_metadata_key_names_the_nearest_known_one() -> None:
    value = make_metadata_example().to_json()
    value["robot_modle"] = "x"
    with pytest.raises(EpisodeError, match="did you mean 'robot_model'"):
        EpisodeMetadata.from_json(value)


@pytest.mark.parametrize("key", ["xr_mode", "control_role", "environment_id", "tags", "software"])
def test_each_required_metadata_key_is_missed_by_name(key: str) -> None:
    value = make_metadata_example().to_json()
    del value[key]
    with pytest.raises(EpisodeError, match=key):
        EpisodeMetadata.from_json(value)


def test_metadata_round_trip() -> None:
    metadata = replace(
        make_metadata_example("e-1"), start_time_unix_ms=5, share={"public": False}, provenance={"a": [1]}
    )
    assert EpisodeMetadata.from_json(json.loads(json.dumps(metadata.to_json()))) == metadata
    empty = replace(metadata, share={})  # a no, which must not become "nothing was said" when a tag changes
    assert EpisodeMetadata.from_json(json.loads(json.dumps(empty.to_json()))) == empty


def test_a_frame_reference_cannot_leave_the_episode() -> None:
    for file in ("../../etc/passwd", "/etc/passwd", "blobs/../x", "blobs/.hidden"):
        with pytest.raises(EpisodeError, match="blobs/NAME"):
            FrameRef.from_json({"file": file, "index": 0, "offset": 0, "length": 1})


def _plain_step() -> dict[str, Any]:
    """A step as another robot of the ecosystem writes it, XR fields included."""
    return {
        "observation": {
            "headset_pose": {"x": 1},
            "video_frame_id": "7",
            "robot_state": {"joint_positions": []},
        },
        "action": {"command": [0.25, 0.5], "source": "human_teleop_xr", "annotation": {"k": 1}},
        "is_terminal": False,
        "step_metadata": {"surprise": "0.1"},
    }


def test_a_step_of_another_robot_of_the_ecosystem_is_read() -> None:
    step = Step.from_json(_plain_step(), index=4, count=5)
    assert step.command == (0.25, 0.5)
    assert step.speed_mps is None
    assert step.tick == 4
    assert step.is_last
    assert not step.is_first


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_any_json_in_any_place_of_a_step_gives_a_step_or_a_typed_error(data: st.DataObject) -> None:
    value = make_step_example(1).to_json()
    target: Any = value
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [item for item in target.values() if isinstance(item, dict)]
        if inner:
            target = data.draw(st.sampled_from(inner))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    with contextlib.suppress(EpisodeError):
        Step.from_json(value)


@given(st.binary(max_size=80))
def test_an_arbitrary_line_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(EpisodeError):
        decode_step_line(data, index=0, count=None, sealed=False)


def test_deeply_nested_json_gives_a_typed_error() -> None:
    with pytest.raises(EpisodeError):
        parse_json(b"[" * 200_000)
