"""What an episode is: metadata, steps, and their JSON in the ecosystem's own key names.

The keys of `metadata.json` and of a step line are those of the public continuon repositories (required:
xr_mode, control_role, environment_id, tags, software; optional: schema_version 1.0/1.1, episode_id, robot_id,
robot_model, start_time_unix_ms, duration_ms, share, provenance). What this project adds, it adds where the
ecosystem leaves room: `provenance`, `step_metadata` (a map from string to string), extra observation fields.

An unknown key is an error that names the nearest known one, because a misspelt key silently read as "absent"
is how a memory rots; inside `observation` and `action` others write XR fields, so there they are passed over.

A number that is not finite is refused when the `Step` is made: it never reaches a file, a tensor or a servo.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.errors import EpisodeError

SCHEMA_VERSION: Final = "1.1"
KNOWN_SCHEMA_VERSIONS: Final = ("1.0", "1.1")
SOURCE_HUMAN: Final = "human_teleop_xr"
SOURCE_AUTOPILOT: Final = "autopilot"

EPISODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FLAT_FRAMES: Final = ".frames"
"""A flat JSON episode NAME.json has its frames, if any, in NAME.frames/."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_FRAME_FILE = re.compile(rf"(blobs|{_NAME}\{FLAT_FRAMES})/{_NAME}")

Frame: TypeAlias = NDArray[np.uint8]
Action: TypeAlias = tuple[float, float]

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
_SOFTWARE = ("xr_app", "continuonbrain_os", "glove_firmware")
_STEP_KEYS = ("observation", "action", "is_first", "is_last", "is_terminal", "step_metadata")
_STEP_KEYS_OF_OTHERS = ("reward", "discount")

# Keys of step_metadata that have a field of their own in `Step`; `extra` holds the rest.
RESERVED_STEP_METADATA: Final = (
    "safety_clamped",
    "safety_violations",
    "fast_loop_tick",
    "adapter_sha256",
    "latency_ms",
    "monotonic_ns",
    "crc32c",
)
# The ecosystem's own keys that a step always carries on disk, "" when nothing is known.
ALWAYS_PRESENT_STEP_METADATA: Final = ("mid_loop_train_id", "surprise")


# ------------------------------------------------------------------------------------- checked values


def parse_json(text: str | bytes) -> Any:
    """JSON without NaN and Infinity; every failure is an `EpisodeError`."""

    def refuse(token: str) -> Any:
        raise EpisodeError(f"{token} is not a number that an episode may hold")

    def finite(token: str) -> float:
        number = float(token)
        return number if math.isfinite(number) else refuse(_shown(token))  # 1e999 is JSON, and infinite

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise EpisodeError(f"not JSON: {error}") from error


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EpisodeError(f"an object is needed, not {_shown(value)}", field=name)
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise EpisodeError(f"text is needed, not {_shown(value)}", field=name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair: JSON can say it, no file can hold it
            raise EpisodeError(f"text that is not Unicode: {_shown(value)}", field=name) from error
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise EpisodeError(f"true or false is needed, not {_shown(value)}", field=name)
    return value


def _integer(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise EpisodeError(f"an integer is needed, not {_shown(value)}", field=name)
    if not -(1 << 63) <= value < 1 << 63:
        raise EpisodeError("an integer of at most 64 bits is needed", field=name)
    return int(value)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise EpisodeError(f"a number is needed, not {_shown(value)}", field=name)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EpisodeError(
            f"a finite number is needed, not {_shown(value)}",
            field=name,
            remedy="record None where the robot does not measure a value, and let the guard refuse NaN first",
        )
    return number


def _pair(value: Any, name: str) -> Action:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise EpisodeError(f"[steering, throttle] is needed, not {_shown(value)}", field=name)
    items = list(value)
    if len(items) != 2:
        raise EpisodeError(f"[steering, throttle] is needed, not {len(items)} numbers", field=name)
    return _number(items[0], f"{name}[0]"), _number(items[1], f"{name}[1]")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(value: Mapping[str, Any], known: Iterable[str], name: str) -> None:
    names = list(known)
    for key in value:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(names)}"
            raise EpisodeError(f"unknown key {_shown(key)}{hint}", field=name)


def finite_pair(steering: float | np.floating[Any], throttle: float | np.floating[Any]) -> Action | None:
    """(steering, throttle), or None when either is not finite.

    For the control loop: a policy that proposes NaN is recorded as "no proposal" with the guard's reason,
    never as a NaN and never as an exception in the loop.
    """
    return (float(steering), float(throttle)) if math.isfinite(steering) and math.isfinite(throttle) else None


# ------------------------------------------------------------------------------------------- metadata


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
            if value not in (None, "", {}):
                out[name] = dict(value) if isinstance(value, Mapping) else value
        EpisodeMetadata.from_json(out)
        return out

    @classmethod
    def from_json(cls, value: Any) -> EpisodeMetadata:
        """Read the ecosystem's object.

        Raises:
            EpisodeError: a key is missing, unknown or of a wrong type.
        """
        data = _mapping(value, "metadata")
        _known_keys(data, _REQUIRED + _OPTIONAL, "metadata")
        for name in _REQUIRED:
            if name not in data:
                raise EpisodeError("this required key is missing", field=f"metadata.{name}")
        software = _mapping(data["software"], "metadata.software")
        _known_keys(software, _SOFTWARE, "metadata.software")
        for name in _SOFTWARE:
            if name not in software:
                raise EpisodeError("this required key is missing", field=f"metadata.software.{name}")
        tags = data["tags"]
        if not isinstance(tags, list | tuple):
            raise EpisodeError(f"a list of texts is needed, not {_shown(tags)}", field="metadata.tags")
        version = _text(data.get("schema_version", "1.0"), "metadata.schema_version")
        if version not in KNOWN_SCHEMA_VERSIONS:
            raise EpisodeError(
                f"schema version {version!r} is not one of {', '.join(KNOWN_SCHEMA_VERSIONS)}",
                field="metadata.schema_version",
                remedy="update continuonbrain",
            )
        times: dict[str, int | None] = {}
        for name in ("start_time_unix_ms", "duration_ms"):
            times[name] = None if data.get(name) is None else _integer(data[name], f"metadata.{name}")
        share = data.get("share")
        provenance = data.get("provenance")
        return cls(
            xr_mode=_text(data["xr_mode"], "metadata.xr_mode"),
            control_role=_text(data["control_role"], "metadata.control_role"),
            environment_id=_text(data["environment_id"], "metadata.environment_id"),
            tags=tuple(_text(tag, f"metadata.tags[{i}]") for i, tag in enumerate(tags)),
            software=Software(
                **{name: _text(software[name], f"metadata.software.{name}") for name in _SOFTWARE}
            ),
            schema_version=version,
            episode_id=_text(data.get("episode_id", ""), "metadata.episode_id"),
            robot_id=_text(data.get("robot_id", ""), "metadata.robot_id"),
            robot_model=_text(data.get("robot_model", ""), "metadata.robot_model"),
            start_time_unix_ms=times["start_time_unix_ms"],
            duration_ms=times["duration_ms"],
            share=None if share is None else _mapping(share, "metadata.share"),
            provenance={} if provenance is None else _mapping(provenance, "metadata.provenance"),
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
    """

    state: str = "open"
    closed_by: str = ""
    steps: int = -1
    blob_bytes: int = -1
    dropped: int = 0
    fault: str = ""
    step_crc: str = "crc32c"
    metadata_crc32c: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain object for `provenance["recording"]`."""
        return dict(vars(self))

    @classmethod
    def of(cls, metadata: EpisodeMetadata) -> RecordingState | None:
        """The state in the metadata of our own recorder, None for an episode written by others."""
        value = metadata.provenance.get("recording")
        if value is None:
            return None
        name = "metadata.provenance.recording"
        data = _mapping(value, name)
        _known_keys(data, list(cls.__dataclass_fields__), name)
        state = _text(data.get("state", ""), f"{name}.state")
        if state not in ("open", "closed"):
            raise EpisodeError(f"'open' or 'closed' is needed, not {state!r}", field=f"{name}.state")
        return cls(
            state=state,
            closed_by=_text(data.get("closed_by", ""), f"{name}.closed_by"),
            steps=_integer(data.get("steps", -1), f"{name}.steps"),
            blob_bytes=_integer(data.get("blob_bytes", -1), f"{name}.blob_bytes"),
            dropped=_integer(data.get("dropped", 0), f"{name}.dropped"),
            fault=_text(data.get("fault", ""), f"{name}.fault"),
            step_crc=_text(data.get("step_crc", ""), f"{name}.step_crc"),
            metadata_crc32c=_text(data.get("metadata_crc32c", ""), f"{name}.metadata_crc32c"),
        )

    def into(self, metadata: EpisodeMetadata) -> EpisodeMetadata:
        """`metadata` with this state in its provenance."""
        return replace(metadata, provenance={**metadata.provenance, "recording": self.to_json()})


# ----------------------------------------------------------------------------------------------- step


@dataclass(frozen=True)
class FrameRef:
    """Where a frame lies: record `index` of `file`, `length` bytes from byte `offset`, framing included."""

    file: str
    index: int
    offset: int
    length: int

    def to_json(self) -> dict[str, Any]:
        """The object that a step line carries as `observation.frame`."""
        return {"file": self.file, "index": self.index, "offset": self.offset, "length": self.length}

    @classmethod
    def from_json(cls, value: Any) -> FrameRef:
        """Read `observation.frame`; refuses a path that leaves the episode's folder."""
        data = _mapping(value, "observation.frame")
        numbers = {}
        for name in ("index", "offset", "length"):
            numbers[name] = _integer(data.get(name), f"observation.frame.{name}")
            if numbers[name] < 0:
                raise EpisodeError(f"{numbers[name]} is negative", field=f"observation.frame.{name}")
        file = _text(data.get("file"), "observation.frame.file")
        if not _FRAME_FILE.fullmatch(file):
            raise EpisodeError(f"'blobs/NAME' is needed, not {_shown(file)}", field="observation.frame.file")
        return cls(file=file, **numbers)


@dataclass(frozen=True)
class Step:
    """One control tick: what was seen, proposed, sent to the actuators, and why.

    Attributes:
        frame: RGB uint8 [H, W, 3], or None. Not part of equality: `frame_jpeg` and `frame_ref` are neither.
        frame_jpeg: the same frame already as JPEG, written as it is (an importer does not lose quality).
        frame_ref: where the frame lies, set by the reader; ignored when writing.
        speed_mps, yaw_rate_rps: metres and radians (counter-clockwise) a second; None = not measured.
        instruction: what the robot was told.
        proposed: (steering, throttle) of the policy before the guard, each in [-1, 1]; None = no proposal.
        command: (steering, throttle) sent to the actuators after the guard; positive steering turns left.
        source: who drove: "human_teleop_xr", "autopilot", ...
        reasons: the guard's reason codes; no commas.
        adapter_sha256: of the adapter that proposed, "" for none.
        latency_ms: from observation to proposal; None = no proposal or not known.
        tick: number of the fast loop's tick.
        monotonic_ns: monotonic clock at the observation: when the state (speed, yaw rate) was measured.
        frame_monotonic_ns: the same clock at the frame's exposure; None = not known (older recordings, tubs).
            Written with the frame's reference: a step without a frame has none.
        wall_time_ms: wall clock as a label; 0 = unknown.
        is_first, is_last, is_terminal: as RLDS means them; the recorder sets them, a caller need not.
        extra: further step metadata, string to string.

    Raises:
        EpisodeError: on construction, for a number that is not finite, a frame that is not uint8 [H, W, 3],
            or a value of a wrong type.
    """

    command: Action
    source: str
    instruction: str = ""
    frame: Frame | None = field(default=None, compare=False, repr=False)
    speed_mps: float | None = None
    yaw_rate_rps: float | None = None
    proposed: Action | None = None
    reasons: tuple[str, ...] = ()
    adapter_sha256: str = ""
    latency_ms: float | None = None
    tick: int = 0
    monotonic_ns: int = 0
    frame_monotonic_ns: int | None = None
    wall_time_ms: int = 0
    is_first: bool = False
    is_last: bool = False
    is_terminal: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)
    frame_jpeg: bytes | None = field(default=None, compare=False, repr=False)
    frame_ref: FrameRef | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen: the numbers are stored as plain floats, whatever came in
        put(self, "command", _pair(self.command, "action.command"))
        if self.proposed is not None:
            put(self, "proposed", _pair(self.proposed, "action.proposed"))
        for name in ("speed_mps", "yaw_rate_rps", "latency_ms"):
            value = getattr(self, name)
            if value is not None:
                put(self, name, _number(value, name))
        for name in ("tick", "monotonic_ns", "wall_time_ms"):
            put(self, name, _integer(getattr(self, name), name))
        if self.frame_monotonic_ns is not None:
            put(self, "frame_monotonic_ns", _integer(self.frame_monotonic_ns, "frame_monotonic_ns"))
        if self.frame is not None and (
            self.frame.dtype != np.uint8
            or self.frame.ndim != 3
            or self.frame.shape[2] != 3
            or 0 in self.frame.shape
        ):
            raise EpisodeError(
                f"uint8 [H, W, 3] is needed, not {self.frame.dtype} {list(self.frame.shape)}", field="frame"
            )
        if self.frame_jpeg is not None and not self.frame_jpeg.startswith(b"\xff\xd8"):
            raise EpisodeError("these bytes are not a JPEG", field="frame_jpeg")
        for reason in self.reasons:
            if not reason or "," in reason:
                raise EpisodeError(f"a reason is a code without commas, not {reason!r}", field="reasons")
        extra: Mapping[Any, Any] = self.extra  # a caller without a type checker may give anything
        for key, text in extra.items():
            if key in RESERVED_STEP_METADATA:
                raise EpisodeError(f"{key!r} has a field of its own in Step", field="extra")
            if not isinstance(key, str) or not isinstance(text, str):
                raise EpisodeError(
                    f"step metadata maps text to text, not {_shown(key)}: {_shown(text)}",
                    field="step_metadata",
                )

    @property
    def clamped(self) -> bool:
        """Whether the guard changed what the policy proposed."""
        return self.proposed is not None and self.proposed != self.command

    @property
    def has_frame(self) -> bool:
        """Whether there is a frame, decoded or not."""
        return self.frame is not None or self.frame_jpeg is not None or self.frame_ref is not None

    def to_json(self) -> dict[str, Any]:
        """The ecosystem's object for this step; the frame appears as its reference only."""
        ref = self.frame_ref
        frame = None if ref is None else ref.to_json()
        if frame is not None and self.frame_monotonic_ns is not None:
            frame["monotonic_ns"] = self.frame_monotonic_ns
        extra = dict.fromkeys(ALWAYS_PRESENT_STEP_METADATA, "") | dict(self.extra)
        return {
            "observation": {
                "video_frame_id": "" if ref is None else f"{ref.file}#{ref.index}",
                "instruction": self.instruction,
                "robot_state": {
                    "timestamp_nanos": self.monotonic_ns,
                    "joint_positions": [],
                    "wall_time_millis": self.wall_time_ms,
                    "speed_mps": self.speed_mps,
                    "yaw_rate_rps": self.yaw_rate_rps,
                },
                "frame": frame,
            },
            "action": {
                "command": list(self.command),
                "source": self.source,
                "proposed": None if self.proposed is None else list(self.proposed),
            },
            "is_first": self.is_first,
            "is_last": self.is_last,
            "is_terminal": self.is_terminal,
            "step_metadata": {
                **extra,
                "safety_clamped": "true" if self.clamped else "false",
                "safety_violations": ",".join(self.reasons),
                "fast_loop_tick": str(self.tick),
                "adapter_sha256": self.adapter_sha256,
                "latency_ms": "" if self.latency_ms is None else repr(self.latency_ms),
                "monotonic_ns": str(self.monotonic_ns),
            },
        }

    @classmethod
    def from_json(cls, value: Any, *, index: int = 0, count: int | None = None) -> Step:
        """Read a step of ours or of the ecosystem.

        Args:
            value: the decoded JSON object.
            index: position in the episode: stands in for a missing tick or is_first.
            count: steps in the episode: stands in for a missing is_last.

        Raises:
            EpisodeError: a key is missing, unknown or of a wrong type, or a number is not finite.
        """
        data = _mapping(value, "step")
        _known_keys(data, _STEP_KEYS + _STEP_KEYS_OF_OTHERS, "step")
        observation = _mapping(data.get("observation"), "observation")
        action = _mapping(data.get("action"), "action")
        state = _mapping(observation.get("robot_state") or {}, "observation.robot_state")
        notes = dict(_mapping(data.get("step_metadata") or {}, "step_metadata"))
        for key, text in notes.items():
            _text(text, f"step_metadata.{key}")
        ref = observation.get("frame")
        proposed = action.get("proposed")
        latency = notes.get("latency_ms") or None
        reasons = notes.get("safety_violations", "")
        measured: dict[str, float | None] = {}
        for name in ("speed_mps", "yaw_rate_rps"):
            reading = state.get(name)
            measured[name] = None if reading is None else _number(reading, f"observation.robot_state.{name}")
        stamp = _integer(state.get("timestamp_nanos") or 0, "observation.robot_state.timestamp_nanos")
        exposed = None if ref is None else _mapping(ref, "observation.frame").get("monotonic_ns")
        return cls(
            command=_pair(action.get("command"), "action.command"),
            source=_text(action.get("source"), "action.source"),
            instruction=_text(observation.get("instruction") or "", "observation.instruction"),
            speed_mps=measured["speed_mps"],
            yaw_rate_rps=measured["yaw_rate_rps"],
            proposed=None if proposed is None else _pair(proposed, "action.proposed"),
            reasons=tuple(code for code in reasons.split(",") if code),
            adapter_sha256=notes.get("adapter_sha256", ""),
            latency_ms=None if latency is None else _parsed(latency, "step_metadata.latency_ms"),
            tick=_parsed_int(notes.get("fast_loop_tick") or str(index), "step_metadata.fast_loop_tick"),
            monotonic_ns=_parsed_int(notes.get("monotonic_ns") or str(stamp), "step_metadata.monotonic_ns"),
            frame_monotonic_ns=(
                None if exposed is None else _integer(exposed, "observation.frame.monotonic_ns")
            ),
            wall_time_ms=_integer(
                state.get("wall_time_millis") or 0, "observation.robot_state.wall_time_millis"
            ),
            is_first=_flag(data.get("is_first", index == 0), "is_first"),
            is_last=_flag(data.get("is_last", count is not None and index == count - 1), "is_last"),
            is_terminal=_flag(data.get("is_terminal"), "is_terminal"),
            extra={
                key: text
                for key, text in notes.items()
                if key not in RESERVED_STEP_METADATA
                and not (key in ALWAYS_PRESENT_STEP_METADATA and not text)
            },
            frame_ref=None if ref is None else FrameRef.from_json(ref),
        )


def _parsed(text: str, name: str) -> float:
    try:
        return _number(float(text), name)
    except ValueError:
        raise EpisodeError(f"a number as text is needed, not {_shown(text)}", field=name) from None


def _parsed_int(text: str, name: str) -> int:
    try:
        return _integer(int(text), name)
    except ValueError:
        raise EpisodeError(f"an integer as text is needed, not {_shown(text)}", field=name) from None
