"""A simulated robot's life: what comes first, what comes after it, and that no lesson is taught twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from continuonbrain.config import GuardsConfig
from continuonbrain.loops import sim_life
from continuonbrain.loops.sim_life import Interrupted, SimulatedLife, drives_on
from continuonbrain.rlds.marking import TRACK_TAG
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import BrainLayout


class FakeDriven:
    """A process whose phases end at once; it is told to stop after so many."""

    def __init__(self, phases: int) -> None:
        self.left = phases
        self.taken = False
        self.entered: list[str] = []
        self.taught_steps = 0
        self.life: SimulatedLife | None = None
        self.put_back: list[str] = []

    @property
    def stopping(self) -> bool:
        return self.left <= 0

    def enter(self, *, driving: bool) -> None:
        assert self.life is not None
        assert driving is (self.life.phase == "drive")
        self.entered.append(self.life.phase)

    def tick_until(self, over: Callable[[], bool]) -> None:
        self.left -= 1

    def taught(self) -> None:
        self.taught_steps += 1


def make_life(layout: BrainLayout, driven: FakeDriven, seed: int = 0) -> SimulatedLife:
    life = SimulatedLife(
        layout,
        SHIFTS["tape"],
        shift="tape",
        seed=seed,
        limits=Limits.from_config(GuardsConfig()),
        driven=driven,
        put_back=lambda: driven.put_back.append(driven.entered[-1] if driven.entered else "start"),
    )
    driven.life = life
    return life


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    layout = BrainLayout(tmp_path)
    layout.episodes_dir.mkdir(parents=True)
    return layout


def phases_of(layout: BrainLayout, monkeypatch: pytest.MonkeyPatch, moments: int) -> list[str]:
    driven = FakeDriven(moments)
    life = make_life(layout, driven)
    monkeypatch.setattr(life, "_teach", lambda _over: driven.entered.append("taught"))
    life.live(None)
    # What follows itself without anything between is one phase.
    return [p for i, p in enumerate(driven.entered) if i == 0 or p != driven.entered[i - 1]]


def test_a_new_robot_is_taught_first(layout: BrainLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert phases_of(layout, monkeypatch, 4) == ["teach", "taught", "park", "drive"] * 2


def test_the_car_is_put_back_when_it_is_to_drive_by_itself_and_never_under_a_hand(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = FakeDriven(7)
    life = make_life(layout, driven)
    monkeypatch.setattr(life, "_teach", lambda _over: None)
    life.live(None)
    assert driven.put_back == ["park"] * driven.entered.count("drive")
    taken = FakeDriven(1)
    taken.taken = True
    life = make_life(layout, taken)
    life._enter("drive")
    assert taken.put_back == []


def test_what_an_earlier_run_learned_drives_before_the_next_lesson(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.current.parent.mkdir(parents=True, exist_ok=True)
    layout.current.symlink_to("versions/0123abcd")
    assert phases_of(layout, monkeypatch, 3) == ["drive", "teach", "taught", "park", "drive"]


def test_learning_that_was_put_down_comes_before_everything(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.current.parent.mkdir(parents=True, exist_ok=True)
    layout.current.symlink_to("versions/0123abcd")
    layout.training_state_path.parent.mkdir(parents=True, exist_ok=True)
    layout.training_state_path.write_bytes(b"a job")
    assert phases_of(layout, monkeypatch, 4) == ["park", "drive", "teach", "taught", "park", "drive"]


class Person:
    """Does something in the tick of a number, counted over all phases; every other tick goes by. A lesson has one."""

    def __init__(self, driven: FakeDriven, life: SimulatedLife, at: dict[int, Callable[[], None]]) -> None:
        self.driven, self.life, self.at, self.ticks = driven, life, at, 0
        self.phases: list[str] = []

    def tick(self) -> None:
        self.at.get(self.ticks, lambda: None)()
        self.ticks += 1
        self.driven.left -= 1
        if not self.phases or self.phases[-1] != self.life.phase:
            self.phases.append(self.life.phase)

    def tick_until(self, over: Callable[[], bool]) -> None:
        while not over():
            self.tick()

    def teach(self, _over: Callable[[], bool]) -> None:
        self.tick()
        if self.driven.taken:
            raise sim_life._PutDown


def lived_with(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch, ticks: int, at: dict[int, str], *, promoted: bool
) -> tuple[Person, FakeDriven]:
    """at: in which tick a person takes the robot ("takes") or hands it back ("hands back")."""
    if promoted:
        layout.current.parent.mkdir(parents=True, exist_ok=True)
        layout.current.symlink_to("versions/0123abcd")
    driven = FakeDriven(ticks)
    life = make_life(layout, driven)

    def do(what: str) -> None:
        driven.taken = what == "takes"
        if not driven.taken:
            life.teach_again()

    person = Person(driven, life, {n: partial(do, what) for n, what in at.items()})
    monkeypatch.setattr(driven, "tick_until", person.tick_until)
    monkeypatch.setattr(life, "_teach", person.teach)
    life.live(None)
    return person, driven


@pytest.mark.parametrize("promoted", [False, True])
@pytest.mark.parametrize("at", range(4))
def test_once_a_person_has_taken_part_nothing_happens_by_itself(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch, at: int, promoted: bool
) -> None:
    person, driven = lived_with(layout, monkeypatch, 4000, {at: "takes"}, promoted=promoted)
    assert person.phases[-1] == "drive"
    assert driven.entered[-1] == "drive"
    assert person.ticks == 4000
    assert "teach" not in person.phases[person.phases.index("drive") :]


def test_handed_back_it_is_taught_and_its_life_goes_on(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {5: "takes", 900: "hands back", 950: "takes", 1000: "hands back"}
    person, driven = lived_with(layout, monkeypatch, 1100, at, promoted=True)
    assert person.phases == ["drive", "teach", "park", "drive", "teach", "park"]
    assert not driven.taken


def test_asked_for_while_it_drives_by_itself_the_teacher_comes_at_once(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, _ = lived_with(layout, monkeypatch, 30, {3: "hands back"}, promoted=True)
    assert person.phases == ["drive", "teach", "park"]


def test_a_lesson_without_room_on_the_disk_parks_the_robot_and_says_so(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim_life, "_TEACH_BYTES", 2**62)
    driven = FakeDriven(1)
    life = make_life(layout, driven)
    life.live(None)
    assert driven.entered == ["teach", "park"]
    assert "is full" in life.fault
    assert not list(layout.episodes_dir.iterdir())


def test_a_second_run_teaches_on_tracks_that_no_lesson_was_on(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim_life, "_LESSONS", 2)
    monkeypatch.setattr(sim_life, "record_expert", _short(sim_life.record_expert))
    for _run in range(2):
        make_life(layout, FakeDriven(9))._teach(lambda: False)
    make_life(layout, FakeDriven(9), seed=3)._teach(lambda: False)
    tracks = sorted(
        tag.removeprefix(TRACK_TAG)
        for path in list_episodes(layout.episodes_dir)
        for tag in open_episode(path).metadata.tags
        if tag.startswith(TRACK_TAG)
    )
    assert tracks == ["30000", "30001", "30002", "30003", "33000", "33001"]


def test_a_signal_ends_a_lesson(layout: BrainLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_life, "_LESSONS", 2)
    driven = FakeDriven(9)
    life = make_life(layout, driven)
    with pytest.raises(Interrupted):
        life._teach(lambda: driven.taught_steps >= 3)
    assert life.lesson[0] == 3
    assert len(list_episodes(layout.episodes_dir, finished_only=True)) == 2


def _short(whole: Callable[..., list[Path]]) -> Callable[..., list[Path]]:
    return lambda *args, **kwargs: whole(*args, steps=3, **kwargs)


@pytest.mark.parametrize(
    ("parked_s", "phase", "drives"),
    [
        (149.0, "waiting", False),
        (151.0, "waiting", True),
        (151.0, "train", False),
        (899.0, "judge", False),
        (901.0, "train", True),
    ],
)
def test_a_parked_robot_does_not_drive_on_while_it_is_learned(
    parked_s: float, phase: str, drives: bool
) -> None:
    assert drives_on(parked_s, phase) is drives
