"""Whether the engine that serves has room for a fast adapter on top of a slow one."""

from __future__ import annotations

from continuonbrain.brain_root import BrainRoot
from continuonbrain.policy.open_engine import largest_rank


def no_room_for_two(brain: BrainRoot) -> str:
    """Why a fast adapter cannot be served on top of a slow one, "" where it can. Raises BrainError for a damaged
    bundle."""
    rank, most = brain.config.training.rank, largest_rank(brain.layout.base_model_dir, brain.config.policy)
    if most is None or 2 * rank <= most:
        return ""
    return f"training.rank = {rank}, twice that is more than the {most} that these graphs take; set it to {most // 2}"
