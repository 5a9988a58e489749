"""Claims about `continuonbrain doctor`: it shows what is wrong without failing itself or loading torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from continuonbrain.cli.main import app
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.robot.host import HOST_FILE_NAME, FileHost, Reading, SimulatedHost
from continuonbrain.storage.layout import BrainLayout, init_brain_root


def examined(root: Path) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["doctor", "--root", str(root), "--json"])
    return result.exit_code, json.loads(result.stdout)


def brain(root: Path) -> BrainLayout:
    return init_brain_root(root, "sim-donkey", base_model=tiny_base_folder())


def test_a_sound_brain_with_a_reporting_robot_is_healthy_and_may_train(tmp_path: Path) -> None:
    layout = brain(tmp_path / "brain")
    FileHost(layout.run_dir / HOST_FILE_NAME).write(SimulatedHost().read())
    code, report = examined(layout.root)
    assert code == 0
    assert report["healthy"] is True
    assert report["gates"]["open"] is True


def test_every_gate_is_shown_with_its_reason_also_those_that_a_setting_opens(tmp_path: Path) -> None:
    layout = brain(tmp_path / "brain")
    host = SimulatedHost()
    host.set(docked=0.0, cpu_temp_c=99.0)
    file = FileHost(layout.run_dir / HOST_FILE_NAME)
    absent = Reading.missing("probe", "none", monotonic_s=time.monotonic(), absent=True)
    file.write(replace(host.read(), battery_fraction=absent, memory_pressure=absent))
    config = json.loads(layout.config_path.read_text())
    config["battery"], config["gates"]["require_docked"] = "none", True
    layout.config_path.write_text(json.dumps(config))
    gates = examined(layout.root)[1]["gates"]["gates"]
    closed = {name for name, gate in gates.items() if not gate["open"]}
    assert closed == {"thermal", "docked"}
    assert "battery: none" in gates["battery"]["reason"]
    assert "no PSI" in gates["memory_pressure"]["reason"]
    shown = CliRunner().invoke(app, ["doctor", "--root", str(layout.root)], env={"COLUMNS": "200"}).stdout
    for name, gate in gates.items():
        assert name in shown
        # The time goes on between the two looks; an idle time has grown.
        assert name in ("idle", "thermal", "memory") or gate["reason"] in shown
    assert "one look" in shown


def test_a_robot_that_does_not_run_closes_gates_but_is_not_a_failure(tmp_path: Path) -> None:
    code, report = examined(brain(tmp_path / "brain").root)
    assert code == 0
    assert report["gates"]["open"] is False
    assert "has not written it" in report["gates"]["gates"]["idle"]["reason"]


def test_a_brain_that_could_not_start_is_not_healthy(tmp_path: Path) -> None:
    """No base model, or a shift that does not exist: `run` would refuse it."""
    init_brain_root(tmp_path / "without", "sim-donkey")
    code, report = examined(tmp_path / "without")
    assert (code, report["healthy"]) == (1, False)
    assert [c["name"] for c in report["checks"] if not c["ok"]] == ["base model"]
    layout = brain(tmp_path / "b")
    config = json.loads(layout.config_path.read_text())
    config["robot"]["shift"] = "tap"
    layout.config_path.write_text(json.dumps(config))
    code, report = examined(layout.root)
    assert code == 1
    assert any("tap" in c["value"] and "tape" in c["remedy"] for c in report["checks"])


def test_a_base_that_was_cut_short_is_found_without_reading_its_numbers(tmp_path: Path) -> None:
    layout = brain(tmp_path / "b")
    weights = layout.base_model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000_000])
    code, report = examined(layout.root)
    assert code == 1
    (check,) = (c for c in report["checks"] if c["name"] == "base model")
    assert not check["ok"]
    assert "model.safetensors is damaged" in check["value"]
    assert check["remedy"]


def test_a_trainer_at_work_is_shown(tmp_path: Path) -> None:
    layout = brain(tmp_path / "b")

    def said() -> str:
        return next(str(c["value"]) for c in examined(layout.root)[1]["checks"] if c["name"] == "trainer")

    assert said() == "has not run yet"
    status = {"pid": os.getpid(), "phase": "train", "step": 12, "steps": 400}
    layout.status_path.parent.mkdir(parents=True, exist_ok=True)
    layout.status_path.write_text(json.dumps(status))
    assert said() == f"at work, pid {os.getpid()}: train 12 of 400"
    paused = {"detail": "paused: thermal: stuck: 50 from sys for 301 s"}
    layout.status_path.write_text(json.dumps(status | paused))
    assert said() == f"at work, pid {os.getpid()}: train 12 of 400; {paused['detail']}"
    layout.status_path.write_text(json.dumps(status | {"phase": "gates", "detail": "idle: stuck"}))
    assert said() == "not at work; last: gates: idle: stuck"
    layout.status_path.write_text(json.dumps(status | {"phase": "refused"}))
    assert said() == "not at work; last: refused"
    layout.status_path.write_text("{")
    assert said() == "has not run yet"


def test_a_folder_that_is_no_brain_root_fails_with_a_remedy(tmp_path: Path) -> None:
    code, report = examined(tmp_path / "absent")
    assert code == 1
    assert report["gates"] is None
    failed = {
        check["name"]: check["remedy"] for check in report["checks"] if check["needed"] and not check["ok"]
    }
    assert set(failed) == {"root", "config"}
    assert "continuonbrain init" in failed["config"]


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    layout = brain(tmp_path / "brain")
    config = json.loads(layout.config_path.read_text())
    config["gates"]["min_batery"] = 0.4
    layout.config_path.write_text(json.dumps(config))
    code, report = examined(layout.root)
    assert code == 1
    check = next(check for check in report["checks"] if check["name"] == "config")
    assert "min_batery" in check["value"]
    assert "min_battery" in check["remedy"]


def test_the_table_is_for_people(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--root", str(brain(tmp_path / "brain").root)])
    assert result.exit_code == 0
    assert "disk" in result.stdout
    assert "nothing tells its other gates" in " ".join(result.stdout.split())
    assert "--simulate-host" in result.stdout
    assert "teleop" not in result.stdout  # one sentence for all that nobody tells


def test_looking_for_torch_does_not_import_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from continuonbrain.cli import doctor as d; "
        "d.check_module('torch'); d.check_brain(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    root = brain(tmp_path / "brain").root
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_who_has_no_gauge_is_told_which_setting_says_so(tmp_path: Path) -> None:
    layout = brain(tmp_path / "brain")
    host = SimulatedHost()
    file = FileHost(layout.run_dir / HOST_FILE_NAME)
    absent = Reading.missing("probe", "none", monotonic_s=time.monotonic(), absent=True)
    file.write(replace(host.read(), battery_fraction=absent))
    shown = CliRunner().invoke(app, ["doctor", "--root", str(layout.root)], env={"COLUMNS": "200"}).stdout
    assert '"battery": "none"' in shown
    file.write(host.read())
    shown = CliRunner().invoke(app, ["doctor", "--root", str(layout.root)], env={"COLUMNS": "200"}).stdout
    assert '"battery": "none"' not in shown
