"""Stands in for smbus2 in the processes that `benchmarks.driven_car` starts: the bus is a model in that one.

A transaction is one packet each way: operation, address, register, length, data; then an error number, and data.
"""

from __future__ import annotations

import os
import socket


class SMBus:
    fd = None

    def __init__(self, bus: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(os.environ["MODEL_BUS"])

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        self._transact(b"w", i2c_addr, register, len(data), bytes(data))

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        return list(self._transact(b"r", i2c_addr, register, length, b""))

    def close(self) -> None:
        self._socket.close()

    def _transact(self, what: bytes, address: int, register: int, length: int, data: bytes) -> bytes:
        self._socket.send(what + bytes((address, register, length)) + data)
        answer = self._socket.recv(64)
        if not answer:
            raise OSError(110, "the model is gone")
        if answer[0]:
            raise OSError(answer[0], os.strerror(answer[0]))
        return answer[1:]
