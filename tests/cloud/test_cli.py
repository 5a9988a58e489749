"""`continuonbrain cloud` and `episodes share` as a person uses them: real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot, open_brain

from .conftest import MakeRoot, Record, set_config, tree


def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "continuonbrain.cli.main", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_refusal_says_how_to_opt_in(brain: BrainRoot, tmp_path: Path) -> None:
    root = set_config(brain.layout.root, opt_in=False).layout.root
    for more in ((), ("--dry-run",)):
        done = run("cloud", "export", "--root", root, "--out", tmp_path / "o.zip", *more, code=2)
        assert "cloud.opt_in is false" in done.stderr
        assert f"continuonbrain episodes share --root {root}" in " ".join(done.stderr.split())
    assert not (tmp_path / "o.zip").exists()


def test_a_dry_run_shows_what_would_leave_and_leaves_nothing(brain: BrainRoot, tmp_path: Path) -> None:
    (brain.layout.root / "run").mkdir(exist_ok=True)
    before = tree(tmp_path)
    done = run("cloud", "export", "--root", brain.layout.root, "--dry-run", "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["episodes"], told["steps"]) == (3, 15)
    assert told["bytes"] > 1000
    assert {s["episode"][:8] for s in told["stays"]} == {"20260104", "20260105"}
    table = run("cloud", "export", "--root", brain.layout.root, "--dry-run").stdout
    assert "leaves as it is:" in table
    assert "what the robot was told, word for word" in table
    for words in (
        "what would leave",
        "in all",
        "1 episode left at home: its share says no",
        "GPS",
        "manifest.json",
        "dataset_info.json",
        "Metadata and first frames were looked at, no more",
        "nothing was written",
    ):
        assert words in table
    assert tree(tmp_path) == before


def test_a_dry_run_without_a_key_refuses_as_the_export_does(brain: BrainRoot, tmp_path: Path) -> None:
    shutil.rmtree(brain.layout.private_keys_dir)
    for more in (("--dry-run",), ("--out", tmp_path / "o.zip")):
        assert (
            "continuonbrain keys new"
            in run("cloud", "export", "--root", brain.layout.root, *more, code=2).stderr
        )


def test_export_and_verify(brain: BrainRoot, tmp_path: Path) -> None:
    root = brain.layout.root
    told = json.loads(run("cloud", "export", "--root", root, "--out", tmp_path / "o.zip", "--json").stdout)
    assert (told["episodes"], told["bytes"]) == (3, (tmp_path / "o.zip").stat().st_size)
    key = root / "keys" / "public" / "robot.pub"
    checked = json.loads(run("cloud", "verify", tmp_path / "o.zip", "--key", key, "--json").stdout)
    assert (checked["episodes"], checked["robot"]) == (3, told["robot"])
    again = run("cloud", "export", "--root", root, "--out", tmp_path / "o.zip", code=2)
    assert "is there already" in again.stderr
    (tmp_path / "stick").mkdir()
    run(
        "cloud",
        "export",
        "--root",
        root,
        "--out",
        tmp_path / "stick",
        "--frames",
        "half",
        "--since",
        "2000-01-01",
        code=2,
    )
    run("cloud", "export", "--root", root, "--out", tmp_path / "stick", "--frames", "half")
    run("cloud", "verify", tmp_path / "stick" / "continuonbrain-memory", "--key", key)
    for memory in (tmp_path / "o.zip", tmp_path / "stick"):
        refused = run("cloud", "import", memory, "--root", root, code=2).stderr
        assert "is a robot's memory" in refused
        assert "cloud train" in refused
    data = bytearray((tmp_path / "o.zip").read_bytes())
    data[500] ^= 1
    (tmp_path / "o.zip").write_bytes(data)
    assert "error" in run("cloud", "verify", tmp_path / "o.zip", "--key", key, code=2).stderr


def test_share_says_yes_and_no(brain: BrainRoot, tmp_path: Path) -> None:
    root = brain.layout.root
    run("episodes", "share", "20260104T080000Z-dddd", "20260105T080000Z-eeee", "--yes", "--root", root)
    dry = ("cloud", "export", "--root", root, "--dry-run", "--json")
    assert json.loads(run(*dry).stdout)["episodes"] == 5
    told = run("episodes", "share", root, "--no", "--json").stdout
    assert json.loads(told) == {"answer": "no", "episodes": 5, "changed": 5}
    assert json.loads(run(*dry, code=2).stdout)["episodes"] == 0
    assert "yes" in run("episodes", "share", root, code=2).stderr  # no answer is no answer


def test_a_dry_run_where_nothing_may_leave_says_and_ends_as_the_export_would(
    make_root: MakeRoot, record: Record, tmp_path: Path
) -> None:
    root = make_root().layout.root
    export = ("cloud", "export", "--root", root, "--out", tmp_path / "o.zip")
    for record_one, message, remedy in (
        (lambda: None, "there is no episode in", f"continuonbrain run --root {root}"),
        (
            lambda: record(open_brain(root), "20260101T080000Z-aaaa", share=None),
            "no episode may leave (1: its share says nothing)",
            f"continuonbrain episodes share --root {root} EPISODE --yes",
        ),
    ):
        record_one()
        real, dry = run(*export, code=2), run(*export, "--dry-run", code=2)
        assert " ".join(real.stderr.split()) == " ".join(dry.stderr.split())
        assert message in dry.stderr
        assert remedy in " ".join(dry.stderr.split())
        assert "nothing was written" in dry.stdout
        assert json.loads(run(*export, "--dry-run", "--json", code=2).stdout)["episodes"] == 0
    since = run(*export, "--since", "2100-01-01", code=2).stderr
    assert "share says nothing" in since
    run("episodes", "share", "20260101T080000Z-aaaa", "--yes", "--root", root)
    assert "give an earlier --since" in run(*export, "--since", "2100-01-01", code=2).stderr


def test_one_thing_is_told_as_one(make_root: MakeRoot, record: Record, tmp_path: Path) -> None:
    root = make_root().layout.root
    record(open_brain(root), "20260101T080000Z-aaaa", 1)
    said = run("episodes", "share", root, "--yes").stdout
    assert "the answer of 1 episode (0 said something else before)" in said
    assert "1 episode, 1 step, " in run("cloud", "export", "--root", root, "--out", tmp_path / "o.ZIP").stdout
    key = root / "keys" / "public" / "robot.pub"
    assert "1 episode, 1 step of robot-" in run("cloud", "verify", tmp_path / "o.ZIP", "--key", key).stdout
    assert (tmp_path / "o.ZIP").is_file()


def test_a_bundle_that_is_not_there_is_told_so(brain: BrainRoot, tmp_path: Path) -> None:
    key = brain.layout.public_keys_dir / "robot.pub"
    missing = tmp_path / "nothere.zip"
    for command in (
        ("cloud", "verify", missing, "--key", key),
        ("cloud", "verify", missing, "--key", tmp_path / "nothere.pub"),
        ("cloud", "import", missing, "--root", brain.layout.root),
    ):
        told = " ".join(run(*command, code=2).stderr.split())
        assert "nothere" in told
        assert "check that path: there is nothing of that name" in told
