"""What would a fleet store, train and pay? Arithmetic for 10,000 robots that share what they drive.

    python -m benchmarks.fleet [--robots 10000] [--minutes 30] [--samples 2000] [--gpus 64] [--json | --markdown]

Measured here: the bytes of a step in a bundle (a simulated drive, 120 x 160, recorded and exported by this project),
and the operations of training on one sample with Gemma 3n E2B (every multiplication of a forward pass and of the
gradient through all layers, counted by PyTorch on shapes alone, without weights: `torch.utils.flop_counter`).
Everything else is an assumption with a default and an option: prices, how much a robot drives, how well a GPU is used.
Prices are round numbers to reckon with, no offer of anybody.

Keys:
  bytes_per_step, flop_per_sample   measured
  assumed        every assumption, by option
  fleet_tb_per_day, fleet_tb_kept, robot_mb_per_day
  samples        that one training draws: so many of each robot, however much it drove
  exaflop, gpu_hours, hours_on_the_gpus   of one training
  usd_storage_month, usd_per_training, usd_per_robot_month
  adapter_tb_sent   a new adapter to every robot
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.export import make_root

HZ = 20
_TOKENS = 320
"""Of a sample: instruction, 256 soft tokens of a picture (Gemma 3n's), the answer."""
_MEMORY = 30_000_000
_DAYS = 30


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is not measured. minutes: a robot drives a day; samples: drawn of each robot for one training; keep_days:
    that episodes are kept; trainings: a month; tflops: peak of one GPU in bf16 (312: NVIDIA A100, its data sheet);
    used: share of the peak that training gets; gpu_hour, tb_month: US dollars; adapter_mb: one adapter."""

    robots: int = 10_000
    minutes: float = 30.0
    samples: int = 2_000
    keep_days: float = 90.0
    trainings: float = 4.0
    gpus: int = 64
    tflops: float = 312.0
    used: float = 0.35
    gpu_hour: float = 2.0
    tb_month: float = 20.0
    adapter_mb: float = 8.0


def fleet(assumed: Assumed, *, bytes_per_step: float, flop_per_sample: float) -> dict[str, Any]:
    """The arithmetic. Pure."""
    a = assumed
    robot_bytes = a.minutes * 60 * HZ * bytes_per_step
    day_tb = a.robots * robot_bytes / 1e12
    samples = a.robots * a.samples
    flop = samples * flop_per_sample
    gpu_hours = flop / (a.tflops * 1e12 * a.used) / 3600
    storage = day_tb * a.keep_days * a.tb_month
    training = gpu_hours * a.gpu_hour
    return {
        "bytes_per_step": round(bytes_per_step),
        "flop_per_sample": flop_per_sample,
        "assumed": asdict(a),
        "robot_mb_per_day": round(robot_bytes / 1e6, 1),
        "fleet_tb_per_day": round(day_tb, 3),
        "fleet_tb_kept": round(day_tb * a.keep_days, 1),
        "samples": samples,
        "exaflop": round(flop / 1e18, 1),
        "gpu_hours": round(gpu_hours, 1),
        "hours_on_the_gpus": round(gpu_hours / a.gpus, 2),
        "usd_storage_month": round(storage),
        "usd_per_training": round(training),
        "usd_per_robot_month": round((storage + a.trainings * training) / a.robots, 4),
        "adapter_tb_sent": round(a.robots * a.adapter_mb / 1e6, 3),
    }


def bytes_per_step(folder: Path) -> float:
    """Of a bundle as `cloud export` writes it, pictures and all."""
    from continuonbrain.cli.main import app

    layout, _ = make_root(folder / "brain", _MEMORY)
    out = folder / "bundle.zip"
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        app(
            ["cloud", "export", "--root", str(layout.root), "--out", str(out), "--json"],
            standalone_mode=False,
        )
    return out.stat().st_size / int(json.loads(told.getvalue())["steps"])


def flop_per_sample(tokens: int = _TOKENS) -> float:
    """Forward, and the gradient back to the embeddings through frozen weights, as LoRA in all layers needs it (the
    adapter's own products, some per cent, are left out; so is the vision tower, once a picture)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Gemma3nForCausalLM

    from benchmarks.e2b_shapes import text_config

    with torch.device("meta"):
        model = Gemma3nForCausalLM(text_config("e2b")).requires_grad_(False)
        ids = torch.zeros(1, tokens, dtype=torch.long)
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        per_layer = model.model.get_per_layer_inputs(ids)
        out = model(
            inputs_embeds=embedded,
            per_layer_inputs=per_layer,
            # Made beforehand: transformers would look at numbers, and there are none.
            attention_mask={"full_attention": None, "sliding_attention": None},
            use_cache=False,
        ).logits
        out.sum().backward()
    return float(counter.get_total_flops())


def as_table(figures: dict[str, Any]) -> str:
    """For docs/fleet.md."""
    a = figures["assumed"]
    rows = [
        ("a step in a bundle", f"{figures['bytes_per_step']:,} bytes", "measured"),
        (
            "a robot's day",
            f"{figures['robot_mb_per_day']:,} MB",
            f"{a['minutes']:g} minutes at {HZ} Hz (assumed)",
        ),
        ("the fleet's day", f"{figures['fleet_tb_per_day']:g} TB", f"{a['robots']:,} robots"),
        ("kept", f"{figures['fleet_tb_kept']:g} TB", f"{a['keep_days']:g} days (assumed)"),
        (
            "one training",
            f"{figures['samples']:,} samples",
            f"{a['samples']:,} of each robot (assumed), balanced by instruction",
        ),
        (
            "a sample",
            f"{figures['flop_per_sample'] / 1e12:.2f} TFLOP",
            "counted: Gemma 3n E2B's text model, 320 tokens, all layers",
        ),
        (
            "its operations",
            f"{figures['exaflop']:,} EFLOP",
            f"{figures['gpu_hours']:,} GPU hours at {a['used']:.0%} of {a['tflops']:g} TFLOP/s (assumed)",
        ),
        ("its time", f"{figures['hours_on_the_gpus']:g} h", f"{a['gpus']} GPUs"),
        ("its price", f"{figures['usd_per_training']:,} USD", f"{a['gpu_hour']:g} USD a GPU hour (assumed)"),
        (
            "storage",
            f"{figures['usd_storage_month']:,} USD a month",
            f"{a['tb_month']:g} USD a TB and month (assumed)",
        ),
        (
            "a robot",
            f"{figures['usd_per_robot_month']:.2f} USD a month",
            f"{a['trainings']:g} trainings a month (assumed)",
        ),
        (
            "a new adapter to all",
            f"{figures['adapter_tb_sent'] * 1000:g} GB",
            f"{a['adapter_mb']:g} MB each (assumed)",
        ),
    ]
    return "\n".join(["| what | how much | from |", "|---|---|---|", *(f"| {' | '.join(r)} |" for r in rows)])


def main() -> None:
    """Measure, reckon and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for one in fields(Assumed):
        default = one.default
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(default), default=default)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true")
    shape.add_argument("--markdown", action="store_true", help="as docs/fleet.md has it (also without)")
    given = parser.parse_args()
    assumed = Assumed(**{one.name: getattr(given, one.name) for one in fields(Assumed)})
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        per_step = bytes_per_step(Path(name))
    figures = fleet(assumed, bytes_per_step=per_step, flop_per_sample=flop_per_sample())
    print(json.dumps(figures) if given.json else as_table(figures))


if __name__ == "__main__":
    main()
