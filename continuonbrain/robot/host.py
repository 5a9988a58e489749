"""The machine under the robot: battery, heat, load, memory, disk, and whether the robot is in use.

A host only reads; what a reading means is decided in `trainer/gate_rules.py`. Every value travels as a `Reading` with
the monotonic time at which it was taken and, when it could not be taken, the reason. No default ever stands in for a
missing sensor.

- `LinuxHost` (`linux_host.py`) reads `/sys` and `/proc` below a root folder, so tests use a fake one.
- `FileHost` (`file_host.py`) reads (and writes) a small JSON file: the control process knows idle time and
  teleoperation and tells the sidecar through it. A file that is no longer written goes stale by itself.
- `SimulatedHost` (`simulated_host.py`) holds settable values for the simulator preset and for tests; `MixedHost` takes
  some readings from another host.

This module is the door to all of them.
"""

from __future__ import annotations

from pathlib import Path

from continuonbrain.robot.donkey.machine import GaugedHost
from continuonbrain.robot.file_host import HOST_FILE_NAME, HOST_FILE_SCHEMA, FileHost
from continuonbrain.robot.linux_host import LinuxHost
from continuonbrain.robot.readings import READING_NAMES, Clock, Host, HostReadings, Reading
from continuonbrain.robot.simulated_host import MACHINE_READINGS, MixedHost, SimulatedHost

__all__ = [
    "HOST_FILE_NAME",
    "HOST_FILE_SCHEMA",
    "MACHINE_READINGS",
    "READING_NAMES",
    "Clock",
    "FileHost",
    "Host",
    "HostReadings",
    "LinuxHost",
    "MixedHost",
    "Reading",
    "SimulatedHost",
    "host_for",
]


def host_for(robot_kind: str, *, host_file: Path, disk_path: Path) -> Host:
    """The host that a process beside the control process reads.

    Args:
        robot_kind: `robot.kind` of the config. A simulated robot ("sim-...") has a simulated machine,
            all of whose values come through `host_file`; any other is this Linux machine, with only idle
            time, teleoperation and the dock from the file.
        host_file: what the control process writes, `run/host.json`.
        disk_path: where free disk space counts.
    """
    robot = FileHost(host_file)
    if robot_kind.startswith("sim-"):
        return robot
    machine = LinuxHost(disk_path=disk_path, robot_state=robot)
    # Only the control process talks to the car's chips: the charge comes through its file, with its age.
    return GaugedHost(machine, robot) if robot_kind == "donkey" else machine
