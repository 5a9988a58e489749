"""Opening a brain root: its settings and its paths together, as every process needs them first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from continuonbrain.config import BrainConfig, load_config
from continuonbrain.errors import told_from
from continuonbrain.storage.layout import BrainLayout, LayoutError


@dataclass(frozen=True)
class BrainRoot:
    """An opened brain root."""

    layout: BrainLayout
    config: BrainConfig


def open_brain(root: Path) -> BrainRoot:
    """Read `config.json` and lay out the paths that it names.

    Raises:
        LayoutError: there is no brain root here.
        ConfigError: its config.json is not valid.
        BelongsToAnotherError: it is closed to this user.
    """
    config_path = BrainLayout(root).config_path
    try:
        there = config_path.is_file()
    except PermissionError as error:
        raise told_from(error) or error from error
    if not there:
        raise LayoutError(
            f"{root} is not a brain root: it has no config.json",
            remedy=f"create one with: continuonbrain init --root {root}",
        )
    config = load_config(config_path)
    return BrainRoot(layout=layout_for(root, config), config=config)


def layout_for(root: Path, config: BrainConfig) -> BrainLayout:
    """The paths of a brain root under these settings. Pure: nothing is read or created."""
    return BrainLayout(
        root,
        rlds_dir=Path(config.rlds_dir),
        # The ecosystem's key names the candidate slot; the store is the folder that holds it.
        adapters_dir=Path(config.adapters_out_dir).parent,
        log_dir=Path(config.log_dir),
        base_model_dir=Path(config.base_model_path),
    )
