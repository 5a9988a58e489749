"""How long the store makes a robot wait: durable writes, staging, promotion, rollback.

    python benchmarks/bench_storage.py [--dir DIR]   (DIR: the disk to measure; default: a temporary folder)

Prints median and worst time of each, in ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.small_verdict import judged
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.durable import append_line_durably, write_bytes_durably
from continuonbrain.storage.layout import init_brain_root

ROUNDS = 30
ADAPTER_BYTES = 1 << 20
BASE_SHA256 = "0" * 64


def measure(name: str, act: Callable[[], object]) -> None:
    """Print the median and the worst of `ROUNDS` calls, in milliseconds."""
    times_ms = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        times_ms.append((time.perf_counter() - start) * 1e3)
    print(f"{name:34s} median {statistics.median(times_ms):8.2f} ms   worst {max(times_ms):8.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=None)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().dir) as folder:
        layout = init_brain_root(Path(folder), "sim-donkey")
        store = AdapterStore(layout)
        target = layout.run_dir / "file"
        measure("write 4 KiB durably", lambda: write_bytes_durably(target, os.urandom(4096)))
        measure("append a line durably", lambda: append_line_durably(layout.run_dir / "log", "x" * 200))

        def stage() -> None:
            store.stage(
                {"adapter_model.safetensors": os.urandom(ADAPTER_BYTES), "adapter_config.json": b"{}"}
            )

        def promote() -> None:
            version = next(versions)
            verdict = judged(version, BASE_SHA256)
            store.promote(version.version_id, verdict, base_sha256=BASE_SHA256)

        measure("stage an adapter of 1 MiB", stage)
        versions = iter(store.list())
        measure("promote", promote)
        measure("roll back", store.rollback)


if __name__ == "__main__":
    main()
