"""What does a donkey car's command cost its I2C bus?

    python -m benchmarks.i2c_traffic [--hz 20] [--seconds 60] [--json]

The drive train gives `hz` commands a second to a bus that counts: transactions, and the bits of each on the wire. A
write is a start, the address, the register and the data, each byte with its acknowledgement, and a stop; a read is the
same with no data, a repeated start, the address and the data (I2C-bus specification, UM10204, 3.1). The chip behind it
is a row of registers that holds what is written. Time between bits, of the driver and of the kernel, is left out.

Keys:
  per_command        transactions a command, on average, while it drives
  most               in one command
  parked             transactions a stop, on average, while it stands
  ms_100khz          of the bus a command, on average; ms_400khz the same at 400 kHz
  most_ms_100khz     of the bus in one command
  share_100khz       of the bus's time at this rate
"""

from __future__ import annotations

import argparse
import json

from continuonbrain.config import DonkeyConfig
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.i2c import RetryingBus

_START, _BYTE, _STOP = 1, 9, 1


class CountingBus:
    """Registers that hold what is written, and what it cost to get there."""

    def __init__(self) -> None:
        self.registers = bytearray(256)
        self.transactions = self.bits = 0

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        self.transactions += 1
        self.bits += _START + _BYTE * (2 + len(data)) + _STOP
        for offset, value in enumerate(data):
            if register == 0xFD:  # all channels
                self.registers[0x09:0x46:4] = bytes([value] * 16)
            self.registers[(register + offset) % 256] = value

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        self.transactions += 1
        self.bits += _START + _BYTE * 2 + _START + _BYTE * (1 + length) + _STOP
        return list(self.registers[register : register + length])

    def close(self) -> None:
        pass


def measure(hz: float, seconds: float) -> dict[str, float]:
    """See the module. Simulated time: it takes no longer than the code does."""
    now, raw = [0.0], CountingBus()
    config = DonkeyConfig()
    train = DriveTrain(
        RetryingBus(raw, "counted", clock=lambda: now[0]),
        config,
        clock=lambda: now[0],
        sleep=lambda waited: None,
    )
    ticks = round(hz * seconds)

    def spent(throttle: float | None) -> tuple[list[int], list[int]]:
        transactions, bits = [], []
        for number in range(ticks):
            now[0] += 1 / hz
            before = raw.transactions, raw.bits
            if throttle is None:
                train.stop()
            else:
                train.act(number % 50 / 50, throttle)
            transactions.append(raw.transactions - before[0])
            bits.append(raw.bits - before[1])
        return transactions, bits

    train.stop()
    now[0] += config.throttle.arming_s + 1
    train.act(0.0, 0.3)
    transactions, bits = spent(0.3)
    train.stop()
    parked, _ = spent(None)
    mean_bits = sum(bits) / ticks
    return {
        "hz": hz,
        "per_command": round(sum(transactions) / ticks, 3),
        "most": max(transactions),
        "parked": round(sum(parked) / ticks, 3),
        "ms_100khz": round(mean_bits / 100, 3),
        "ms_400khz": round(mean_bits / 400, 3),
        "most_ms_100khz": round(max(bits) / 100, 3),
        "share_100khz": round(mean_bits * hz / 100e3, 4),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hz", type=float, default=20.0, help="commands a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it drives, simulated")
    parser.add_argument("--json", action="store_true", help="machine readable")
    given = parser.parse_args()
    result = measure(given.hz, given.seconds)
    if given.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:16} {value:g}")


if __name__ == "__main__":
    main()
