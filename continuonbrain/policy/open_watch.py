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
from continuonbrain.storage.adapter_version import CARD_FILE


def open_watches(safety_dir: Path, manifest: Path, *, acts: bool = True) -> Callable[[], Watch]:
    """Makes a watch for a car, each with a state of its own and all with the one head. acts: see `Watch`. Raises
    `BrainError`."""
    head = open_head(safety_dir)
    thresholds = read_thresholds(manifest)
    calibration = HeadCalibration.from_folder(safety_dir, head.sha256)
    return lambda: Watch(head, thresholds=thresholds, calibration=calibration, acts=acts)


def open_head(safety_dir: Path) -> SafetyHead:
    """The head in a folder, if it is the one that its card tells of: a file that lost its bytes in a power cut still
    has the shape of a head. Raises `BrainError`."""
    path, card = safety_dir / SAFETY_HEAD_FILE, safety_dir / CARD_FILE
    remedy = "`continuonbrain init` on this root puts the shipped head there again"
    head = SafetyHead.from_file(path)
    try:
        told = json.loads(card.read_bytes())["sha256"]
    except OSError as error:
        raise BrainError(f"{card} cannot be read: {error.strerror}", remedy=remedy) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrainError(f"{card} names no safety head: {error!r}", remedy=remedy) from error
    if told != head.sha256:
        raise BrainError(
            f"{path} is not the head of its card (sha256 {head.sha256[:12]}, the card says {str(told)[:12]})",
            remedy=remedy,
        )
    return head


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
