"""What the control process answers to whom, and what it tells a view: without a process around it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from continuonbrain.loops.control_commands import ControlCommands
from continuonbrain.loops.control_snapshot import ControlSnapshot, ControlState
from continuonbrain.loops.loop_tick import Mode
from continuonbrain.loops.policy_client import Refusal
from continuonbrain.loops.remote import RemoteControl
from tests.loops.fast_rig import rig


class Told:
    """Commands with a life around them that is at a phase."""

    def __init__(self, phase: str) -> None:
        self.loop = rig().loop
        self.client = SimpleNamespace(connected=True, connects=1, problem="", refusal=None)
        self.pressed = ""
        body: Any = SimpleNamespace(
            tell=dict, instruct=lambda _text: None, release=lambda: self.pressed, asked=lambda: None
        )
        life: Any = SimpleNamespace(phase=phase, lesson=(3, 9), fault="", rounds=0)
        client: Any = self.client
        self.snapshot = ControlSnapshot(ControlState(), self.loop, client, body, life)
        self.answers: list[tuple[bool, str]] = []
        self.heard: list[str] = []
        self.has_a_life = True
        self.now_s, self.on_disk = 100.0, True
        self.remote = RemoteControl()
        server: Any = SimpleNamespace(
            wait=lambda _s: self.come,
            acknowledge=lambda _peer, *, ok, detail: self.answers.append((ok, detail)),
        )
        self.commands = ControlCommands(
            server,
            self.loop,
            body,
            self.remote,
            change_mode=self._change,
            take_part=lambda: self.heard.append("takes part"),
            hand_back=self._hand_back,
            keep=lambda: lambda: self.on_disk,
            clock=lambda: self.now_s,
        )

    def _change(self, mode: Mode) -> str:
        self.loop.release()
        self.loop.set_mode(mode)
        return ""

    def _hand_back(self) -> str:
        self.heard.append("hands back")
        return "" if self.has_a_life else "nobody but a person teaches this robot"

    def say(self, **header: object) -> tuple[bool, str]:
        self.hear(**header)
        self.later()
        return self.answers[-1]

    def hear(self, **header: object) -> None:
        """One tick."""
        self.come = [SimpleNamespace(header=header, peer=SimpleNamespace(open=True))]
        self.commands.take()

    def later(self, seconds: float = 0.05) -> None:
        """A tick in which nothing comes."""
        self.come, self.now_s = [], self.now_s + seconds
        self.commands.take()


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"type": "teleop", "steering": 0.0, "throttle": 0.1}, ["takes part"]),
        ({"type": "teleop", "steering": 7.0, "throttle": 0.1}, []),
        ({"type": "record", "on": True, "what": "lessons"}, ["takes part"]),
        ({"type": "record", "on": False, "what": "drives"}, []),
        ({"type": "stop"}, ["takes part"]),
        ({"type": "instruct", "instruction": "keep left"}, []),
        ({"type": "let_go"}, []),
        ({"type": "mode", "mode": "teach"}, ["hands back"]),
    ],
)
def test_who_drives_records_or_stops_takes_part(said: dict[str, Any], heard: list[str]) -> None:
    told = Told("teach")
    told.say(**said)
    assert told.heard == heard


KEPT = [{"type": "stop"}, {"type": "mode", "mode": "park"}, {"type": "release"}]


@pytest.mark.parametrize("said", KEPT)
def test_what_outlives_a_kill_is_done_at_once_and_acknowledged_when_it_is_on_disk(
    said: dict[str, Any],
) -> None:
    told = Told("drive")
    told.on_disk = False
    told.hear(**said)
    guard = told.loop.pilot.guard
    assert (guard.emergency_stopped, told.loop.mode) == (
        (True, "autopilot") if said["type"] == "stop" else (False, "park")
    )
    told.hear(type="record", on=True)  # what has nothing to keep is not held up
    assert told.answers == [(True, "")]
    told.on_disk = True
    told.later()
    told.later()
    assert told.answers == [(True, ""), (True, "")]


def test_what_is_safe_is_done_however_late_and_nothing_else_is() -> None:
    told, late = Told("drive"), time.monotonic() - 1.0
    told.remote.take({"steering": 0.1, "throttle": 0.2})
    for said in (
        {"type": "teleop", "steering": 0.0, "throttle": 0.9},
        {"type": "mode", "mode": "teleop"},
        {"type": "release"},
        {"type": "instruct", "instruction": "drive"},
        {"type": "record", "on": True},
    ):
        ok, why = told.say(**said, until_s=late)
        assert not ok
        assert "too late" in why
    assert told.remote()[0] == (0.1, 0.2)
    assert told.remote.hand() == "drives"
    assert told.say(type="let_go", until_s=late) == (True, "")
    assert told.remote.hand() == "gone"
    assert told.say(type="stop", until_s=late) == (True, "")
    assert told.loop.pilot.guard.emergency_stopped


def test_a_disk_that_takes_nothing_keeps_nobody_from_hearing_that_the_robot_stops() -> None:
    told = Told("drive")
    told.on_disk = False
    told.hear(type="stop")
    told.later(0.9)
    assert told.answers == []
    told.later(0.2)
    ((ok, detail),) = told.answers
    assert ok
    assert "may be forgotten" in detail


def test_what_is_refused_waits_for_no_disk() -> None:
    told = Told("drive")
    told.on_disk, told.pressed = False, "emergency stop: the switch"
    told.hear(type="release")
    assert told.answers == [(False, told.pressed)]


def test_a_robot_without_a_simulated_life_cannot_be_handed_back_to_it() -> None:
    told = Told("drive")
    assert told.say(type="mode", mode="teach") == (True, "")
    told.has_a_life = False
    assert told.say(type="mode", mode="teach") == (False, "nobody but a person teaches this robot")


def test_a_view_is_told_why_the_policy_gives_no_path() -> None:
    told = Told("drive")
    assert told.snapshot.gauges()["policy"]["refusal"] == ""
    told.client.refusal = Refusal("the instruction is 40 tokens long; this base reads 12", "say it shorter")
    assert "say it shorter" in told.snapshot.gauges()["policy"]["refusal"]
    told.client.problem = "policy process: Connection refused"
    assert told.snapshot.gauges()["policy"]["problem"] == "policy process: Connection refused"


def test_every_mode_ends_an_emergency_stop_and_an_instruction_does_not() -> None:
    told = Told("drive")
    for mode in ("park", "autopilot", "teleop", "assisted"):
        assert told.say(type="stop") == (True, "")
        assert "emergency stop is on" in told.say(type="instruct", instruction="drive")[1]
        assert told.loop.pilot.guard.emergency_stopped
        told.say(type="mode", mode=mode)
        assert not told.loop.pilot.guard.emergency_stopped


@pytest.mark.parametrize("asked", [{"type": "mode", "mode": "autopilot"}, {"type": "release"}])
def test_what_was_asked_for_before_a_stop_does_not_end_it_nor_comes_after_it(asked: dict[str, Any]) -> None:
    told = Told("drive")
    told.say(type="mode", mode="park")
    assert told.say(type="stop") == (True, "")
    stopped_s = told.loop.stopped_s
    for before in (stopped_s - 1.0, stopped_s, float("nan"), "now"):
        ok, why = told.say(**asked, asked_s=before)
        assert not ok
        assert "ask again" in why
        assert told.loop.pilot.guard.emergency_stopped
    assert told.say(type="release", asked_s=stopped_s + 2.0) == (True, "")  # a person who saw it
    assert not told.say(**asked, asked_s=stopped_s - 1.0)[0]  # and one who had not
    assert told.loop.mode == "park"
    assert told.say(**asked, asked_s=stopped_s + 1.0) == (True, "")


def test_release_ends_an_emergency_stop_only_where_the_body_lets_go() -> None:
    told = Told("drive")
    told.say(type="stop")
    told.pressed = "emergency stop: the switch"
    assert told.say(type="release") == (False, told.pressed)
    assert told.loop.pilot.guard.emergency_stopped
    told.pressed = ""
    assert told.say(type="release") == (True, "")
    assert not told.loop.pilot.guard.emergency_stopped
    assert told.loop.mode == "park"


def test_record_is_about_lessons_where_it_does_not_say_what() -> None:
    told = Told("drive")
    switches = told.loop.recording
    before = switches.drives
    for on in (True, False):
        assert told.say(type="record", on=on) == (True, "")
        assert (switches.lessons, switches.drives) == (on, before)
    assert told.say(type="record", on=not before, what="drives") == (True, "")
    assert (switches.lessons, switches.drives) == (False, not before)
    ok, why = told.say(type="record", on=True, what="everything")
    assert not ok
    assert "what = 'everything'" in why
    assert not switches.lessons
