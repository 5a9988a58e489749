"""Attacks on `cloud import` by whoever is trusted: settings, numbers and servos of which no adapter is. Each is
refused, and nothing is anywhere afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.loops.attacked import MODULE, Attacked, adapter_files


@pytest.mark.parametrize("fill", [np.float32(np.nan), np.float16(np.inf), np.bool_(True), np.int8(1)])
def test_numbers_of_which_no_adapter_is(tmp_path: Path, fill: np.generic) -> None:
    """Of whoever is trusted, and in the right shapes."""
    robot = Attacked(tmp_path, "adapter")
    name = f"base_model.model.{MODULE}"
    tensors = {
        f"{name}.lora_A.weight": np.full((4, 128), fill, fill.dtype),
        f"{name}.lora_B.weight": np.zeros((128, 4), np.float32),
    }
    odd = robot.files | {"adapter_model.safetensors": save(tensors)}
    robot.refused(robot.zip(robot.envelope(odd), odd), "other than finite")


def test_another_method_than_lora_and_a_reflex_that_is_none(tmp_path: Path) -> None:
    robot = Attacked(tmp_path, "adapter")
    settings = {"r": 4, "lora_alpha": 8, "peft_type": "IA3"}
    other = robot.files | {"adapter_config.json": json.dumps(settings).encode()}
    robot.refused(robot.zip(robot.envelope(other), other), "'IA3' is not LORA")
    junk = robot.files | {"reflex.safetensors": b"junk" * 10}
    robot.refused(robot.zip(robot.envelope(junk), junk), "no reflex head")


@pytest.mark.parametrize(
    "calibration",
    [
        b'{"steering_trim_rad": NaN}',
        b'{"steering_trim_rad": 1e999}',
        b'{"steering_gain": 0.0}',
        b'{"steering_gain": 40}',
        b'{"delay_s": -1}',
        b'{"top_speed": 1}',
        '{"steering_trim_rad": 0.0}'.encode("utf-16"),
    ],
)
def test_a_calibration_that_no_servo_has(tmp_path: Path, calibration: bytes) -> None:
    robot = Attacked(tmp_path, "adapter")
    odd = robot.files | {"calibration.json": calibration}
    robot.refused(robot.zip(robot.envelope(odd), odd), "calibration")


def test_settings_that_name_another_base_than_what_was_signed(tmp_path: Path) -> None:
    robot = Attacked(tmp_path, "adapter")
    settings = json.loads(robot.files["adapter_config.json"]) | {
        "base_model_name_or_path": f"continuonbrain:{'c' * 64}"
    }
    other = robot.files | {"adapter_config.json": json.dumps(settings).encode()}
    robot.refused(robot.zip(robot.envelope(other), other), "is not this base")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": None},
        {"target_modules": ["v_proj"]},
        {"target_modules": None},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 1e30}},
        {"target_modules": "(a+)+$" * 40},
        {"layers_to_transform": [0]},
        {"task_type": "SEQ_CLS"},
        {"init_lora_weights": "pissa"},
    ],
)
def test_settings_of_which_no_engine_makes_an_adapter(tmp_path: Path, changes: dict[str, Any]) -> None:
    robot = Attacked(tmp_path, "adapter")
    settings = json.loads(robot.files["adapter_config.json"]) | changes
    odd = robot.files | {"adapter_config.json": json.dumps(settings).encode()}
    robot.refused(robot.zip(robot.envelope(odd), odd), "adapter_config.json|is refused")


def test_a_rank_that_the_robots_graphs_do_not_take(tmp_path: Path) -> None:
    robot = Attacked(tmp_path, "adapter")
    wide = adapter_files(rank=17)
    robot.refused(robot.zip(robot.envelope(wide), wide), "this bundle takes 16")


@pytest.mark.parametrize(
    ("name", "twice"),
    [
        ("adapter_config.json", b'{"r": 400, '),
        ("calibration.json", b'{"steering_trim_rad": 0.2, '),
        ("card.json", b'{"calibration_of": "robot", '),
    ],
)
def test_a_key_that_is_there_twice(tmp_path: Path, name: str, twice: bytes) -> None:
    robot = Attacked(tmp_path, "adapter")
    files = {"card.json": b'{"calibration_of": null}', **robot.files}
    odd = files | {name: twice + files[name].removeprefix(b"{")}
    robot.refused(robot.zip(robot.envelope(odd), odd), f"{name} is no JSON .* is there twice")
