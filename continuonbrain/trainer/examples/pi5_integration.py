"""The trainer's parts put together on a Raspberry Pi 5, by hand: what `continuonbrain train` does, to begin from.

    python -m continuonbrain.trainer.examples.pi5_integration [--root /opt/continuonos/brain] [--simulate-host]

Gates (may it learn now?), guards (what is an action that must not be?), the real base with LoRA in it, then one bounded
round: episodes -> adapters/candidate -> verdict -> adapters/current. Exit 1: there was something to learn, and nothing
came of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from continuonbrain.brain_root import open_brain
from continuonbrain.errors import BrainError, told_from_import
from continuonbrain.loops.mid import MidLoop, Status
from continuonbrain.robot.host import HOST_FILE_NAME, SimulatedHost, host_for
from continuonbrain.safety.action_guards import build_simple_action_guards
from continuonbrain.storage.layout import DEFAULT_ROOT
from continuonbrain.trainer.build_gates import build_gates


def main(arguments: list[str] | None = None) -> int:
    """One round; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument(
        "--simulate-host", action="store_true", help="a machine that is idle, charged and cool"
    )
    given = parser.parse_args(arguments)
    # Imported here: --help and a wrong root must not wait for torch, or need it.
    brain = open_brain(given.root)
    from continuonbrain.model.base import load_base
    from continuonbrain.model.base_identity import base_sha256
    from continuonbrain.model.lora import attach_lora

    config, layout = brain.config, brain.layout

    # 1. Gates: every sensor that is missing, stale, stuck or out of range closes one.
    host_file = layout.run_dir / HOST_FILE_NAME
    host = host_for(config.robot.kind, host_file=host_file, disk_path=layout.root)
    if given.simulate_host:
        host = SimulatedHost()
    gates = build_gates(
        idle_s=config.gates.idle_s,
        min_battery=config.gates.min_battery,
        max_temp_c=config.gates.max_temp_c,
        power=config.power,
        battery=config.battery,
    )
    for gate in gates.poll(host).states:
        print(f"gate {gate.name}: {'open' if gate.open else 'closed'}, {gate.reason or gate.value}")

    # 2. Guards: bounds of the actuators; NaN, missing keys and strings are violations.
    bounds = {"steering": config.guards.steering_bounds, "throttle": config.guards.throttle_bounds}
    distance, violates = build_simple_action_guards(per_key_bounds=bounds)
    straight, hard = {"steering": 0.0, "throttle": 0.2}, {"steering": 9.0, "throttle": 0.2}
    print(f"guards: {straight} violates {violates(straight)}, {hard} violates {violates(hard)}")
    print(f"        between {straight} and itself: {distance(straight, straight)}")

    # 3. The real base, and LoRA where its layers share keys and values. The round loads its own again.
    model = load_base(layout.base_model_dir)
    parameters = attach_lora(
        model,
        base_sha256=base_sha256(layout.base_model_dir),
        rank=config.training.rank,
        alpha=config.training.alpha,
        targets=config.lora_layers,
    )
    print(f"LoRA: {sum(p.numel() for p in parameters)} numbers to learn on {layout.base_model_dir}")
    del model, parameters

    # 4. One bounded round, minutes: a line in each phase and every ten seconds. It asks all gates of the config again,
    # and again while it works.
    last = ("", -1e9)

    def say(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if status.steps and (status.phase != last[0] or now - last[1] > 10.0):
            last = (status.phase, now)
            print(f"{status.phase}: {status.step} of {status.steps} {status.detail}", flush=True)

    outcome = MidLoop(brain, host=host, on_status=say).round()
    print(f"{outcome.phase}: {outcome.detail}")
    return int(outcome.said_no)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrainError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (missing := told_from_import(error)) is None:
            raise
        print(missing, file=sys.stderr)
        sys.exit(2)
