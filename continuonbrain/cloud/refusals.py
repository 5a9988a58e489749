"""What an export is refused for before a byte is written, and what its owner does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.errors import ExportRefused, NothingToExport
from continuonbrain.cloud.plan import EARLIER, MARKED, REFUSED, UNFINISHED, UNSAID, Plan
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.trusted_keys import PrivateKeys

_SHARE = "say that one may: continuonbrain episodes share EPISODE --yes"
_REMEDIES: Final[Mapping[str, str]] = {
    UNSAID: _SHARE,
    REFUSED: _SHARE,
    MARKED: "where a mark was a mistake, the dashboard takes it away: Teach, the episode, Use it again",
    UNFINISHED: "end the recording; of what was never closed this keeps the steps: continuonbrain episodes repair "
    "EPISODE NEW_FOLDER",
    EARLIER: "give an earlier --since, or none",
}
"""By the reason for which most episodes stay."""
_NAMED = 4


def refuse_without_opt_in(brain: BrainRoot) -> None:
    """Nothing leaves a robot whose owner did not say so. Raises ExportRefused."""
    if not brain.config.cloud.opt_in:
        raise ExportRefused(
            f"nothing leaves this robot: cloud.opt_in is false in {brain.layout.config_path}",
            remedy='set "opt_in": true in its group "cloud"; then say of episodes that they may leave: '
            "continuonbrain episodes share EPISODE --yes",
        )


def refuse_nothing(plan: Plan, layout: BrainLayout) -> None:
    """Raises NothingToExport where no episode may leave."""
    if plan.going:
        return
    reasons = plan.reasons()
    if not reasons:
        raise NothingToExport(
            f"there is no episode in {layout.episodes_dir}: nothing to export",
            remedy="record some (continuonbrain run), or import them (continuonbrain episodes import-tub)",
        )
    why = "; ".join(f"{count}: {reason}" for reason, count in reasons[:_NAMED])
    raise NothingToExport(
        f"no episode may leave ({why})",
        remedy=_REMEDIES.get(reasons[0][0], f"continuonbrain episodes doctor {layout.episodes_dir}"),
    )


def key_for(brain: BrainRoot, named: str | None) -> str:
    """The key that signs: the one that is named, the one of the settings, or the only one. Raises ExportRefused."""
    if wanted := named or brain.config.cloud.key:
        return wanted
    names = PrivateKeys(brain.layout).names()
    if len(names) == 1:
        return names[0]
    if not names:
        raise ExportRefused(
            "a bundle is signed, and this root has no key",
            remedy=f"continuonbrain keys new robot --root {brain.layout.root}",
        )
    raise ExportRefused(
        f"this root has {len(names)} keys: {', '.join(names)}", remedy="name one: --key NAME, or cloud.key"
    )
