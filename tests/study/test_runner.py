"""Cells of a study, trained and scored for real at the smallest size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

torch = pytest.importorskip("torch")

from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import tiny_base_folder  # noqa: E402
from continuonbrain.study.learners import fit  # noqa: E402
from continuonbrain.study.plan import Cell, StudySettings, quick_settings  # noqa: E402
from continuonbrain.study.report import draw, markdown  # noqa: E402
from continuonbrain.study.runner import RESULTS_FILE, SETTINGS_FILE, Study, run_cell, time_of_shared  # noqa: E402
from continuonbrain.trainer.job import JobSettings  # noqa: E402
from continuonbrain.trainer.states import replay_samples  # noqa: E402

SMALL = replace(quick_settings(StudySettings(shifts=("tape",), learners=("shared",))), tracks=1, steps=2)


def cell(learner: str, part: str = "steps") -> Cell:
    return Cell(part, learner, "tape", 0, 2, 1e-3)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"), tiny_base_folder(), SMALL)


@pytest.mark.long
def test_a_cell_is_scored_and_reported(study: Study) -> None:
    rows = [run_cell(study, cell("base")), run_cell(study, cell("shared"))]
    base, shared = rows
    assert "steps" not in base
    assert shared["steps"] == 2
    for row in rows:
        assert 0 <= row["slow_completion"] <= 1
        assert row["lane_error_m"] > 0
        assert row["tracks"] == 1
    table = markdown(rows)
    assert "| tape | shared | 2 |" in table
    assert "| tape | base | 2 |" in table
    assert "proves nothing" in table
    assert "ended early" not in table
    assert "| 2 (1 of 1 ended early: loss exploded) |" in markdown([shared | {"ended": "loss exploded"}])
    draw(rows, study.folder / "study.png")
    assert (study.folder / "study.png").stat().st_size > 10_000


def test_the_same_time_is_the_median_computing_time_of_the_shared_layers(tmp_path: Path) -> None:
    study = Study(tmp_path, tiny_base_folder(), SMALL)
    with pytest.raises(BrainError, match="not known yet"):
        time_of_shared(study, cell("full", "wall"))
    search = {"key": "s", "part": "search", "learner": "shared", "rate": 1e-3} | dict.fromkeys(
        ("completion", "slow_completion", "following", "stop_model", "lane_error_m"), 1.0
    )
    known = [
        asdict(replace(cell("shared"), seed=i)) | {"train_cpu_s": t} for i, t in enumerate((5.0, 7.0, 300.0))
    ]
    known.append(asdict(replace(cell("shared"), shift="dark")) | {"train_cpu_s": 99.0})
    known.append(asdict(replace(cell("shared"), rate=1e-2)) | {"train_cpu_s": 99.0})
    known.append(asdict(cell("full")) | {"train_cpu_s": 99.0})
    rows = [search, *({"key": str(i), "cache_cpu_s": 1.5} | row for i, row in enumerate(known))]
    (tmp_path / RESULTS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert time_of_shared(study, cell("full", "wall")) == 8.5


def test_a_budget_is_of_computing_time() -> None:
    samples, began = replay_samples(8, seed=1), time.process_time()
    settings = JobSettings(max_steps=10**6, max_wall_time_s=1.5, batch_size=2)
    done = fit("shared", tiny_base_folder(), samples, samples, settings)
    worked = time.process_time() - began
    assert done.ended == "wall time"
    assert done.steps > 0
    assert 1.5 <= done.cache_cpu_s + done.train_cpu_s <= worked


def test_a_part_stands_beside_what_it_is_compared_with() -> None:
    scores = dict.fromkeys(
        ("completion", "slow_completion", "following", "stop_model", "lane_error_m", "old_roads_completion"),
        1.0,
    )
    trained = scores | {"steps": 400, "ended": "steps", "cache_cpu_s": 1.0, "train_cpu_s": 2.0}
    rows = [asdict(cell(name)) | trained for name in ("shared", "full", "conv")]
    rows += [asdict(replace(cell("shared"), shift="dark")) | trained]
    assert "same computing time" not in markdown(rows)
    assert "proves nothing" not in markdown(rows)
    rows += [
        asdict(cell("full", "wall")) | trained,
        asdict(replace(cell("conv", "episodes"), episodes=1)) | trained,
    ]
    wall, episodes = markdown(rows).split("### ")[2:4]
    assert "| tape | shared | 2 |" in wall
    assert "| tape | full | 2 |" in wall
    assert "| tape | conv |" not in wall
    assert "| dark |" not in wall
    assert "| tape | conv | 1 |" in episodes
    assert "| tape | conv | 2 |" in episodes
    assert "shared" not in episodes


LAYER_LORA = 13_312
"""Rank 8 on q, o, gate, up and down of one layer of the tiny base: 8 x (in + out) of each, summed."""


@pytest.mark.parametrize(
    ("learner", "trained"),
    [
        ("shared-1", LAYER_LORA),
        ("shared", 4 * LAYER_LORA),
        ("plus-one", 5 * LAYER_LORA),
        ("connector", None),
        ("full", None),
    ],
)
def test_each_learner_trains_what_it_says(learner: str, trained: int | None) -> None:
    samples = replay_samples(8, seed=1)
    done = fit(learner, tiny_base_folder(), samples, samples, JobSettings(max_steps=1, batch_size=2))
    base = load_base(tiny_base_folder())
    part = base if learner == "full" else base.connector
    assert done.trainable == (trained or sum(p.numel() for p in part.parameters()))
    assert done.steps == 1


def test_the_same_seed_gives_the_same_network() -> None:
    samples = replay_samples(8, seed=1)
    settings = JobSettings(max_steps=3, batch_size=4)
    one, two = (fit("plus-one", tiny_base_folder(), samples, samples, settings).engine for _ in range(2))
    other = fit("plus-one", tiny_base_folder(), samples, samples, replace(settings, seed=1)).engine
    asked = samples.frames, samples.instructions, samples.speeds
    assert (one.decide(*asked).curvature == two.decide(*asked).curvature).all()
    assert (one.decide(*asked).curvature != other.decide(*asked).curvature).any()


def test_a_study_of_other_settings_is_not_gone_on_with(study: Study) -> None:
    study._claim()
    with pytest.raises(BrainError, match="tracks is 1, this study has 3"):
        replace(study, settings=replace(SMALL, tracks=3))._claim()
    more = replace(SMALL, seeds=9, learners=("full",), shifts=("dark", "tape"))
    replace(study, settings=more)._claim()  # more of the same is
    study._claim()
    settings = json.loads((study.folder / SETTINGS_FILE).read_text())
    assert settings["seeds"] == 9
    assert settings["learners"] == ["shared", "full"]
    assert settings["shifts"] == ["tape", "dark"]


def test_a_folder_from_before_a_setting_existed_had_its_default(tmp_path: Path) -> None:
    study = Study(tmp_path, tiny_base_folder(), StudySettings())
    study._claim()
    path = tmp_path / SETTINGS_FILE
    earlier = {k: v for k, v in json.loads(path.read_text()).items() if k != "rates"}
    path.write_text(json.dumps(earlier))
    study._claim()
    path.write_text(json.dumps(earlier))
    with pytest.raises(BrainError, match=r"rates is .* this study has \[0.003\]"):
        replace(study, settings=replace(study.settings, rates=(3e-3,)))._claim()


def test_a_torn_last_line_is_no_result(tmp_path: Path) -> None:
    study = Study(tmp_path, tiny_base_folder(), SMALL)
    (tmp_path / RESULTS_FILE).write_text(json.dumps({"key": "a"}) + "\n" + '{"key": "b", "par')
    assert [row["key"] for row in study.rows()] == ["a"]
    study._mend()
    with (tmp_path / RESULTS_FILE).open("a") as file:
        file.write(json.dumps({"key": "c"}) + "\n")
    assert [row["key"] for row in study.rows()] == ["a", "c"]


def test_settings_that_cannot_be_read_are_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text("")
    with pytest.raises(BrainError, match=SETTINGS_FILE):
        replace(study, folder=tmp_path)._claim()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_study_takes_its_cells_with_it_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "continuonbrain.cli.main", "study", "--quick", "--out", str(tmp_path)]
    command += ["--shifts", "tape", "--learners", "shared", "--parts", "steps", "--json"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    results = tmp_path / RESULTS_FILE
    while not results.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [p for p in alive if "resource_tracker" not in " ".join(p.cmdline())]
    before = results.read_text()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert results.read_text().startswith(before)
    rows = json.loads(done.stdout)["rows"]
    assert len({row["key"] for row in rows}) == len(rows) == 4 + 2
