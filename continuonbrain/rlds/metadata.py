"""`metadata.json` of an episode, in the ecosystem's own key names.

The keys are those of the public continuon repositories (required: xr_mode, control_role, environment_id, tags,
software; optional: schema_version 1.0/1.1, episode_id, robot_id, robot_model, start_time_unix_ms, duration_ms, share,
provenance). What this project adds, it adds where the ecosystem leaves room: `provenance`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from continuonbrain.rlds.checked import as_integer, as_mapping, as_number, as_text, only_known_keys, shown
from continuonbrain.rlds.errors import EpisodeError

SCHEMA_VERSION: Final = "1.1"
KNOWN_SCHEMA_VERSIONS: Final = ("1.0", "1.1")

EPISODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_REQUIRED = ("xr_mode", "control_role", "environment_id", "tags", "software")
_OPTIONAL = (
    "schema_version",
    "episode_id",
    "robot_id",
    "robot_model",
    "start_time_unix_ms",
    "duration_ms",
    "share",
    "provenance",
)
_ADDED_LATER = ("sync_interval_s", "cut_lines", "cut_frames", "cut_bytes")
SYNCED_AT_CLOSE: Final = -1.0
_SOFTWARE = ("xr_app", "continuonbrain_os", "glove_firmware")


@dataclass(frozen=True)
class Software:
    """Versions of what recorded the episode; a robot without headset or glove writes "none"."""

    xr_app: str = "none"
    continuonbrain_os: str = ""
    glove_firmware: str = "none"


@dataclass(frozen=True)
class EpisodeMetadata:
    """`metadata.json` of an episode.

    Attributes:
        xr_mode, control_role: the ecosystem's labels; a car driven without a headset is "trainer" and
            "human_teleop" or "autonomous".
        environment_id: where it was recorded ("sim/track-17", "garage").
        tags: free labels; must not be one string.
        software: what recorded it.
        episode_id: the folder's name; "" lets the recorder choose one.
        start_time_unix_ms: wall clock, a label only; None when unknown.
        duration_ms: from the first to the last step by the monotonic clock; None while recording.
        share: the ecosystem's sharing consent, kept as it is; None means that nobody agreed to anything.
        provenance: where the data come from; `provenance["recording"]` belongs to the recorder.
    """

    xr_mode: str
    control_role: str
    environment_id: str
    tags: tuple[str, ...]
    software: Software
    schema_version: str = SCHEMA_VERSION
    episode_id: str = ""
    robot_id: str = ""
    robot_model: str = ""
    start_time_unix_ms: int | None = None
    duration_ms: int | None = None
    share: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The ecosystem's object; optional values that are unknown are left out.

        Raises:
            EpisodeError: a field has a wrong type, as in `from_json`.
        """
        out: dict[str, Any] = {
            "schema_version": self.schema_version,
            "xr_mode": self.xr_mode,
            "control_role": self.control_role,
            "environment_id": self.environment_id,
            "tags": list(self.tags),
            "software": {name: getattr(self.software, name) for name in _SOFTWARE},
        }
        for name in _OPTIONAL[1:]:
            value = getattr(self, name)
            if value not in (None, "", {}) or (name == "share" and value is not None):  # an empty one is a no
                out[name] = dict(value) if isinstance(value, Mapping) else value
        EpisodeMetadata.from_json(out)
        return out

    @classmethod
    def from_json(cls, value: Any) -> EpisodeMetadata:
        """Read the ecosystem's object.

        Raises:
            EpisodeError: a key is missing, unknown or of a wrong type.
        """
        data = as_mapping(value, "metadata")
        only_known_keys(data, _REQUIRED + _OPTIONAL, "metadata")
        for name in _REQUIRED:
            if name not in data:
                raise EpisodeError("this required key is missing", field=f"metadata.{name}")
        software = as_mapping(data["software"], "metadata.software")
        only_known_keys(software, _SOFTWARE, "metadata.software")
        for name in _SOFTWARE:
            if name not in software:
                raise EpisodeError("this required key is missing", field=f"metadata.software.{name}")
        tags = data["tags"]
        if not isinstance(tags, list | tuple):
            raise EpisodeError(f"a list of texts is needed, not {shown(tags)}", field="metadata.tags")
        version = as_text(data.get("schema_version", "1.0"), "metadata.schema_version")
        if version not in KNOWN_SCHEMA_VERSIONS:
            raise EpisodeError(
                f"schema version {version!r} is not one of {', '.join(KNOWN_SCHEMA_VERSIONS)}",
                field="metadata.schema_version",
                remedy="update continuonbrain",
            )
        times: dict[str, int | None] = {}
        for name in ("start_time_unix_ms", "duration_ms"):
            times[name] = None if data.get(name) is None else as_integer(data[name], f"metadata.{name}")
        share = data.get("share")
        provenance = data.get("provenance")
        return cls(
            xr_mode=as_text(data["xr_mode"], "metadata.xr_mode"),
            control_role=as_text(data["control_role"], "metadata.control_role"),
            environment_id=as_text(data["environment_id"], "metadata.environment_id"),
            tags=tuple(as_text(tag, f"metadata.tags[{i}]") for i, tag in enumerate(tags)),
            software=Software(
                **{name: as_text(software[name], f"metadata.software.{name}") for name in _SOFTWARE}
            ),
            schema_version=version,
            episode_id=as_text(data.get("episode_id", ""), "metadata.episode_id"),
            robot_id=as_text(data.get("robot_id", ""), "metadata.robot_id"),
            robot_model=as_text(data.get("robot_model", ""), "metadata.robot_model"),
            start_time_unix_ms=times["start_time_unix_ms"],
            duration_ms=times["duration_ms"],
            share=None if share is None else as_mapping(share, "metadata.share"),
            provenance={} if provenance is None else as_mapping(provenance, "metadata.provenance"),
        )


@dataclass(frozen=True)
class RecordingState:
    """`provenance.recording`: what the recorder says about its own work.

    Attributes:
        state: "open" while recording, "closed" after.
        closed_by: "recorder", "import", "recovery" (closed at a later start, after a crash) or "repair".
        steps: whole step lines; -1 while open.
        blob_bytes: size of `blobs/000000.tfrecord`; -1 while open.
        dropped: steps that the recorder could not keep, all of them marked in `dropped_before` of the next.
        fault: the last disk error, "" when there was none.
        step_crc: "crc32c" when each line carries the CRC of its own text.
        metadata_crc32c: the CRC of `metadata.json` itself, eight hex digits that `metadata_bytes` puts there;
            "" in an episode from before there was one.
        sync_interval_s: a power cut may cost the steps of this many seconds; `SYNCED_AT_CLOSE` when only closing
            syncs, None when nobody said.
        cut_lines, cut_frames, cut_bytes: what recovery cut off and set aside.
    """

    state: str = "open"
    closed_by: str = ""
    steps: int = -1
    blob_bytes: int = -1
    dropped: int = 0
    fault: str = ""
    step_crc: str = "crc32c"
    metadata_crc32c: str = ""
    sync_interval_s: float | None = None
    cut_lines: int = 0
    cut_frames: int = 0
    cut_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """A plain object for `provenance["recording"]`; what came later is there only when it says something."""
        return {name: item for name, item in vars(self).items() if item or name not in _ADDED_LATER}

    @classmethod
    def of(cls, metadata: EpisodeMetadata) -> RecordingState | None:
        """The state in the metadata of our own recorder, None for an episode written by others."""
        value = metadata.provenance.get("recording")
        if value is None:
            return None
        name = "metadata.provenance.recording"
        data = as_mapping(value, name)
        only_known_keys(data, list(cls.__dataclass_fields__), name)
        state = as_text(data.get("state", ""), f"{name}.state")
        if state not in ("open", "closed"):
            raise EpisodeError(f"'open' or 'closed' is needed, not {state!r}", field=f"{name}.state")
        interval = data.get("sync_interval_s")
        return cls(
            state=state,
            closed_by=as_text(data.get("closed_by", ""), f"{name}.closed_by"),
            steps=as_integer(data.get("steps", -1), f"{name}.steps"),
            blob_bytes=as_integer(data.get("blob_bytes", -1), f"{name}.blob_bytes"),
            dropped=as_integer(data.get("dropped", 0), f"{name}.dropped"),
            fault=as_text(data.get("fault", ""), f"{name}.fault"),
            step_crc=as_text(data.get("step_crc", ""), f"{name}.step_crc"),
            metadata_crc32c=as_text(data.get("metadata_crc32c", ""), f"{name}.metadata_crc32c"),
            sync_interval_s=None if interval is None else as_number(interval, f"{name}.sync_interval_s"),
            cut_lines=as_integer(data.get("cut_lines", 0), f"{name}.cut_lines"),
            cut_frames=as_integer(data.get("cut_frames", 0), f"{name}.cut_frames"),
            cut_bytes=as_integer(data.get("cut_bytes", 0), f"{name}.cut_bytes"),
        )

    def into(self, metadata: EpisodeMetadata) -> EpisodeMetadata:
        """`metadata` with this state in its provenance."""
        return replace(metadata, provenance={**metadata.provenance, "recording": self.to_json()})
