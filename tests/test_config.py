"""Settings: what is accepted, and that every refusal names file, key, value and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.config import BrainConfig, ConfigError, load_config, load_preset, parse_config
from continuonbrain.configs import PRESET_NAMES, UnknownPresetError, preset_bytes

ECOSYSTEM_KEYS = {
    "rlds_dir",
    "min_episodes",
    "max_episodes",
    "max_steps",
    "max_wall_time_s",
    "batch_size",
    "lora_layers",
    "learning_rate",
    "weight_decay",
    "adapters_out_dir",
    "adapter_filename",
    "log_dir",
    "base_model_path",
    "shuffle_buffer_multiplier",
    "log_every_steps",
}


def refusal(data: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps(data).encode(), source="config.json")
    return caught.value


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_each_preset_is_valid_and_spells_out_every_key(name: str) -> None:
    spelled_out = json.loads(preset_bytes(name))
    assert load_preset(name).model_dump(mode="json") == spelled_out
    assert spelled_out.keys() >= ECOSYSTEM_KEYS


def test_the_ecosystems_own_config_is_accepted_as_it_is() -> None:
    config = parse_config(
        json.dumps(
            {
                "rlds_dir": "/opt/continuonos/brain/rlds/episodes",
                "min_episodes": 16,
                "max_episodes": 256,
                "max_steps": 300,
                "max_wall_time_s": 300,
                "batch_size": 8,
                "shuffle_buffer_multiplier": 2,
                "learning_rate": 5e-5,
                "weight_decay": 0.0,
                "adapters_out_dir": "/opt/continuonos/brain/model/adapters/candidate",
                "adapter_filename": "lora_adapters.pt",
                "log_dir": "/opt/continuonos/brain/trainer/logs",
                "base_model_path": "/opt/continuonos/brain/model/base_model",
                "lora_layers": ["q_proj", "k_proj", "v_proj", "o_proj"],
                "log_every_steps": 10,
            }
        ).encode(),
        source="pi5-donkey.json",
    )
    assert config.lora_layers == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UnknownPresetError, match="sim-donkey, pi5-donkey"):
        load_preset("sim-donky")


@pytest.mark.parametrize(
    ("data", "key", "suggestion"),
    [
        ({"learning_rat": 1e-3}, "learning_rat", "learning_rate"),
        ({"gates": {"min_batery": 0.4}}, "gates.min_batery", "gates.min_battery"),
        ({"min_battery": 0.4}, "min_battery", "gates.min_battery"),
        ({"heads": {"world": {"enable": True}}}, "heads.world.enable", "heads.world.enabled"),
    ],
)
def test_a_misspelt_key_names_the_nearest_known_one(data: object, key: str, suggestion: str) -> None:
    error = refusal(data)
    assert error.key == key
    assert error.remedy == f"did you mean {suggestion}?"


def test_a_key_like_no_other_lists_what_is_known_there() -> None:
    error = refusal({"cloud": {"zzzzzz": 1}})
    assert error.remedy == "known here: frames, key, opt_in, outbox_bundles, outbox_mib, share_unmarked"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"batch_size": "8"}, "batch_size"),
        ({"batch_size": 8.5}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"gates": {"min_battery": 40}}, "gates.min_battery"),
        ({"gates": None}, "gates"),
        ({"guards": {"throttle_bounds": [1.0, -1.0]}}, "guards.throttle_bounds"),
        ({"guards": {"throttle_bounds": [0.2, 1.0]}}, "guards.throttle_bounds"),
        ({"guards": {"throttle_bounds": [0.0]}}, "guards.throttle_bounds"),
        ({"robot": {"kind": "drone"}}, "robot.kind"),
        ({"power": "solar"}, "power"),
        ({"lora_layers": []}, "lora_layers"),
        ({"lora_layers": ["q_porj"]}, "lora_layers"),
        ({"lora_layers": ["q_proj", "q_proj"]}, "lora_layers"),
        ({"adapter_filename": "../../etc/passwd"}, "adapter_filename"),
        ({"adapters_out_dir": "model/adapters/current"}, "adapters_out_dir"),
        ({"cloud": {"opt_in": "yes"}}, "cloud.opt_in"),
    ],
)
def test_a_wrong_value_names_its_key(data: object, key: str) -> None:
    error = refusal(data)
    assert error.key.startswith(key)
    assert error.source == "config.json"
    assert "config.json" in str(error)


def test_the_value_found_stands_in_the_message() -> None:
    assert "batch_size = 'eight'" in refusal({"batch_size": "eight"}).message


def test_values_that_contradict_each_other_are_refused() -> None:
    assert "max_episodes (3)" in refusal({"max_episodes": 3}).message
    too_late = {"robot": {"decision_time_s": 3.0}, "guards": {"chunk_timeout_s": 2.5}}
    assert "chunk_timeout_s" in refusal(too_late).message


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_by_name(literal: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f'{{"gates": {{"max_temp_c": {literal}}}}}'.encode(), source="c")
    assert caught.value.key == "gates.max_temp_c"
    assert "finite" in caught.value.message


def test_invalid_json_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{\n  "batch_size" 8\n}\n')
    with pytest.raises(ConfigError, match="line 2, column 16") as caught:
        load_config(path)
    assert str(path) in caught.value.message


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size.*twice"):
        parse_config(b'{"batch_size": 8, "batch_size": 9}', source="c")


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_of_thousands_of_digits_is_refused_like_any_other(tmp_path: Path, digits: int) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"batch_size": ' + b"9" * digits + b"}")
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        load_config(path)
    assert caught.value.remedy


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'"text"', b"12"])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(raw, source="c")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_any_value_for_any_key_is_accepted_or_refused_but_never_crashes(value: object) -> None:
    for key in BrainConfig.model_fields:
        refused: ConfigError | None = None
        try:
            parse_config(json.dumps({key: value}).encode(), source="c")
        except ConfigError as error:
            refused = error
        assert refused is None or refused.key.startswith(key)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "config.json")
    assert "continuonbrain init" in caught.value.remedy


def test_overrides_are_checked_like_a_file() -> None:
    config = load_preset("sim-donkey")
    changed = config.with_overrides({"robot.decision_time_s": 0.75, "max_steps": 50})
    assert (changed.robot.decision_time_s, changed.max_steps) == (0.75, 50)
    assert config.robot.decision_time_s == 0.0
    for wrong in ({"robot.decision_tme_s": 0.75}, {"nothing.at_all": 1}, {"max_steps.deeper": 1}):
        with pytest.raises(ConfigError):
            config.with_overrides(wrong)


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_preset("sim-donkey").max_steps = 1  # type: ignore[misc]
