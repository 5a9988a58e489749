"""Installing and uninstalling, on a computer that is a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import continuonbrain.cli.install as cli
from continuonbrain.cli.main import app
from continuonbrain.install.command import COMMAND, command_text
from continuonbrain.install.plan import Installed, install_plan, pending, uninstall_plan
from continuonbrain.install.settings import VENV, VENV_COMMAND, VENV_INSTALL, InstallError, InstallSettings
from continuonbrain.install.shell import SystemCommands, carry_out
from continuonbrain.install.steps import RECORD, RECORD_FOLDER, RULES_FOLDER, UNIT_FOLDER, Machine
from continuonbrain.install.udev import RULES_NAME
from continuonbrain.install.units import SERVICES, TARGET

sys.path.insert(0, str(Path(__file__).parent))

from fake_machine import GROUPS, FakeCommands, everything, fake_machine

PYTHON = Path("/opt/continuonos/venv/bin/python")
SETTINGS = InstallSettings(Path("/opt/continuonos/brain"), PYTHON)
STEPS = 23


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return fake_machine(tmp_path / "machine")


def install(machine: Machine, settings: InstallSettings = SETTINGS) -> FakeCommands:
    commands = FakeCommands(machine)
    carry_out(install_plan(settings, machine), machine, commands)
    return commands


def test_it_makes_all_of_it(machine: Machine) -> None:
    install(machine)
    assert pending(install_plan(SETTINGS, machine), machine) == ()
    assert machine.ids("continuon") is not None
    assert all("continuon" in machine.groups()[name] for name in GROUPS)
    for unit in (*SERVICES, TARGET):
        assert machine.read(UNIT_FOLDER / unit) is not None
    assert oct(machine.at(SETTINGS.root).stat().st_mode)[-3:] == "750"
    assert not [p for p in machine.top.rglob("*") if p.name.startswith(".staging")]


def test_a_second_run_has_nothing_to_do(machine: Machine) -> None:
    install(machine)
    before = everything(machine.top)
    again = FakeCommands(machine)
    assert carry_out(install_plan(SETTINGS, machine), machine, again) == 0
    assert again.ran == []
    assert everything(machine.top) == before


@given(done=st.sets(st.integers(0, STEPS - 1)))
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_done_already_it_ends_the_same(done: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, partly = fake_machine(Path(folder) / "whole"), fake_machine(Path(folder) / "partly")
        install(whole)
        steps = install_plan(SETTINGS, partly)
        assert len(steps) == STEPS
        # The account comes first wherever something belongs to it, as a person who does it by hand would.
        some = [step for i, step in enumerate(steps) if i in done or i == 2]
        carry_out(some, partly, FakeCommands(partly))
        left = pending(steps, partly)
        assert len(left) <= STEPS - len(some)
        commands = FakeCommands(partly)
        # A file that is written now is read anew, also where an earlier one had been.
        assert len(left) <= carry_out(steps, partly, commands) <= STEPS
        assert pending(install_plan(SETTINGS, partly), partly) == ()
        assert everything(partly.top).keys() == everything(whole.top).keys()
        for name, (mode, content) in everything(whole.top).items():
            if name not in ("etc/group", "etc/passwd"):
                assert everything(partly.top)[name] == (mode, content)


@pytest.mark.parametrize("crashed_after", range(STEPS + 1))
def test_after_a_crash_anywhere_a_new_run_ends_the_same(tmp_path: Path, crashed_after: int) -> None:
    whole, crashed = fake_machine(tmp_path / "whole"), fake_machine(tmp_path / "crashed")
    install(whole)
    carry_out(install_plan(SETTINGS, crashed)[:crashed_after], crashed, FakeCommands(crashed))
    install(crashed)  # also who made the account is still known
    assert everything(crashed.top) == everything(whole.top)


def test_a_crash_between_writing_and_reading_is_made_good(machine: Machine) -> None:
    steps = install_plan(SETTINGS, machine)
    written = next(i for i, step in enumerate(steps) if step.what == "let systemd read its units anew")
    carry_out(steps[:written], machine, FakeCommands(machine))
    (machine.top / "run/systemd/system").mkdir(parents=True)
    commands = FakeCommands(machine)
    carry_out(install_plan(SETTINGS, machine), machine, commands)
    assert ("systemctl", "daemon-reload") in commands.ran


def test_another_root_is_a_change_of_units_only(machine: Machine) -> None:
    install(machine)
    moved = InstallSettings(Path("/srv/brain"), PYTHON)
    what = [step.what for step in pending(install_plan(moved, machine), machine)]
    assert what[0] == f"write {RECORD}"
    assert not any("account" in line or "rules" in line or "enable" in line for line in what)


def test_a_device_without_its_group_goes_to_the_service(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path / "machine", groups=("video",))
    install(machine)
    rules = machine.read(RULES_FOLDER / RULES_NAME) or ""
    assert 'SUBSYSTEM=="i2c-dev", GROUP="continuon"' in rules
    assert 'SUBSYSTEM=="video4linux", GROUP="video"' in rules


@pytest.mark.parametrize("purge", [False, True])
def test_uninstall_takes_away_what_it_made_and_keeps_the_data(machine: Machine, purge: bool) -> None:
    before = everything(machine.top)
    install(machine)
    episode = machine.at(SETTINGS.root) / "rlds/episodes/000001/steps.jsonl"
    episode.parent.mkdir(parents=True)
    episode.write_text("driven")
    (machine.at(UNIT_FOLDER) / "own.service").write_text("[Service]\n")
    carry_out(uninstall_plan(machine, purge=purge), machine, FakeCommands(machine))
    assert episode.read_text() == "driven"
    left = [
        name for name, (mode, _) in everything(machine.top).items() if name not in before and mode & 0o100000
    ]
    files = {name for name in left if (machine.top / name).is_file()}
    record = set() if purge else {str((RECORD_FOLDER / n).relative_to("/")) for n in _NOTES}
    data = str(episode.relative_to(machine.top))
    assert files == {data, "etc/systemd/system/own.service", *record}
    assert (machine.ids("continuon") is None) == purge
    assert pending(uninstall_plan(machine, purge=purge), machine) == ()


_NOTES = ("install.json", "loaded-rules", "loaded-units")


def test_what_a_person_disabled_stays_disabled(machine: Machine) -> None:
    install(machine)
    FakeCommands(machine).run(("systemctl", "disable", SERVICES[3]))
    assert pending(install_plan(SETTINGS, machine), machine) == ()
    # Also where a new version has other units.
    changed = install(machine, InstallSettings(Path("/srv/brain"), PYTHON))
    assert not any("enable" in command for command in changed.ran)
    carry_out(uninstall_plan(machine), machine, FakeCommands(machine))
    again = install(machine)
    assert ("systemctl", f"--root={machine.top}", "enable", "--quiet", SERVICES[3]) in again.ran


def test_only_a_service_whose_unit_changed_is_started_anew(machine: Machine) -> None:
    (machine.top / "run/systemd/system").mkdir(parents=True)
    install(machine)
    unit = machine.at(UNIT_FOLDER) / SERVICES[1]
    unit.write_text(unit.read_text() + "# of a person, or of an earlier version\n")
    commands = install(machine)
    restart = ("systemctl", "try-restart", "--no-block", SERVICES[1])
    assert commands.ran == [("systemctl", "daemon-reload"), restart]
    assert install(machine).ran == []


def test_with_a_preset_the_root_is_made_by_its_account(machine: Machine) -> None:
    settings = InstallSettings(SETTINGS.root, PYTHON, preset="sim-donkey")
    made = install(machine, settings)
    (init,) = (command for command in made.ran if command[0] == "runuser")
    assert init[:6] == ("runuser", "-u", "continuon", "--", str(PYTHON), "-I")
    assert init[-3:] == (str(SETTINGS.root), "--preset", "sim-donkey")
    ran = [command[0] for command in made.ran]
    assert ran.index("runuser") < len(ran) - 1 - ran[::-1].index(
        "systemctl"
    )  # settings before anything starts
    assert install(machine, settings).ran == []


def test_a_preset_that_cannot_be_made_is_said_before_anything_is_done(machine: Machine) -> None:
    before = everything(machine.top)
    arguments = ["install", "--dry-run", "--python", str(PYTHON), "--preset"]
    unknown = CliRunner().invoke(app, [*arguments, "no-robot"])
    assert "no-robot" in str(unknown.exception)
    image = CliRunner().invoke(app, [*arguments, "sim-donkey", "--into", str(machine.top)])
    assert isinstance(image.exception, InstallError)
    assert everything(machine.top) == before


def test_an_account_of_somebody_else_is_never_removed(machine: Machine) -> None:
    FakeCommands(machine).run(("useradd", "continuon"))
    install(machine)
    told = Installed.of(machine)
    assert told is not None
    assert not told.made_account
    carry_out(uninstall_plan(machine, purge=True), machine, FakeCommands(machine))
    assert machine.ids("continuon") is not None


def test_purge_after_uninstall_still_knows_the_account(machine: Machine) -> None:
    install(machine)
    carry_out(uninstall_plan(machine), machine, FakeCommands(machine))
    carry_out(uninstall_plan(machine, purge=True), machine, FakeCommands(machine))
    assert machine.ids("continuon") is None
    assert machine.lstat(RECORD_FOLDER) is None


def test_files_of_somebody_else_stop_it_and_are_kept(machine: Machine) -> None:
    unit = machine.at(UNIT_FOLDER) / SERVICES[0]
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/own\n")
    with pytest.raises(InstallError, match="somebody else"):
        install(machine)
    carry_out(uninstall_plan(machine, purge=True), machine, FakeCommands(machine))
    assert "own" in unit.read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_root_of_somebody_else_with_files_is_not_given_away(machine: Machine) -> None:
    root = machine.at(SETTINGS.root)
    root.mkdir(parents=True)
    (root / "config.json").touch()
    os.chown(root, 1234, 1234)
    with pytest.raises(InstallError, match="belongs to uid 1234") as caught:
        install(machine)
    assert "chown -R continuon:continuon" in caught.value.remedy


def test_a_link_as_root_is_named(machine: Machine) -> None:
    root = machine.at(SETTINGS.root)
    root.parent.mkdir(parents=True)
    root.symlink_to(machine.top)
    with pytest.raises(InstallError, match="is no folder"):
        install(machine)


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": "root"},
        {"user": "a b"},
        {"user": "-x"},
        {"root": Path("/")},
        {"root": Path("/opt")},
        {"root": Path("/opt/a b")},
        {"root": Path("/opt/%h")},
        {"root": Path("/opt/../home/x")},
        {"root": Path("/home/pi/brain")},
        {"python": Path("/opt/x\nUser=root")},
        {"listen": "my-robot.local"},
        {"listen": "0.0.0.0\nUser=root"},
        {"listen": "fe80::1%eth0"},
        {"listen": ""},
        {"listen": "8.8.8.8"},
        {"listen": "2001:4860:4860::8888"},
        {"listen": "172.32.0.1"},
        {"listen": "0.0.0.0", "port": 80},
        {"port": 65536},
        {"root": Path("/usr/lib/brain")},
        {"root": Path("/etc/brain")},
        {"root": Path("/var/lib")},
        {"root": Path("/var/lib/continuonbrain")},
        {"root": Path("/var/lib/continuonbrain/brain")},
        {"root": Path("/var/cache/continuonbrain/brain")},
    ],
)
def test_what_no_unit_could_hold_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InstallError) as caught:
        InstallSettings(**{"root": SETTINGS.root, "python": PYTHON, **wrong})
    assert caught.value.remedy


def test_dry_run_changes_nothing_and_says_every_step(machine: Machine) -> None:
    before = everything(machine.top)
    arguments = ["install", "--dry-run", "--into", str(machine.top), "--python", str(PYTHON)]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert everything(machine.top) == before
    steps = install_plan(SETTINGS, machine)
    lines = told.output.splitlines()
    assert lines[: len(steps)] == [f"would {step.what}" for step in steps]
    assert len(steps) == STEPS
    assert any("init --root /opt/continuonos/brain --preset PRESET" in line for line in lines[STEPS:])
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert [step["what"] for step in document["steps"]] == [step.what for step in steps]
    install(machine)
    before = everything(machine.top)
    assert CliRunner().invoke(app, arguments).output.startswith("nothing to do\n")
    gone = CliRunner().invoke(app, ["uninstall", "--dry-run", "--into", str(machine.top)])
    assert f"would remove {UNIT_FOLDER / TARGET}" in gone.output
    assert "stay in /opt/continuonos/brain" in gone.output
    assert everything(machine.top) == before


@pytest.mark.parametrize(
    "hidden", [{"python": Path("/home/pi/venv/bin/python")}, {"reads": (Path("/root/checkout"),)}]
)
def test_an_interpreter_that_the_services_cannot_see_stops_it_with_the_lines_of_the_document(
    hidden: dict[str, Any],
) -> None:
    settings = InstallSettings(**{"root": SETTINGS.root, "python": PYTHON, **hidden})
    with pytest.raises(InstallError) as caught:
        settings.require_visible()
    document = (Path(__file__).parents[2] / "docs/install.md").read_text()
    for line in (VENV, VENV_INSTALL, VENV_COMMAND):
        assert line in caught.value.remedy
        assert line in document
    SETTINGS.require_visible()


def test_a_dry_run_from_a_place_that_the_services_cannot_see_prints_the_plan_and_what_would_stop_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["install", "--into", str(machine.top), "--python", "/home/pi/venv/bin/python"]
    told = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert f"would write {UNIT_FOLDER / TARGET}" in told.output
    assert isinstance(told.exception, InstallError)
    assert "/home" in told.exception.message
    monkeypatch.setattr(cli.os, "geteuid", lambda: 0)
    before = everything(machine.top)
    assert isinstance(CliRunner().invoke(app, arguments).exception, InstallError)
    assert everything(machine.top) == before


def test_a_dry_run_says_that_a_port_opens(machine: Machine) -> None:
    arguments = ["install", "--dry-run", "--into", str(machine.top), "--python", str(PYTHON)]
    assert "opened" not in CliRunner().invoke(app, arguments).output
    lan = CliRunner().invoke(app, [*arguments, "--listen", "0.0.0.0"]).output
    assert "port 8080 of 0.0.0.0 is opened to private networks" in lan
    alone = CliRunner().invoke(app, [*arguments, "--listen", "127.0.0.1", "--port", "9000"]).output
    assert "port 9000 of 127.0.0.1 is opened to this computer alone" in alone


def test_the_command_is_for_everybody_and_starts_the_environment(machine: Machine) -> None:
    install(machine)
    there = machine.at(COMMAND)
    assert oct(there.stat().st_mode)[-3:] == "755"
    moved = InstallSettings(SETTINGS.root, Path("/opt/other/bin/python"))
    assert f"write {COMMAND}" in [step.what for step in pending(install_plan(moved, machine), machine)]
    carry_out(uninstall_plan(machine), machine, FakeCommands(machine))
    assert machine.lstat(COMMAND) is None
    # What it says is what a shell does.
    there.write_text(command_text(Path(sys.executable)))
    there.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin"}
    said = subprocess.run([there, "mode", "--help"], capture_output=True, text=True, env=environment)
    assert said.returncode in (0, 1)
    assert "continuonbrain" in said.stdout + said.stderr


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_command_of_somebody_else_stays_and_stops_nothing(machine: Machine, kind: str) -> None:
    there = machine.at(COMMAND)
    there.parent.mkdir(parents=True)
    if kind == "file":
        there.write_text("#!/usr/bin/python3\n")
    else:
        there.symlink_to("/opt/mine/bin/continuonbrain")
    install(machine)
    assert pending(install_plan(SETTINGS, machine), machine) == ()
    arguments = ["install", "--dry-run", "--into", str(machine.top), "--python", str(PYTHON)]
    assert f"{COMMAND} is not of this installation and stays" in CliRunner().invoke(app, arguments).output
    carry_out(uninstall_plan(machine, purge=True), machine, FakeCommands(machine))
    assert there.is_symlink() if kind == "link" else there.read_text() == "#!/usr/bin/python3\n"


def test_without_root_it_says_sudo(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.os, "geteuid", lambda: 1000)
    before = everything(machine.top)
    done = CliRunner().invoke(app, ["install", "--into", str(machine.top), "--python", str(PYTHON)])
    assert isinstance(done.exception, InstallError)
    assert done.exception.remedy.startswith("sudo ")
    assert everything(machine.top) == before


def test_a_program_that_says_no_is_told() -> None:
    with pytest.raises(InstallError, match="exit "):
        SystemCommands().run(("ls", "/nowhere/at/all"))
    with pytest.raises(InstallError, match="is not there"):
        SystemCommands().run(("no-such-program-of-any-system",))


@pytest.mark.skipif(
    os.getuid() != 0
    or any(shutil.which(name) is None for name in ("useradd", "usermod", "userdel", "systemctl")),
    reason="needs root, useradd and systemctl: it makes an account and enables units below a folder",
)
def test_with_the_real_programs_below_a_folder(machine: Machine) -> None:
    into = ["--into", str(machine.top)]
    arguments = ["install", *into, "--python", str(PYTHON)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert pending(install_plan(SETTINGS, machine), machine) == ()
    assert machine.at(SETTINGS.root).stat().st_uid == (machine.ids("continuon") or (0, 0))[0] > 0
    assert CliRunner().invoke(app, arguments).output.startswith("nothing to do\n")
    gone = CliRunner().invoke(app, ["uninstall", "--purge", *into])
    assert gone.exit_code == 0, gone.output
    assert machine.ids("continuon") is None
    assert machine.at(SETTINGS.root).is_dir()
    assert not list(machine.at(UNIT_FOLDER).rglob("*.service"))
