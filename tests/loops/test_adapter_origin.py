"""With whose servo an adapter that came from elsewhere is driven: this robot's, or the nominal one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.adapter_import import Imported, import_adapter
from continuonbrain.loops.adapter_origin import is_own_servo, whose_servo
from continuonbrain.policy.calibration import Calibration, CalibrationError
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.pseudonyms import known_as, pseudonyms_of
from tests.loops.import_pair import BASE, Pair, adapter, one_base, refused

OTHER = "robot-0123456789abcdef"
SENT = Calibration(steering_gain=-0.8, steering_trim_rad=0.1)
OWN = Calibration(steering_gain=1.3, steering_trim_rad=-0.05)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    one_base(monkeypatch)
    return Pair(tmp_path)


def taken(pair: Pair, of: object, *, calibration: bytes | None = SENT.to_json()) -> Imported:
    card = json.dumps({"base_sha256": BASE, "calibration_of": of}).encode()
    files = (
        {"card.json": card} if calibration is None else {"card.json": card, "calibration.json": calibration}
    )
    if calibration is None:
        return import_adapter(pair.here, without_calibration(pair, card))
    return import_adapter(pair.here, pair.export(**files))


def without_calibration(pair: Pair, card: bytes) -> Path:
    files = adapter(**{"card.json": card})
    return pair.write(
        pair.signed({n: d for n, d in files.items() if n not in ("calibration.json", "lora_adapters.pt")})
    )


def drives(brain: BrainRoot, calibration: bytes) -> None:
    """An adapter of the robot's own drives, with this calibration."""
    store = AdapterStore(brain.layout)
    version = store.stage(adapter("own", **{"calibration.json": calibration}))
    brain.layout.current.symlink_to(Path("versions") / version.version_id)


def servo(found: Imported) -> Calibration | None:
    path = found.version.path / "calibration.json"
    assert found.version.whole_sha256() == found.sha256
    card = found.version.card()
    assert card is not None
    assert card["imported"]["servo"] == found.servo
    return Calibration.from_file(path) if path.exists() else None


def test_a_calibration_of_this_very_robot_is_kept(pair: Pair) -> None:
    drives(pair.here, OWN.to_json())
    found = taken(pair, pseudonyms_of(pair.here.layout).root)
    assert servo(found) == SENT
    assert found.servo == "its calibration is of this robot"


@pytest.mark.parametrize("of", [OTHER, None, 5, "", "the workshop's", {"a": 1}])
@pytest.mark.parametrize("exported", [False, True])
def test_another_cars_calibration_is_left_out_for_what_this_one_drives_with(
    pair: Pair, of: object, exported: bool
) -> None:
    if exported:
        assert known_as(pair.here.layout) == ""
        assert pseudonyms_of(pair.here.layout).root == known_as(pair.here.layout) != OTHER
    assert servo(taken(pair, of)) is None
    drives(pair.here, OWN.to_json())
    found = taken(pair, of)
    assert servo(found) == OWN
    why = f"it is of {OTHER}, not" if of == OTHER else "its card does not say that it is"
    assert found.servo == f"calibration: left out, as {why} of this robot; that of what drives now is used"


def test_a_fleets_adapter_brings_none_and_is_driven_with_this_robots_own(pair: Pair) -> None:
    assert (
        taken(pair, None, calibration=None).servo == "calibration: none came along; the nominal one is used"
    )
    drives(pair.here, OWN.to_json())
    card = json.dumps({"base_sha256": BASE, "calibration_of": None}).encode()
    files = adapter(**{"card.json": card})
    later = {n: d for n, d in files.items() if n not in ("calibration.json", "lora_adapters.pt")}
    assert servo(import_adapter(pair.here, pair.write(pair.signed(later, counter=1001)))) == OWN


def test_an_own_calibration_that_is_damaged_lets_nothing_in(pair: Pair) -> None:
    drives(pair.here, b'{"steering_gain": 40}')
    refused(pair.here, pair.export(), CalibrationError, match=r"steering_gain = 40")


def test_a_robot_without_a_name_knows_no_calibration_as_its_own() -> None:
    assert not is_own_servo({"calibration_of": ""}, "")
    assert not is_own_servo([], OTHER)
    assert is_own_servo({"calibration_of": OTHER}, OTHER)
    assert "does not say" in whose_servo({"calibration_of": "\x1b[2J"})
