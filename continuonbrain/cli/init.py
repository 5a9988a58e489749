"""`continuonbrain init`: create a brain root from a preset."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, RootOption
from continuonbrain.config import load_preset
from continuonbrain.configs import PRESET_NAMES
from continuonbrain.errors import BrainError
from continuonbrain.loops.promotion import refresh_manifest
from continuonbrain.storage.layout import BrainLayout, init_brain_root


def init(
    root: RootOption = DEFAULT_ROOT,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help=f"Which robot: {', '.join(PRESET_NAMES)}; sim-donkey unless told."),
    ] = None,
) -> None:
    """Create a brain root from a preset. Running it again changes nothing that is there."""
    console = Console(soft_wrap=True, highlight=False)
    wanted = BrainLayout(root)
    existed = wanted.config_path.exists()
    had_base = wanted.base_model_dir.is_dir() and any(wanted.base_model_dir.iterdir())
    _ = (
        wanted.policy_socket,
        wanted.notice_socket,
        wanted.service_socket,
    )  # a path too long for one is said now
    layout = init_brain_root(root, preset or "sim-donkey", base_model=shipped_base_model())
    opened = open_brain(layout.root)  # an existing config that is broken is said now, not at the first drive
    if existed and preset is not None and load_preset(preset).robot.kind != opened.config.robot.kind:
        raise BrainError(
            f"{layout.root} is the root of another robot: robot.kind is {opened.config.robot.kind!r}, "
            f"--preset {preset} is for {load_preset(preset).robot.kind!r}",
            remedy="make a new root for it with --root, or leave --preset out",
        )
    if existed:
        refresh_manifest(opened)
        kind = opened.config.robot.kind
        console.print(f"kept the brain root {layout.root}: config.json is as it was (robot.kind {kind})")
        if not had_base and any(layout.base_model_dir.iterdir()):
            console.print(f"put the shipped base model into {layout.base_model_dir}")
    else:
        console.print(f"created the brain root {layout.root} from preset {preset or 'sim-donkey'}")
        if preset is None:
            console.print(
                "no --preset was given, so this is a simulated robot; a real car gets a root of its own: "
                "continuonbrain init --preset pi5-donkey --root DIR"
            )
    if not any(layout.base_model_dir.iterdir()):
        console.print(f"[yellow]no base model yet[/yellow]: put Gemma 3n into {layout.base_model_dir}")
    if opened.config.robot.kind == "sim-donkey":
        console.print(
            f"next: continuonbrain run --root {layout.root} --shift tape   (a road that it has to learn)"
        )
    else:
        console.print(
            f"next: continuonbrain calibrate --root {layout.root} (a car on this computer), or continuonbrain episodes "
            f"import-tub TUB --root {layout.root} (recordings)",
            soft_wrap=True,
        )
        if opened.config.power == "battery" and opened.config.battery == "gauge":
            gauge = opened.config.donkey.gauge
            console.print(
                f"it expects a battery gauge (INA219 at {gauge.address:#04x}), and stops without one; a car that has "
                'none: "battery": "none" in config.json, for which calibrate asks'
            )


def shipped_base_model() -> Path | None:
    """The tiny base model that ships with the package, or None in a checkout that has not built it."""
    folder = Path(str(resources.files("continuonbrain"))) / "model" / "tiny_base"
    return folder if folder.is_dir() and any(folder.iterdir()) else None
