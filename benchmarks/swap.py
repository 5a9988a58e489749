"""Do promotions disturb the control loop? 200 of them while a simulated robot drives at 50 Hz, by real processes.

    python -m benchmarks.swap [--json] [--promotions 200]

Control, policy (LiteRT, the shipped base) and this script, which promotes as the sidecar does, one adapter after the
other, each of another sha256: the store changes, the manifest is rewritten, the policy process swaps and answers.

Keys:
  promotions               made
  swaps                    changes of adapter that the control loop followed (goal: every promotion)
  missed_ticks             control periods without a command in the whole drive (goal 0)
  max_ticks_to_first_new_action  most ticks from the last path of the old adapter to the first of the new one
  wrongly_tagged_actions   recorded actions whose adapter cannot be the one that drove then: before its promotion began,
                           or more than `SLACK_S` after the next one was confirmed (goal 0)
  seen_if_late             actions that would count as wrong if every tag came `LATE` actions late: that the check sees
  actions                  recorded
  notice_ms                median from the promotion in the store to the policy process's yes
  late_us_p99              99 % of ticks began at most this long after their deadline
Takes about a minute and a half.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.small_verdict import judged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.drive_session import DriveSession
from continuonbrain.loops.promotion import promote_candidate
from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.model.lora import SHARED_LAYER_TARGETS, adapter_files, attach_lora
from continuonbrain.policy.calibration import Calibration
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root

HZ = 50.0
RANK = 8
_BETWEEN_S = 0.15
SLACK_S = 0.06
"""Three ticks: a path is followed until the next one comes."""
LATE = 8


def new_root(folder: Path) -> BrainRoot:
    """A root with the shipped base whose control runs at 50 Hz, and where a promotion is final."""
    layout = init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    settings = json.loads(layout.config_path.read_text())
    settings["robot"]["control_hz"] = HZ
    settings["promotion"] |= {"probation_ticks": 0, "probation_minutes": 0.0}  # the next one comes at once
    layout.config_path.write_text(json.dumps(settings))
    return open_brain(folder)


class Adapters:
    """Adapters of random numbers, small enough to keep the robot on the road."""

    def __init__(self, brain: BrainRoot) -> None:
        self._store = AdapterStore(brain.layout)
        self._base = base_sha256(brain.layout.base_model_dir)
        self._model = load_base(brain.layout.base_model_dir)
        self._parameters = attach_lora(
            self._model, base_sha256=self._base, rank=RANK, alpha=2.0 * RANK, targets=SHARED_LAYER_TARGETS
        )

    def stage(self, seed: int) -> str:
        """Stage one with a passing verdict; its sha256."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.normal_(0.0, 0.01)
        files = {**adapter_files(self._model), "calibration.json": Calibration().to_json()}
        version = self._store.stage(files)
        sha256 = version.compute_sha256()
        verdict = judged(version, self._base)
        self._store.attach(version, "verdict.json", json.dumps(verdict).encode())
        return sha256


def measure(promotions: int, *, quiet: bool) -> dict[str, Any]:
    """Drive, promote, and count."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        brain = new_root(Path(name) / "b")
        adapters = Adapters(brain)
        order, notices = [""], []
        begun, confirmed = [0.0], [0.0]
        with DriveSession(brain.layout) as session:
            for seed in track(range(promotions), "promoting", disable=quiet, transient=True):
                order.append(adapters.stage(seed))
                begun.append(time.monotonic())
                promoted = promote_candidate(brain)
                confirmed.append(time.monotonic())
                assert promoted.noticed, promoted.detail
                notices.append(promoted.notice_ms)
                session.wait_for_adapter(order[-1], timeout_s=5.0)
                time.sleep(_BETWEEN_S)
            report = session.stop()
        steps = [
            (s.monotonic_ns / 1e9, s.adapter_sha256)
            for path in list_episodes(brain.layout.episodes_dir)
            for s in open_episode(path)
        ]
        until = [*confirmed[1:], float("inf")]
        # (from, to) of each adapter: another one cannot have driven.
        drove = {name: (begun[i], until[i] + SLACK_S) for i, name in enumerate(order)}

        def wrong_of(tags: list[str]) -> int:
            return sum(
                not drove[tag][0] <= at <= drove[tag][1] if tag in drove else True
                for (at, _), tag in zip(steps, tags, strict=True)
            )

        tags = [tag for _, tag in steps]
        return {
            "promotions": promotions,
            "swaps": len(report.swaps),
            "missed_ticks": report.missed_ticks,
            "ticks": report.ticks,
            "max_ticks_to_first_new_action": max((s.ticks_between for s in report.swaps), default=0),
            "wrongly_tagged_actions": wrong_of(tags),
            "seen_if_late": wrong_of([""] * LATE + tags[:-LATE]),
            "actions": len(steps),
            "notice_ms": round(median(notices), 2),
            "late_us_p99": report.lateness_us.get("p99", 0.0),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--promotions", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.promotions, quiet=arguments.json)
    good = (
        found["swaps"] == found["promotions"]
        and found["missed_ticks"] == found["wrongly_tagged_actions"] == 0
        and found["seen_if_late"] > 0
    )
    if arguments.json:
        print(json.dumps(found))
        return 0 if good else 1
    Console(highlight=False).print(
        f"{found['swaps']} of {found['promotions']} promotions followed at {HZ:g} Hz, {found['missed_ticks']} of "
        f"{found['ticks']} ticks missed; at most {found['max_ticks_to_first_new_action']} ticks to the first "
        "new action; "
        f"{found['wrongly_tagged_actions']} of {found['actions']} actions wrongly tagged; "
        f"the policy process had swapped {found['notice_ms']} ms after the promotion (median)",
        soft_wrap=True,
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
