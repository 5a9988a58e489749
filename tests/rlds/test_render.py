from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds import canvas, render_plot
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.reader import Episode, open_episode
from continuonbrain.rlds.render import (
    MARGIN,
    WIDTH,
    contact_sheet,
    flag_colour,
    headline,
    overview_row,
    save_png,
)
from continuonbrain.rlds.render_plot import plot
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.storyline import Story, evenly, tell, ticks
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE, EpisodeWriter

RecordEpisode = Callable[..., Path]
runner = CliRunner()
STOPS = frozenset({"stale_path"})


def steady(count: int) -> list[Step]:
    """Steps that nobody proposed anything for, 50 ms apart."""
    return [replace(make_step_example(tick), proposed=None, reasons=()) for tick in range(count)]


def drawn(folder: Path, steps: list[Step], name: str = "a") -> tuple[Episode, Story]:
    with EpisodeWriter(folder, metadata=make_metadata_example(name)) as writer:
        for step in steps:
            writer.write(step)
    episode = open_episode(writer.path)
    return episode, tell(episode, stops=STOPS)


def pixels(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == colour).all(-1).sum())


@given(st.integers(0, 500), st.integers(1, 40))
def test_frames_are_spread_from_the_first_to_the_last(count: int, wanted: int) -> None:
    found = evenly(count, wanted)
    assert len(found) == min(count, wanted)
    assert sorted(set(found)) == found
    if count and wanted > 1:
        assert (found[0], found[-1]) == (0, count - 1)
        gaps = np.diff(found)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 12))
@settings(deadline=None)
def test_ticks_are_round_numbers_inside(low: float, span: float, wanted: int) -> None:
    high = low + span
    found = ticks(low, high, wanted)
    assert len(found) <= 2 * wanted + 2
    near = 1e-6 * span + 4 * float(np.spacing(max(abs(low), abs(high))))
    assert all(low - near <= mark <= high + near for mark in found)


def test_a_story_tells_runs_reasons_and_drops(tmp_path: Path) -> None:
    steps = steady(8)
    steps[:3] = [replace(s, source="human_teleop_xr") for s in steps[:3]]
    steps[5] = replace(steps[5], proposed=(0.9, 0.9), reasons=("slew", "stale_path"))
    steps[6] = replace(steps[6], reasons=("slew",), instruction="stop", extra={"dropped_before": "7"})
    _, story = drawn(tmp_path, steps)
    assert [(r.first, r.last, r.text) for r in story.sources] == [
        (0, 2, "human_teleop_xr"),
        (3, 7, "autopilot"),
    ]
    assert [(r.first, r.last, r.text) for r in story.instructions] == [
        (0, 5, "keep left"),
        (6, 6, "stop"),
        (7, 7, "keep left"),
    ]
    assert {code: at.tolist() for code, at in story.reasons.items()} == {"slew": [5, 6], "stale_path": [5]}
    assert story.flagged.nonzero()[0].tolist() == [5, 6]
    assert story.stopped.nonzero()[0].tolist() == [5]
    assert story.dropped == [(6, 7)]
    assert story.duration_s == pytest.approx(0.35)
    assert np.isnan(story.proposed[0]).all()
    assert story.proposed[5].tolist() == [0.9, 0.9]
    assert (flag_colour(story, 4), flag_colour(story, 5), flag_colour(story, 6)) == (
        None,
        canvas.STOPPED,
        canvas.CHANGED,
    )


def test_time_never_runs_backwards_in_a_picture_and_may_be_absent() -> None:
    steps = steady(4)
    steps[2] = replace(steps[2], monotonic_ns=steps[0].monotonic_ns)
    assert (np.diff(tell(steps).seconds) >= 0).all()
    still = tell([replace(s, monotonic_ns=0) for s in steps])
    assert not still.timed
    assert still.seconds.tolist() == [0, 1, 2, 3]
    assert still.duration_s == 0.0


def test_the_sheet_shows_the_frames_and_outlines_where_the_guard_came_in(tmp_path: Path) -> None:
    steps = steady(12)
    quiet = contact_sheet(*drawn(tmp_path, steps, "quiet"))
    steps[3] = replace(steps[3], reasons=("slew",))
    changed = contact_sheet(*drawn(tmp_path, steps, "changed"))
    steps[7] = replace(steps[7], reasons=("stale_path",))
    both = contact_sheet(*drawn(tmp_path, steps, "both"))
    legend = 13 * 13
    assert pixels(quiet, canvas.CHANGED) == pixels(quiet, canvas.STOPPED) == legend
    assert pixels(changed, canvas.CHANGED) > legend + 2000
    assert pixels(changed, canvas.STOPPED) == legend
    assert pixels(both, canvas.STOPPED) > legend + 2000
    # The first cell is the first frame, scaled.
    episode, _ = drawn(tmp_path, steps, "again")
    first = episode.frame(0)
    shown = np.asarray(quiet)[130:140, MARGIN + 90 : MARGIN + 100].reshape(-1, 3).mean(0)
    column = (
        first[: first.shape[0] // 8, first.shape[1] // 2 - 1 : first.shape[1] // 2 + 1].reshape(-1, 3).mean(0)
    )
    assert np.abs(shown - column).max() < 25


def test_what_happened_between_two_shown_frames_is_said(tmp_path: Path) -> None:
    steps = steady(60)
    steps[1] = replace(steps[1], reasons=("slew",))  # of 24 frames, step 1 is not one
    assert 1 not in evenly(60, 24)
    episode, story = drawn(tmp_path, steps)
    hushed = replace(story, flagged=np.zeros(60, np.bool_))
    assert contact_sheet(episode, story).tobytes() != contact_sheet(episode, hushed).tobytes()


def test_the_side_of_the_steering_bar_is_the_side_of_the_wheels(tmp_path: Path) -> None:
    def weight(steering: float, name: str) -> tuple[int, int]:
        steps = [replace(make_step_example(0), command=(steering, 0.0), proposed=None, reasons=())]
        sheet = np.asarray(contact_sheet(*drawn(tmp_path, steps, name)))
        sent = (sheet == canvas.SENT).all(-1)[: sheet.shape[0] - 60]
        columns = np.flatnonzero(sent.any(0))
        return int(columns.min()), int(columns.max())

    left, right = weight(0.8, "left"), weight(-0.8, "right")
    assert left[1] <= right[0] + 1


def test_the_plot_draws_lanes_for_what_there_is_and_none_for_what_there_is_not(tmp_path: Path) -> None:
    steps = steady(20)
    plain = plot(*drawn(tmp_path, steps, "plain"))
    steps[4] = replace(steps[4], reasons=("slew",), proposed=(0.9, 0.1))
    steps[9] = replace(steps[9], reasons=("stale_path",), extra={"dropped_before": "3"})
    rich = plot(*drawn(tmp_path, steps, "rich"))
    assert rich.width == plain.width == WIDTH
    assert rich.height == plain.height + 3 * 26  # slew, stale_path, dropped
    legend = 13 * 11
    assert pixels(plain, canvas.CHANGED) == pixels(plain, canvas.STOPPED) == legend
    assert pixels(rich, canvas.CHANGED) > legend + 500
    assert pixels(rich, canvas.STOPPED) > legend + 500
    assert pixels(rich, canvas.PROPOSED) > pixels(plain, canvas.PROPOSED)
    unmeasured = plot(*drawn(tmp_path, [replace(s, speed_mps=None) for s in steps], "unmeasured"))
    assert unmeasured.height < rich.height


def test_a_wild_proposal_does_not_flatten_the_rest(tmp_path: Path) -> None:
    steps = steady(20)
    steps[4] = replace(steps[4], proposed=(1e300, -1e300))
    picture = plot(*drawn(tmp_path, steps))
    assert pixels(picture, canvas.SENT) > 500


_UNICODE = st.characters(codec="utf-8")

_REAL = st.floats(allow_nan=False, allow_infinity=False)
_STEPS = st.builds(
    Step,
    command=st.tuples(_REAL, _REAL),
    proposed=st.none() | st.tuples(_REAL, _REAL),
    speed_mps=st.none() | _REAL,
    source=st.text(_UNICODE, max_size=300),
    instruction=st.text(_UNICODE, max_size=300),
    reasons=st.lists(
        st.text(st.characters(exclude_characters=",", codec="utf-8"), min_size=1, max_size=80), max_size=3
    ).map(tuple),
    monotonic_ns=st.integers(-(2**63), 2**63 - 1),
    extra=st.dictionaries(st.just("dropped_before"), st.text(_UNICODE, max_size=12)),
)


@given(st.lists(_STEPS, max_size=30))
@settings(deadline=None, max_examples=60)
def test_whatever_the_numbers_and_texts_are_there_is_a_picture(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    path = tmp_path_factory.mktemp("flat") / "x.json"
    whole = {"metadata": make_metadata_example("x").to_json(), "steps": [step.to_json() for step in steps]}
    path.write_text(json.dumps(whole))
    episode = open_episode(path, strict=False)  # up to the first step that a file cannot hold
    story = tell(list(episode), stops=STOPS)
    for picture in (contact_sheet(episode, story), plot(episode, story), overview_row(episode, story)):
        assert picture.width == WIDTH
        assert picture.height < 4000


def test_in_a_long_episode_a_shade_says_how_many_steps_are_meant() -> None:
    steps = [replace(s, frame=None) for s in steady(12)]
    long = [replace(steps[0], monotonic_ns=i, reasons=("slew",) if i % 4 == 0 else ()) for i in range(8000)]
    story = tell(long)
    spans = render_plot._marked_spans(story, story.reasons["slew"])
    shares = np.array([share for _, _, share in spans])
    assert len(spans) > 1000
    assert shares.mean() == pytest.approx(0.25, abs=0.01)
    assert render_plot._marked_spans(tell(long[:8]), np.array([4]))[0][2] == 1.0


def test_many_points_in_a_column_keep_their_extremes() -> None:
    x, y = np.linspace(0, 9, 5000), np.zeros(5000)
    y[2500] = 50.0
    xs, ys = canvas._columns(x, y)
    assert len(xs) == 20
    assert ys.max() == 50.0
    assert (np.diff(xs) >= 0).all()


def test_an_empty_episode_and_one_of_a_single_step_are_drawn(tmp_path: Path) -> None:
    for count in (0, 1):
        episode, story = drawn(tmp_path, steady(count), f"n{count}")
        for picture in (contact_sheet(episode, story), plot(episode, story), overview_row(episode, story)):
            assert picture.width == WIDTH


def test_a_frame_that_is_missing_or_altered_is_a_field_that_says_so(tmp_path: Path) -> None:
    steps = steady(3)
    steps[1] = replace(steps[1], frame=None)
    episode, story = drawn(tmp_path, steps)
    blob = episode.path / BLOB_FILE
    data = bytearray(blob.read_bytes())
    data[len(data) - 40] ^= 1
    blob.write_bytes(data)
    sheet = contact_sheet(episode, story)
    assert pixels(sheet, canvas.PAPER) > 2 * 150 * 80


def test_the_head_names_what_a_person_asks_for(tmp_path: Path) -> None:
    steps = steady(21)
    steps[4] = replace(steps[4], reasons=("slew",), extra={"dropped_before": "3"})
    episode, story = drawn(tmp_path, steps)
    episode.torn = "cut"
    text = "\n".join(line for line, _ in headline(story, episode))
    for words in (
        "test/bench; 21 steps, 1.0 s at 20.0 Hz",
        'autopilot 100 %; told "keep left"',
        "guard: 1 steps (slew 1); dropped by the recorder: 3 steps",
        "ends early: cut",
    ):
        assert words in text


def test_text_is_cut_to_the_space_there_is() -> None:
    assert canvas.fitted("short", 13, 200) == "short"
    cut = canvas.fitted("a very long instruction " * 50, 13, 120)
    assert cut.endswith("...")
    assert canvas.width_of(cut, 13) <= 120
    assert canvas.signed(-0.001) == "+0.00"


def test_the_command_draws_one_episode_and_a_folder(tmp_path: Path, record: RecordEpisode) -> None:
    one = record(5, episode_id="one")
    record(7, episode_id="two")
    bad = record(4, episode_id="bad")
    (bad / "metadata.json").write_text("{")
    out = tmp_path / "out"
    result = runner.invoke(app, ["render", str(one), str(out), "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["episodes"]
    assert (row["steps"], row["flagged_steps"]) == (5, 2)
    assert {path.name for path in out.iterdir()} == {"one-sheet.png", "one-plot.png"}
    result = runner.invoke(app, ["render", str(one.parent), str(out), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [row["steps"] for row in told["episodes"]] == [5, 7]
    assert [Path(skip["path"]).name for skip in told["skipped"]] == ["bad"]
    for name in ("two-sheet.png", "two-plot.png", "overview-01.png"):
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.format == "PNG"
    assert "left out" in runner.invoke(app, ["render", str(one.parent), str(out)]).stdout
    failed = runner.invoke(app, ["render", str(bad), str(out)])
    assert failed.exit_code != 0


def test_an_episode_that_ends_early_is_drawn_up_to_there(tmp_path: Path, record: RecordEpisode) -> None:
    path = record(6)
    steps = path / STEPS_FILE
    steps.write_bytes(steps.read_bytes()[:-9])
    result = runner.invoke(app, ["render", str(path), str(tmp_path / "out"), "--json"])
    (row,) = json.loads(result.stdout)["episodes"]
    assert row["steps"] == 5
    assert row["torn"]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, path: Path, form: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_names_with_dots_do_not_share_a_picture(
    tmp_path: Path, record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = record(2, episode_id="run.1").parent
    record(3, episode_id="run.2")
    assert runner.invoke(app, ["render", str(memory), str(tmp_path / "a")]).exit_code == 0
    names = {f"run.{n}-{kind}.png" for n in (1, 2) for kind in ("sheet", "plot")}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"overview-01.png"}
    monkeypatch.chdir(memory / "run.2")
    assert runner.invoke(app, ["render", ".", str(tmp_path / "b")]).exit_code == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"run.2-sheet.png", "run.2-plot.png"}
