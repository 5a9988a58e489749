"""What is forgotten when the memory is too large, and what never is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.rlds import retention
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.repair import repair
from continuonbrain.rlds.retention import Held, finished_episodes, forget, sweep, unheld_bytes, what_goes
from continuonbrain.rlds.writer import STEPS_FILE

RecordEpisode = Callable[..., Path]


@st.composite
def memories(draw: st.DrawFn) -> list[Held]:
    numbers = draw(st.lists(st.integers(0, 50), unique=True, max_size=20))
    return [
        Held(
            Path(f"e{n}"),
            draw(st.integers(0, 100)),
            draw(st.integers(0, 9)),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for n in numbers
    ]


@given(
    memories(),
    st.integers(1, 10),
    st.none() | st.integers(0, 500),
    st.sets(st.integers(0, 50).map(lambda n: f"e{n}")),
)
def test_limits_are_met_or_the_rest_is_protected(
    held: list[Held], most: int, quota: int | None, protected: set[str]
) -> None:
    plan = what_goes(held, max_episodes=most, max_bytes=quota, protected=protected)
    left = [e for e in held if e not in plan.going]
    assert all(e.own and e.path.name not in protected for e in plan.going)
    own, size = sum(e.own for e in left), sum(e.bytes for e in left)
    assert plan.episodes_over == max(0, own - most)
    assert plan.bytes_over == (0 if quota is None else max(0, size - quota))
    if plan.episodes_over or plan.bytes_over:  # then nothing is left that could go
        assert not [e for e in left if e.own and e.path.name not in protected]
    if plan.going:  # no more than is needed: without the last one to go it would still be too much
        own, size = own + 1, size + plan.going[-1].bytes
        assert own > most or (quota is not None and size > quota)
    order = [(e.taught, e.since_ns) for e in plan.going]
    assert order == sorted(order)


@given(
    memories(),
    st.integers(1, 10),
    st.none() | st.integers(0, 500),
    st.sets(st.integers(0, 50).map(lambda n: f"e{n}")),
    st.sets(st.integers(0, 50).map(lambda n: f"e{n}")),
    st.integers(0, 5),
)
def test_lessons_that_were_not_learned_yet_go_last_and_never_all(
    held: list[Held], most: int, quota: int | None, protected: set[str], unlearned: set[str], least: int
) -> None:
    plan = what_goes(
        held,
        max_episodes=most,
        max_bytes=quota,
        protected=protected,
        unlearned=unlearned,
        least_unlearned=least,
    )
    going = {e.path.name for e in plan.going}
    free = {e.path.name for e in held if e.own and e.path.name not in protected}
    assert going <= free
    new = free & unlearned
    if going & new:  # then no other was left to go
        assert free - new <= going
    left = len(new - going)
    assert left >= min(len(new), least)
    kept = sum(e.bytes for e in held if e.path.name not in going)
    if going & new and (quota is None or kept + max(e.bytes for e in plan.going) <= quota):
        assert left >= min(len(new), most)  # the number alone takes none of the newest
    # Nothing more could have gone within these rules.
    if plan.bytes_over:
        assert left <= max(least, 0) or not new
        assert free - new <= going


def test_a_memory_that_is_full_of_what_is_protected_still_learns() -> None:
    old = [Held(Path(f"old{i}"), 10, i, own=True, taught=True) for i in range(48)]
    new = [Held(Path(f"new{i}"), 10, 100 + i, own=True, taught=True) for i in range(16)]
    protected = {e.path.name for e in old}
    names = {e.path.name for e in new}
    plan = what_goes([*old, *new], max_episodes=48, max_bytes=None, protected=protected, unlearned=names)
    assert plan.going == ()
    assert plan.episodes_over == 16
    learned = what_goes([*old, *new], max_episodes=48, max_bytes=None, protected=protected)
    assert {e.path.name for e in learned.going} == names


def test_what_the_policy_drove_goes_before_older_lessons() -> None:
    lesson = Held(Path("lesson"), 10, 1, own=True, taught=True)
    drives = [Held(Path(f"drive{i}"), 10, 5 + i, own=True, taught=False) for i in range(3)]
    plan = what_goes([*drives, lesson], max_episodes=2, max_bytes=None)
    assert [e.path.name for e in plan.going] == ["drive0", "drive1"]


def test_an_episode_goes_whole_or_not_at_all(
    record: RecordEpisode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        record(3, episode_id=name)
    folder = tmp_path / "episodes"
    live = EpisodeRecorder(folder, metadata=make_metadata_example("live"))
    live.append(make_step_example(0))
    synced: list[tuple[str, ...]] = []
    monkeypatch.setattr(retention, "sync_directory", lambda path: synced.append(tuple(os.listdir(path))))
    held = finished_episodes(folder)
    assert [e.path.name for e in held] == ["a", "b"]
    assert held[0].bytes == sum(f.stat().st_size for f in (folder / "a").rglob("*") if f.is_file())
    with monkeypatch.context() as patch:
        patch.setattr(retention.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            forget(held[:1])
    assert [p.name for p in list_episodes(folder)] == ["b", "live"]
    assert any(p.name.startswith(".deleting-") for p in folder.iterdir())
    assert [".deleting-a" in names for names in synced] == [True]  # else a power cut shows half an episode
    sweep(folder)
    assert sorted(os.listdir(folder)) == ["b", "live"]
    live.close()


def test_what_a_repair_closed_is_never_deleted(record: RecordEpisode, tmp_path: Path) -> None:
    record(3)
    assert [held.own for held in finished_episodes(tmp_path / "episodes")] == [True]
    damaged = tmp_path / "episodes" / "episode" / STEPS_FILE
    damaged.write_bytes(damaged.read_bytes()[:-9])
    repair(damaged.parents[1], tmp_path / "repaired")
    assert [held.own for held in finished_episodes(tmp_path / "repaired")] == [False]


def test_a_link_to_an_episode_elsewhere_never_goes(record: RecordEpisode, tmp_path: Path) -> None:
    elsewhere = record(3, episode_id="a", into=tmp_path / "elsewhere")
    memory = record(3, episode_id="b").parent
    (memory / "a").symlink_to(elsewhere)
    held = finished_episodes(memory)
    assert [(e.path.name, e.own, e.bytes > 0) for e in held] == [("a", False, False), ("b", True, True)]
    plan = what_goes(held, max_episodes=0, max_bytes=0)
    assert forget(plan.going) > 0
    (memory / ".deleting-c").symlink_to(elsewhere)  # what an older version left
    sweep(memory)
    assert os.listdir(memory) == ["a"]
    assert (elsewhere / STEPS_FILE).is_file()


def test_what_cannot_be_read_counts_and_stays(record: RecordEpisode, tmp_path: Path) -> None:
    memory = record(3, episode_id="a").parent
    for name in ("b", "c"):
        record(3, episode_id=name)
    size = finished_episodes(memory)[0].bytes
    (memory / "c" / "metadata.json").write_text("garbage")
    live = EpisodeRecorder(memory, metadata=make_metadata_example("live"))
    held = finished_episodes(memory)
    number, others = unheld_bytes(memory, held)
    live.close()
    assert [e.path.name for e in held] == ["a", "b"]
    assert number == 2
    assert others > size // 2
    plan = what_goes(held, max_episodes=9, max_bytes=2 * size + others, other_bytes=others)
    assert plan.going == ()
    plan = what_goes(held, max_episodes=9, max_bytes=size + others, other_bytes=others)
    assert [e.path.name for e in plan.going] == ["a"]
    assert what_goes(held, max_episodes=9, max_bytes=0, other_bytes=others).bytes_over == others
