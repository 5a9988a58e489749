"""What the commands on trial work on: robots with episodes, keys, adapters and an imported base; a tub."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import torch
from PIL import Image

from benchmarks.small_verdict import judged
from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.model.lora import adapter_files, attach_lora
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.boot import boot_id
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.probation_rule import Terms
from continuonbrain.storage.trusted_keys import PrivateKeys
from tests.loops.test_base_change import Robot

TALKING = Path(__file__).parents[1] / "talking_base" / "base"


def small_adapter(folder: Path, *, by: float) -> dict[str, bytes]:
    """An adapter of the tiny base, written into a folder. by: how large its numbers are."""
    torch.manual_seed(3)
    model = load_base(tiny_base_folder())
    sha256 = base_sha256(tiny_base_folder())
    attach_lora(model, rank=8, alpha=16.0, base_sha256=sha256, targets=("q_proj", "o_proj", "gate_proj"))
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, by)
    files = {
        **adapter_files(model),
        "calibration.json": Calibration().to_json(),
        "card.json": json.dumps({"base_sha256": sha256, "episodes": ["e1"]}).encode(),
    }
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def make_tub(tub: Path, count: int = 40) -> Path:
    """A donkeycar tub of the second version, two seconds long."""
    (tub / "images").mkdir(parents=True)
    lines = []
    for index in range(count):
        name = f"{index}_cam_image_array_.jpg"
        lines.append(
            json.dumps(
                {
                    "_index": index,
                    "_session_id": "s0",
                    "_timestamp_ms": 1_700_000_000_000 + index * 50,
                    "cam/image_array": name,
                    "user/angle": 0.1,
                    "user/mode": "user",
                    "user/throttle": 0.5,
                }
            )
        )
        picture = io.BytesIO()
        Image.new("RGB", (160, 120), (index, 90, 30)).save(picture, "JPEG")
        (tub / "images" / name).write_bytes(picture.getvalue())
    (tub / "catalog_0.catalog").write_text("".join(f"{line}\n" for line in lines))
    paths = {"paths": ["catalog_0.catalog"], "current_index": count, "max_len": 1000, "deleted_indexes": []}
    (tub / "manifest.json").write_text("[]\n[]\n{}\n{}\n" + json.dumps(paths) + "\n")
    return tub


def a_robot(root: Path, taught: Path, adapters: list[dict[str, bytes]]) -> BrainLayout:
    """A simulated robot that was taught, and whose owner has opted in. The last of the adapters drives."""
    layout = init_brain_root(root, "sim-donkey")
    layout.base_model_dir.rmdir()
    layout.base_model_dir.symlink_to(tiny_base_folder())
    settings = json.loads(layout.config_path.read_text())
    settings["cloud"]["opt_in"] = True
    settings["max_steps"] = 6
    settings["training"]["reflex_steps"] = 2
    layout.config_path.write_text(json.dumps(settings))
    PrivateKeys(layout).new("robot")
    for number, folder in enumerate(sorted(taught.iterdir())):
        shutil.copytree(folder, layout.episodes_dir / f"{folder.name}-taught-{number}")
    store = AdapterStore(layout)
    for files in adapters:
        version = store.stage(files)
        sha256 = base_sha256(tiny_base_folder())
        terms = Terms(400, 0.0, boot_id()) if files is adapters[-1] else None  # on probation
        store.promote(version.version_id, judged(version, sha256), base_sha256=sha256, terms=terms)
    return layout


def everything(work: Path, taught: Path) -> dict[str, str]:
    """All of it below a folder; what stands for what in the commands' words."""
    first = small_adapter(work / "first", by=0.002)
    second = small_adapter(work / "second", by=0.003)
    robot = a_robot(work / "robot", taught, [first, second])
    docked = a_robot(work / "docked", taught, [])
    (work / "pair").mkdir()
    other = Robot(work / "pair")
    other.passes()
    return {
        "work": str(work),
        "robot": str(robot.root),
        "docked": str(docked.root),
        "other": str(other.root),
        "tub": str(make_tub(work / "tub")),
        "tiny": os.path.realpath(tiny_base_folder()),
        "talking": str(TALKING),
        "adapter": str(work / "first"),
    }
