"""The whole way of a lesson: recorded, exported by choice, learned from by two workers elsewhere, signed, imported,
judged by the robot itself, promoted while it drives, and what drives then is that very adapter.

An owner's commands, on the tiny base; the car's servo is mounted the other way round.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import bad_candidates
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cli.main import app
from continuonbrain.loops import learning
from continuonbrain.loops.drive_session import DriveSession
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.policy.calibration import Calibration
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore

from .driving import config_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHIFT, LESSONS, TICKS = "reverse", 16, 80
STEPS, RANK = 24, 12
"""Of the training elsewhere: more than the robot's rank, so that it has to be projected."""
DRIVEN_TICKS = 20
"""By the adapter, before it is asked which one it was."""


def owner(*words: object) -> Any:
    """What a command of the robot's owner says, as JSON."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, f"{words}: {done.output} {done.exception}"
    return json.loads(done.stdout)


def refusal(*words: object) -> str:
    """Why a command is refused."""
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code != 0
    return str(done.exception)


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Commands that train set threads and signals, for a process of their own."""
    threads = torch.get_num_threads()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def short_course(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tracks of each measure, one for each instruction: the judging is whole, its evidence small."""
    monkeypatch.setattr(learning, "Course", lambda _world: bad_candidates.short_course(SHIFT))


def taught_robot(root: Path) -> BrainRoot:
    """A robot that a person has driven, before its owner opts in to anything."""
    done = CliRunner().invoke(app, ["init", "--root", str(root), "--preset", "sim-donkey"])
    assert done.exit_code == 0, done.output
    config_for(root, robot__shift=SHIFT, robot__decision_time_s=0.2, training__reflex_steps=0)
    brain = open_brain(root)
    record_expert(
        brain.layout.episodes_dir,
        world(SHIFT),
        instructions=lessons(LESSONS),
        steps=TICKS,
        seed=60_000,
        limits=Limits.from_config(brain.config.guards),
    )
    return brain


def train_elsewhere(folder: Path, memory: Path, key: Path, base: Path) -> dict[str, Any]:
    """What `cloud train` says on the bigger machine: another folder, other processes, and only what was carried."""
    for carried in (memory, key):
        shutil.copy(carried, folder)
    shutil.copytree(base, folder / "base")
    done = subprocess.run(
        [sys.executable, "-m", "continuonbrain", "cloud", "train", memory.name, "--key", key.name, "--base", "base",
         "--out", "run", "--workers", "2", "--rank", str(RANK), "--steps", str(STEPS), "--batch", "24", "--cpu",
         "--json"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def drive_and_promote(brain: BrainRoot, sha256: str) -> dict[str, Any]:
    """The robot drives on the base, the candidate is promoted, the robot drives on with it; what the command said."""
    with DriveSession(brain.layout, track_seed=9001, instruction="drive") as session:
        promoted: dict[str, Any] = owner("adapters", "promote", "--root", brain.layout.root)
        session.wait_for_adapter(sha256, timeout_s=60)
        until = int(session.status()["tick"]) + DRIVEN_TICKS
        deadline = time.monotonic() + 60
        while int(session.status()["tick"]) < until:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        session.stop()
    return promoted


@pytest.mark.usefixtures("as_it_was", "short_course")
def test_what_two_workers_learned_elsewhere_comes_home_is_judged_and_drives(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "robot", tmp_path / "elsewhere"
    elsewhere.mkdir()
    brain = taught_robot(root)
    store, taught = AdapterStore(brain.layout), list_episodes(brain.layout.episodes_dir)

    # Out, by choice: of the robot and of each episode.
    owner("keys", "new", "robot", "--root", root)
    memory = tmp_path / "memory.zip"
    assert "cloud.opt_in is false" in refusal("cloud", "export", "--root", root, "--out", memory)
    config_for(root, cloud__opt_in=True)
    owner("episodes", "share", *(p.name for p in taught[1:]), "--yes", "--root", root)
    exported = owner("cloud", "export", "--root", root, "--out", memory)
    assert (exported["episodes"], exported["steps"]) == (LESSONS - 1, (LESSONS - 1) * TICKS)
    assert [e["episode"] for e in exported["stays"]] == [taught[0].name]

    # Learned from, by two workers, at a rank that the robot does not take.
    told = train_elsewhere(
        elsewhere, memory, root / "keys" / "public" / "robot.pub", brain.layout.base_model_dir
    )
    assert told["base_sha256"] == base_sha256(brain.layout.base_model_dir)
    assert (told["engine"]["workers"], told["engine"]["distributed"]) == (2, "MULTI_CPU")
    assert (told["rank"], told["fit"]["how"], told["fit"]["rank"]) == (RANK, "projected", 8)
    assert 0 < told["fit"]["relative_error"] < 0.5
    assert len(told["episodes"]) + len(told["held_out"]) == LESSONS - 1
    learned = told["adapter_sha256"]

    # Back, signed by a key that the robot's owner trusts.
    workshop = tmp_path / "workshop"
    assert CliRunner().invoke(app, ["init", "--root", str(workshop)]).exit_code == 0
    owner("keys", "new", "workshop", "--root", workshop)
    packed = elsewhere / "trained.bundle"
    pack = ("cloud", "pack", elsewhere / "run", packed, "--key", "workshop", "--root", workshop)
    owner(*pack)
    assert "is there already" in refusal(*pack)
    assert "trusts no key" in refusal("cloud", "import", packed, "--root", root)
    owner("keys", "trust", workshop / "keys" / "public" / "workshop.pub", "--root", root)
    taken = owner("cloud", "import", packed, "--root", root)
    assert (taken["kind"], taken["key"], taken["sha256"]) == ("adapter", "workshop", learned)
    candidate = store.candidate()
    assert candidate is not None
    assert candidate.version_id == taken["candidate"]
    assert store.current() is None  # it drives nothing before a verdict of this robot
    assert candidate.verdict() is None
    (fitted,) = told["calibrations"].values()
    carried = Calibration.from_file(candidate.path / "calibration.json")
    assert carried.steering_gain == fitted["steering_gain"] < 0

    # Judged by the robot, on its own episodes and its own course.
    outcome = owner("train", "--root", root, "--simulate-host", "--hold")
    assert (outcome["phase"], outcome["version_id"]) == ("judged", candidate.version_id), outcome["detail"]
    assert outcome["training"] == {}  # nothing was learned here
    verdict = candidate.verdict()
    assert verdict is not None
    assert verdict["passed"]
    assert (verdict["candidate_sha256"], verdict["base_sha256"]) == (learned, told["base_sha256"])
    before, after = verdict["evidence"]["closed_current"], verdict["evidence"]["closed_candidate"]
    assert after["completion"] > before["completion"] + 0.5

    # It drives, and every step that it drove says so.
    promoted = drive_and_promote(brain, learned)
    assert (promoted["to"], promoted["noticed"]) == (candidate.version_id, True)
    current = store.current()
    assert current is not None
    assert current.compute_sha256() == learned
    drives = [p for p in list_episodes(brain.layout.episodes_dir) if p not in taught]
    steps = [step for path in drives for step in open_episode(path).steps()]
    drivers = [step.adapter_sha256 for step in steps if step.adapter_sha256]
    assert len(drivers) >= DRIVEN_TICKS
    assert set(drivers) == {learned}
    last = owner("adapters", "list", "--root", root)
    assert [(a["id"], a["slot"]) for a in last["adapters"]] == [(candidate.version_id, "current")]
    assert last["probation"]["state"] == "probation"  # watched, as what it learned itself is
