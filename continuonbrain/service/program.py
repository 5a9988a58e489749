"""Programs of our own that a route runs and whose JSON it passes on: one at a time, bounded, ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from continuonbrain.service.problems import ServiceError

_MOST_BYTES = 4 << 20


class Program:
    """name: for people. timeout_s: after that it is killed."""

    def __init__(self, name: str, *, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._turn = asyncio.Lock()

    async def run(self, module: str, arguments: Sequence[str], *, fine: Sequence[int] = (0,)) -> Any:
        """The JSON that `python -m module arguments` prints. fine: exit codes with which it does.

        Raises:
            ServiceError: 429 while it runs for somebody else; 409 with its own words; 504 when it takes too long.
        """
        if self._turn.locked():
            raise ServiceError(429, f"{self._name} is at work for somebody", remedy="ask again soon")
        async with self._turn:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                out, errors = await asyncio.wait_for(process.communicate(), self._timeout_s)
            except TimeoutError as error:
                words = f"{self._name} took more than {self._timeout_s:.0f} s"
                raise ServiceError(504, words, remedy="ask again when the machine has less to do") from error
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if process.returncode in fine and len(out) <= _MOST_BYTES:
            with contextlib.suppress(ValueError):
                return json.loads(out)
        said = errors.decode(errors="replace").strip().splitlines()
        words = said[-1].removeprefix("error: ") if said else f"exit {process.returncode}, and no word"
        raise ServiceError(409, f"{self._name}: {words}")
