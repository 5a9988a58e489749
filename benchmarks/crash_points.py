"""Is an adapter, or a base, ever half changed? Real processes, killed at every file-system call of every change.

    python -m benchmarks.crash_points [--json] [--operation NAME] [--control]

Each operation is done once in a traced process, which gives its calls that may change a file system (open for writing,
write, rename, symlink, unlink, mkdir, fsync, ftruncate, flock, ...). Then it is done again from the same state for each
of them, and the process is killed before the call, after it and, where it is a write to a file, in the middle of it.
Enumerated, not sampled. After each kill, `benchmarks.crash_reader`, which shares no code with the store, checks that
`current` is whole and the old or the new one and that the history's chain holds; then a fresh process starts as the
brain does, and it checks again: links as the history says, everybody told once, a second start changes nothing, and
the operation can be done to its end.

Keys:
  operations    how many
  crash_points  kills, over all operations
  violations    of what is checked (goal 0)
  by_operation  calls, kills and violations of each
--control adds an operation in the wrong order, which must be found out. A killed process leaves the kernel's cache
alone: what a power cut does to calls that were not synced is not shown here. Takes minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.crash_reader import chain, contents, faults, named_by, unsettled
from benchmarks.ptraced import Ended, When, trace
from benchmarks.small_verdict import judged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops import promotion
from continuonbrain.loops.probation import look_after
from continuonbrain.loops.promotion import announce_unfinished, promote_candidate, roll_back
from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.driving_record import DrivingRecord, write_record
from continuonbrain.storage.history import next_entry
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.probation_rule import Terms

BOOT, NEXT_BOOT = "boot-1", "boot-2"
_TICKS = 400
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Operation:
    """prepare: brings a fresh root to where it begins. act: does it; done to the end already, it changes nothing. new:
    which of the names that `prepare` gave drives at the end, "" the base. boot: of the start after the kill.
    always_old: that start must take back whatever was begun. judge: looks at what a kill left, None as for adapters."""

    name: str
    prepare: Callable[[BrainRoot], dict[str, str]]
    act: Callable[[BrainRoot], None]
    new: str = ""
    boot: str = BOOT
    always_old: bool = False
    judge: Callable[[Operation, BrainRoot], list[str]] | None = None


@dataclass(slots=True)
class Found:
    """Of one operation."""

    calls: int = 0
    crash_points: int = 0
    violations: list[str] = field(default_factory=list)


# What operations begin with.


def staged(brain: BrainRoot, tag: str) -> str:
    """A candidate with a passing verdict."""
    store = AdapterStore(brain.layout)
    files = {
        "adapter_model.safetensors": f"weights of {tag}".encode() * 300,
        "adapter_config.json": b"{}",
        "calibration.json": b"{}",
        "lora_adapters.pt": tag.encode(),
        "card.json": b'{"episodes": []}',
    }
    version = store.stage(files)
    verdict = judged(version, checkpoint_sha256(brain.layout.base_model_dir))
    store.attach(version, "verdict.json", json.dumps(verdict).encode())
    return version.version_id


def driving(brain: BrainRoot, tag: str, *, probation: bool = False) -> str:
    """An adapter that drives; confirmed, or on probation."""
    store, version_id = AdapterStore(brain.layout), staged(brain, tag)
    terms = Terms(_TICKS, 0.0, BOOT) if probation else None
    base = checkpoint_sha256(brain.layout.base_model_dir)
    store.promote(version_id, store.get(version_id).verdict(), base_sha256=base, terms=terms)
    return version_id


def drove(brain: BrainRoot, version_id: str, off_road: int) -> None:
    """So many ticks, and so often off the road."""
    record = DrivingRecord(ticks=2 * _TICKS, seconds=40.0, incidents={"off_road": off_road})
    sha256 = AdapterStore(brain.layout).get(version_id).compute_sha256()
    write_record(brain.layout.driving_dir, sha256, record)


def _candidate_over(*tags: str) -> Callable[[BrainRoot], dict[str, str]]:
    def prepare(brain: BrainRoot) -> dict[str, str]:
        for tag in tags:
            driving(brain, tag)
        return {"new": staged(brain, "new")}

    return prepare


def _on_probation(*tags: str, off_road: int) -> Callable[[BrainRoot], dict[str, str]]:
    def prepare(brain: BrainRoot) -> dict[str, str]:
        names = {tag: driving(brain, tag) for tag in tags}
        names["new"] = driving(brain, "new", probation=True)
        drove(brain, names["new"], off_road)
        return names

    return prepare


def _confirmed(*tags: str) -> Callable[[BrainRoot], dict[str, str]]:
    return lambda brain: {tag: driving(brain, tag) for tag in tags}


def _interrupted(brain: BrainRoot) -> dict[str, str]:
    """A promotion that was written down, and no more."""
    names = {"old": driving(brain, "old"), "new": staged(brain, "new")}
    store = AdapterStore(brain.layout)
    last, version = store.last_change(), store.get(names["new"])
    entry = next_entry(
        last,
        event="promote",
        to_version=names["new"],
        from_version=names["old"],
        sha256=version.compute_sha256(),
        time_unix_s=0.0,
        verdict=version.verdict(),
        about={"probation": Terms(_TICKS, 0.0, BOOT).to_json()},
    )
    with brain.layout.history_path.open("a") as file:
        file.write(entry.to_json_line() + "\n")
    return names


# What they do.


def _promote(brain: BrainRoot) -> None:
    if AdapterStore(brain.layout).candidate() is not None:
        promote_candidate(brain, boot=BOOT)


def _look(brain: BrainRoot) -> None:
    look_after(brain, boot=BOOT)


def _roll_back(brain: BrainRoot) -> None:
    store = AdapterStore(brain.layout)
    if all(entry.event != "rollback" for entry in store.history()):  # a second one would undo the first
        roll_back(brain)


def _stage(brain: BrainRoot) -> None:
    AdapterStore(brain.layout).stage(
        {
            "adapter_model.safetensors": b"staged" * 500,
            "adapter_config.json": b"{}",
            "card.json": b"{}",
            "verdict.json": b'{"passed": false}',
        }
    )


def _wrong_order(brain: BrainRoot) -> None:
    """The control: the link first, not in one step, and the history last."""
    layout, store = brain.layout, AdapterStore(brain.layout)
    candidate = store.candidate()
    if candidate is None:
        return
    last, before = store.last_change(), store.current()
    layout.current.unlink(missing_ok=True)
    layout.current.symlink_to(f"versions/{candidate.version_id}")
    entry = next_entry(
        last,
        event="promote",
        to_version=candidate.version_id,
        from_version=before and before.version_id,
        sha256=candidate.compute_sha256(),
        time_unix_s=0.0,
    )
    with layout.history_path.open("a") as file:
        file.write(entry.to_json_line() + "\n")
    store.recover()
    announce_unfinished(brain)


OPERATIONS = (
    Operation("promote", _candidate_over("older", "old"), _promote, "new"),
    Operation("promote_over_the_base", _candidate_over(), _promote, "new"),
    Operation("promote_then_reboot", _candidate_over("old"), _promote, "new", NEXT_BOOT, always_old=True),
    Operation("confirm", _on_probation("old", off_road=0), _look, "new"),
    Operation("revert", _on_probation("older", "old", off_road=20), _look, "old"),
    Operation("revert_to_the_base", _on_probation(off_road=20), _look, ""),
    Operation("rollback", _confirmed("old", "bad"), _roll_back, "old"),
    Operation("rollback_to_the_base", _confirmed("bad"), _roll_back, ""),
    Operation("rollback_on_probation", _on_probation("older", "old", off_road=0), _roll_back, "old"),
    Operation("recover", _interrupted, lambda brain: recover(brain, BOOT), "new"),
    Operation("stage", _confirmed("old"), _stage, "old"),
)
"""Another one is a function on a brain root; `import` and those of bases stand in modules of their own."""

CONTROL = Operation("wrong_order", _candidate_over("older", "old"), _wrong_order, "new")


def recover(brain: BrainRoot, boot: str) -> None:
    """What a starting brain does."""
    AdapterStore(brain.layout).recover()
    announce_unfinished(brain)
    look_after(brain, boot=boot)


def new_root(folder: Path) -> BrainRoot:
    """A root with a base of a few bytes, which is all that its identity needs."""
    layout = init_brain_root(folder, "sim-donkey")
    (layout.base_model_dir / "config.json").write_text("{}")
    (layout.base_model_dir / "model.safetensors").write_bytes(b"base")
    return open_brain(folder)


def crash(operation: Operation, folder: Path, *, quiet: bool = True) -> Found:
    """Kill an operation at each of its calls. folder: an empty one. Raises OSError where ptrace is not allowed."""
    pristine, root = folder / "pristine", folder / "b"
    brain = new_root(root)
    names = operation.prepare(brain)
    # Nobody was told of how it came to be there; and the last telling is long ago, so that nobody waits.
    layout = brain.layout
    told_from = len(chain(layout.history_path)[0])
    if operation.name == "recover":
        told_from -= 1
    if told_from:
        layout.announced_path.write_text(chain(layout.history_path)[0][told_from - 1]["hash"] + "\n")
    os.utime(layout.manifest_path, (1, 1))
    os.rename(root, pristine)
    found = Found()

    def afresh() -> BrainRoot:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(pristine, root, symlinks=True)
        return open_brain(root)

    old = named_by(pristine / "model" / "adapters" / "current")
    new = names[operation.new] if operation.new else None
    brain = afresh()
    whole = trace(lambda: operation.act(brain))
    if whole.code != 0:
        found.violations.append(f"{operation.name}: it fails by itself")
        return found
    found.calls = len(whole.calls)
    points: list[tuple[int, When]] = []
    for number, call in enumerate(whole.calls):
        points += [(number, "before"), *([(number, "torn")] if call.size > 1 else []), (number, "after")]  # type: ignore[list-item]
    for number, when in track(points, operation.name, disable=quiet, transient=True):
        brain = afresh()
        ended = trace(lambda: operation.act(brain), kill_at=number, when=when)  # noqa: B023
        where = f"{operation.name} killed {when} call {number} ({whole.calls[number].name})"
        found.crash_points += 1
        problems = _judge(operation, brain, ended, old, new, told_from)
        found.violations += [f"{where}: {problem}" for problem in problems]
    return found


def _judge(
    operation: Operation, brain: BrainRoot, ended: Ended, old: str | None, new: str | None, told_from: int
) -> list[str]:
    if not ended.killed:
        return [f"it was not killed, it ended with {ended.code}"]
    try:
        if operation.judge is not None:
            return operation.judge(operation, brain)
        return _judge_adapters(operation, brain, old, new, told_from)
    except (OSError, ValueError, KeyError) as error:
        return [f"cannot be read: {type(error).__name__}: {error}"]


def _judge_adapters(
    operation: Operation, brain: BrainRoot, old: str | None, new: str | None, told_from: int
) -> list[str]:
    root = brain.layout.root
    problems = faults(root, {old, new})
    if not run_apart(lambda: recover(brain, operation.boot)):
        return [*problems, "the next start fails"]
    settled = {old} if operation.always_old else {old, new}
    problems += faults(root, settled) + unsettled(root, told_from)
    before = contents(root)
    if not run_apart(lambda: recover(brain, operation.boot)) or contents(root) != before:
        problems.append("a second start changes something")
    if operation.always_old:
        return problems
    if not run_apart(lambda: operation.act(brain)):
        return [*problems, "it cannot be done to its end"]
    return problems + faults(root, {new}) + unsettled(root, told_from)


def run_apart(act: Callable[[], None]) -> bool:
    """Do it in a process of its own. Whether it ended well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def measure(operations: tuple[Operation, ...], *, quiet: bool) -> dict[str, Any]:
    """Crash them all."""
    promotion._APART_S = 0.0  # pauses between tellings, for apps that are not here
    logging.disable(logging.CRITICAL)
    started, found = time.monotonic(), {}
    for operation in operations:
        with tempfile.TemporaryDirectory() as folder:
            found[operation.name] = crash(operation, Path(folder), quiet=quiet)
    return {
        "operations": len(found),
        "crash_points": sum(f.crash_points for f in found.values()),
        "violations": sum(len(f.violations) for f in found.values()),
        "by_operation": {
            name: {
                "calls": f.calls,
                "crash_points": f.crash_points,
                "violations": len(f.violations),
                "examples": f.violations[:_SHOWN],
            }
            for name, f in found.items()
        },
        "seconds": round(time.monotonic() - started, 1),
    }


def operations() -> tuple[Operation, ...]:
    """All that this release has."""
    from benchmarks import crash_base
    from benchmarks.crash_import import IMPORT

    return (*OPERATIONS, IMPORT, *crash_base.OPERATIONS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [operation.name for operation in operations()]
    parser.add_argument("--operation", choices=known, action="append", help="only this one")
    parser.add_argument("--control", action="store_true", help="add one that must be found out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = tuple(o for o in operations() if arguments.operation is None or o.name in arguments.operation)
    found = measure((*chosen, *([CONTROL] if arguments.control else [])), quiet=arguments.json)
    if arguments.json:
        print(json.dumps(found))
    else:
        console = Console(highlight=False)
        for name, told in found["by_operation"].items():
            line = f"{name}: {told['calls']} calls, {told['crash_points']} kills, {told['violations']} violations"
            console.print(line)
            for example in told["examples"]:
                console.print(f"  {example}", soft_wrap=True, markup=False)
        console.print(
            f"{found['crash_points']} kills in {found['operations']} operations, {found['violations']} violations "
            f"({found['seconds']} s)"
        )
    return 0 if found["violations"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
