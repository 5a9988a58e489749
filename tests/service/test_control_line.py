"""The service's connection to the control process: what was sent is not what was heard."""

from __future__ import annotations

import asyncio
import time
from math import inf
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from continuonbrain.loops.wire_stream import WireServer
from continuonbrain.service.control_line import ControlLine


async def _drive(line: ControlLine) -> float:
    """When it was sent."""
    sent_s = time.monotonic()
    await line.drive(0.0, 0.3, active=True, for_s=0.2, sent_s=sent_s)
    await asyncio.sleep(0.02)
    return sent_s


async def _answer(server: WireServer) -> None:
    for _ in range(3):
        for message in server.wait(0.05):
            server.acknowledge(message.peer, ok=True)
    await asyncio.sleep(0.05)


def test_a_command_counts_as_obeyed_from_when_it_was_sent_and_only_once_it_was_answered(
    tmp_path: Path,
) -> None:
    async def told() -> None:
        line = ControlLine(tmp_path / "control.sock")
        await _drive(line)
        assert line.problem  # nobody is there
        with WireServer(tmp_path / "control.sock") as server:
            assert line.answered_s == -inf
            first_s = await _drive(line)
            assert line.answered_s == -inf
            await _answer(server)
            assert line.answered_s == pytest.approx(first_s, abs=0.01)
            last_s = [await _drive(line) for _ in range(5)][-1]
            assert line.answered_s == pytest.approx(first_s, abs=0.01)  # it hangs
            assert line.problem == ""
            await line.let_go()
            await asyncio.sleep(0.3)
            await _answer(server)
            assert line.answered_s == pytest.approx(
                last_s, abs=0.01
            )  # not when the answer came, nor by a let_go
        line.close()

    asyncio.run(told())


def test_answers_are_counted_anew_on_another_connection(tmp_path: Path) -> None:
    async def told() -> None:
        line = ControlLine(tmp_path / "control.sock")
        with WireServer(tmp_path / "control.sock"):
            await _drive(line)  # never answered
        await asyncio.sleep(0.05)
        assert line.problem == "the control process has gone"
        with WireServer(tmp_path / "control.sock") as server:
            await asyncio.sleep(0.2)
            sent_s = await _drive(line)
            await _answer(server)
            assert line.answered_s == pytest.approx(sent_s, abs=0.01)
        line.close()

    asyncio.run(told())
