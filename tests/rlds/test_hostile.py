"""What is large or has no end, given to every reader: an answer within 64 MiB and in seconds.

Each is tried in a process of its own, which has that much address space to spend, C code included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rlds.hostile import HOSTILE, LONG, PATIENT
from tests.rlds.valid_examples import KINDS, READER, SECONDS, files_in, is_read, target

MEMORY = 64 << 20
PROGRAM = Path(__file__).parent / "read_everything.py"


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.long if case in LONG else ()) for case in HOSTILE]
)
def test_what_is_large_or_has_no_end_costs_neither_memory_nor_time(
    case: str, tmp_path: Path, valid: dict[str, Path]
) -> None:
    kind, spoil, expected = HOSTILE[case]
    reader = READER[kind.removesuffix("-arm")]
    folder = tmp_path / kind
    shutil.copytree(valid[kind], folder)
    shutil.copytree(valid[kind], tmp_path / f"small-{reader}")
    spoil(folder)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), reader, str(target(kind, folder)), str(MEMORY)],
        capture_output=True,
        text=True,
        timeout=SECONDS * (12 if case in PATIENT else 1),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(expected), done.stdout


def test_the_limit_of_memory_is_one(tmp_path: Path) -> None:
    for size, whole in ((MEMORY // 2, True), (MEMORY + (1 << 20), False)):
        file = tmp_path / "file"
        file.write_bytes(b"")
        os.truncate(file, size)
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "greedy", str(file), str(MEMORY)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert ("MemoryError" in done.stderr, done.stdout == "ok\n") == (not whole, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_in_the_place_of_any_file_does_not_block(
    kind: str, tmp_path: Path, valid: dict[str, Path]
) -> None:
    for number, name in enumerate(files_in(valid[kind])):
        folder = tmp_path / str(number)
        shutil.copytree(valid[kind], folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        is_read(kind, folder)
