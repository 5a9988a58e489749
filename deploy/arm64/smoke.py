"""Does the package run on arm64? In an arm64 Debian, on a Cortex-A76's instruction set as qemu emulates it.

    sudo python deploy/arm64/smoke.py [--json] [--work FOLDER] [--only PART ...]

Makes the root (deploy/arm64/README.md says what is needed), puts the package in with the versions of constraints.txt,
and runs the parts below one after the other, each in processes of its own, without a network. What a part has to answer
is asked of the same code natively first. Exit status 1 when a part fails.

Keys:
  parts      name, ok, seconds (emulated ones: they say nothing about a Pi), detail
  emulated   true
  cpu        what qemu emulates
  torch      the version that ran there
  ok         all parts are
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_pi
from debian_root import REPOSITORY, TOOLS, USER_EMULATION, WORK, debian, locked, require, site
from emulation import CPU, run_emulated

EXTRAS = "train,litert,serve,pi"
TESTS = (
    "tests/storage/test_durable.py", "tests/storage/test_lock.py", "tests/storage/test_adapters.py",
    "tests/storage/test_promotion_rule.py", "tests/storage/test_rollback.py", "tests/storage/test_history.py",
    "tests/storage/test_adapter_crashes.py", "tests/storage/test_probation_rule.py",
    "tests/safety/test_guards.py", "tests/safety/test_caution.py",
    "tests/rlds/test_recorder.py", "tests/rlds/test_recovery.py", "tests/rlds/test_tfrecord.py",
    "tests/policy/test_codec.py", "tests/policy/test_chunk.py", "tests/policy/test_tracker.py",
    "tests/robot/donkey",
)  # fmt: skip
TOLERANCE = {"torch": 1e-4, "litert_fp32": 1e-4, "litert_int8": 0.01}
"""Of curvatures (1/m) and speeds (m/s). int8 kernels of processors round differently."""
LOSS_TOLERANCE = 1e-3
"""Of one training step's loss: two versions of torch."""


DOCTOR = ("aarch64", "2.10.0", "litert, fp32, adapters up to rank 16", "the chain holds")
"""What the doctor has to have found."""


class PartFailed(Exception):
    """What a part answered is not what it has to be."""


@dataclass(frozen=True)
class Part:
    """A command in the root, and what its output has to say.

    check: gets the output, gives a detail; raises PartFailed. may_end: allowed exit statuses.
    """

    name: str
    command: Sequence[str]
    check: Callable[[str], str]
    may_end: tuple[int, ...] = (0,)
    timeout_s: float = 1200.0


def last_json(text: str) -> dict[str, Any]:
    """The object that a program printed last, on one line or on many."""
    start = max((m.start() for m in re.finditer(r"^\{", text, re.MULTILINE)), default=-1)
    try:
        told = json.loads(text[start:]) if start >= 0 else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise PartFailed(f"no JSON came back: {text[-300:]!r}")
    return told


def must(true: bool, said: str) -> None:
    """Raise PartFailed."""
    if not true:
        raise PartFailed(said)


def pinned(constraints: str, *, machine: str) -> dict[str, str]:
    """The versions of a constraints file for `platform_machine`; its markers compare nothing else."""
    found = {}
    for line in constraints.splitlines():
        parts = re.fullmatch(
            r"([\w.-]+)==(\S+)(?:\s*;\s*platform_machine\s*(==|!=)\s*\"(\w+)\")?", line.strip()
        )
        if parts:
            name, version, sign, of = parts.groups()
            if sign is None or (sign == "==") == (machine == of):
                found[normal(name)] = version
    return found


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_platform(text: str) -> str:
    """The right machine, torch without CUDA, and every version as constraints.txt says."""
    told = last_json(text)
    must(told["machine"] == "aarch64", f"machine {told['machine']}")
    must(told["cpuinfo"] == ["0xd0b"], f"CPU parts {told['cpuinfo']}")
    installed = {normal(name): version for name, version in told["installed"].items()}
    wanted = pinned((REPOSITORY / "constraints.txt").read_text(), machine="aarch64")
    other = {n: v for n, v in installed.items() if n in wanted and v.partition("+")[0] != wanted[n]}
    must(not other, f"not as constraints.txt says: {other}")
    must(told["torch_cuda"] is None, f"torch {told['torch']} is for CUDA {told['torch_cuda']}")
    cuda = [name for name in installed if name.startswith("nvidia") or name == "triton"]
    must(not cuda, f"installed for CUDA: {cuda}")
    held = sum(name in wanted for name in installed)
    return f"Python {told['python']}, torch {told['torch']} without CUDA, {held} versions as constraints.txt says"


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, float]:
    """Largest difference of each entry's numbers (lists of lists, alike in shape)."""
    must(here.keys() == there.keys(), f"asked for {sorted(here)}, got {sorted(there)}")
    found = {}
    for name, rows in here.items():
        pairs = [
            (a, b)
            for left, right in zip(rows, there[name], strict=True)
            for a, b in zip(left, right, strict=True)
        ]
        # Not max(): it is silent about NaN.
        found[name] = max(abs(a - b) if a - b == a - b else float("inf") for a, b in pairs)
    return found


def check_answers(native: Mapping[str, Any], engine: str) -> Callable[[str], str]:
    """`engine` answers as natively, without and with an adapter that was trained there, which changes the answer."""

    def check(text: str) -> str:
        told = last_json(text)
        expected = {name: rows for name, rows in native.items() if name.rpartition("_")[0] == engine}
        apart = differences(expected, told)
        for name, difference in apart.items():
            must(difference <= TOLERANCE[engine], f"{name} differs by {difference:.2g} from x86")
        moved = differences({"x": told[f"{engine}_base"]}, {"x": told[f"{engine}_adapter"]})["x"]
        must(moved > 10 * TOLERANCE["torch"], f"the adapter moves the answer by {moved:.2g} only")
        said = ", ".join(f"{n.rpartition('_')[2]} {d:.1e}" for n, d in sorted(apart.items()))
        return f"largest difference from the native answer: {said} (tolerance {TOLERANCE[engine]:g})"

    return check


def check_training(native: Mapping[str, Any]) -> Callable[[str], str]:
    """Every step's loss as natively, and the same files."""

    def check(text: str) -> str:
        told = last_json(text)
        must(told["files"] == native["files"] and told["ended"] == "steps", f"{told}")
        apart = differences({"x": [native["losses"]]}, {"x": [told["losses"]]})["x"]
        must(
            apart <= LOSS_TOLERANCE, f"losses differ by {apart:.2g}: {told['losses']}, x86 {native['losses']}"
        )
        return f"{len(told['losses'])} steps, largest difference of a loss from the native one {apart:.1e}"

    return check


def check_store(text: str) -> str:
    """The staged adapter drives, whole, in both engines."""
    told = last_json(text)
    must(told["history_ok"] is True, "its history does not verify")
    for name, engine in told["engines"].items():
        must(
            engine["sha256"] == told["sha256"],
            f"{name} drives {engine['sha256']}, current is {told['sha256']}",
        )
        must(engine["moved"] > 0, f"{name} answers as the base alone")
    return f"{told['current']} staged, promoted and driven by {', '.join(told['engines'])}"


def check_recorder(text: str) -> str:
    """Nothing that was acknowledged is lost, and something was."""
    told = last_json(text)
    steps, rounds = told["acknowledged_steps"], told["rounds"]
    must(steps >= rounds, f"{steps} steps were recorded before {rounds} kills: too few to lose any")
    must(told["acknowledged_steps_lost"] == 0 and told["unreadable_episodes"] == 0, f"{told}")
    return f"{rounds} recorders killed, {steps} acknowledged steps, none lost"


def check_guards(text: str) -> str:
    """No rule is broken, and without the guard some are."""
    told = last_json(text)
    must(told["violations"] == 0 and told["control"] > 0, f"{told}")
    return f"0 violations ({told['control']} without the guard)"


def contains(*words: str) -> Callable[[str], str]:
    """The output holds every word."""

    def check(text: str) -> str:
        absent = [word for word in words if word not in text]
        must(not absent, f"{absent} not in: {text[-300:]!r}")
        return ""

    return check


def check_tests(text: str) -> str:
    """pytest's last line."""
    found = re.search(r"(\d+) passed.* in ", text)
    must(found is not None and " failed" not in text, text[-1500:])
    assert found is not None
    return text.strip().splitlines()[-1].strip("= ")


def parts(native: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """What runs, in order; later ones use what earlier ones made in /tmp."""
    python, cli, tasks = "python3", ["python3", "-m", "continuonbrain"], ["python3", "arm64/smoke_tasks.py"]
    asked = [*tasks, "answers", "--adapter", "/tmp/native"]
    return [
        Part("platform", [*tasks, "platform"], check_platform),
        Part("help", [*cli, "--help"], contains("doctor", "install", "adapters", "episodes")),
        Part("init", [*cli, "init", "--root", "/tmp/brain", "--preset", "sim-donkey"], contains()),
        Part("doctor", [*cli, "doctor", "--root", "/tmp/brain"], contains(*DOCTOR)),
        Part(
            "recorder",
            [python, "-m", "benchmarks.kill_recorder", "--rounds", "12", "--longest", "8", "--json"],
            check_recorder,
        ),
        Part("guards", [python, "-m", "benchmarks.guards", "--calls", "5000", "--json"], check_guards, (0, 1)),
        *(
            Part(f"{engine} engine", [*asked, "--engine", engine], check_answers(native["answers"], engine))
            for engine in TOLERANCE
        ),
        Part("LoRA training", [*tasks, "train", "--to", "/tmp/adapter"], check_training(native["train"])),
        Part(
            "adapter store",
            [*tasks, "store", "--files", "/tmp/adapter", "--root", "/tmp/brain"],
            check_store,
        ),
        Part(
            "tests",
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=900",
             "-m", "not long and not slow", "-k", "not microseconds", *TESTS],  # emulated time says nothing
            check_tests,
            timeout_s=2400.0,
        ),
    ]  # fmt: skip


def natively(run_folder: Path) -> dict[str, dict[str, Any]]:
    """The same tasks on this machine: what the emulated ones are held against, and the adapter that they get."""
    told = {}
    (run_folder / "native").mkdir()
    for task, option in (("train", "--to"), ("answers", "--adapter")):
        command = [sys.executable, str(Path(__file__).with_name("smoke_tasks.py")), task, option]
        done = subprocess.run(
            [*command, str(run_folder / "native")],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{task} fails on this machine already:\n{done.stderr[-2000:]}")
        told[task] = last_json(done.stdout)
    return told


def judged(part: Part, root: Path, binds: Mapping[Path, str]) -> dict[str, Any]:
    """Run one part. Returns its entry of the report."""
    env = {
        "PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": "/opt/site:/src", "COLUMNS": "240",
        "PYTHONPYCACHEPREFIX": "/opt/compiled", "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
        "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    started = time.monotonic()
    ok = False
    try:
        command = ["/bin/sh", "-c", 'cd /src && exec "$@"', "sh", *part.command]
        done = run_emulated(root, command, binds=binds, env=env, timeout_s=part.timeout_s)
        must(
            done.returncode in part.may_end,
            f"ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}",
        )
        detail = part.check(done.stdout)
        ok = True
    except subprocess.TimeoutExpired:
        detail = f"not done after {part.timeout_s:.0f} s"
    except PartFailed as failed:
        detail = str(failed)
    return {"name": part.name, "ok": ok, "seconds": round(time.monotonic() - started, 1), "detail": detail}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="where the root is made and kept (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, and those that they build on")
    asked = parser.parse_args()
    require(TOOLS, USER_EMULATION)
    with locked(asked.work), tempfile.TemporaryDirectory(dir=asked.work, prefix="run-") as name:
        root = debian(asked.work)
        binds = {
            site(
                asked.work, "site", extras=EXTRAS, others=("pytest", "pytest-timeout", "hypothesis")
            ): "/opt/site",
            Path(name): "/tmp",
            asked.work / "compiled": "/opt/compiled",  # kept: compiling torch's modules takes a minute there
        }
        (asked.work / "compiled").mkdir(exist_ok=True)
        for path in ("tests", "benchmarks", "pyproject.toml", "deploy/arm64"):
            there = root / "src" / Path(path).name
            there.touch() if path.endswith(".toml") else there.mkdir(exist_ok=True)
            binds[REPOSITORY / path] = f"/src/{there.name}"
        told_cpu, sys_cpu = fake_pi.write(asked.work / "fake")
        binds |= {told_cpu: "/proc/cpuinfo", sys_cpu: "/sys/devices/system/cpu"}
        native = natively(Path(name))
        report = []
        for part in parts(native):
            if asked.only and part.name not in asked.only:
                continue
            report.append(judged(part, root, binds))
            if not asked.json:
                entry = report[-1]
                mark = "ok" if entry["ok"] else "FAILED"
                line = f"{mark:7}{entry['name']:20}{entry['seconds']:7.1f} s  {entry['detail']}"
                print(line, flush=True)
    ok = all(entry["ok"] for entry in report)
    torch = pinned((REPOSITORY / "constraints.txt").read_text(), machine="aarch64")["torch"]
    told = {"parts": report, "emulated": True, "cpu": CPU, "torch": torch, "ok": ok}
    print(json.dumps(told) if asked.json else f"emulated {CPU}, torch {torch}: {'ok' if ok else 'FAILED'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
