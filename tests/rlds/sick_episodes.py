"""Small episodes for tests of repair, ways to change them, and what is found in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE, EpisodeWriter

FILES = (METADATA_FILE, STEPS_FILE, BLOB_FILE)


def gray_jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), shade).save(out, "JPEG", optimize=True)
    return out.getvalue()


def small_steps(count: int) -> list[Step]:
    return [
        replace(make_step_example(tick, size=(1, 1)), frame=None, frame_jpeg=gray_jpeg(40 * tick + 20))
        for tick in range(count)
    ]


def write_episode(memory: Path, steps: list[Step], episode_id: str = "e") -> Path:
    with EpisodeWriter(memory, metadata=make_metadata_example(episode_id)) as writer:
        for step in steps:
            writer.write(step)
    return writer.path


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {
        file.relative_to(folder).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns) for file in files
    } | {"": (b"", folder.stat().st_mtime_ns)}


def is_sick(path: Path) -> bool:
    errors = [finding for finding in examine(path) if finding.severity == ERROR]
    assert all(finding.file and finding.field and finding.problem and finding.remedy for finding in errors)
    return bool(errors)


def alter_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    file = path / STEPS_FILE
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def ticks_of(folder: str | Path) -> list[int]:
    return [step.tick for step in open_episode(Path(folder)).steps(frames=True)]
