"""A small brain root whose owner has opted in, with a key, an adapter and a few episodes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cloud.export import Exported, export_bundle
from continuonbrain.cloud.plan import Plan, what_leaves
from continuonbrain.cloud.survey import survey
from continuonbrain.model.base_identity import checkpoint_sha256, tiny_base_folder
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import EpisodeWriter
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.public_key import PublicKey, parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys

KEY = "robot"
YES = {"cloud": True}
ADAPTER_WEIGHTS = save(
    {"base_model.model.model.layers.4.mlp.up_proj.lora_A.weight": np.zeros((8, 20), np.float32)},
    metadata={"format": "pt"},
)

Record = Callable[..., Path]
MakeRoot = Callable[..., BrainRoot]


def set_config(root: Path, **cloud: Any) -> BrainRoot:
    """Change the group "cloud" of a root's settings."""
    path = root / "config.json"
    value = json.loads(path.read_text())
    value["cloud"].update(cloud)
    path.write_text(json.dumps(value))
    return open_brain(root)


def new_root(path: Path, **cloud: Any) -> BrainRoot:
    """A root that has opted in, with a key and an adapter that drives."""
    layout = init_brain_root(path, "sim-donkey")
    layout.base_model_dir.rmdir()
    layout.base_model_dir.symlink_to(tiny_base_folder())
    PrivateKeys(layout).new(KEY)
    store = AdapterStore(layout)
    base = checkpoint_sha256(tiny_base_folder())
    version = store.stage(
        {
            "adapter_model.safetensors": ADAPTER_WEIGHTS,
            "adapter_config.json": json.dumps({"r": 8, "base": f"continuonbrain:{base}"}).encode(),
            "card.json": json.dumps({"kind": "fast", "episodes": ["the name of an episode"]}).encode(),
        }
    )
    layout.current.symlink_to(Path("versions") / version.version_id)
    return set_config(layout.root, **{"opt_in": True, **cloud})


def record_episode(
    brain: BrainRoot,
    name: str,
    steps: int = 5,
    *,
    share: dict[str, Any] | None = YES,
    size: tuple[int, int] = (24, 32),
    change: Callable[[int, Step], Step] = lambda _tick, step: step,
    **fields: Any,
) -> Path:
    """A closed episode's folder."""
    metadata: EpisodeMetadata = replace(make_metadata_example(name), share=share, **fields)
    writer = EpisodeWriter(brain.layout.episodes_dir, metadata=metadata)
    for tick in range(steps):
        writer.write(change(tick, make_step_example(tick, size=size)))
    return writer.close(terminal=True)


@pytest.fixture
def make_root(tmp_path: Path) -> MakeRoot:
    """make_root(name="brain", **cloud): `new_root` below the test's folder."""

    def make(name: str = "brain", **cloud: Any) -> BrainRoot:
        return new_root(tmp_path / name, **cloud)

    return make


@pytest.fixture
def record() -> Record:
    """`record_episode`."""
    return record_episode


@pytest.fixture
def brain(make_root: MakeRoot, record: Record) -> BrainRoot:
    """Three episodes that may leave, one whose share says no, one whose share says nothing."""
    made = make_root()
    for name, steps in (
        ("20260101T080000Z-aaaa", 5),
        ("20260102T080000Z-bbbb", 7),
        ("20260103T080000Z-cccc", 3),
    ):
        record(made, name, steps)
    record(made, "20260104T080000Z-dddd", share={"cloud": False})
    record(made, "20260105T080000Z-eeee", share=None)
    return made


def plan_of(brain: BrainRoot, **how: Any) -> Plan:
    """What leaves, as the command decides it."""
    found = survey(brain.layout.episodes_dir)
    return what_leaves(found, share_unmarked=brain.config.cloud.share_unmarked, **how)


def export(brain: BrainRoot, out: Path, *, as_zip: bool = True, **how: Any) -> Exported:
    """Export everything that may leave."""
    return export_bundle(brain, plan_of(brain, **how), out, as_zip=as_zip, key_name=KEY)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def public_key(brain: BrainRoot) -> PublicKey:
    """The public half of the key that signs its bundles."""
    path = PrivateKeys(brain.layout).public_path(KEY)
    return parse_public_key(path.read_bytes(), what=str(path))


def unpacked(bundle: Path, into: Path) -> Path:
    """A zip's members in a folder, after their checksums were looked at."""
    with zipfile.ZipFile(bundle) as opened:
        assert opened.testzip() is None
        opened.extractall(into)
    return into


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder: has anything changed?"""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(root.rglob("*"))}


class Enough(Exception):
    """The run has come to where workers would start."""


def enough(*_: object) -> None:
    """Instead of workers."""
    raise Enough


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training ends where workers would start, with `Enough`."""
    monkeypatch.setattr("continuonbrain.cloud_train.launch.run_workers", enough)
