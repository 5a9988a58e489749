"""Opens the world head of a brain root (`heads.world.enabled`): what `continuonbrain model build-world` left there.

An edge build is `world_head.safetensors` and its card, made from the grids of this root's safety head: with another one
it would judge what it was never shown. What is missing or does not belong together is an error at the start that says
how to make it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.policy.open_watch import read_thresholds
from continuonbrain.policy.safety_head import SAFETY_HEAD_FILE
from continuonbrain.policy.veto import Veto
from continuonbrain.policy.world_head import WORLD_HEAD_FILE, WorldHead
from continuonbrain.storage.adapter_version import CARD_FILE

SHA256, SAFETY_SHA256 = "sha256", "safety_sha256"
"""Keys of the card: of the head's bytes, and of the safety head whose grids it was taught."""


def open_vetoes(world_dir: Path, safety_dir: Path, manifest: Path) -> Callable[[], Veto]:
    """Makes a veto for a car, each with a history of its own and all with the one head. Raises `BrainError`."""
    remedy = (
        f"build it: continuonbrain model build-world {world_dir} --safety {safety_dir}; "
        "or set heads.world.enabled to false"
    )
    file, card = world_dir / WORLD_HEAD_FILE, world_dir / CARD_FILE
    for path in (file, card):
        if not path.is_file():
            raise BrainError(
                f"heads.world.enabled is true, but there is no edge build of the world head: {path} is missing",
                remedy=remedy,
            )
    try:
        head = WorldHead.from_file(file)
    except BrainError as error:
        raise BrainError(f"heads.world.enabled is true, but {error.message}", remedy=remedy) from error
    try:
        told = json.loads(card.read_bytes())
        made, taught = told[SHA256], told[SAFETY_SHA256]
        safety = hashlib.sha256((safety_dir / SAFETY_HEAD_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise BrainError(
            f"heads.world.enabled is true, but {error.filename} cannot be read: {error.strerror}",
            remedy=remedy,
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrainError(
            f"heads.world.enabled is true, but {card} is not a world head's card: {error!r}", remedy=remedy
        ) from error
    if made != head.sha256:
        raise BrainError(f"heads.world.enabled is true, but {file} is not the one of {card}", remedy=remedy)
    if taught != safety:
        raise BrainError(
            f"heads.world.enabled is true, but {file} was made for another safety head than that in {safety_dir}",
            remedy=remedy,
        )
    block = read_thresholds(manifest).block
    return lambda: Veto(head, block=block)
