"""`model/manifest.json`: how an app (flutter_gemma, continuonai) finds the base model and the adapter.

The keys are the robot ecosystem's own; `continuonbrain/model/manifest.pi5.example.json` shows them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from continuonbrain.storage.brain_paths import BrainLayout
from continuonbrain.storage.durable import write_json_durably

APP_BUNDLES = {"plain_bundle": "plain.litertlm", "merged_bundle": "merged.litertlm"}
"""What `continuonbrain model export-app` leaves in the base's folder for flutter_gemma, by its name among the paths."""
CAPABILITIES: dict[str, dict[str, str]] = {
    "base_model": {"format": "huggingface", "engine": "continuonbrain", "adapter": "live"},
    "adapter": {"format": "peft", "engine": "continuonbrain", "adapter": "live"},
    "service": {"format": "http", "engine": "continuonbrain", "adapter": "live"},
    "plain_bundle": {"format": "litertlm", "engine": "flutter_gemma", "adapter": "none"},
    "merged_bundle": {"format": "litertlm", "engine": "flutter_gemma", "adapter": "merged"},
}
"""What a path is, what loads it, and what it knows of adapters: `live` (always the current one), `merged` (the one that
it was exported with), `none`. (flutter_gemma 1.6 loads no adapter into a .litertlm bundle.)"""

_NOTES = (
    "Written by continuonbrain; rewritten, then touched, whenever the adapter in use changes. "
    "No adapter file there means: the base model alone."
)


@dataclass(frozen=True, kw_only=True)
class ManifestSettings:
    """What the manifest says beyond paths.

    Attributes:
        model_name, engine, backend, quantization: the base model and the runtime meant for it.
        rank, alpha: of the LoRA adapters.
        adapter_filename: the file that apps load from the adapter folder.
        steering_bounds, throttle_bounds: (low, high) in actuator units.
        warn_threshold, block_threshold: of the safety head's score, in (0, 1).
    """

    model_name: str
    engine: str
    backend: str
    quantization: str
    rank: int
    alpha: float
    adapter_filename: str
    steering_bounds: tuple[float, float]
    throttle_bounds: tuple[float, float]
    warn_threshold: float
    block_threshold: float


def build_manifest(layout: BrainLayout, settings: ManifestSettings) -> dict[str, Any]:
    """The manifest as JSON-ready data, with absolute paths. Reads only whether heads and app bundles exist."""
    paths = {
        "base_model": str(layout.base_model_dir),
        "adapter_dir": str(layout.current),
        "adapter": str(layout.current / settings.adapter_filename),
        "service": str(layout.run_dir / "service.sock"),
    }
    if layout.safety_dir.is_dir() and any(layout.safety_dir.iterdir()):
        paths["safety_head"] = str(layout.safety_dir)
    if layout.world_dir.is_dir() and any(layout.world_dir.iterdir()):
        paths["world_head"] = str(layout.world_dir)
    bundles = {name: layout.base_model_dir / file for name, file in APP_BUNDLES.items()}
    paths |= {name: str(path) for name, path in bundles.items() if path.is_file()}
    return {
        "model_name": settings.model_name,
        "runtime": {
            "engine": settings.engine,
            "backend": settings.backend,
            "quantization": settings.quantization,
        },
        "paths": paths,
        "capabilities": {name: CAPABILITIES[name] for name in paths if name in CAPABILITIES},
        "adapter_meta": {"type": "lora", "rank": settings.rank, "alpha": settings.alpha},
        "safety": {
            "path": str(layout.safety_dir),
            "clamp_bounds": {
                "steering": list(settings.steering_bounds),
                "throttle": list(settings.throttle_bounds),
            },
            "warn_threshold": settings.warn_threshold,
            "block_threshold": settings.block_threshold,
        },
        "notes": _NOTES,
    }


def manifest_from_settings(layout: BrainLayout, config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest for a whole config as JSON data (a shipped preset, or `BrainConfig.model_dump()`)."""
    return build_manifest(
        layout,
        ManifestSettings(
            **config["manifest"],
            rank=config["training"]["rank"],
            alpha=config["training"]["alpha"],
            adapter_filename=config["adapter_filename"],
            steering_bounds=config["guards"]["steering_bounds"],
            throttle_bounds=config["guards"]["throttle_bounds"],
            warn_threshold=config["heads"]["safety"]["warn_threshold"],
            block_threshold=config["heads"]["safety"]["block_threshold"],
        ),
    )


def write_manifest(layout: BrainLayout, manifest: Mapping[str, Any]) -> None:
    """Write the manifest durably, then touch it. Raises OSError, ValueError (NaN).

    The touch is for watchers: continuonai listens for create and modify only, and an atomic rename is
    neither.
    """
    write_json_durably(layout.manifest_path, manifest)
    os.utime(layout.manifest_path)
