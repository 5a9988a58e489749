"""What the service takes and gives, as its OpenAPI document publishes it. `flutter/` has the same in Dart; the golden
files in `tests/golden/` hold both to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from continuonbrain.storage.event_log import EventKind

Text = Annotated[str, Field(min_length=1, max_length=4000)]
_FRAME_CHARACTERS = 6_000_000
_SAID_CHARACTERS = 65_536
"""An answer of the service's own must fit, too: it is sent back with the next question."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(_Model):
    """An error (RFC 9457, application/problem+json). remedy: what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    remedy: str = ""


class EventOut(_Model):
    """Something that happened.

    data, by kind: promotion, confirm, revert, rollback {version_id, sha256} ("" for the base alone) of what drives
    then, with reason for confirm and revert;
    training {phase, detail, candidate}; gate {open, closed: {name: reason}};
    safety {mode, stopped, emergency_stop, reasons, fault};
    base {slot, event, change, reason}: which base drives then, "" for the one of config.json.
    """

    sequence: int
    kind: EventKind
    at_unix_s: float
    data: dict[str, Any]


class Gap(_Model):
    """Events between `after` and `next` are no longer kept: what they told must be read anew."""

    after: int
    next: int


class AdapterOut(_Model):
    """An adapter on the robot. slots: among current, candidate, previous; passed: its verdict, null without one;
    damaged: what is wrong with its files, "" when nothing is (sha256 is "" when they cannot be read)."""

    id: str
    sha256: str
    slots: list[str]
    passed: bool | None
    verdict: dict[str, Any] | None
    card: dict[str, Any] | None
    damaged: str = ""


class AdaptersOut(_Model):
    """All adapters, oldest first."""

    adapters: list[AdapterOut]


class EnginesOut(_Model):
    """What computes. driving, words: "litert" or "torch"; null when the base does not drive, or has no words."""

    driving: str | None
    words: str | None


class StatusOut(_Model):
    """The brain now. control, training: what those processes last wrote ({} where none did); running: a control process
    is alive now; gates: open, and every gate's reading and reason; last_event: number of the newest event; problem: why
    the base or the current adapter cannot be used, or the adapter was refused, "" when nothing is wrong; probation:
    {state: base, confirmed or probation, version_id} and, on probation, {ticks, of_ticks, minutes, of_minutes,
    incidents, restarts}, {} when the history is damaged; base: {slot: of an imported base that drives, "" for that of
    config.json, previous, state: confirmed or probation}, and on probation the same figures."""

    version: str
    base_sha256: str
    current: str
    candidate: str
    engines: EnginesOut
    control: dict[str, Any]
    training: dict[str, Any]
    gates: dict[str, Any]
    last_event: int
    problem: str = ""
    running: bool = False
    probation: dict[str, Any] = Field(default_factory=dict)
    base: dict[str, Any] = Field(default_factory=dict)


class ActIn(_Model):
    """A frame to decide on. frame: JPEG or PNG of 160 x 120 (others are scaled), base64, with or without line breaks
    and a data: prefix; speed_mps: measured, null when it is not."""

    instruction: Text
    frame: Annotated[str, Field(min_length=4, max_length=_FRAME_CHARACTERS)]
    speed_mps: Annotated[float, Field(ge=-20, le=20)] | None = None


class ActOut(_Model):
    """A decision: curvature in 1/m at distances ahead, speed in m/s at times ahead. It moves nothing.

    adapter_sha256: "" for the base alone; note: why the current adapter could not be used, "" when it was.
    """

    curvature_per_m: list[float]
    at_m: list[float]
    speed_mps: list[float]
    in_s: list[float]
    base_sha256: str
    adapter_sha256: str
    decision_ms: float
    note: str = ""


class Message(_Model):
    """One thing that was said."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=_SAID_CHARACTERS)]


class ChatIn(_Model):
    """A conversation that ends with the user. stream: pieces as server-sent events, or the whole answer as JSON."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=64)]
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    stream: bool = True


class ChatPiece(_Model):
    """A piece of an answer (event "piece")."""

    text: str


class ChatOut(_Model):
    """An answer (event "done" of a stream). note: as in `ActOut`."""

    text: str
    base_sha256: str
    adapter_sha256: str
    note: str = ""


def events_of(*models: type[BaseModel]) -> dict[str, Any]:
    """Server-sent events as OpenAPI 3.2 describes them, their data one of `models` as JSON."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [m.model_json_schema() for m in models]},
    }
    text = {"type": "string"}
    fields = {"event": text, "id": text, "data": data, "retry": {"type": "integer", "minimum": 0}}
    return {"text/event-stream": {"schema": {"type": "object", "properties": fields}}}
