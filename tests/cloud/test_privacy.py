"""Claims about what leaves of an episode's texts: only words that this project knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from continuonbrain import __version__
from continuonbrain.cloud.privacy import PRIVACY, SIM_WORLDS, clean_features, clean_metadata
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.safety.reasons import Reason
from continuonbrain.storage.pseudonyms import Pseudonyms

NAMES = Pseudonyms(b"s" * 32)
FREE = [
    "gps:48.137154_11.576124",
    "anna_mueller",
    "Annas-house-Bahnhofstr.5",
    "48.137154",
    "Anna Mueller",
    "sim",
]


def left(**fields: object) -> EpisodeMetadata:
    """The metadata that leave."""
    metadata = replace(make_metadata_example("e"), **fields)  # type: ignore[arg-type]
    return clean_metadata(metadata, NAMES, "e-0", [make_step_example()], whole=True)


def test_every_reason_of_the_guard_leaves_and_no_other_one() -> None:
    reasons = (*Reason, *FREE, "slew", "No_Path")
    features = clean_features({}, [replace(make_step_example(), reasons=tuple(map(str, reasons)))])
    assert features["steps/safety_violations"] == [",".join(Reason).encode()]


@pytest.mark.parametrize(
    "place",
    [*FREE, "sim/bahnhofstrasse_5_anna", "sim/", "sim/none/track-48137154", "sim/none/anna", "simone"],
)
def test_a_place_that_is_no_world_of_the_simulator_is_a_pseudonym(place: str) -> None:
    told = left(environment_id=place).environment_id
    assert told == "place-" + NAMES.of("place", place)


def test_the_worlds_of_the_simulator_keep_their_names() -> None:
    assert set(SHIFTS) == SIM_WORLDS
    for name in SHIFTS:
        for place in (f"sim/{name}", f"sim/{name}/track-17"):
            assert left(environment_id=place).environment_id == place


@pytest.mark.parametrize("text", FREE)
def test_robot_models_and_versions_that_nobody_here_knows_stay(text: str) -> None:
    told = left(robot_model=text, software=Software(text, text, text))
    assert (told.robot_model, told.software) == ("", Software("", "", ""))


def test_known_robot_models_and_versions_leave() -> None:
    for model in ("donkeycar", "sim-donkeycar"):
        assert left(robot_model=model).robot_model == model
    software = Software("none", __version__, "unknown")
    assert left(software=software).software == software


def test_the_list_for_people_says_what_stays() -> None:
    assert "reasons, robot models and versions that are none of this project's" in PRIVACY["dropped"]
