"""Routes of the machine: processes, ticks, temperatures, disk, logs, the doctor; and the last decision in words."""

from __future__ import annotations

import asyncio
import shutil
import threading
from typing import Annotated, Literal

import psutil
from fastapi import FastAPI, Query

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.loops.drive_session import CONTROL_MODULE, POLICY_MODULE, read_status
from continuonbrain.robot.host import Host
from continuonbrain.robot.readings import Reading
from continuonbrain.service.explain import in_words, is_deciding, tick_of
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.program import Program
from continuonbrain.service.shelf import Shelf
from continuonbrain.service.system_models import (
    BatteryOut,
    CheckOut,
    DiskOut,
    DoctorOut,
    ExplainOut,
    LogOut,
    ProcessOut,
    SystemOut,
)
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.plain_json import plain

_MODULES = {"control": CONTROL_MODULE, "policy": POLICY_MODULE, "sidecar": SIDECAR_MODULE, "service": "serve"}
_TAIL_BYTES = 256 * 1024
_DOCTOR_S = 120.0
_MIB = 2**20


def add_system_routes(app: FastAPI, brain: BrainRoot, host: Host, shelf: Shelf) -> None:
    """`/v1/system`, `/v1/logs/NAME`, `/v1/doctor`, `/v1/explain`."""
    layout, household = brain.layout, Household(brain.layout)
    doctors = Program("the doctor", timeout_s=_DOCTOR_S)

    @app.get("/v1/system")
    async def system() -> SystemOut:
        """What runs on this machine, and how it is."""

        def read() -> SystemOut:
            readings, control = host.read(), read_status(layout)
            try:
                disk = shutil.disk_usage(layout.root)
                space = DiskOut(free_mib=round(disk.free / _MIB, 1), total_mib=round(disk.total / _MIB, 1))
            except OSError:
                space = DiskOut(free_mib=None, total_mib=None)
            charge = _value(readings.battery_fraction)
            battery = None
            if charge is not None:
                battery = BatteryOut(percent=round(100 * charge, 1), charging=_value(readings.docked) == 1.0)
            profile = plain(control.get("profile"))
            return SystemOut(
                processes=household.look(),
                profile=profile if isinstance(profile, dict) else {},
                temperatures={"cpu": _value(readings.cpu_temp_c)},
                disk=space,
                battery=battery,
            )

        return await asyncio.to_thread(read)

    @app.get("/v1/logs/{name}", responses=errors(404, 422))
    async def logs(
        name: Literal["control", "policy", "sidecar", "service"],
        lines: Annotated[int, Query(ge=1, le=2000)] = 200,
    ) -> LogOut:
        """The end of a process's log."""

        def read() -> LogOut:
            path = layout.log_dir / f"{name}.log"
            try:
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                    text = file.read().decode(errors="replace")
            except OSError as error:
                remedy = f"Where systemd runs it: journalctl -u continuonbrain-{name}."
                words = f"{path}: {error.strerror or error}"
                if isinstance(error, FileNotFoundError):
                    words = (
                        f"No log of {name}: there is no {path}. It has not run yet, or systemd keeps its log."
                    )
                raise ServiceError(404, words, remedy=remedy) from error
            return LogOut(lines=text.splitlines()[-lines:])

        return await asyncio.to_thread(read)

    @app.get("/v1/doctor", responses=errors(409, 429, 504))
    async def doctor() -> DoctorOut:
        """Run the doctor: seconds, one at a time."""
        arguments = ["doctor", "--root", str(layout.root), "--json"]
        told = await doctors.run("continuonbrain", arguments, fine=(0, 1))
        checks = [
            CheckOut(
                name=str(c["name"]),
                ok=bool(c["ok"]),
                value=str(c["value"]),
                reason="" if c["ok"] else str(c["remedy"]),
                needed=bool(c["needed"]),
            )
            for c in told["checks"]
        ]
        for name, gate in ((told.get("gates") or {}).get("gates") or {}).items():
            checks.append(
                CheckOut(
                    name=f"gate {name}",
                    ok=bool(gate["open"]),
                    value=str(gate["reason"]),
                    reason="",
                    needed=False,
                )
            )
        return DoctorOut(healthy=bool(told["healthy"]), checks=checks)

    @app.get("/v1/explain")
    async def explain() -> ExplainOut:
        """Why the robot did what it did last, from what was recorded of it."""

        def read() -> ExplainOut:
            status = plain({k: v for k, v in read_status(layout).items() if k not in ("trail", "profile")})
            if is_deciding(status) or (step := shelf.last_decision()) is None:
                return ExplainOut(text=in_words(status), tick=status)
            tick = tick_of(step)
            return ExplainOut(
                text=f"{in_words(status)} The last that was recorded: {in_words(tick)}", tick=tick
            )

        return await asyncio.to_thread(read)


class Household:
    """The processes of one root, found by their command lines, whoever started them."""

    def __init__(self, layout: BrainLayout) -> None:
        self._root = str(layout.root)
        self._known: dict[int, psutil.Process] = {}
        self._turn = threading.Lock()

    def look(self) -> list[ProcessOut]:
        """All four, those that do not run, too."""
        with self._turn:
            found: dict[str, psutil.Process] = {}
            for process in psutil.process_iter(["cmdline"]):
                words = process.info["cmdline"] or []
                if self._root not in words:
                    continue
                # Who starts a module is named before it.
                name = next((n for n, module in _MODULES.items() if module in words), None)
                if name is not None and name not in found:
                    found[name] = self._known.get(process.pid, process)
            before, self._known = self._known, {p.pid: p for p in found.values()}
            return [_told(name, found.get(name), before) for name in _MODULES]


def _told(name: str, process: psutil.Process | None, before: dict[int, psutil.Process]) -> ProcessOut:
    absent = ProcessOut(name=name, pid=None, rss_mib=None, cpu=None, alive=False, restarts=None)
    if process is None:
        return absent
    try:
        cpu = process.cpu_percent(None) / 100  # since the last time; 0 at the first
        rss = process.memory_info().rss / _MIB
    except psutil.Error:
        return absent
    share = round(cpu, 3) if process.pid in before else None
    return ProcessOut(name=name, pid=process.pid, rss_mib=round(rss, 1), cpu=share, alive=True, restarts=None)


def _value(reading: Reading) -> float | None:
    value = reading.value
    if reading.error is not None or not isinstance(value, int | float) or value != value:
        return None
    return round(float(value), 3)
