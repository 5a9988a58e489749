"""A brain root: where it is by default, and how one is made. `brain_paths.py` says where everything in it lies."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path

from continuonbrain.configs import preset_bytes
from continuonbrain.errors import belongs_to_another
from continuonbrain.storage.brain_paths import BrainLayout, LayoutError
from continuonbrain.storage.durable import (
    STAGING_PREFIX,
    copy_tree_durably,
    sync_directory,
    write_bytes_durably,
)
from continuonbrain.storage.manifest import manifest_from_settings, write_manifest

DEFAULT_ROOT = Path("/opt/continuonos/brain")

ROOT_ENVIRONMENT_VARIABLE = "CONTINUONBRAIN_ROOT"

__all__ = [
    "DEFAULT_ROOT",
    "ROOT_ENVIRONMENT_VARIABLE",
    "BrainLayout",
    "LayoutError",
    "init_brain_root",
    "shipped_safety_head",
]


def init_brain_root(root: Path, preset: str, *, base_model: Path | None = None) -> BrainLayout:
    """Create the layout under `root`; what exists already is kept as it is.

    Args:
        root: the brain root.
        preset: name of a shipped preset, copied to config.json when there is none yet.
        base_model: folder copied to `model/base_model/` when that is still empty; None leaves it empty.
            The shipped safety head is copied to `model/safety/current/` unless a whole one with its card is there.

    Raises:
        UnknownPresetError: no preset has this name; nothing is created.
        LayoutError: the root cannot be created or written to, or is a folder of something else.
    """
    settings = preset_bytes(preset)
    layout = BrainLayout(root)
    try:
        if _is_of_something_else(layout):
            raise LayoutError(
                f"{layout.root} is not empty and not a brain root (it has no config.json)",
                remedy="choose an empty or a new folder with --root",
            )
        for directory in layout.directories:
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(directory))
        if base_model is not None and not any(layout.base_model_dir.iterdir()):
            copy_tree_durably(base_model, layout.base_model_dir)
        _restore_safety_head(layout.safety_dir)
        if not layout.config_path.exists():
            write_bytes_durably(layout.config_path, settings)
        if not layout.manifest_path.exists():
            write_manifest(layout, manifest_from_settings(layout, json.loads(settings)))
        for directory in layout.directories:
            sync_directory(directory)
    except OSError as error:
        if layout.root.exists() and (another := belongs_to_another(layout.root)) is not None:
            raise another from error
        raise LayoutError(
            f"cannot create the brain root {layout.root}: {error.strerror} ({error.filename})",
            remedy=f"choose another place with --root, or: sudo install -d -o $USER {layout.root}",
        ) from error
    return layout


def shipped_safety_head() -> Path:
    """The folder of the safety head that ships with the package."""
    return Path(str(resources.files("continuonbrain"))) / "model" / "safety_head"


def _restore_safety_head(folder: Path) -> None:
    """Put the shipped head there, unless there is one that its card tells of."""
    try:
        told = json.loads((folder / "card.json").read_bytes())["sha256"]
        if told == hashlib.sha256((folder / "safety_head.safetensors").read_bytes()).hexdigest():
            return
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    for file in sorted(shipped_safety_head().iterdir()):
        write_bytes_durably(folder / file.name, file.read_bytes())


def _is_of_something_else(layout: BrainLayout) -> bool:
    """A folder with files and no trace of a brain in it. Half a brain root is gone on with."""
    if layout.config_path.exists() or not layout.root.is_dir():
        return False
    if (
        layout.manifest_path.is_file()
    ):  # a root of ours that has lost its config.json, whatever else lies there
        return False
    # Half a root of ours is gone on with; so is what the tools of a file system leave in an empty one.
    inside = [p.relative_to(layout.root).parts for p in layout.directories if p.is_relative_to(layout.root)]
    ours = {"lost+found"} | {parts[0] for parts in inside if parts}
    # An init that was killed may have left one of its own files half written.
    return any(
        entry.name not in ours and not entry.name.startswith(STAGING_PREFIX)
        for entry in layout.root.iterdir()
    )
