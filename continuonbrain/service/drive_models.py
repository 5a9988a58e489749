"""What the routes of driving, of sessions and of recording take and give."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from continuonbrain.storage.plain_text import is_plain


def _in_a_line(words: str) -> str:
    if not is_plain(words):
        raise ValueError("a text in one line, without control characters")
    return words


Instruction = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S"), AfterValidator(_in_a_line)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Nothing(_Model):
    """An empty object: what is asked for is the route."""


class Said(_Model):
    """What the robot adds to its yes, "" for nothing."""

    detail: str


class DriverIn(_Model):
    """want: to drive, or to drive no more."""

    want: bool


class DriverOut(_Model):
    """Who drives, as the one who asks sees it."""

    driver: Literal["me", "other", "none"]


class ModeIn(_Model):
    """Who drives: a person, the policy, the policy under a person's eyes, nobody; "teach": a simulated robot is handed
    back to its own life, in which the simulator's driver teaches it."""

    mode: Literal["teleop", "autopilot", "assisted", "park", "teach"]


class InstructIn(_Model):
    """instruction: a few words."""

    instruction: Instruction


class InstructionsOut(_Model):
    """suggestions: instructions that the shipped base knows."""

    suggestions: list[str]


class RecordingIn(_Model):
    """on: record from now on; what: "lessons", which a person drives by hand, or "drives", all else that is driven;
    instruction: what the robot is told meanwhile, absent to keep it."""

    on: bool
    what: Literal["lessons", "drives"] = "lessons"
    instruction: Instruction | None = None


class PairIn(_Model):
    """code: from the robot's console; six digits, or twelve after many wrong ones."""

    code: Annotated[str, Field(pattern=r"^\d{6}(\d{6})?$")]


class RenewIn(_Model):
    """forget: whoever was let in before has to pair anew."""

    forget: bool = False


class RobotOut(_Model):
    """kind: as in config.json; name: the machine's."""

    kind: str
    name: str


class SessionOut(_Model):
    """Who asks. paired: a session stands; csrf: for the header X-CSRF; watchers: open views."""

    paired: bool
    csrf: str
    driver: Literal["me", "other", "none"]
    watchers: int
    robot: RobotOut
    version: str
