"""What is shown inside the emulated machine, a function each: it returns what was seen, or raises Failed."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

from vm_machine import (
    PROCESSES,
    PYTHON,
    ROOT,
    TARGET,
    UNITS,
    USER,
    all_active,
    as_account,
    brain,
    command_control,
    forget_failures,
    is_active,
    join,
    journal,
    need,
    properties,
    run,
    show,
    snapshot,
    status,
    unit,
    wait_for,
)
from vm_walls import devices, walls_hold

SLOW_HZ = 5
"""Ticks a second inside: an emulated core is twenty times slower than a Pi's, and a loop that is late stops the car."""
_WATCHDOG_S = 60
_PATIENT_S = 3600
_INSTALLED = (UNITS, Path("/etc/udev/rules.d"), Path("/var/lib/continuonbrain"))


def installs() -> str:
    """The real command, on a machine that has never seen it; what it makes; the second time it does nothing."""
    said = brain("install", "--preset", "sim-donkey", "--dry-run").splitlines()
    would = [line for line in said if line.startswith("would ")]
    need(bool(would), "--dry-run says no step")
    need(not (UNITS / unit("control")).exists(), "--dry-run has written a unit")
    did = brain("install", "--preset", "sim-donkey").splitlines()
    need(ROOT.stat().st_mode & 0o777 == 0o750, f"{ROOT} has mode {ROOT.stat().st_mode:o}")
    need(ROOT.owner() == USER, f"{ROOT} belongs to {ROOT.owner()}")
    need((ROOT / "config.json").is_file(), f"{ROOT} has no config.json")
    groups = run(["id", "-nG", USER]).split()
    for group in ("video", "i2c", "gpio", "input", "render", "dialout"):
        need(group in groups, f"{USER} is not in {group}")
    command = "/usr/local/bin/continuonbrain"  # where sudo looks, whatever this script's own PATH
    run(["runuser", "-u", USER, "--", command, "adapters", "list", "--root", str(ROOT)])
    before = snapshot(*_INSTALLED)
    again = brain("install", "--preset", "sim-donkey")
    need("nothing to do" in again, f"a second install says {again!r}")
    need(snapshot(*_INSTALLED) == before, "a second install has changed files")
    return f"{len(would)} steps said, {len(did)} lines while done; again: nothing to do; groups {' '.join(groups)}"


def slows_down() -> str:
    """Not a check: an emulated core gets a slower loop, in the settings, and by drop-ins more time to start and one
    watchdog for all, longer than control's and shorter than the sidecar's."""
    words = (
        "import json, sys, pathlib\n"
        "path = pathlib.Path(sys.argv[1]); told = json.loads(path.read_text())\n"
        "told['robot']['control_hz'] = int(sys.argv[2]); told['guards']['chunk_timeout_s'] = 8.0\n"
        "path.write_text(json.dumps(told, indent=2))\n"
    )
    as_account(PYTHON, "-I", "-c", words, str(ROOT / "config.json"), str(SLOW_HZ))
    for process in PROCESSES:
        folder = UNITS / f"{unit(process)}.d"
        folder.mkdir(exist_ok=True)
        (folder / "emulated.conf").write_text(
            f"[Service]\nWatchdogSec={_WATCHDOG_S}\nTimeoutStartSec={_PATIENT_S}\n"
        )
    run(["systemctl", "daemon-reload"])
    return (
        f"robot.control_hz {SLOW_HZ}; WatchdogSec={_WATCHDOG_S} and TimeoutStartSec={_PATIENT_S} for all four"
    )


def becomes_ready() -> str:
    """Every unit is active because its main process has said so."""
    run(["systemctl", "start", "--no-block", TARGET])
    all_active()
    told = []
    for process in PROCESSES:
        seen = show(process)
        need(seen["Type"] == "notify" and seen["NotifyAccess"] == "main", f"{process}: {seen}")
        need(seen["NRestarts"] == "0", f"{process} was started {seen['NRestarts']} times more")
        ready = int(seen["ActiveEnterTimestampMonotonic"]) - int(seen["ExecMainStartTimestampMonotonic"])
        told.append(f"{process} {ready / 1e6:.1f} s")
    return "ready after " + ", ".join(told)


def drives_and_stops() -> str:
    """Parked at the start; a person gives it a mode and it drives; a stop is a stop; the unit's end is one too."""
    need(wait_for("a tick", lambda: status().get("tick", 0) > 0, 60) >= 0, "")
    first = status()
    need(
        first["held"] and first["guarded"][1] <= 0, f"it starts with {first['guarded']}, held {first['held']}"
    )
    command_control({"type": "mode", "mode": "autopilot"})
    wait_for("the car moves", lambda: (status().get("speed_mps") or 0) > 0.1, 180)
    driving = status()
    command_control({"type": "stop"})
    wait_for("the car stands", lambda: (status().get("speed_mps") or 0) < 0.02, 120)
    stopped = status()
    need(stopped["emergency_stop"] and stopped["guarded"][1] <= 0, f"after a stop: {stopped['guarded']}")
    command_control({"type": "mode", "mode": "autopilot"})
    wait_for("the car moves again", lambda: (status().get("speed_mps") or 0) > 0.1, 180)
    run(["systemctl", "stop", unit("control")])
    seen = show("control")
    need(seen["Result"] == "success", f"its end: {seen['Result']}")
    need(status()["phase"] == "stopped", f"phase {status()['phase']} after its end")
    report = json.loads((ROOT / "run/control_report.json").read_text())
    post = properties(run(["systemctl", "show", unit("control"), "-p", "ExecStopPost"]))["ExecStopPost"]
    need("code=exited" in post, f"ExecStopPost= did not run: {post}")
    run(["systemctl", "start", unit("control")])
    wait_for("a tick after its start", lambda: status().get("phase") == "drive", 60)
    need(status()["held"], "it starts driving by itself")
    return (
        f"drove at {driving['speed_mps']} m/s; a stop command: throttle {stopped['guarded'][1]}, 0 m/s; ended after "
        f"{report['ticks']} ticks, phase stopped, calibrate --off ran; started again it stands"
    )


def comes_back_from_kill() -> str:
    """SIGKILL to each main process; control's while the car drives."""
    forget_failures()
    command_control({"type": "mode", "mode": "autopilot"})
    wait_for("the car moves", lambda: (status().get("speed_mps") or 0) > 0.1, 180)
    told = []
    for process in PROCESSES:
        before = show(process)
        os.kill(int(before["MainPID"]), signal.SIGKILL)
        took = _another(process, before["MainPID"], 300)
        told.append(f"{process} {took:.0f} s")
    wait_for("a tick", lambda: status().get("phase") == "drive", 60)
    need(status()["held"], "after a crash it drives by itself")
    return "ready again after " + ", ".join(told) + "; control parked"


def watchdog_restarts() -> str:
    """Each main process is stopped in its tracks (SIGSTOP): systemd notices that it is silent, and starts it anew."""
    forget_failures()
    before = {process: show(process) for process in PROCESSES}
    began = time.monotonic()
    for seen in before.values():
        os.kill(int(seen["MainPID"]), signal.SIGSTOP)
    told = []
    for process in PROCESSES:
        _another(process, before[process]["MainPID"], 400)
        took = time.monotonic() - began
        need("Watchdog timeout" in journal(process), f"{process}: systemd tells of no watchdog")
        told.append(f"{process} (WatchdogSec {before[process]['WatchdogUSec']}) within {took:.0f} s")
    return "ready again: " + ", ".join(told)


def memory_limit() -> str:
    """A process of control's group that grows and grows is ended at MemoryMax=, and the unit comes back; so does a
    service whose own main process is over it."""
    forget_failures()
    before, limit = show("control"), int(show("control")["MemoryMax"])
    grown = _grow_inside("control", limit)
    back = _another("control", before["MainPID"], 300)
    need(is_oom("control"), "systemd tells of no lack of memory in control")
    service, now = show("service"), int(show("service")["MemoryCurrent"])
    run(["systemctl", "set-property", "--runtime", unit("service"), f"MemoryMax={now // 3}"])
    wait_for("the service is ended", lambda: show("service")["MainPID"] != service["MainPID"], 120, 0.1)
    run(["systemctl", "set-property", "--runtime", unit("service"), f"MemoryMax={service['MemoryMax']}"])
    _another("service", service["MainPID"], 300)
    need(is_oom("service"), "systemd tells of no lack of memory in the service")
    return (
        f"control's group was ended at {grown >> 20} MiB of {limit >> 20}, ready again after {back:.0f} s; the service "
        f"({now >> 20} MiB) under a limit of {now // 3 >> 20} MiB: ended, ready again with its own limit"
    )


def choices_stay() -> str:
    """What a person disabled stays so; a unit that changed is started anew, and nothing else is."""
    forget_failures()
    run(["systemctl", "disable", "--now", unit("service")])
    before = {process: show(process)["MainPID"] for process in PROCESSES}
    need("nothing to do" in brain("install"), "install finds something to do")
    need(show("service")["UnitFileState"] == "disabled", "install has enabled what a person disabled")
    path = UNITS / unit("policy")
    text = path.read_text()
    path.write_text(text.replace("CPUWeight=300", "CPUWeight=299"))
    said = brain("install")
    need(path.read_text() == text, "install has not mended the unit")
    all_but = [process for process in PROCESSES if process != "service"]
    wait_for("active again", lambda: all(is_active(process) for process in all_but), 300)
    after = {process: show(process)["MainPID"] for process in PROCESSES}
    changed = [process for process in PROCESSES if before[process] != after[process]]
    need(changed == ["policy"], f"started anew: {changed}; install said {said!r}")
    need(not is_active("service"), "install has started what a person disabled")
    run(["systemctl", "enable", "--now", unit("service")])
    return "service stayed disabled; of four, policy alone was started anew"


def uninstalls() -> str:
    """Everything stops, units and rules go, data stay; a new installation finds them."""
    before = {name: seen for name, seen in snapshot(ROOT).items() if "/run" not in name[len(str(ROOT)) :]}
    brain("uninstall")
    left = [
        p.name for p in UNITS.rglob("continuonbrain*") if "check" not in p.name and not p.name.endswith(".d")
    ]
    left = [name for name in left if name != "emulated.conf"]
    need(not left, f"left of the units: {left}")
    need(not Path("/etc/udev/rules.d/70-continuonbrain.rules").exists(), "the rules are left")
    running = run(["pgrep", "-u", USER, "-a"], check=False).strip()
    need(not running, f"still running: {running}")
    after = snapshot(ROOT)
    gone = [name for name in before if name not in after]
    need(
        not [name for name in gone if "/.lock" not in name and "/." not in name], f"data are gone: {gone[:5]}"
    )
    need((ROOT / "config.json").is_file(), "config.json is gone")
    brain("install", "--preset", "sim-donkey")
    run(["systemctl", "start", "--no-block", TARGET])
    took = all_active()
    return f"{len(before)} files and folders kept; installed again, all active after {took:.0f} s"


def is_oom(process: str) -> bool:
    """systemd has told of the kernel ending something of the unit for want of memory."""
    return "oom-kill" in journal(process) or "OOM killer" in journal(process)


def _another(process: str, pid: str, limit_s: float) -> float:
    def so() -> bool:
        seen = show(process)
        return seen["ActiveState"] == "active" and seen["MainPID"] not in (pid, "0")

    return wait_for(f"{process} is active again, as another process", so, limit_s)


def _grow_inside(process: str, limit: int) -> int:
    """Bytes that a child in the unit's group had taken when it was ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        join(process)
        Path("/proc/self/oom_score_adj").write_text("0")
        kept = []
        while len(kept) << 24 < 2 * limit:
            kept.append(bytearray(os.urandom(1) * (1 << 24)))
            os.write(write, struct.pack("!Q", len(kept) << 24))
        os._exit(0)
    os.close(write)
    _, how = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as told:
        sizes = told.read()
    need(os.WIFSIGNALED(how), "nothing ended the process that grew")
    return int(struct.unpack("!Q", sizes[-8:])[0]) if sizes else 0


ALL: tuple[Callable[[], str], ...] = (
    installs,
    slows_down,
    becomes_ready,
    drives_and_stops,
    comes_back_from_kill,
    watchdog_restarts,
    memory_limit,
    walls_hold,
    devices,
    choices_stay,
    uninstalls,
)
