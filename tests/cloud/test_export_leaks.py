"""Nothing of this machine, its owner or its secrets is in a bundle. That nothing is sent: `tests/offline`."""

from __future__ import annotations

import io
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud.errors import ExportRefused
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.step import Step
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.trusted_keys import PrivateKeys

from .conftest import ADAPTER_WEIGHTS, KEY, MakeRoot, Record, export, files_in, public_key


def commented(step: Step, comment: bytes) -> bytes:
    """The frame of a step as a JPEG of a camera that writes more than pixels."""
    assert step.frame is not None
    out = io.BytesIO()
    Image.fromarray(step.frame).save(out, "JPEG", comment=comment)
    assert comment in out.getvalue()
    return out.getvalue()


def test_nothing_of_this_machine_is_in_a_bundle(make_root: MakeRoot, record: Record, tmp_path: Path) -> None:
    brain = make_root("annas-own-brain")
    canaries = ("Anna-Lena", "Berlin-52.5200", "annas-own-brain", "voice-of-anna", "20260101T080000Z")
    path = record(
        brain,
        "20260101T080000Z-aaaa",
        robot_id="Anna-Lena",
        environment_id="Berlin-52.5200",
        tags=("Anna-Lena", "drive"),
        start_time_unix_ms=1_767_254_399_999,
        share={"cloud": True, "author": "Anna-Lena"},
        provenance={"path": str(brain.layout.root), "gps": "Berlin-52.5200"},
        change=lambda tick, step: replace(
            step,
            extra={"note": "voice-of-anna"},
            source="Anna-Lena" if tick else step.source,
            frame=None,
            frame_jpeg=commented(step, b"Berlin-52.5200"),
        ),
    )
    # What others write into an observation.
    steps = path / "steps" / "000000.jsonl"
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    for line in lines:
        line["observation"] |= {
            "gps": [52.52, "Berlin-52.5200"],
            "audio": "voice-of-anna",
            "headset_pose": [1, 2],
        }
        del line["step_metadata"]["crc32c"]
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metadata = path / "metadata.json"
    value = json.loads(metadata.read_text())
    value["provenance"]["recording"] |= {"step_crc": "", "metadata_crc32c": ""}
    metadata.write_text(json.dumps(value))
    for as_zip in (True, False):
        done = export(brain, tmp_path / f"out-{as_zip}", as_zip=as_zip)
        assert done.episodes == 1
        files = {"zip": done.path.read_bytes()} if as_zip else files_in(done.path)
        layout = brain.layout
        private = json.loads((layout.private_keys_dir / f"{KEY}.json").read_text())["private"]
        forbidden = [
            str(layout.root), str(tmp_path), os.path.expanduser("~") + "/", *canaries, "the name of an episode",
            private, bytes.fromhex(private), layout.pseudonyms_path.read_bytes(),
            layout.pseudonyms_path.read_bytes().hex(), "1767254399999",
        ]  # fmt: skip
        forbidden += [name for name in (socket.gethostname(), os.environ.get("USER", "")) if len(name) > 4]
        for name, data in files.items():
            for word in forbidden:
                assert (word if isinstance(word, bytes) else word.encode()) not in data, (name, word)
    memory = open_memory(tmp_path / "out-False" / "rlds" / "episodes_32x24")
    read = memory.episode(0)
    told = json.loads(str(read.metadata["episode_metadata/metadata_json"]))
    assert told["robot_id"].startswith("robot-")
    assert told["environment_id"].startswith("place-")
    assert told["start_time_unix_ms"] == 1_767_254_399_999 // 86_400_000 * 86_400_000
    assert told["tags"] == ["drive"]
    assert told["share"] == {"cloud": True}
    assert [read.step(i).values["source"] for i in range(2)] == ["autopilot", "other"]


def test_the_secret_is_private_and_two_robots_have_two_names(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    robots = set()
    for name in ("one", "two"):
        brain = make_root(name)
        record(brain, "e", robot_id="the same")
        robots.add(export(brain, tmp_path / f"{name}.zip").robot)
        assert brain.layout.pseudonyms_path.stat().st_mode & 0o777 == 0o600
        assert PrivateKeys(brain.layout).names() == (KEY,)
    assert len(robots) == 2


def test_the_slow_adapter_below_travels_too(brain: BrainRoot, tmp_path: Path) -> None:
    layout = brain.layout
    store = AdapterStore(layout)
    config = b'{"r": 8}'
    slow = store.stage(
        {
            "adapter_model.safetensors": ADAPTER_WEIGHTS,
            "adapter_config.json": config,
            "card.json": b'{"kind": "slow"}',
        }
    )
    card = json.dumps({"kind": "fast", "slow": slow.version_id}).encode()
    fast = store.stage(
        {"adapter_model.safetensors": ADAPTER_WEIGHTS, "adapter_config.json": b'{"r": 4}', "card.json": card}
    )
    layout.current.unlink()
    layout.current.symlink_to(Path("versions") / fast.version_id)
    done = export(brain, tmp_path / "out", as_zip=False)
    told = check_bundle(done.path, public_key(brain)).contents.adapters
    assert {slot: (a["version"], a["kind"]) for slot, a in told.items()} == {
        "current": (fast.version_id, "fast"),
        "slow": (slow.version_id, "slow"),
    }
    assert (done.path / "adapters" / "slow" / "adapter_config.json").read_bytes() == config
    assert not list(done.path.rglob("card.json"))


def test_an_adapter_that_names_a_folder_of_this_machine_stays(brain: BrainRoot, tmp_path: Path) -> None:
    layout = brain.layout
    version = AdapterStore(layout).stage(
        {
            "adapter_model.safetensors": ADAPTER_WEIGHTS,
            "adapter_config.json": json.dumps({"at": str(layout.root)}).encode(),
        }
    )
    layout.current.unlink()
    layout.current.symlink_to(Path("versions") / version.version_id)
    with pytest.raises(ExportRefused, match="names a folder of this machine"):
        export(brain, tmp_path / "out.zip")
