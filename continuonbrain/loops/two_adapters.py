"""Whether a fast adapter can be learned on top of a slow one.

The engine that serves needs room for both, and the settings must still name what the slow one was made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from continuonbrain.brain_root import BrainRoot
from continuonbrain.policy.open_engine import largest_rank

if TYPE_CHECKING:  # imports torch, which the slow loop must not
    from continuonbrain.model.plain_lora import PlainLora


def no_room_for_two(brain: BrainRoot) -> str:
    """Why a fast adapter cannot be served on top of a slow one, "" where it can. Raises BrainError for a damaged
    bundle."""
    rank = brain.config.training.rank
    if not (why := _no_room(brain, rank)):
        return ""
    return f"{why}; set it to {(largest_rank(brain.layout.base_model_dir, brain.config.policy) or 2) // 2}"


def not_on_top(brain: BrainRoot, slow: PlainLora, targets: Sequence[str]) -> str:
    """Why nothing can be learned on top of this one, "" where it can. targets: what lora_layers trains in this base.
    Raises BrainError for a damaged bundle."""
    return left_out(brain, slow, targets) or no_room_for_two(brain) or _no_room(brain, slow.rank)


def left_out(brain: BrainRoot, lora: PlainLora, targets: Sequence[str]) -> str:
    """What an adapter has and lora_layers does not name any more, in words; "" where it names all."""
    if not (missing := sorted(lora.modules - set(targets))):
        return ""
    given = ", ".join(brain.config.lora_layers)
    return (
        f"{brain.layout.config_path}: lora_layers = [{given}] leaves out {', '.join(missing)} of the adapter"
    )


def _no_room(brain: BrainRoot, below: int) -> str:
    rank, most = brain.config.training.rank, largest_rank(brain.layout.base_model_dir, brain.config.policy)
    if most is None or rank + below <= most:
        return ""
    config = brain.layout.config_path
    return f"{config}: training.rank = {rank} on top of rank {below} is more than the {most} that these graphs take"
