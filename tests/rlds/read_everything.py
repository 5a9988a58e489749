"""Reads whatever lies at a path to the last value; run as a program, within a limit of memory.

`python read_everything.py KIND PATH EXTRA_BYTES` prints "ok", or "refused: ..." for an `EpisodeError`; anything else is
a traceback. The limit is on the address space, so it counts what C code allocates as well.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
from pathlib import Path

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.tub import import_tub

STEPS_READ = 50


def read_episode(path: Path) -> None:
    """Our folder or flat JSON: strict, and as far as it goes."""
    first: EpisodeError | None = None
    try:
        for step in open_episode(path).steps(frames=True):
            step.to_json()
    except EpisodeError as error:
        first = error
    list(open_episode(path, strict=False))
    if first is not None:
        raise first


def read_memory(path: Path) -> None:
    """Any memory, through the one call: every value of its first episodes' first steps; the first error comes last."""
    memory = open_memory(path)
    first: EpisodeError | None = None
    for number in range(min(len(memory), 20)):
        try:
            episode = memory.episode(number)
        except EpisodeError as error:
            first = first or error
            continue
        _ = episode.episode_id
        for key in list(episode.metadata):
            try:
                _ = episode.metadata[key]
            except EpisodeError as error:
                first = first or error
        for index in range(min(len(episode), STEPS_READ)):
            try:
                step = episode.step(index)
                episode.frames(index)
            except EpisodeError as error:
                first = first or error
                continue
            for key in step.values:
                try:
                    _ = step.values[key]
                except EpisodeError as error:
                    first = first or error
        if len(episode):
            with contextlib.suppress(EpisodeError):
                _ = episode.signals
    if first is not None:
        raise first


def read_tub(path: Path) -> None:
    """A donkeycar tub, imported into a folder of its own."""
    with tempfile.TemporaryDirectory() as out:
        import_tub(path, Path(out) / "memory")


def read_doctor(path: Path) -> None:
    """The doctor never raises; its first error is raised here, so that what it takes for sick counts as refused."""
    try:
        findings = examine(path)
    except EpisodeError as error:
        raise AssertionError("the doctor raised") from error
    for finding in findings:
        json.dumps(finding.to_json())
        assert finding.file
        assert finding.field
        assert finding.problem
    for finding in findings:
        if finding.severity == ERROR:
            raise EpisodeError(finding.problem, file=Path(finding.file))


def read_recovery(path: Path) -> None:
    """Recovery never raises: what it leaves it says, and what it closes opens, with as many steps as it says."""
    try:
        done = recover_unfinished(path)
    except EpisodeError as error:
        raise AssertionError("recovery raised") from error
    for one in done:
        if one.problem:
            raise EpisodeError(one.problem, file=one.path)
        try:
            assert len(open_episode(one.path)) == one.steps
        except EpisodeError as error:
            raise AssertionError("what was closed does not open") from error


def read_greedily(path: Path) -> None:
    """What none of the others may do: shows that the limit holds."""
    bytes(path.stat().st_size)


READERS = {
    "episode": read_episode,
    "memory": read_memory,
    "tub": read_tub,
    "doctor": read_doctor,
    "recovery": read_recovery,
    "greedy": read_greedily,
}


def main() -> None:
    kind, path, extra = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with contextlib.suppress(EpisodeError, OSError):
        READERS[kind](path.parent / f"small-{kind}")  # whatever is loaded or cached at the first use
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        READERS[kind](path)
    except EpisodeError as error:
        print(f"refused: {error}"[:400])
    else:
        print("ok")


if __name__ == "__main__":
    main()
