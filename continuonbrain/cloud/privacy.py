"""What of an episode leaves, what is made coarse, and what stays. Pure.

Everything that is not named here stays: what leaves is built anew from fields that are known, and what others wrote
into an episode beside them is never looked at. `PRIVACY` is the list for people; it stands in every bundle's
manifest.

Names leave as pseudonyms (`storage/pseudonyms.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from continuonbrain.config.brain import BrainConfig
from continuonbrain.rlds.metadata import SCHEMA_VERSION, EpisodeMetadata, Software
from continuonbrain.rlds.sharing import CLOUD
from continuonbrain.rlds.step import SOURCE_AUTOPILOT, SOURCE_HUMAN, Step
from continuonbrain.rlds.tfrecord import FeatureIn
from continuonbrain.safety.reasons import Reason
from continuonbrain.storage.pseudonyms import Pseudonyms

DAY_MS: Final = 86_400_000
OTHER: Final = "other"

PRIVACY: Final[Mapping[str, Any]] = {
    "kept": [
        "action, proposed action, measured speed and yaw rate",
        "language_instruction: what the robot was told, word for word",
        "safety_violations: the codes of this project's guard",
        "adapter_sha256",
        "the order in which episodes came to the robot",
        "metadata: robot_model where it is one of this project's, versions of software, duration_ms, share.cloud",
    ],
    "coarsened": {
        "robot_id": "a pseudonym under a secret of the robot",
        "episode_id": "a pseudonym: the name tells the time of recording",
        "environment_id": "a pseudonym, but for the simulator's own worlds",
        "start_time_unix_ms": "the day, UTC",
        "monotonic_ns": "from the first step on: the clock itself tells how long the robot was on",
        "source, control_role, xr_mode": "who drove: a person, the policy, or other",
        "tags": "only this project's own",
        "images": "without all that is not of the picture; a JPEG that libjpeg would not write so is encoded again",
    },
    "dropped": [
        "names of people, accounts and machines",
        "GPS and poses: every field of the observation that is not named here",
        "audio",
        "reasons, robot models and versions that are none of this project's",
        "wall-clock times of steps",
        "provenance: paths, names of imported folders, repair reports",
        "share but for share.cloud",
        "step_metadata but for the guard's and the adapter's",
        "of the settings: paths and free texts",
        "of adapters: cards and verdicts, which name episodes",
        "of the doctor's report: file names and texts",
    ],
}

FACES: Final = "faces in images"


def faces_blurred(by: str) -> str:
    """What the list says of them. by: what found them, with its version."""
    return f"those that {by} found were blurred; it misses some"


def privacy_with(faces: str) -> Mapping[str, Any]:
    """`PRIVACY` with what was done to faces; as it is for ""."""
    return PRIVACY if not faces else {**PRIVACY, "coarsened": {**PRIVACY["coarsened"], FACES: faces}}


_TAGS = frozenset(("drive", "teleop", "donkeycar", "tub", "imported"))
_XR_MODES = frozenset(("trainer", "autonomous", "observer"))
_VERSION = re.compile(r"none|unknown|[0-9]{1,4}(\.[0-9]{1,4}){1,2}((a|b|rc|\.dev|\.post)[0-9]{1,4})?")
_REASONS = frozenset(reason.value for reason in Reason)
_ROBOT_MODELS = frozenset(("donkeycar", "sim-donkeycar"))
SIM_WORLDS: Final = frozenset(
    (
        *(
            "none",
            "tape",
            "trim",
            "reverse",
            "pitch",
            "dark",
            "gain",
            "throttle",
            "wheelbase",
            "height",
            "yaw",
        ),
        *("colour", "invert", "narrow"),
    )
)
"""Names of `robot.sim.shifts.SHIFTS`, written down: to import them would load the simulator."""
_SIM_PLACE = re.compile(r"sim/([a-z]+)(?:/track-[0-9]{1,6})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELD = re.compile(r"[a-z_]+(\.[a-z_]+){0,3}")

_SETTINGS_TEXTS = frozenset(
    (
        "robot.kind",
        "power",
        "battery",
        "lora_layers",
        "donkey.camera.backend",
        "donkey.gamepad.steering_axis",
        "donkey.gamepad.throttle_axis",
        "donkey.gamepad.deadman_button",
        "donkey.gamepad.stop_button",
        "donkey.gamepad.mode_button",
        "donkey.stop_button.wiring",
        "policy.engine",
        "policy.precision",
        "recorder.keep",
        "cloud.frames",
    )
)
"""Settings whose text is one of a known list; every other text stays."""


def clean_metadata(
    metadata: EpisodeMetadata, names: Pseudonyms, episode_id: str, steps: Sequence[Step], *, whole: bool
) -> EpisodeMetadata:
    """The metadata that leave.

    Args:
        episode_id: the pseudonym.
        steps: what leaves under it.
        whole: they are all of the episode; else its duration is theirs.
    """
    place = metadata.environment_id
    start = metadata.start_time_unix_ms
    software = metadata.software
    duration_ms = (steps[-1].monotonic_ns - steps[0].monotonic_ns) // 1_000_000
    account = {"steps": len(steps), "dropped": sum(step.dropped_before for step in steps)}
    return EpisodeMetadata(
        xr_mode=_known(metadata.xr_mode, _XR_MODES),
        control_role=_who(metadata.control_role, "human_teleop", "autonomous"),
        environment_id=place if _is_simulated(place) else "place-" + names.of("place", place),
        tags=tuple(tag for tag in metadata.tags if tag in _TAGS),
        software=Software(
            **{name: _version(getattr(software, name)) for name in Software.__dataclass_fields__}
        ),
        schema_version=SCHEMA_VERSION,
        episode_id=episode_id,
        robot_id="robot-" + names.of("robot", metadata.robot_id) if metadata.robot_id else names.root,
        robot_model=metadata.robot_model if metadata.robot_model in _ROBOT_MODELS else "",
        start_time_unix_ms=None if start is None else start // DAY_MS * DAY_MS,
        duration_ms=metadata.duration_ms if whole else duration_ms,
        share={CLOUD: True},
        provenance={"exported": account},
    )


def clean_features(features: Mapping[str, FeatureIn], steps: Sequence[Step]) -> dict[str, FeatureIn]:
    """The features of `steps` that leave: those of `rlds.tfds.episode_features`, with who drove, reasons, adapters and
    the clock as `PRIVACY` says."""
    begin = steps[0].monotonic_ns
    return {
        **features,
        "steps/source": [_who(s.source, SOURCE_HUMAN, SOURCE_AUTOPILOT).encode() for s in steps],
        "steps/safety_violations": [",".join(r for r in s.reasons if r in _REASONS).encode() for s in steps],
        "steps/adapter_sha256": [
            s.adapter_sha256.encode() if _SHA256.fullmatch(s.adapter_sha256) else b"" for s in steps
        ],
        "steps/monotonic_ns": np.array([s.monotonic_ns - begin for s in steps], np.int64),
    }


def clean_settings(config: BrainConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings that leave, and the dotted names of those that stay."""
    stay: list[str] = []
    value = _settings(config.model_dump(mode="json"), "", stay)
    assert isinstance(value, dict)
    return value, tuple(sorted(set(stay)))


def clean_field(field: str) -> str:
    """A finding's field, "" when it is no name of ours."""
    return field if _FIELD.fullmatch(field) else ""


_STAYS = object()


def _settings(value: Any, dotted: str, stay: list[str]) -> Any:
    if isinstance(value, dict):
        found = {
            key: _settings(inner, f"{dotted}.{key}" if dotted else key, stay) for key, inner in value.items()
        }
        return {key: inner for key, inner in found.items() if inner is not _STAYS}
    if isinstance(value, list):
        return [inner for item in value if (inner := _settings(item, dotted, stay)) is not _STAYS]
    if isinstance(value, str) and dotted not in _SETTINGS_TEXTS:
        stay.append(dotted)
        return _STAYS
    return value


def _who(label: str, human: str, policy: str) -> str:
    if label.startswith("human"):
        return human
    return policy if label == policy else OTHER


def _known(text: str, known: frozenset[str]) -> str:
    return text if text in known else OTHER


def _version(text: str) -> str:
    return text if _VERSION.fullmatch(text) else ""


def _is_simulated(place: str) -> bool:
    found = _SIM_PLACE.fullmatch(place)
    return found is not None and found[1] in SIM_WORLDS
