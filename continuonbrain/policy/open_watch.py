"""Opens the safety head of a brain root: its file, the manifest's thresholds, what this robot's driving told it.

Fail closed: a head that is missing or damaged, or thresholds that cannot be read, is an error that says what to do, and
no drive without one. Driving without a head is a setting (`heads.safety.enabled: false`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.policy.safety_head import SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.watch import HeadCalibration, Watch
from continuonbrain.safety.caution import Thresholds


def open_watches(safety_dir: Path, manifest: Path, *, acts: bool = True) -> Callable[[], Watch]:
    """Makes a watch for a car, each with a state of its own and all with the one head. acts: see `Watch`. Raises
    `BrainError`."""
    head = SafetyHead.from_file(safety_dir / SAFETY_HEAD_FILE)
    thresholds, calibration = read_thresholds(manifest), HeadCalibration.from_folder(safety_dir)
    return lambda: Watch(head, thresholds=thresholds, calibration=calibration, acts=acts)


def read_thresholds(manifest: Path) -> Thresholds:
    """The safety head's thresholds as the manifest has them. Raises `BrainError`."""
    remedy = "continuonbrain init writes the manifest anew"
    try:
        group = json.loads(manifest.read_bytes())["safety"]
        warn, block = group["warn_threshold"], group["block_threshold"]
    except OSError as error:
        raise BrainError(f"{manifest} cannot be read: {error.strerror}", remedy=remedy) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrainError(
            f"{manifest} has no thresholds of a safety head: {error!r}", remedy=remedy
        ) from error
    try:
        return Thresholds(warn, block)
    except BrainError as error:
        raise BrainError(f"{manifest}: {error.message}", remedy=error.remedy) from error
