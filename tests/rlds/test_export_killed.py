"""An export that is killed leaves no folder of the final name, and what it left half made goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from continuonbrain.rlds.lerobot import export_lerobot
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.tfds import export_tfds
from continuonbrain.storage.durable import ABANDONED_S, STAGING_PREFIX

RecordEpisode = Callable[..., Path]
PROGRAM = """
import os, signal, sys
from pathlib import Path
from continuonbrain.rlds.{module} import export_{module} as export
def die(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
out, *episodes = map(Path, sys.argv[1:])
export(episodes, out, progress=die)
"""


@pytest.mark.parametrize("module", ["tfds", "lerobot"])
def test_a_killed_export_is_not_there_and_its_leftovers_go(
    module: str, tmp_path: Path, record: RecordEpisode
) -> None:
    if module == "lerobot":
        pytest.importorskip("pyarrow")
    paths = [record(2, episode_id=name) for name in "abc"]
    out = tmp_path / "out"
    target = out / "continuonbrain" / "1.0.0" if module == "tfds" else out / "continuonbrain"

    def kill() -> Path:
        before = set(target.parent.glob("*"))
        code = PROGRAM.format(module=module)
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code, str(out), *map(str, paths)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert done.returncode == -signal.SIGKILL
        (left,) = set(target.parent.glob("*")) - before
        assert left.name.startswith(STAGING_PREFIX)
        return left

    old, young = kill(), kill()
    then = time.time() - ABANDONED_S - 60
    for path in (*old.rglob("*"), old):
        os.utime(path, (then, then))
    foreign = target.parent / f"{STAGING_PREFIX}of-somebody-else"
    foreign.mkdir()
    os.utime(foreign, (then, then))
    (export_tfds if module == "tfds" else export_lerobot)(paths, out)
    assert sorted(target.parent.iterdir()) == sorted([young, foreign, target])
    if module == "tfds":
        assert len(open_memory(target)) == 3
