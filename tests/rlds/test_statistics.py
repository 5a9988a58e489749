from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.configs import preset_bytes
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.measures import OTHERS, Histogram, Quantiles, Tally, bars
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.statistics import bytes_of, dropped_before, gather
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.summary import summarise
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE, EpisodeWriter
from continuonbrain.trainer.dataset import read_drive

RecordEpisode = Callable[..., Path]
runner = CliRunner()


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0])
)
@settings(deadline=None, max_examples=200)
def test_quantiles_are_within_one_per_cent_of_the_ranked_number(values: list[float], share: float) -> None:
    quantiles = Quantiles()
    for value in values:
        quantiles.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = quantiles.at(share)
    assert found is not None
    assert abs(found - exact) <= 0.0101 * abs(exact) + 1e-9
    low, high, counts = quantiles.shape(7)
    assert low == min(values)
    assert high >= low
    assert sum(counts) == pytest.approx(len(values), rel=1e-6)


def test_quantiles_stay_small_whatever_they_are_fed() -> None:
    quantiles = Quantiles()
    for exponent in range(-300, 308):
        quantiles.add(10.0**exponent)
        quantiles.add(-(10.0**exponent))
    assert len(quantiles._bins) < 8000
    assert quantiles.at(0.5) == pytest.approx(0.0, abs=1e-8)
    assert quantiles.above(2.0) == 307
    assert Quantiles().at(0.5) is None


def test_numbers_whose_sum_is_infinite_are_still_json() -> None:
    histogram, quantiles = Histogram(-1.0, 1.0, 5), Quantiles()
    for value in (1.7e308, 1.7e308, -1.7e308):
        histogram.add(value)
        quantiles.add(value)
    json.dumps([histogram.to_json(), quantiles.to_json(), quantiles.shape(5)], allow_nan=False)
    assert histogram.to_json()["above"] == 2


def test_a_histogram_counts_both_ends_and_what_lies_beyond() -> None:
    histogram = Histogram(-1.0, 1.0, 5)
    for value in (-1.0, -0.99, 0.0, 1.0, 1.5, -7.0):
        histogram.add(value)
    assert histogram.counts == [2, 0, 1, 0, 1]
    assert (histogram.below, histogram.above, histogram.total) == (1, 1, 6)
    numbers = np.array([-1.0, -0.99, 0.0, 1.0, 1.5, -7.0])
    assert histogram.mean == pytest.approx(numbers.mean())
    assert histogram.deviation == pytest.approx(numbers.std())


def test_bars_show_that_something_happened_and_that_nothing_did() -> None:
    assert bars([0, 1, 400, 800]) == " ▁▄█"
    assert bars([0, 0]) == "  "
    assert bars([]) == ""


def test_a_tally_learns_so_many_names_and_no_more() -> None:
    tally = Tally(limit=3, longest=5)
    for name in ("a", "b", "c", "d", "e", "a", "abcdefgh"):
        tally.add(name)
    assert tally.to_json() == {OTHERS: 3, "a": 2, "b": 1, "c": 1}
    other = Tally(longest=5)
    other.add("abcdefgh")
    assert other.to_json() == {"abcd…": 1}


@pytest.mark.parametrize(
    ("text", "count"), [("3", 3), ("", 0), ("many", 0), ("-2", 0), ("9" * 40, 0), ("²", 0)]
)
def test_a_note_of_dropped_steps_that_is_no_number_counts_nothing(text: str, count: int) -> None:
    assert dropped_before(replace(make_step_example(), extra={"dropped_before": text})) == count


def write(folder: Path, name: str, steps: list[Step], *, environment: str = "track") -> Path:
    metadata = replace(make_metadata_example(name), environment_id=environment)
    with EpisodeWriter(folder, metadata=metadata) as writer:
        for step in steps:
            writer.write(step)
    return writer.path


def drive(count: int, *, human: bool = False, start_ns: int = 10**9) -> list[Step]:
    """`count` steps 50 ms apart; every third was clamped for "slew" when no human drove."""
    out = []
    for tick in range(count):
        step = replace(make_step_example(tick), monotonic_ns=start_ns + tick * 50_000_000)
        if human:
            step = replace(step, source="human_teleop_xr", proposed=None, reasons=(), adapter_sha256="")
        out.append(step)
    return out


def test_what_the_safety_head_said_is_shown_and_a_text_that_is_no_probability_is_not(tmp_path: Path) -> None:
    said = ["0.0", "0.25", "0.5", "1.0", "2", "nan", "-0.1", "inf", "worst", ""]
    steps = [replace(s, extra={"safety_head": text}) for s, text in zip(drive(10), said, strict=True)]
    path = write(tmp_path, "a", steps)
    told = gather([path]).to_json()["safety_score"]
    assert (told["count"], told["max"]) == (4, pytest.approx(1.0))
    (shown,) = (s for s in summarise(open_episode(path)).signals if s.name == "safety score")
    assert (shown.measured, shown.minimum, shown.mean, shown.maximum) == (0.4, 0.0, 0.4375, 1.0)


def test_a_memory_is_counted_step_by_step(tmp_path: Path) -> None:
    auto, human = drive(30), drive(21, human=True)
    auto[10] = replace(
        auto[10], extra={"dropped_before": "4"}, monotonic_ns=auto[9].monotonic_ns + 250_000_000
    )
    auto[11:] = [replace(s, monotonic_ns=s.monotonic_ns + 200_000_000) for s in auto[11:]]
    human[5] = replace(human[5], frame=None)
    paths = [write(tmp_path, "a", auto), write(tmp_path, "b", human, environment="garage")]
    found = gather(paths).to_json()
    assert (found["episodes"], found["steps"], found["frames"]) == (2, 51, 50)
    assert found["hours"] == pytest.approx((1.65 + 1.0) / 3600)
    assert found["bytes"] == sum(f.stat().st_size for path in paths for f in path.rglob("*") if f.is_file())
    assert found["steps_by_source"] == {"autopilot": 30, "human_teleop_xr": 21}
    assert found["steps_by_environment"] == {"track": 30, "garage": 21}
    assert found["episodes_by_environment"] == {"garage": 1, "track": 1}
    assert found["steps_by_adapter"] == {"abababab": 30, "(none)": 21}
    assert found["reasons_per_1000_steps"] == {"slew": pytest.approx(1000 * 10 / 51)}
    assert found["intervened_steps"] == 10
    assert found["dropped_steps"] == {"marked": 4, "recorded": 0}
    # The gap that dropped steps explain is no jitter.
    assert found["interval_ms"]["count"] == 28 + 20
    assert found["interval_ms"]["max"] == pytest.approx(50.0)
    assert found["interval_ms"]["late"] == found["interval_ms"]["backwards"] == 0
    assert sum(found["steering"]["bins"]) == 51
    assert found["latency_ms"]["p50"] == pytest.approx(7.25, rel=0.01)
    # What training takes, as the trainer itself counts it.
    labelled = sum(int(read_drive(path).labelled.sum()) for path in paths)
    assert found["training"]["learns_from_steps"] == labelled == 20
    assert found["training"]["left_out_steps"] == {"no human drove": 30, "no frame": 1}


def test_episodes_that_are_not_whole_are_named_and_counted_to_where_they_end(
    tmp_path: Path, record: RecordEpisode
) -> None:
    torn, altered, unreadable = (record(6, episode_id=name) for name in ("torn", "altered", "unreadable"))
    steps = torn / STEPS_FILE
    steps.write_bytes(steps.read_bytes()[:-9])
    steps = altered / STEPS_FILE
    lines = steps.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b"keep left", b"keep lift")
    steps.write_bytes(b"\n".join(lines))
    (unreadable / METADATA_FILE).write_text("{")
    writer = EpisodeWriter(tmp_path / "episodes", metadata=make_metadata_example("live"))
    for step in drive(4, human=True):
        writer.write(step)
    found = gather([torn, altered, unreadable, writer.path]).to_json()
    assert found["states"] == {"damaged": 3, "recording": 1}
    writer.close()
    assert found["steps"] == 5 + 3 + 0 + 3
    assert {row["path"] for row in found["not_whole"]} == {
        str(path) for path in (torn, altered, unreadable, writer.path)
    }
    assert all(row["problem"] for row in found["not_whole"])
    assert found["training"]["learns_from_steps"] == 0
    assert found["training"]["left_out_steps"]["episode recording"] == 3
    assert gather([writer.path]).to_json()["training"]["learns_from_steps"] == 4


def test_time_that_runs_backwards_is_counted(tmp_path: Path) -> None:
    steps = drive(5)
    steps[3] = replace(steps[3], monotonic_ns=steps[1].monotonic_ns)
    found = gather([write(tmp_path, "a", steps)])
    assert found.backwards == 1


def test_memory_does_not_grow_with_the_memory_and_it_is_quick(tmp_path: Path) -> None:
    step = replace(make_step_example(1), frame=None)
    paths = []
    for number in range(20):
        many = [
            replace(step, instruction=f"go {number} {i}", monotonic_ns=i * 50_000_000) for i in range(1000)
        ]
        paths.append(write(tmp_path, f"e{number}", many))
    del many
    gather(paths[:1])
    begun = time.process_time()
    found = gather(paths)
    assert time.process_time() - begun < 10.0
    assert found.steps == 20_000
    assert len(found.instructions) <= 1001

    def peak(some: list[Path]) -> int:
        tracemalloc.start()
        gather(some)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(paths[:6]) < 1.2 * peak(paths[:2]) + 1_000_000


def test_bytes_of_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"12345")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "a" / "file") == 5
    assert bytes_of(tmp_path / "absent") == 0


def test_the_command_reads_a_root_a_folder_and_one_episode(tmp_path: Path, record: RecordEpisode) -> None:
    (tmp_path / "config.json").write_bytes(preset_bytes("sim-donkey"))
    memory = tmp_path / "rlds" / "episodes"
    one = record(4, episode_id="one", into=memory)
    record(6, episode_id="two", into=memory)
    for arguments, steps in (
        (["--root", str(tmp_path)], 10),
        ([str(tmp_path)], 10),
        ([str(memory)], 10),
        ([str(one)], 4),
        (["two", "--root", str(tmp_path)], 6),
    ):
        result = runner.invoke(app, ["stats", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["steps"] == steps
    text = runner.invoke(app, ["stats", "--root", str(tmp_path)]).stdout
    for words in ("2 episodes, 10 steps", "keep left 100.0 %", "steering", "slew: 4, 400.0 in 1,000"):
        assert words in text
    assert max(map(len, text.splitlines()[5:])) <= 80
    absent = runner.invoke(app, ["stats", str(tmp_path / "absent")])
    assert absent.exit_code != 0
    assert "no such folder" in str(absent.exception)


def test_an_empty_memory_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(preset_bytes("sim-donkey"))
    result = runner.invoke(app, ["stats", "--root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "no episodes" in result.stdout


def test_show_has_the_guard_and_the_dropped_steps_over_time(tmp_path: Path) -> None:
    steps = [replace(s, reasons=(), proposed=s.command) for s in drive(72)]
    steps[70] = replace(steps[70], reasons=("stale_path",))
    steps[0] = replace(steps[0], extra={"dropped_before": "2"})
    signals = {s.name: s for s in summarise(open_episode(write(tmp_path, "a", steps))).signals}
    assert signals["guard came in"].line == " " * 35 + "█"
    assert signals["steps dropped"].line == "█" + " " * 35
    assert signals["steps dropped"].maximum == 2


@pytest.mark.parametrize("apart", [5e-324, 1e-310, 1e-300, 0.0])
def test_numbers_that_hardly_differ_have_a_shape(apart: float) -> None:
    quantiles = Quantiles()
    for value in (0.0, 0.0, apart, apart):
        quantiles.add(value)
    _, _, counts = quantiles.shape(8)
    assert sum(counts) == pytest.approx(4)
