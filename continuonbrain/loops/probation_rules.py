"""What a probation accepts, as config.json says."""

from __future__ import annotations

from continuonbrain.config import PromotionConfig
from continuonbrain.storage.probation_look import Rules


def rules_from_config(promotion: PromotionConfig) -> Rules:
    """The limits as the `promotion` group of config.json sets them."""
    limits = {
        "correction": promotion.max_corrections_per_min,
        "warning": promotion.max_warnings_per_min,
        "block": promotion.max_blocks_per_min,
        "stop": promotion.max_stops_per_min,
        "takeover": promotion.max_takeovers_per_min,
        "off_road": promotion.max_off_road_per_min,
    }
    return Rules(limits_per_min=limits, max_restarts=promotion.probation_restarts)
