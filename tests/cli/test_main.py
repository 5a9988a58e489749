"""The command line: quick help, lazy imports, errors that a person can act on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from continuonbrain.cli.main import COMMANDS
from continuonbrain.cli.root_option import on_this_root, root_given
from continuonbrain.loops.owner import pause
from continuonbrain.storage.layout import BrainLayout

CORE_MODULES = [
    "continuonbrain",
    "continuonbrain.config",
    "continuonbrain.brain_root",
    "continuonbrain.storage.adapters",
    "continuonbrain.storage.manifest",
    "continuonbrain.cli.main",
    "continuonbrain.cli.init",
    "continuonbrain.cli.adapters",
]


def continuonbrain(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "continuonbrain.cli.main", *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def imported_by(code: str) -> set[str]:
    """Top-level modules that are loaded after running `code` in a fresh interpreter."""
    program = f"{code}\nimport sys; print(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_takes_less_than_400_ms() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = continuonbrain("--help")
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert min(times) < 0.4


def test_help_names_every_command() -> None:
    output = continuonbrain("--help").stdout
    for row in COMMANDS:
        assert row.name in output
        assert row.help in output


def test_help_imports_none_of_the_heavy_modules() -> None:
    loaded = imported_by(
        "import sys; sys.argv = ['continuonbrain', '--help']\n"
        "from continuonbrain.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass"
    )
    assert "typer" in loaded
    assert not loaded & {"numpy", "torch", "gymnasium", "pydantic", "transformers", "PIL"}


@pytest.mark.parametrize("module", CORE_MODULES)
def test_core_modules_import_without_torch_or_numpy(module: str) -> None:
    assert not imported_by(f"import {module}") & {"torch", "transformers", "peft", "gymnasium", "numpy"}


def test_version_is_printed() -> None:
    from continuonbrain import __version__

    assert continuonbrain("--version").stdout == f"continuonbrain {__version__}\n"


def test_a_misspelt_command_suggests_the_nearest() -> None:
    done = continuonbrain("adaptrs")
    assert done.returncode == 2
    assert "Did you mean 'adapters'?" in done.stderr


def test_init_then_list_then_show_on_a_fresh_root(tmp_path: Path) -> None:
    root = str(tmp_path / "brain")
    done = continuonbrain("init", "--root", root, "--preset", "pi5-donkey")
    assert done.returncode == 0, done.stderr
    assert root in done.stdout
    assert "simulated" not in done.stdout
    again = continuonbrain("init", "--root", root)
    assert "kept" in again.stdout
    assert "base model drives alone" in continuonbrain("adapters", "list", "--root", root).stdout
    show = continuonbrain("adapters", "show", "--root", root)
    assert show.returncode == 2
    assert "there is no current adapter" in show.stderr


def test_a_root_without_a_preset_says_that_its_robot_is_simulated_and_how_to_get_a_car(
    tmp_path: Path,
) -> None:
    root = str(tmp_path / "brain")
    done = continuonbrain("init", "--root", root)
    told = "no --preset was given, so this is a simulated robot; a real car gets a root of its own: "
    assert told in done.stdout
    command = done.stdout.partition(told)[2].splitlines()[0]
    car = continuonbrain(*command.replace("DIR", str(tmp_path / "car")).split()[1:])
    assert car.returncode == 0, car.stderr
    assert json.loads((tmp_path / "car" / "config.json").read_bytes())["robot"]["kind"] == "donkey"
    assert "simulated" not in continuonbrain("init", "--root", root, "--preset", "sim-donkey").stdout


def test_doctor_tells_the_gates_of_owner_and_budget_also_where_no_robot_runs(tmp_path: Path) -> None:
    root = tmp_path / "brain"
    assert continuonbrain("init", "--root", str(root)).returncode == 0

    def gates() -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = json.loads(
            continuonbrain("doctor", "--root", str(root), "--json").stdout
        )["gates"]["gates"]
        return found

    assert gates()["owner"]["open"] is gates()["budget"]["open"] is True
    pause(BrainLayout(root))
    (BrainLayout(root).spent_path).write_text("half a fi")
    told = gates()
    assert told["owner"]["open"] is told["budget"]["open"] is False
    shown = " ".join(continuonbrain("doctor", "--root", str(root)).stdout.split())
    assert "paused by a" in shown
    assert "budget" in shown


def test_a_remedy_names_the_root_that_the_command_was_given(tmp_path: Path) -> None:
    root = str(tmp_path / "my brain")
    assert continuonbrain("init", "--root", root).returncode == 0
    head = tmp_path / "my brain" / "model" / "safety" / "current" / "safety_head.safetensors"
    head.write_bytes(b"cut")
    checks = json.loads(continuonbrain("doctor", "--root", root, "--json").stdout)["checks"]
    remedy = next(check["remedy"] for check in checks if check["name"] == "safety head")
    assert f"continuonbrain init --root '{root}'" in remedy
    assert continuonbrain("init", "--root", root).returncode == 0
    checks = json.loads(continuonbrain("doctor", "--root", root, "--json").stdout)["checks"]
    assert next(check["ok"] for check in checks if check["name"] == "safety head")


@pytest.mark.parametrize(
    ("argv", "remedy", "told"),
    [
        (["train"], "restore it: continuonbrain init", "restore it: continuonbrain init"),
        (
            ["train", "--root", "/r"],
            "restore it: continuonbrain init",
            "restore it: continuonbrain init --root /r",
        ),
        (
            ["train", "--root=/r"],
            "see continuonbrain keys list, please",
            "see continuonbrain keys list --root /r, please",
        ),
        (["train", "--root", "/r"], "continuonbrain init --root /q", "continuonbrain init --root /q"),
        (
            ["train", "--root", "/r"],
            "continuonbrain episodes doctor PATH",
            "continuonbrain episodes doctor PATH",
        ),
    ],
)
def test_where_a_root_goes_in_a_remedy(argv: list[str], remedy: str, told: str) -> None:
    assert on_this_root(remedy, root_given(argv)) == told


def test_a_root_that_lost_its_config_is_one_whatever_else_lies_in_it(tmp_path: Path) -> None:
    root = tmp_path / "brain"
    continuonbrain("init", "--root", str(root))
    (root / "train.log").write_text("mine")
    (root / "config.json").unlink()
    again = continuonbrain("init", "--root", str(root))
    assert again.returncode == 0, again.stderr
    assert (root / "config.json").is_file()


def test_the_root_can_come_from_the_environment(tmp_path: Path) -> None:
    root = str(tmp_path / "brain")
    assert continuonbrain("init", CONTINUONBRAIN_ROOT=root).returncode == 0
    listed = continuonbrain("adapters", "list", "--json", CONTINUONBRAIN_ROOT=root)
    assert json.loads(listed.stdout) == {
        "adapters": [],
        "probation": {"state": "base", "version_id": ""},
        "history": {"entries": 0, "problem": ""},
        "damaged": [],
    }


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("init", "--root", "{tmp}/file/brain"), "cannot create the brain root"),
        (("init", "--root", "{tmp}/x", "--preset", "sim-dnkey"), "preset 'sim-dnkey' does not exist"),
        (("adapters", "list", "--root", "{tmp}/nowhere"), "is not a brain root"),
        (("adapters", "show", "000001-deadbeef", "--root", "{tmp}/brain"), "there is no adapter"),
        (("adapters", "rollback", "--root", "{tmp}/brain"), "nothing to roll back"),
        (("adapters", "list", "--root", "{tmp}/misspelt"), "max_stps"),
    ],
)
def test_what_a_person_must_mend_is_told_in_a_line_without_a_traceback(
    tmp_path: Path, args: tuple[str, ...], told: str
) -> None:
    (tmp_path / "file").write_text("")
    continuonbrain("init", "--root", str(tmp_path / "brain"))
    (tmp_path / "misspelt").mkdir()
    (tmp_path / "misspelt" / "config.json").write_text('{"max_stps": 3}')
    done = continuonbrain(*(arg.format(tmp=tmp_path) for arg in args))
    assert done.returncode == 2
    first_line = done.stderr.splitlines()[0]
    assert first_line.startswith("error: ")
    assert told in first_line
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_what_the_disk_refuses_is_told_in_two_lines_and_a_defect_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from continuonbrain.cli import main

    def end(error: Exception) -> tuple[int, str]:
        def app() -> None:
            raise error

        monkeypatch.setattr(main, "app", app)
        with pytest.raises(SystemExit) as caught:
            main.run()
        return int(str(caught.value.code)), capsys.readouterr().err

    code, told = end(OSError(errno.EROFS, "Read-only file system", "/brain/trainer"))
    assert (code, len(told.splitlines())) == (2, 2)
    assert "/brain/trainer: Read-only file system" in told
    assert end(OSError(errno.ENOSPC, "No space left on device"))[0] == 2
    monkeypatch.setattr(main, "app", lambda: (_ for _ in ()).throw(OSError("of our own making")))
    with pytest.raises(OSError, match="of our own making"):
        main.run()


def test_a_command_whose_extra_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain import errors
    from continuonbrain.cli import main

    (tmp_path / "needs_torch.py").write_text("import torch_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(errors._EXTRA_OF_MODULE, "torch_that_is_not_there", "train")
    row = main.LazyCommand("train", "needs_torch:train", "")
    with pytest.raises(main.CommandUnavailableError) as caught:
        main._load(row)
    assert caught.value.remedy == errors.installing("train")


@pytest.mark.parametrize(
    ("noted", "editable"),
    [
        ('{"dir_info": {"editable": true}}', "-e "),
        ('{"dir_info": {}}', ""),
        (None, ""),
        ("{", ""),
        ("[]", ""),
    ],
)
def test_a_missing_part_is_installed_the_way_the_rest_was(
    monkeypatch: pytest.MonkeyPatch, noted: str | None, editable: str
) -> None:
    from continuonbrain import errors

    class Noted:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return noted

    monkeypatch.setattr("importlib.metadata.distribution", lambda _name: Noted())
    monkeypatch.setattr(sys, "executable", "/opt/a venv/bin/python")
    for may_write, sudo in ((True, ""), (False, "sudo ")):
        monkeypatch.setattr(os, "access", lambda *_: may_write)  # noqa: B023
        assert errors.installing("pi").endswith(
            f": {sudo}'/opt/a venv/bin/python' -m pip install -c constraints.txt {editable}'.[pi]'"
        )
