"""The list of the benchmarks is whole, and docs/benchmarks.md is what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import HERE, benchmarks, described, markdown

ROOT = Path(__file__).parents[2]
PARTS = {"donkeycar_vehicle", "driven_car", "e2b_shapes", "engine_swaps", "machine_stalls"}
"""Run by other benchmarks."""


def test_the_page_is_what_the_modules_say() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert page == markdown(benchmarks()), "python -m benchmarks --markdown > docs/benchmarks.md"


def test_everything_that_can_be_run_is_in_it() -> None:
    can_run = {p.stem for p in HERE.glob("*.py") if '__name__ == "__main__"' in p.read_text()}
    can_run |= {p.parent.name for p in HERE.glob("*/__main__.py")}
    found = benchmarks()
    assert {b.name for b in found} == can_run - PARTS - {"__main__"}
    for b in found:
        assert b.asks, b.name
        assert b.prints, b.name


def test_what_is_taken_from_a_docstring() -> None:
    table = "How late?\n\n    python -m benchmarks.late [--json]\n\nKeys:\n  a_us, b_us   how\n     late\n  c a share\n"
    told = described("late", table)
    assert told is not None
    assert (told.command, told.asks, told.prints) == (
        "python -m benchmarks.late",
        "How late?",
        "a_us, b_us, c",
    )
    sentence = (
        "How\nlate?\n\n    python -m benchmarks.late\n\nKeys: a_us (how (very) late), b. Takes an hour.\n"
    )
    told = described("late", sentence)
    assert told is not None
    assert (told.asks, told.prints) == ("How late?", "a_us, b")
    assert described("late", "How late?\n\nKeys: a_us\n") is None
    assert described("late", "How late?\n\n    python -m benchmarks.late\n") is None
    assert described("late", table.replace("benchmarks.late", "benchmarks.later")) is None


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    command = [sys.executable, "-u", "-m", "benchmarks"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 0


def test_the_command_lists_them_and_tells_of_one() -> None:
    listed = run().stdout
    assert "python -m benchmarks.fast_loop\n    How punctual is the control loop" in listed
    assert listed.count("    prints: ") == len(benchmarks())
    assert "--ordinary" in run("fast_loop").stdout
    unknown = run("fast_lop")
    assert unknown.returncode == 2
    assert "there is no benchmark 'fast_lop'; there are: bad_candidates, " in unknown.stderr
