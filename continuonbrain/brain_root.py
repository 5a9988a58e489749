"""Opening a brain root: its settings and its paths together, as every process needs them first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from continuonbrain.config import BrainConfig, load_config
from continuonbrain.errors import told_from
from continuonbrain.storage.base_slots import BaseSlotError, BaseSlots
from continuonbrain.storage.layout import BrainLayout, LayoutError


@dataclass(frozen=True)
class BrainRoot:
    """An opened brain root."""

    layout: BrainLayout
    config: BrainConfig

    @property
    def configured(self) -> BrainLayout:
        """The same root with the base that config.json names and its adapters, whichever base drives."""
        return layout_for(self.layout.root, self.config)

    def on(self, slot: str) -> BrainRoot:
        """The same root with the base and the adapters of a slot, "" for those of config.json."""
        layout = self.configured
        return BrainRoot(layout.on_slot(slot) if slot else layout, self.config)


def open_brain(root: Path, *, slot: str | None = None) -> BrainRoot:
    """Read `config.json` and lay out the paths that it names, with the base that drives and its adapters.

    Args:
        root: the brain root.
        slot: whose base and adapters, "" for those of config.json; None for the slot that drives.

    Raises:
        LayoutError: there is no brain root here.
        BaseSlotError: the base that drives is an imported one that is not there, or nobody can say which it is.
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
    layout = layout_for(root, config)
    if slot is None:
        slot = BaseSlots(layout).state().current
        if slot:
            _is_there(layout, slot)
    return BrainRoot(layout, config).on(slot)


def _is_there(layout: BrainLayout, slot: str) -> None:
    """`BaseSlotError` where the base that should drive is missing or damaged: no other one drives in its place."""
    try:
        BaseSlots(layout).get(slot)
    except BaseSlotError as error:
        raise BaseSlotError(
            f"the base that should drive cannot: {error.message}",
            remedy=f"go back to the one before: continuonbrain base rollback --root {layout.root}",
        ) from error


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
