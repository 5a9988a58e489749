"""What the units' walls hold off and let through, shown inside the emulated machine."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import re
import stat
import struct
from pathlib import Path

from vm_machine import PROCESSES, PYTHON, ROOT, UNITS, USER, join, need, run, unit


def walls_hold() -> str:
    """What a process behind control's walls and behind policy's can write, open and call; where the real ones wrote."""
    told = []
    for process in ("control", "policy"):
        seen = _probe(process)
        wrote = {place for place, result in seen["writes"].items() if result == "ok"}
        allowed = {"/tmp", "/var/tmp", "/var/cache/continuonbrain", str(ROOT)}
        need(wrote == allowed, f"{process} can write into {sorted(wrote)}, meant: {sorted(allowed)}")
        need(
            seen["inet"] != "ok" and seen["unix"] == "ok",
            f"{process}: sockets {seen['inet']}, {seen['unix']}",
        )
        need(seen["namespace"] != "ok", f"{process} can make a user namespace")
        need(int(seen["capabilities"], 16) == 0, f"{process} has capabilities {seen['capabilities']}")
        need(seen["processes_of_others"] == 0, f"{process} sees others' processes")
        told.append(f"{process}: writes {len(wrote)} places of {len(seen['writes'])}")
    strays = [
        path
        for path in run(["find", "/", "-xdev", "-user", USER, "-not", "-path", "/proc/*"]).splitlines()
        if not path.startswith(
            (f"{ROOT}/", "/var/cache/continuonbrain", "/tmp/systemd-", "/var/tmp/systemd-")
        )
        and path != str(ROOT)
    ]
    need(not strays, f"files of {USER} elsewhere: {strays[:5]}")
    exposure = [
        float(found.group(1))
        for process in PROCESSES
        if (
            found := re.search(
                r"level for \S+: ([0-9.]+)", run(["systemd-analyze", "security", unit(process)], check=False)
            )
        )
    ]
    need(len(exposure) == len(PROCESSES) and max(exposure) <= 3, f"exposure {exposure}")
    return "; ".join(told) + f"; no file elsewhere; exposure {exposure}"


def devices() -> str:
    """Rules and DeviceAllow= on devices that the kernel imitates; drivers that come after control are met too."""
    for name in ("i2c-dev", "vivid", "uinput"):
        run(["modprobe", name])
    gamepad = _gamepad()
    try:
        # There is no bus behind it: a wall says EPERM, the kernel ENXIO.
        os.mknod("/dev/i2c-77", 0o660 | stat.S_IFCHR, os.makedev(89, 77))
        os.chmod("/dev/i2c-77", 0o660)  # the umask has taken the group's right to write
        run(["udevadm", "settle"])
        pads = [
            p
            for p in Path("/sys/class/input").glob("event*")
            if (p / "device/name").read_text().strip() == "check pad"
        ]
        need(len(pads) == 1, "the gamepad has no event device")
        Path("/dev/input/event-check").unlink(missing_ok=True)
        os.link(f"/dev/input/{pads[0].name}", "/dev/input/event-check")
        run(["chgrp", "i2c", "/dev/i2c-77"])
        groups = {}
        for device in ("/dev/gpiochip0", "/dev/video0", "/dev/media0", f"/dev/input/{pads[0].name}"):
            path = Path(device)
            groups[device] = f"{path.group()} {path.stat().st_mode & 0o777:o}"
        need(groups["/dev/gpiochip0"] == "gpio 660", f"groups {groups}")
        need(groups["/dev/media0"] == groups["/dev/video0"] == "video 660", f"groups {groups}")
        need(groups[f"/dev/input/{pads[0].name}"] == "input 660", f"groups {groups}")
        late = {
            device: _open_inside("control", device)
            for device in ("/dev/video0", "/dev/media0", "/dev/i2c-77")
        }
        need(
            late == {"/dev/video0": "ok", "/dev/media0": "ok", "/dev/i2c-77": "ENXIO"},
            f"drivers after control: {late}",
        )
        seen = _probe("control")["devices"]
        ours = ("/dev/null", "/dev/gpiochip0", "/dev/video0", "/dev/media0", "/dev/input/event-check")
        need(all(seen[device] == "ok" for device in ours), f"control: {seen}")
        need(seen["/dev/i2c-77"] == "ENXIO", f"control: {seen}")
        need(
            all(seen[d] in ("EPERM", "EACCES", "ENOENT") for d in ("/dev/vda", "/dev/mem", "/dev/kmsg")),
            f"control: {seen}",
        )
        others = _probe("policy")["devices"]
        need([d for d, result in others.items() if result == "ok"] == ["/dev/null"], f"policy: {others}")
    finally:
        os.close(gamepad)
    return f"{groups}; through control's wall: {seen}; policy: only /dev/null"


def probe_unit(text: str, file: Path) -> str:
    """A process's unit with its walls, running the probe once instead of the process."""
    left = (
        "Type=",
        "NotifyAccess=",
        "ExecStart=",
        "ExecStopPost=",
        "WatchdogSec=",
        "Restart=",
        "RestartSec=",
        "WantedBy=",
    )
    lines = [line for line in text.splitlines() if not line.startswith((*left, "PartOf=", "[Install]"))]
    at = lines.index("[Service]")
    lines[at + 1 : at + 1] = ["Type=oneshot", f"ExecStart={PYTHON} -I /opt/check/vm_probe.py {file}"]
    return "\n".join(lines) + "\n"


def _probe(process: str) -> dict[str, dict[str, str]]:
    name, file = f"probe-{process}.service", ROOT / f"probe-{process}.json"
    Path("/run/systemd/system").joinpath(name).write_text(
        probe_unit((UNITS / unit(process)).read_text(), file)
    )
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "start", name])
    told: dict[str, dict[str, str]] = json.loads(file.read_text())
    file.unlink()
    return told


def _open_inside(process: str, device: str) -> str:
    """What a process of the unit's group, which systemd's device rules are bound to, gets for opening it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            join(process)
            account = pwd.getpwnam(USER)
            os.initgroups(USER, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))
            os.write(write, b"ok")
        except OSError as error:
            os.write(write, errno.errorcode.get(error.errno or 0, "?").encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as told:
        return told.read().decode()


def _gamepad() -> int:
    """A gamepad that the kernel imitates (uinput; linux/uinput.h, struct uinput_user_dev); it lasts as long as the
    descriptor."""
    set_event, set_key, set_axis, create = 0x40045564, 0x40045565, 0x40045567, 0x5501
    keys, axes = (
        (0x130, 0x131, 0x136, 0x13B),
        (0x00, 0x01, 0x03, 0x04),
    )  # BTN_SOUTH, EAST, TL, START; X, Y, RX, RY
    pad = os.open("/dev/uinput", os.O_RDWR | os.O_NONBLOCK)
    for kind in (1, 3):  # EV_KEY, EV_ABS
        fcntl.ioctl(pad, set_event, kind)
    for key in keys:
        fcntl.ioctl(pad, set_key, key)
    for axis in axes:
        fcntl.ioctl(pad, set_axis, axis)
    largest = [32767 if axis in axes else 0 for axis in range(64)]
    smallest = [-v for v in largest]
    name = b"check pad".ljust(80, b"\0")
    os.write(
        pad,
        name + struct.pack("<HHHHI", 3, 1, 1, 1, 0) + struct.pack("<256i", *largest, *smallest, *[0] * 128),
    )
    fcntl.ioctl(pad, create)
    return pad
