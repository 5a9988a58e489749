"""A car that a process of its own drives, over a bus that is a model in this one: what `benchmarks.throttle_watchdog`
and tests stop, hold and kill.

    python -m benchmarks.driven_car

is that process; it finds the bus in MODEL_BUS, by `model_bus/smbus2.py` on its PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from continuonbrain.config import DonkeyConfig
from continuonbrain.robot.donkey.car import SILENCES, DonkeyCar
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.emergency_stop import EmergencyStop
from continuonbrain.robot.donkey.i2c import open_bus
from continuonbrain.robot.donkey.watchdog_process import WatchdogProcess, Watched
from continuonbrain.robot.protocol import RobotFault

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "robot" / "donkey"))
from bus_models import Pca9685Model  # noqa: E402

CONFIG = DonkeyConfig.model_validate({"calibrated": True, "throttle": {"arming_s": 0.05}})
LIMIT_S = SILENCES * CONFIG.watchdog_s
_PATIENCE_S = 30.0
_HELD_S = 2.5
_BEATS = 2000


class ModelBus:
    """The chip, for other processes. `path` is where they find it; `wait_for` says when the throttle became what."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bus"
        self.chip = Pca9685Model()
        self.trouble: Callable[[bytes], int] = lambda packet: 0
        """Is asked before every transaction; an error number instead of it."""
        self.transactions = 0
        self._changed = threading.Condition()
        self._pulses: list[tuple[float, float | None]] = [(time.monotonic(), None)]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(self.path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def at_rest(self) -> bool:
        """No pulses, or stopped_us."""
        with self._changed:
            return self._rests(self._pulses[-1][1])

    def wait_for(self, *, rest: bool, since_s: float, patience_s: float = _PATIENCE_S) -> float:
        """When the throttle came to rest, or left it, first after since_s; since_s where it was so then. Raises
        TimeoutError."""
        until = time.monotonic() + patience_s
        with self._changed:
            while True:
                before = [pulse for at_s, pulse in self._pulses if at_s <= since_s]
                if before and self._rests(before[-1]) == rest:
                    return since_s
                for at_s, pulse in self._pulses:
                    if at_s > since_s and self._rests(pulse) == rest:
                        return at_s
                if not self._changed.wait(until - time.monotonic()):
                    raise TimeoutError(f"throttle {self._pulses[-1][1]} us for {patience_s:g} s")

    def close(self) -> None:
        self._socket.close()

    def _rests(self, pulse_us: float | None) -> bool:
        return pulse_us is None or abs(pulse_us - CONFIG.throttle.stopped_us) < 5

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                threading.Thread(target=self._transact, args=(client,), daemon=True).start()

    def _transact(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while packet := client.recv(64):
                client.send(self._answer(packet))

    def _answer(self, packet: bytes) -> bytes:
        what, (_, register, length), data = packet[:1], packet[1:4], packet[4:]
        with self._changed:
            self.transactions += 1
            if error := self.trouble(packet):
                return bytes((error,))
            if what == b"r":
                return bytes((0, *self.chip.read(register, length)))
            self.chip.write(register, list(data))
            pulse_us = self.chip.pulse_us(CONFIG.throttle.channel)
            if pulse_us != self._pulses[-1][1]:
                self._pulses.append((time.monotonic(), pulse_us))
                self._changed.notify_all()
            return b"\0"


class DrivingProcess:
    """A process that drives the model's car by itself. Ended when left."""

    def __init__(self, bus: ModelBus, *, log: Any = None) -> None:
        self.bus = bus
        path = os.pathsep.join((str(ROOT / "benchmarks" / "model_bus"), str(ROOT)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.driven_car"],
            cwd=ROOT,
            env={**os.environ, "MODEL_BUS": str(bus.path), "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        self.watchdog = int(self.answer() or "0")
        if not self.watchdog:
            raise RuntimeError("the car did not open")

    def ask(self, what: str) -> None:
        """ "hold": the interpreter is kept in a C call. "beats": what telling costs. "told": what was refused. "leave":
        it closes the car and ends."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def drive(self) -> None:
        """Wait until it drives."""
        self.bus.wait_for(rest=False, since_s=time.monotonic())

    def __enter__(self) -> DrivingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        self.process.kill()
        self.process.wait()
        until = time.monotonic() + 5
        while is_alive(self.watchdog) and time.monotonic() < until:
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that waits to be reaped is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class _Camera:
    """Always sees something new."""

    def start(self) -> None: ...

    def wait(self, patience_s: float) -> None: ...

    def newest(self) -> tuple[np.ndarray, float]:
        return np.zeros((120, 160, 3), np.uint8), time.monotonic()

    def close(self) -> None: ...


def drive() -> None:
    """The driving process: commands at 20 Hz, until its stdin ends or says "leave"."""
    bus = open_bus(CONFIG.pwm.i2c_bus)
    train = DriveTrain(bus, CONFIG)
    register, rest = train.rest_registers
    outside = WatchdogProcess(
        Watched(CONFIG.pwm.i2c_bus, CONFIG.pwm.address, register, rest), limit_s=LIMIT_S
    )
    car = DonkeyCar(train, _Camera(), EmergencyStop(), watchdog_s=CONFIG.watchdog_s, outside=outside)  # type: ignore[arg-type]
    car.open()
    print(outside.pid, flush=True)
    asked: list[str] = []

    def hear() -> None:
        for line in iter(sys.stdin.readline, ""):
            asked.append(line.strip())
        asked.append("leave")

    threading.Thread(target=hear, daemon=True).start()
    refused: list[str] = []
    while True:
        try:
            car.act(0.1, 0.5)
        except RobotFault as fault:
            refused.append(fault.message)
        what = asked.pop(0) if asked else ""
        if what == "hold":
            print(time.monotonic(), flush=True)
            ctypes.PyDLL(None).usleep(int(_HELD_S * 1e6))
        elif what == "beats":
            print(json.dumps([_timed(outside.beat) for _ in range(_BEATS)]), flush=True)
        elif what == "told":
            print(json.dumps({"refused": refused, "watchdog": outside.pid}), flush=True)
        elif what == "leave":
            car.close()
            return
        time.sleep(0.05)


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    took = time.perf_counter() - began
    time.sleep(0.0005)
    return took


if __name__ == "__main__":
    drive()
