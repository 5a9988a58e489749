"""`cloud fit`: the shell around `fit.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from continuonbrain.cloud_train.card import card_of
from continuonbrain.cloud_train.errors import FitRefused
from continuonbrain.cloud_train.fit import CONFIG, WEIGHTS, Elsewhere, fit
from continuonbrain.cloud_train.shape import config_of, shape_of
from continuonbrain.loops.adapter_origin import CALIBRATION_OF, is_own_servo, whose_servo
from continuonbrain.storage.adapter_version import BEHAVIOURAL_FILES, CALIBRATION_FILE, CARD_FILE
from continuonbrain.storage.durable import write_directory_durably
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.plain_json import load_plain
from continuonbrain.storage.pseudonyms import known_as

_TRAINED = ("full", "adapter")
_LARGEST_CARD = 16 << 20


def fit_folder(
    folder: Path, robot: Path, *, out: Path | None, base: Path | None, elsewhere: Elsewhere
) -> dict[str, Any]:
    """Fit an adapter for a robot; what was done to it. What else belongs to the adapter goes with it: the reflex head,
    which was taught the same lessons (a robot that has one takes no adapter without), and the servo's calibration where
    it is of that very robot: on another car it would steer wrongly. `with` in what is told names these files, and
    `calibration` says why there is none.

    Args:
        folder: of `cloud train` (what was trained is taken, not what was fitted already), or an adapter's.
        robot: a brain root or a `config.json`.
        out: must not be there; None: nothing is written.
        base: where `robot` is no root.

    Raises:
        FitRefused, LoraError, ConfigError: it does not fit, or something cannot be read.
        OSError: `out` cannot be written.
    """
    source = next((folder / name for name in _TRAINED if (folder / name / CONFIG).is_file()), folder)
    if not (source / CONFIG).is_file() or not (source / WEIGHTS).is_file():
        raise FitRefused(
            f"{folder} holds no adapter ({CONFIG}, {WEIGHTS})",
            remedy="give the folder that `cloud train` wrote, or an adapter's",
        )
    if out is not None and out.exists():
        raise FitRefused(f"{out} is there already", remedy="remove it, or choose another name")
    config, of_root = config_of(robot)
    where = base or of_root
    if where is None:
        raise FitRefused(
            f"{robot} does not say which layers the base shares", remedy="give the base: --base FOLDER"
        )
    fitted = fit(source, shape_of(config, where), elsewhere=elsewhere)
    beside = {
        name: found
        for name in BEHAVIOURAL_FILES
        if name not in fitted.files
        and (found := next((p for p in (source / name, folder / "adapter" / name) if p.is_file()), None))
    }
    card, servo = _card(source, folder), ""
    if CALIBRATION_FILE not in beside:
        servo = "none came along"
    elif not is_own_servo(card, known_as(BrainLayout(robot)) if robot.is_dir() else ""):
        beside.pop(CALIBRATION_FILE)
        servo = f"left out, as {whose_servo(card)}"
    if servo:
        card[CALIBRATION_OF] = None
    told = fitted.told() | {"with": sorted(beside), "calibration": servo}
    if out is not None:
        files = {**fitted.files, **{name: path.read_bytes() for name, path in beside.items()}}
        files[CARD_FILE] = (json.dumps(card | {"fit": told}, indent=2) + "\n").encode()
        write_directory_durably(out, files)
    return told


def _card(source: Path, folder: Path) -> dict[str, Any]:
    for path in (source / CARD_FILE, folder / "training.json"):
        try:
            value = load_plain(path.read_bytes()[:_LARGEST_CARD])
        except (OSError, ValueError):
            continue
        if isinstance(value, dict):
            return card_of(value)
    named = json.loads((source / CONFIG).read_bytes()).get("base_model_name_or_path", "")
    return {"base_sha256": str(named).removeprefix("continuonbrain:")}
