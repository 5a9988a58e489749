"""Of an adapter that came from elsewhere: whether it may go on here, and with whose servo it is driven.

An adapter learns the world and never the servo: the `calibration.json` beside it says how commands become motion on one
car. Another car steers wrongly with it, and recordings alone may not show that to a verdict. So a calibration that came
along is kept only where the sender's card says that it is of this very robot, by the pseudonym that it has in bundles.
Else this robot's own stands in its place, that of what drives now; without one there is none, which is the nominal one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.storage.adapter_version import CALIBRATION_FILE
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.plain_json import load_plain
from continuonbrain.storage.pseudonyms import known_as
from continuonbrain.storage.trusted_keys import TrustedKeys

ORIGIN: Final = "origin"
"""The key of a card under which an adapter that came from elsewhere says from where."""
CALIBRATION_OF: Final = "calibration_of"
"""The key of a card that says of which robot, by its pseudonym, the calibration beside it is."""
_ROBOT = re.compile(r"robot-[0-9a-f]{16}")


def origin_refusal(brain: BrainRoot, version: AdapterVersion) -> str | None:
    """Why an adapter that came from elsewhere must not go on here, None when it may or was trained here: its key is no
    longer trusted. What its card does not say is a refusal."""
    try:
        card = version.card() or {}
    except BrainError as error:
        return error.message
    if ORIGIN not in card:
        return None
    imported = card.get("imported")
    key_id = imported.get("key_id") if isinstance(imported, dict) else None
    if not isinstance(key_id, str):
        return "its card does not say by which key it came"
    try:
        TrustedKeys(brain.layout).get(key_id)
    except (BrainError, OSError) as error:
        return f"the key that it came with is not trusted: {error}"
    return None


def is_own_servo(card: object, robot: str) -> bool:
    """Whether a calibration is of this robot, as the card of its adapter says. robot: its pseudonym, "" where it has
    none. Pure."""
    return bool(robot) and isinstance(card, Mapping) and card.get(CALIBRATION_OF) == robot


def whose_servo(card: object) -> str:
    """Whose calibration it is, in words. Pure."""
    named = card.get(CALIBRATION_OF) if isinstance(card, Mapping) else None
    if isinstance(named, str) and _ROBOT.fullmatch(named):
        return f"it is of {named}, not of this robot"
    return "its card does not say that it is of this robot"


def with_own_servo(
    layout: BrainLayout, files: Mapping[str, bytes], card: bytes
) -> tuple[dict[str, bytes], str]:
    """The files of an adapter that came from elsewhere as this robot drives with them, and that in words. card: the
    sender's, a JSON object.

    Raises:
        CalibrationError, SecretError: this robot's own cannot be used.
        AdapterError, FileNotSafeError, OSError.
    """
    from continuonbrain.policy.calibration import Calibration  # brings numpy, which most commands spare

    told = load_plain(card)
    if CALIBRATION_FILE in files and is_own_servo(told, known_as(layout)):
        return dict(files), "its calibration is of this robot"
    taken = {name: data for name, data in files.items() if name != CALIBRATION_FILE}
    left = f"left out, as {whose_servo(told)}" if CALIBRATION_FILE in files else "none came along"
    current = AdapterStore(layout).current()
    own = layout.base_calibration_path if current is None else current.path / CALIBRATION_FILE
    if own is None or not own.exists():
        return taken, f"calibration: {left}; the nominal one is used"
    taken[CALIBRATION_FILE] = Calibration.from_file(own).to_json()
    return taken, f"calibration: {left}; that of what drives now is used"
