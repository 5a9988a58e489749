"""A step and the place of its frame, and their JSON in the ecosystem's own key names.

What this project adds to a step line, it adds where the ecosystem leaves room: `step_metadata` (a map from string to
string) and extra observation fields. An unknown key of a step is an error; inside `observation` and `action` others
write XR fields, so there they are passed over.

A number that is not finite is refused when the `Step` is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.checked import (
    Action,
    as_flag,
    as_integer,
    as_mapping,
    as_number,
    as_pair,
    as_text,
    integer_from_text,
    number_from_text,
    only_known_keys,
    shown,
)
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.jpeg import check_jpeg
from continuonbrain.rlds.limits import MAX_FRAME_PIXELS, MAX_JPEG_SIDE, MAX_LINE_BYTES

SOURCE_HUMAN: Final = "human_teleop_xr"
SOURCE_AUTOPILOT: Final = "autopilot"

DROPPED_BEFORE: Final = "dropped_before"
"""The entry of step metadata that says how many steps were lost between the one before and this one."""

SAFETY_SCORE: Final = "safety_head"
SAFETY_FLAG: Final = "safety_head_flag"
SAFETY_LOGIT: Final = "safety_head_logit"
SAFETY_BY: Final = "safety_head_by"
"""Entries that the safety head leaves: its probability of leaving the road; "", "warn" or "block" as the thresholds
have it; its own logit; the first eight digits of its sha256."""

SURPRISE: Final = "surprise"
"""The entry that says how far a person's command is from what the policy would have done: hypot of the difference in
steering and half of that in throttle, so 1 is the steering from straight to full lock; "" where no policy had a say."""

FLAT_FRAMES: Final = ".frames"
"""A flat JSON episode NAME.json has its frames, if any, in NAME.frames/."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"  # no file system holds a longer one
_FRAME_FILE = re.compile(rf"(blobs|{_NAME}\{FLAT_FRAMES})/{_NAME}")

Frame: TypeAlias = NDArray[np.uint8]

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
ALWAYS_PRESENT_STEP_METADATA: Final = ("mid_loop_train_id", SURPRISE)


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
        data = as_mapping(value, "observation.frame")
        numbers = {}
        for name in ("index", "offset", "length"):
            numbers[name] = as_integer(data.get(name), f"observation.frame.{name}")
            if numbers[name] < 0:
                raise EpisodeError(f"{numbers[name]} is negative", field=f"observation.frame.{name}")
        file = as_text(data.get("file"), "observation.frame.file")
        if not _FRAME_FILE.fullmatch(file):
            raise EpisodeError(f"'blobs/NAME' is needed, not {shown(file)}", field="observation.frame.file")
        return cls(file=file, **numbers)


def _text_bytes(value: Any, name: str) -> int:
    """Bytes of the text that `name` must be."""
    if type(value) is str and value.isascii():  # nearly all of them, twenty times a second
        return len(value)
    text = as_text(value, name)
    return len(text) if text.isascii() else len(text.encode())


def _check_frame(frame: Any) -> None:
    if not isinstance(frame, np.ndarray):
        raise EpisodeError(f"an array is needed, not {type(frame).__name__}", field="frame")
    shape = frame.shape
    if frame.dtype != np.uint8 or frame.ndim != 3 or shape[2] != 3 or 0 in shape:
        raise EpisodeError(f"uint8 [H, W, 3] is needed, not {frame.dtype} {list(shape)}", field="frame")
    if shape[0] * shape[1] > MAX_FRAME_PIXELS or max(shape) > MAX_JPEG_SIDE:
        raise EpisodeError(
            f"a frame of {shape[1]}x{shape[0]} is too large, {MAX_FRAME_PIXELS} pixels are read at most",
            field="frame",
            remedy="record smaller pictures",
        )


def _reasons(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise EpisodeError(f"a list of codes is needed, not {shown(value)}", field="reasons")
    reasons = tuple(value)
    for reason in reasons:
        if not reason or not isinstance(reason, str) or "," in reason:
            raise EpisodeError(f"a reason is a code without commas, not {shown(reason)}", field="reasons")
    return reasons


def _extra(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise EpisodeError(f"a map from text to text is needed, not {shown(value)}", field="step_metadata")
    extra = dict(value)
    for key, text in extra.items():
        if key in RESERVED_STEP_METADATA:
            raise EpisodeError(f"{key!r} has a field of its own in Step", field="extra")
        if not isinstance(key, str) or not isinstance(text, str):
            raise EpisodeError(
                f"step metadata maps text to text, not {shown(key)}: {shown(text)}", field="step_metadata"
            )
    return extra


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
            a value of a wrong type, or one that is larger than what readers take.
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
        put(self, "command", as_pair(self.command, "action.command"))
        if self.proposed is not None:
            put(self, "proposed", as_pair(self.proposed, "action.proposed"))
        for name in ("speed_mps", "yaw_rate_rps", "latency_ms"):
            value = getattr(self, name)
            if value is not None:
                put(self, name, as_number(value, name))
        for name in ("tick", "monotonic_ns", "wall_time_ms"):
            put(self, name, as_integer(getattr(self, name), name))
        if self.frame_monotonic_ns is not None:
            put(self, "frame_monotonic_ns", as_integer(self.frame_monotonic_ns, "frame_monotonic_ns"))
        if self.frame is not None:
            _check_frame(self.frame)
        if self.frame_jpeg is not None:
            check_jpeg(self.frame_jpeg, "frame_jpeg")
        for name in ("is_first", "is_last", "is_terminal"):
            as_flag(getattr(self, name), name)
        # Copied: a caller may use a list or dict again for the next step, while this one waits for the disk.
        put(self, "reasons", _reasons(self.reasons))
        put(self, "extra", _extra(self.extra))
        self._check_texts()

    def _check_texts(self) -> None:
        """Refuse what no line can hold: no text, no Unicode, or more of it than any reader takes."""
        size = 0
        for name in ("source", "instruction", "adapter_sha256"):
            size += _text_bytes(getattr(self, name), name)
        for reason in self.reasons:
            size += _text_bytes(reason, "reasons")
        for key, text in self.extra.items():
            size += _text_bytes(key, "step_metadata") + _text_bytes(text, "step_metadata")
        if size > MAX_LINE_BYTES:
            raise EpisodeError(
                f"{size} bytes of text are too many for one step, {MAX_LINE_BYTES} are read at most",
                field="step",
                remedy="shorten its instruction and extra texts",
            )

    @property
    def clamped(self) -> bool:
        """Whether the guard changed what the policy proposed."""
        return self.proposed is not None and self.proposed != self.command

    @property
    def dropped_before(self) -> int:
        """Steps that were dropped between the one before and this one; 0 for a text that is no number."""
        text = self.extra.get(DROPPED_BEFORE, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0

    @property
    def safety_score(self) -> float | None:
        """The safety head's probability that the car leaves the road; None where no head looked."""
        try:
            score = float(self.extra.get(SAFETY_SCORE, ""))
        except ValueError:
            return None
        return score if 0.0 <= score <= 1.0 else None

    @property
    def surprise(self) -> float | None:
        """How far the command is from what the policy would have done (`SURPRISE`); None where that is not known."""
        try:
            surprise = float(self.extra.get(SURPRISE, ""))
        except ValueError:
            return None
        return surprise if isfinite(surprise) and surprise >= 0.0 else None

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
        data = as_mapping(value, "step")
        only_known_keys(data, _STEP_KEYS + _STEP_KEYS_OF_OTHERS, "step")
        observation = as_mapping(data.get("observation"), "observation")
        action = as_mapping(data.get("action"), "action")
        state = as_mapping(observation.get("robot_state") or {}, "observation.robot_state")
        notes = dict(as_mapping(data.get("step_metadata") or {}, "step_metadata"))
        for key, text in notes.items():
            as_text(text, f"step_metadata.{key}")
        ref = observation.get("frame")
        proposed = action.get("proposed")
        latency = notes.get("latency_ms") or None
        reasons = notes.get("safety_violations", "")
        measured: dict[str, float | None] = {}
        for name in ("speed_mps", "yaw_rate_rps"):
            reading = state.get(name)
            measured[name] = (
                None if reading is None else as_number(reading, f"observation.robot_state.{name}")
            )
        stamp = as_integer(state.get("timestamp_nanos") or 0, "observation.robot_state.timestamp_nanos")
        exposed = None if ref is None else as_mapping(ref, "observation.frame").get("monotonic_ns")
        return cls(
            command=as_pair(action.get("command"), "action.command"),
            source=as_text(action.get("source"), "action.source"),
            instruction=as_text(observation.get("instruction") or "", "observation.instruction"),
            speed_mps=measured["speed_mps"],
            yaw_rate_rps=measured["yaw_rate_rps"],
            proposed=None if proposed is None else as_pair(proposed, "action.proposed"),
            reasons=tuple(code for code in reasons.split(",") if code),
            adapter_sha256=notes.get("adapter_sha256", ""),
            latency_ms=None if latency is None else number_from_text(latency, "step_metadata.latency_ms"),
            tick=integer_from_text(notes.get("fast_loop_tick") or str(index), "step_metadata.fast_loop_tick"),
            monotonic_ns=integer_from_text(
                notes.get("monotonic_ns") or str(stamp), "step_metadata.monotonic_ns"
            ),
            frame_monotonic_ns=(
                None if exposed is None else as_integer(exposed, "observation.frame.monotonic_ns")
            ),
            wall_time_ms=as_integer(
                state.get("wall_time_millis") or 0, "observation.robot_state.wall_time_millis"
            ),
            is_first=as_flag(data.get("is_first", index == 0), "is_first"),
            is_last=as_flag(data.get("is_last", count is not None and index == count - 1), "is_last"),
            is_terminal=as_flag(data.get("is_terminal"), "is_terminal"),
            extra={
                key: text
                for key, text in notes.items()
                if key not in RESERVED_STEP_METADATA
                and not (key in ALWAYS_PRESENT_STEP_METADATA and not text)
            },
            frame_ref=None if ref is None else FrameRef.from_json(ref),
        )
