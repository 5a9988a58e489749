"""The units: what every one of them has to say, and what systemd makes of them."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.config import load_preset
from continuonbrain.install.settings import InstallSettings
from continuonbrain.install.units import SERVICES, TARGET, unit_files
from continuonbrain.loops.child_plan import left_stopped
from continuonbrain.loops.heartbeats import LIMITS
from continuonbrain.storage.layout import BrainLayout

SETTINGS = InstallSettings(Path("/opt/continuonos/brain"), Path("/usr/bin/env"))
ON_THE_LAN = replace(SETTINGS, listen="0.0.0.0")
ON_ITSELF = replace(SETTINGS, listen="127.0.0.1", port=9090)
EVERY_SERVICE = {
    "Type": "notify",
    "User": "continuon",
    "Group": "continuon",
    "Restart": "on-failure",
    "ProtectSystem": "strict",
    "ReadWritePaths": "/opt/continuonos/brain",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateNetwork": "yes",
    "NoNewPrivileges": "yes",
    "RestrictAddressFamilies": "AF_UNIX",
    "RestrictNamespaces": "yes",
    "DevicePolicy": "closed",
    "CapabilityBoundingSet": "",
    "UMask": "0027",
}
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt install systemd)"
)


def parsed(text: str) -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values, as systemd.syntax(7) has them (no continued lines)."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            sections[section] = {}
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            sections[section].setdefault(key, []).append(value)
    return sections


def service(name: str, settings: InstallSettings = SETTINGS) -> dict[str, list[str]]:
    return parsed(unit_files(settings)[f"continuonbrain-{name}.service"])["Service"]


@pytest.mark.parametrize("unit", SERVICES)
def test_every_service_has_its_walls_and_limits(unit: str) -> None:
    sections = parsed(unit_files(SETTINGS)[unit])
    keys = sections["Service"]
    for key, value in EVERY_SERVICE.items():
        assert keys[key] == [value], key
    for key in ("WatchdogSec", "RestartSec", "TimeoutStopSec", "CPUWeight", "MemoryMax", "Nice"):
        assert len(keys[key]) == 1, key
    assert keys["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert {"StartLimitIntervalSec", "StartLimitBurst", "ConditionPathExists"} <= sections["Unit"].keys()
    assert sections["Install"]["WantedBy"] == [TARGET]
    assert sections["Unit"]["PartOf"] == [TARGET]
    assert "--tcp" not in keys["ExecStart"][0]


def test_the_policy_may_start_often_enough_to_take_back_what_kills_it() -> None:
    (most,) = parsed(unit_files(SETTINGS)["continuonbrain-policy.service"])["Unit"]["StartLimitBurst"]
    before, switch, after = 1, 1, 1
    for preset in ("sim-donkey", "pi5-donkey"):
        assert int(most) > before + switch + load_preset(preset).promotion.probation_restarts + 1 + after


@pytest.mark.parametrize("name", LIMITS)
def test_what_a_process_may_take_is_the_same_with_and_without_systemd(name: str) -> None:
    keys, limits = service(name), LIMITS[name]
    given = [float(keys[key][0]) for key in ("TimeoutStartSec", "WatchdogSec", "TimeoutStopSec")]
    assert given == [limits.start_s, limits.silent_s, limits.stop_s]


def test_a_car_is_left_stopped_by_the_same_command_with_and_without_systemd() -> None:
    module, *arguments = left_stopped(BrainLayout(SETTINGS.root), "donkey")
    (command,) = service("control")["ExecStopPost"]
    assert command.endswith(f"-m {module} {' '.join(arguments)}")


def test_what_control_alone_may() -> None:
    control = service("control")
    assert control["LimitRTPRIO"] == ["60"]
    assert control["LimitMEMLOCK"] == ["infinity"]
    assert control["MemorySwapMax"] == ["0"]
    # The car's watchdog process outlives control for as long as it takes to stop the car.
    assert control["KillMode"] == ["control-group"]
    assert control["MemoryDenyWriteExecute"] == ["yes"]
    assert control["ExecStart"][0].endswith("--park")
    for other in ("policy", "sidecar", "service"):
        keys = service(other)
        assert keys["PrivateDevices"] == ["yes"]
        assert keys["RestrictRealtime"] == ["yes"]
        assert not {"DeviceAllow", "LimitRTPRIO", "MemoryDenyWriteExecute"} & keys.keys()


def test_control_starts_after_the_drivers_whose_devices_it_may_open() -> None:
    unit = parsed(unit_files(SETTINGS)["continuonbrain-control.service"])["Unit"]
    wanted = unit["Wants"][0].split()
    assert unit["After"] == unit["Wants"]
    assert {"modprobe@i2c_dev.service", "modprobe@mc.service", "modprobe@videodev.service"} == set(wanted)
    # One that is wanted and missing is no failure; one that is required would be.
    assert "Requires" not in unit


def test_what_a_killed_control_process_leaves_turning_is_switched_off() -> None:
    (off,) = service("control")["ExecStopPost"]
    assert off.startswith("-/")  # a robot that has nothing to switch off is no failure
    assert off.endswith("calibrate --off --root /opt/continuonos/brain")
    assert not any("ExecStopPost" in service(other) for other in ("policy", "sidecar", "service"))


def test_the_sidecar_does_what_a_supervisor_would() -> None:
    assert service("sidecar")["ExecStart"][0].endswith("--probation")


def test_control_comes_first_wherever_something_is_short() -> None:
    weights = [int(service(name)["CPUWeight"][0]) for name in ("control", "policy", "service", "sidecar")]
    assert weights == sorted(weights, reverse=True)
    nices = [int(service(name)["Nice"][0]) for name in ("control", "policy", "service")]
    assert nices == sorted(nices)


def test_a_dashboard_opens_the_service_alone_and_to_private_networks_alone() -> None:
    keys = service("service", ON_THE_LAN)
    assert keys["ExecStart"][0].endswith(
        "serve --root /opt/continuonos/brain --json --tcp 8080 --listen 0.0.0.0"
    )
    assert keys["PrivateNetwork"] == ["no"]
    assert keys["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert keys["IPAddressDeny"] == ["any"]
    allowed = keys["IPAddressAllow"][0].split()
    nets = [ipaddress.ip_network(net) for net in allowed if net not in ("localhost", "link-local")]
    assert len(nets) == len(allowed) - 2
    assert all(net.is_private for net in nets)
    for other in ("control", "policy", "sidecar"):
        assert service(other, ON_THE_LAN) == service(other)


def test_a_dashboard_for_the_computer_itself_asks_for_no_code_and_hears_nobody_else() -> None:
    keys = service("service", ON_ITSELF)
    assert keys["ExecStart"][0].endswith("--json --tcp 9090")
    assert keys["IPAddressAllow"] == ["localhost"]


def written(folder: Path, settings: InstallSettings) -> list[str]:
    files = unit_files(settings)
    for name, text in files.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in files]


EVERY_KIND = pytest.mark.parametrize(
    "settings", [SETTINGS, ON_THE_LAN, ON_ITSELF], ids=["closed", "lan", "itself"]
)


@EVERY_KIND
@needs_analyze
def test_systemd_understands_every_line(tmp_path: Path, settings: InstallSettings) -> None:
    # It ends with 0 on a key that it does not know: its words are what counts.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *written(tmp_path, settings)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "continuonbrain" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@EVERY_KIND
@needs_analyze
def test_exposure_is_at_most_3(tmp_path: Path, settings: InstallSettings) -> None:
    for path in written(tmp_path, settings)[1:]:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", path],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
