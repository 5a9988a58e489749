"""Claims about what an adapter's files may say: a text of others keeps the adapter here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.adapter_texts import strange_calibration, strange_header, strange_setting
from continuonbrain.cloud.errors import ExportRefused
from continuonbrain.cloud.papers import refuse_places, slots_of
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.adapters import AdapterStore

from .conftest import MakeRoot

SECRET = "Anna Mueller, 48.137 11.576"
GOOD: dict[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": {
        "base_model_class": "Gemma3nForCausalLM",
        "parent_library": "transformers.models.gemma3n.modeling_gemma3n",
    },
    "base_model_name_or_path": "continuonbrain:" + "0a" * 32,
    "bias": "none",
    "lora_alpha": 32.0,
    "megatron_core": "megatron.core",
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {"model.layers.4.mlp.up_proj": 4},
    "revision": None,
    "target_modules": [
        "model.layers.4.self_attn.q_proj",
        "model.language_model.layers.12.laurel.linear_left",
    ],
    "use_dora": False,
    "something_of_a_later_version": None,
}
LORA = "base_model.model.model.layers.4.mlp.up_proj.lora_A.weight"


def drive(brain: BrainRoot, files: dict[str, bytes]) -> None:
    weights = {
        "adapter_model.safetensors": save({LORA: np.zeros((2, 2), np.float32)}, metadata={"format": "pt"})
    }
    version = AdapterStore(brain.layout).stage(
        {"adapter_config.json": json.dumps(GOOD).encode(), **weights, **files}
    )
    brain.layout.current.unlink()
    brain.layout.current.symlink_to(Path("versions") / version.version_id)


def test_settings_as_peft_writes_them_leave() -> None:
    assert strange_setting(json.dumps(GOOD).encode()) == ""
    assert strange_calibration(Calibration().to_json()) == ""


@pytest.mark.parametrize("field", [*GOOD, "note", "gps"])
def test_no_field_of_the_settings_takes_a_text_out(field: str) -> None:
    assert strange_setting(json.dumps({**GOOD, field: SECRET}).encode()) == field
    assert strange_setting(json.dumps({**GOOD, field: [SECRET]}).encode()) == field
    assert strange_setting(json.dumps({**GOOD, field: {"who": SECRET}}).encode()) == f"{field}.who"


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({**GOOD, "gps": [48.137, 11.576]}),
        json.dumps({**GOOD, SECRET: None}),
        json.dumps({**GOOD, "rank_pattern": {SECRET: 4}}),
        f'{{"r": "{SECRET}", "r": 8}}',
        f'{{"r": 8}} {SECRET}',
        "[]",
    ],
)
def test_settings_that_are_no_lora_s_are_strange(data: str) -> None:
    assert strange_setting(data.encode()) != ""


def test_a_calibration_is_four_numbers() -> None:
    for strange in ({"note": SECRET}, {"delay_s": SECRET}, {"x": 1}):
        assert strange_calibration(json.dumps(strange).encode()) in strange


def test_a_header_of_weights_names_tensors_and_nothing_else() -> None:
    array = np.zeros((2, 2), np.float32)
    assert strange_header(save({LORA: array}, metadata={"format": "pt"})) == ""
    assert strange_header(save({"answer.weight": array, "trunk.1.bias": array, "probes": array})) == ""
    assert strange_header(save({LORA: array}, metadata={"trained_in": SECRET})) == "__metadata__"
    assert strange_header(save({LORA: array}, metadata={"format": SECRET})) == "__metadata__"
    assert strange_header(save({SECRET: array})) == SECRET
    for data in (b"", SECRET.encode(), b"\x00" * 8 + SECRET.encode()):
        assert strange_header(data) == "the whole header"


@pytest.mark.parametrize(
    "files",
    [
        {"adapter_config.json": json.dumps({**GOOD, "auto_mapping": {"who": SECRET}}).encode()},
        {"calibration.json": json.dumps({"x": 1, "note": SECRET}).encode()},
        {"adapter_model.safetensors": save({LORA: np.zeros(2, np.float32)}, metadata={"by": SECRET})},
        {"reflex.safetensors": save({"probes": np.zeros(2, np.float32)}, metadata={"by": SECRET})},
    ],
    ids=lambda files: next(iter(files)),
)
def test_an_adapter_with_a_text_of_others_stays(brain: BrainRoot, files: dict[str, bytes]) -> None:
    drive(brain, {})
    assert len(slots_of(brain)) == 1
    drive(brain, files)
    with pytest.raises(ExportRefused, match="nothing that this project writes there"):
        slots_of(brain)


@pytest.mark.parametrize("spelling", ["ascii", "text", "capitals"])
def test_a_folder_is_found_however_json_spells_it(make_root: MakeRoot, spelling: str) -> None:
    brain = make_root("jürgen")
    text = json.dumps({**GOOD, "revision": str(brain.layout.root)}, ensure_ascii=spelling != "text")
    text = text.replace("\\u00fc", "\\u00FC") if spelling == "capitals" else text
    drive(brain, {"adapter_config.json": text.encode()})
    with pytest.raises(ExportRefused, match="names a folder of this machine"):
        slots_of(brain)


def test_folders_are_looked_for_in_the_names_of_weights(make_root: MakeRoot) -> None:
    brain = make_root("jürgen")
    drive(brain, {"adapter_model.safetensors": save({str(brain.layout.root): np.zeros(2, np.float32)})})
    with pytest.raises(ExportRefused, match="names a folder of this machine"):
        slots_of(brain)


def test_the_home_folder_is_a_place_of_this_machine(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/jürgen")
    assert os.path.expanduser("~") == "/home/jürgen"
    for data in ("/home/jürgen/x", json.dumps({"at": "/home/jürgen/x"})):
        with pytest.raises(ExportRefused, match="names a folder of this machine"):
            refuse_places(data.encode(), brain, "a paper")
    refuse_places(b"/somewhere/else", brain, "a paper")
