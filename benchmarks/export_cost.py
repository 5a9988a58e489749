"""What does an export to a language bundle cost at the widths of Gemma 3n E2B, and what would all of it need?

    python -m benchmarks.export_cost [--json] [--layers 10,15] [--context 1024] [--precision int8]

In the export's own environment (pip install -c constraints-export.txt -e '.[train,export]'), x86-64. Random
checkpoints with E2B's widths and whole vocabulary but fewer layers are written, exported and compared with torch, each
in a process of its own; what 30 layers need is a straight line through the sizes: an estimate, and said so.

Keys:
  sizes         per number of layers: seconds, peak_rss_mib, bundle_mib, max_logit_diff, agreement (no bound is applied
                to these: noise through int8 tells little of a trained model)
  e2b_estimate  the same three for 30 layers, by a straight line ("estimate": true)
Takes some minutes a size, 20 GB of memory and 10 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

E2B_LAYERS = 30
_WRITE = """
import json, sys
from pathlib import Path
from benchmarks.e2b_shapes import write_checkpoint
write_checkpoint(Path(sys.argv[1]), "e2b", **json.loads(sys.argv[2]))
"""
"""In a process of its own, so that its memory does not count."""
_MEASURED = ("seconds", "peak_rss_mib", "bundle_mib")


def export_once(layers: int, context: int, precision: Any) -> dict[str, Any]:
    """Write a checkpoint, export it, say what it took. For a process of its own: the peak is its memory."""
    from continuonbrain.model.serving import export_language as exporter

    exporter.accept = lambda _check, _precision: (
        None
    )  # of random weights int8 changes more than of trained ones: told
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        changes = {
            "num_hidden_layers": layers,
            "num_kv_shared_layers": max(
                5, layers // 3 // 5 * 5
            ),  # both kinds of attention, every fifth is full
            "activation_sparsity_pattern": [0.95] * (layers // 3) + [0.0] * (layers - layers // 3),
        }
        subprocess.run(
            [
                sys.executable,
                "-c",
                _WRITE,
                str(folder),
                json.dumps(changes),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        started = time.monotonic()
        out = Path(name) / "bundle"
        spec = exporter.export_language(folder, out, precision=precision, rank=16, context=context)
        return {
            "layers": layers,
            "seconds": round(time.monotonic() - started, 1),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "bundle_mib": round((out / spec.graph_file).stat().st_size / 2**20, 1),
            "max_logit_diff": spec.check.max_logit_diff,
            "agreement": spec.check.agreement,
        }


def estimate(sizes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What E2B's layers would need, by a straight line; None of a single size."""
    if len(sizes) < 2:
        return None
    layers = [s["layers"] for s in sizes]
    lines = {name: np.polyfit(layers, [s[name] for s in sizes], 1) for name in _MEASURED}
    return {"estimate": True, "layers": E2B_LAYERS} | {
        name: round(float(np.polyval(line, E2B_LAYERS))) for name, line in lines.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="10,15")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--precision", choices=("fp32", "int8"), default="int8")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print("RESULT " + json.dumps(export_once(arguments.one, arguments.context, arguments.precision)))
        return
    console = Console(stderr=True)
    sizes = []
    for layers in (int(n) for n in arguments.layers.split(",")):
        console.print(f"exporting {layers} layers")
        command = [sys.executable, "-m", "benchmarks.export_cost", "--one", str(layers)]
        command += ["--context", str(arguments.context), "--precision", arguments.precision]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            console.print(done.stderr[-3000:])
            raise SystemExit(f"the export of {layers} layers ended with {done.returncode}")
        sizes.append(json.loads(lines[0].removeprefix("RESULT ")))
        console.print(sizes[-1])
    found: dict[str, Any] = {
        "precision": arguments.precision,
        "sizes": sizes,
        "e2b_estimate": estimate(sizes),
    }
    if arguments.json:
        print(json.dumps(found))
        return
    table = Table(
        "layers", "seconds", "peak MiB", "bundle MiB", title=f"export at E2B's widths, {arguments.precision}"
    )
    for size in sizes:
        table.add_row(*(str(size[name]) for name in ("layers", *_MEASURED)))
    if (whole := found["e2b_estimate"]) is not None:
        table.add_row(f"{E2B_LAYERS} (estimate)", *(str(whole[name]) for name in _MEASURED))
    Console().print(table)


if __name__ == "__main__":
    main()
