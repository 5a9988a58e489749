"""The outbox: what the docked slow loop runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud.ledger import Ledger
from continuonbrain.cloud.outbox import bundles, fill_outbox
from continuonbrain.cloud_train.bundles import open_bundle
from continuonbrain.cloud_train.episodes import BundledEpisode, episodes_of
from continuonbrain.model.base_identity import checkpoint_sha256, tiny_base_folder
from continuonbrain.rlds.marking import mark, relabel
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.sharing import set_answer
from continuonbrain.rlds.writer import STEPS_FILE
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys

from .conftest import KEY, MakeRoot, Record, public_key, set_config


def run(brain: BrainRoot) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "continuonbrain.cloud.outbox", "--root", str(brain.layout.root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_one_line_of_json_and_then_nothing_is_new(brain: BrainRoot) -> None:
    first = run(brain)
    assert first.returncode == 0, first.stderr
    (line,) = first.stdout.splitlines()
    told = json.loads(line)
    assert told.keys() == {"outcome", "detail", "path", "episodes", "bytes"}
    path = brain.layout.outbox_dir / "memory-000001.zip"
    assert (told["outcome"], told["episodes"], told["path"]) == ("done", 3, str(path))
    assert told["bytes"] == path.stat().st_size
    key = PrivateKeys(brain.layout).public_path(KEY)
    check_bundle(path, parse_public_key(key.read_bytes(), what="key"))
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]

    second = json.loads(run(brain).stdout)
    assert (second["outcome"], second["path"], second["episodes"], second["bytes"]) == ("nothing", "", 0, 0)
    assert "3 episodes were in earlier bundles" in second["detail"]


def test_not_opted_in_is_a_refusal(brain: BrainRoot) -> None:
    done = run(set_config(brain.layout.root, opt_in=False))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "opt_in" in line
    assert not brain.layout.outbox_dir.exists()


def test_a_fault_is_one_line_on_stderr(brain: BrainRoot) -> None:
    (brain.layout.private_keys_dir / f"{KEY}.json").unlink()
    done = run(brain)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "keys new" in line


def test_what_came_since_goes_next_and_three_wait_at_most(brain: BrainRoot, record: Record) -> None:
    outcomes = []
    for number in range(5):
        record(brain, f"2026020{number}T080000Z-more", 2)
        outcomes.append(fill_outbox(brain))
    assert [o.outcome for o in outcomes] == ["done", "done", "done", "nothing", "nothing"]
    assert [o.episodes for o in outcomes] == [4, 1, 1, 0, 0]
    assert "take them away" in outcomes[-1].detail
    # Nothing is lost: what waited goes when there is a place.
    bundles(brain.layout.outbox_dir)[0].unlink()
    after = fill_outbox(brain)
    assert (after.outcome, after.episodes) == ("done", 2)
    assert Path(after.path).name == "memory-000004.zip"


def test_the_size_is_bounded_and_the_rest_goes_next(brain: BrainRoot, record: Record) -> None:
    small = set_config(brain.layout.root, outbox_mib=1, outbox_bundles=9)
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8)

    def noisy(_tick: int, step: Any) -> Any:
        return replace(step, frame=noise)

    for name in ("20260301T080000Z-a", "20260302T080000Z-b"):
        record(small, name, 3, change=noisy)
    record(small, "20260303T080000Z-huge", 12, change=noisy)
    outcomes = [fill_outbox(small) for _ in range(3)]
    assert [o.outcome for o in outcomes] == ["done", "done", "nothing"]
    assert sum(o.episodes for o in outcomes) == 5
    assert "1 wait for the next" in outcomes[0].detail
    assert "larger than cloud.outbox_mib" in outcomes[2].detail


@pytest.mark.parametrize("where", ["note", "remove"])
def test_killed_when_the_bundle_has_its_name(
    brain: BrainRoot, record: Record, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    target = {
        "note": "continuonbrain.cloud.ledger.Ledger.note_delivery",
        "remove": "continuonbrain.cloud.journal.Journal.remove",
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(target, killed)
        with pytest.raises(Killed):
            fill_outbox(brain)
    (made,) = bundles(brain.layout.outbox_dir)
    whole = made.read_bytes()
    record(brain, "20260301T080000Z-new")  # the plan is another now
    after = fill_outbox(brain)
    assert (after.outcome, after.episodes) == ("done", 1)
    assert made.read_bytes() == whole
    assert len(Ledger(brain.layout).delivered()) == 4
    assert [p.suffix for p in sorted(brain.layout.outbox_dir.iterdir())] == [".zip", ".zip"]


def told_of(brain: BrainRoot, path: str, into: Path) -> set[str]:
    """What a trainer reads of a bundle: the words."""
    bundle = open_bundle(
        Path(path), [public_key(brain)], base_sha256=checkpoint_sha256(tiny_base_folder()), unfinished=into
    )
    found = list(episodes_of(bundle))
    assert all(isinstance(e, BundledEpisode) for e in found)
    return {step.instruction for e in found if isinstance(e, BundledEpisode) for step in e.steps}


def test_what_was_labelled_anew_goes_again_and_nothing_else_does(brain: BrainRoot, tmp_path: Path) -> None:
    episodes = list_episodes(brain.layout.episodes_dir)
    assert fill_outbox(brain).episodes == 3
    mark(episodes[0], bad=True)
    mark(episodes[0], bad=False)
    set_answer(episodes[0], yes=False)
    set_answer(episodes[0], yes=True)
    relabel(episodes[0], "keep left")  # as it was
    os.utime(episodes[0] / STEPS_FILE)
    assert fill_outbox(brain).outcome == "nothing"

    relabel(episodes[1], "keep right")
    again = fill_outbox(brain)
    assert (again.outcome, again.episodes) == ("done", 1)
    assert told_of(brain, again.path, tmp_path / "again") == {"keep right"}
    assert "3 episodes were in earlier bundles" in fill_outbox(brain).detail

    relabel(episodes[1], "keep left")  # they have the other words now
    back = fill_outbox(brain)
    assert (back.outcome, back.episodes) == ("done", 1)
    assert told_of(brain, back.path, tmp_path / "back") == {"keep left"}
    for path in bundles(brain.layout.outbox_dir):
        path.unlink()
    relabel(episodes[1], "keep right")
    mark(episodes[1], bad=True)
    assert fill_outbox(brain).outcome == "nothing"


def test_what_is_damaged_since_it_was_sent_does_not_go_again(brain: BrainRoot) -> None:
    fill_outbox(brain)
    steps = list_episodes(brain.layout.episodes_dir)[0] / STEPS_FILE
    lines = steps.read_bytes().splitlines(keepends=True)
    steps.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"keep left", b"keep lefu")]))
    assert "3 episodes were in earlier bundles" in fill_outbox(brain).detail


def test_what_was_labelled_anew_after_a_killed_run_had_sent_it_goes_again(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("continuonbrain.cloud.ledger.Ledger.note_delivery", killed)
        with pytest.raises(KeyboardInterrupt):
            fill_outbox(brain)
    relabel(list_episodes(brain.layout.episodes_dir)[2], "keep right")
    after = fill_outbox(brain)
    assert (after.outcome, after.episodes, Path(after.path).name) == ("done", 1, "memory-000002.zip")
    assert fill_outbox(brain).outcome == "nothing"


def test_what_an_earlier_version_has_sent_stays_sent(brain: BrainRoot) -> None:
    """It noted names alone: nobody knows what they were called then, and not all of it should go once more."""
    names = [p.name for p in list_episodes(brain.layout.episodes_dir)[:2]]
    brain.layout.exports_path.parent.mkdir(exist_ok=True)
    brain.layout.exports_path.write_text(
        json.dumps({"delivered": "memory-000001.zip", "episodes": names}) + "\n"
    )
    made = fill_outbox(brain)
    assert (made.episodes, Path(made.path).name) == (1, "memory-000002.zip")


def test_one_episode_that_cannot_be_read_makes_no_bundle(make_root: MakeRoot, record: Record) -> None:
    brain = make_root()
    steps = record(brain, "a") / "steps" / "000000.jsonl"
    steps.write_bytes(steps.read_bytes().replace(b"keep left", b"keep lefu"))
    done = fill_outbox(brain)
    assert (done.outcome, done.path) == ("nothing", "")
    assert "can be read" in done.detail
    assert list(brain.layout.outbox_dir.iterdir()) == []


def test_the_slow_loop_runs_it(brain: BrainRoot) -> None:
    """`loops.slow` knows the program by its name alone."""
    from continuonbrain.loops.slow import SlowLoop

    loop = SlowLoop.__new__(SlowLoop)
    loop.layout, loop.config = brain.layout, brain.config
    part = loop._export()
    assert (part.name, part.outcome, part.figures["episodes"]) == ("export", "done", 3)
    (brain.layout.private_keys_dir / f"{KEY}.json").unlink()
    (brain.layout.exports_path).unlink()
    failed = loop._export()
    assert failed.outcome == "failed"
    assert "keys new" in failed.detail
