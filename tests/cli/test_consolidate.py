"""`continuonbrain consolidate` and `backup` as commands: answers in words, as JSON and as exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from continuonbrain.storage.layout import BrainLayout, init_brain_root


def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "continuonbrain.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def root(tmp_path: Path) -> BrainLayout:
    return init_brain_root(tmp_path / "brain", "sim-donkey")


def test_a_fresh_root_is_checked_and_backed_up(root: BrainLayout, tmp_path: Path) -> None:
    done = said("consolidate", "--root", str(root.root), "--simulate-host", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    outcomes = {p["name"]: p["outcome"] for p in report["parts"]}
    assert outcomes == {
        "check": "done",
        "remember": "nothing",
        "consolidate": "nothing",
        "retention": "nothing",
        "cache": "nothing",
        "backup": "done",
        "export": "nothing",
    }
    (row,) = doctors(root)
    assert row["ok"] is True
    assert "stand for all" in row["value"]
    listed = json.loads(said("backup", "list", "--root", str(root.root), "--json").stdout)["backups"]
    (made,) = listed
    assert made["whole"] is True
    new = tmp_path / "new"
    restored = said("backup", "restore", made["path"], "--root", str(new), "--json")
    assert restored.returncode == 0, restored.stderr
    told = json.loads(restored.stdout)
    there = [p for p in new.rglob("*") if p.is_file() and p.name != ".lock"]
    assert told == {"files": len(there), "root": str(new), "base": "", "bases": []}
    assert (new / "config.json").read_bytes() == root.config_path.read_bytes()
    again = said("backup", "restore", made["path"], "--root", str(new))
    assert again.returncode == 2
    assert "already" in again.stderr
    (Path(made["path"]) / "config.json").write_text("{}")
    assert said("backup", "list", "--root", str(root.root)).returncode == 1


def doctors(root: BrainLayout) -> list[dict[str, object]]:
    checks = json.loads(said("doctor", "--root", str(root.root), "--json").stdout)["checks"]
    return [c for c in checks if c["name"] == "docked work"]


def test_the_doctor_tells_what_failed_and_what_is_late(root: BrainLayout) -> None:
    assert doctors(root) == []
    (root.root / "backups").write_text("in the way")
    assert said("consolidate", "--root", str(root.root), "--simulate-host").returncode == 1
    (row,) = doctors(root)
    assert row["ok"] is False
    assert "backup" in str(row["value"])
    told = json.loads(root.slow_path.read_text())
    told["began_unix_s"] -= 61 * 3600
    told["parts"] = [p for p in told["parts"] if p["outcome"] != "failed"]
    root.slow_path.write_text(json.dumps(told))
    (row,) = doctors(root)
    assert (row["ok"], row["needed"]) == (False, False)
    root.slow_path.write_text("{")
    (row,) = doctors(root)
    assert "cannot be read" in str(row["value"])


def test_away_from_the_dock_is_a_no_with_what_to_do(tmp_path: Path) -> None:
    # No control process tells this car's readings: every gate is closed.
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    done = said("consolidate", "--root", str(layout.root))
    assert done.returncode == 1, done.stderr
    assert "not done" in done.stdout
    assert "next: dock it" in done.stdout
    assert not (layout.root / "backups").exists()


def test_no_backup_yet_says_how_to_make_one(root: BrainLayout) -> None:
    done = said("backup", "list", "--root", str(root.root))
    assert done.returncode == 0
    assert "continuonbrain consolidate" in done.stdout
