"""The demo, act by act. Everything in it is the product's own: real processes, real files, the real verdict.

1. A fresh brain root; the shifted robot drives held-out tracks on the base alone.
2. An expert teaches it: episodes as RLDS.
3. The gates, closed while the robot is driven, open once it is parked.
4. The sidecar (a process of its own) trains, stages the candidate and judges it.
5. The robot drives live on the old adapter; the candidate is promoted; the policy swaps between two ticks.
6. The same held-out tracks again; the unshifted ones too: what was forgotten?
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from continuonbrain import __version__
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.demo.narrator import Narrator
from continuonbrain.demo.processes import drive_live, run_sidecar
from continuonbrain.demo.scoring import Scoring
from continuonbrain.demo.settings import DECISION_TIME_S, DemoSettings
from continuonbrain.demo.shifts import STORIES
from continuonbrain.errors import BrainError
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.robot.host import (
    HOST_FILE_NAME,
    MACHINE_READINGS,
    FileHost,
    Host,
    LinuxHost,
    MixedHost,
    SimulatedHost,
)
from continuonbrain.robot.sim.shifts import BASE, SHIFTS
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.layout import BrainLayout, LayoutError, init_brain_root
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.trainer.build_gates import gates_from_config

_MARKER = ".continuonbrain-demo"
_PARKED_S = 20.0
"""How long the parked robot's gates may take to open, seconds: idle time and dwell are seconds here."""


@contextmanager
def host_readings(brain: BrainRoot, host: Host) -> Iterator[None]:
    """Keep `run/host.json` fresh, as the control process does, while the demo plays the robot's body."""
    file = FileHost(brain.layout.run_dir / HOST_FILE_NAME)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            file.write(host.read())
            done.wait(0.5)

    file.write(host.read())
    thread = threading.Thread(target=write, name="host-readings", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Demo:
    """One performance. out: folder that gets `report.json`, `demo.png` and the brain root `brain/`."""

    def __init__(self, settings: DemoSettings, out: Path, narrator: Narrator) -> None:
        if settings.shift not in STORIES:
            raise BrainError(
                f"--shift {settings.shift!r} is not a demo shift", remedy=f"choose from {', '.join(STORIES)}"
            )
        self.settings, self.out, self.narrator = settings, out, narrator
        self.world = SHIFTS[settings.shift]
        self.report: dict[str, Any] = {}

    def play(self) -> dict[str, Any]:
        """All six acts; returns the report, which also stands in `report.json`. Raises `BrainError`."""
        self.out.mkdir(parents=True, exist_ok=True)
        with ProcessLock(self.out / ".demo.lock", purpose=f"play the demo in {self.out}"):
            return self._play()

    def _play(self) -> dict[str, Any]:
        from continuonbrain.demo.picture import draw
        from continuonbrain.policy.torch_engine import TorchEngine

        started = time.monotonic()
        brain = self._fresh_root()
        limits = Limits.from_config(brain.config.guards)
        engine = TorchEngine(brain.layout.base_model_dir, threads=min(2, os.cpu_count() or 1))
        tell, s = self.narrator, self.settings
        scoring = Scoring(engine, self.world, limits, s, tell)

        tell.act(1, f"Before: {STORIES[s.shift]}")
        before = scoring.score(Calibration(), "before")
        unshifted_before = scoring.unshifted("base")
        before["completion_at_pi_speed"] = scoring.late(Calibration())
        unshifted_late = scoring.late(Calibration(), world=BASE)
        tell.say(
            f"The base completes {before['completion']:.0%} of a lap on average and obeys "
            f"{before['following']:.0%} of the instructions. On the roads it was made for: {unshifted_before:.0%}."
        )

        tell.act(2, f"Teach: an expert drives {s.episodes} episodes on other tracks")
        host = SimulatedHost()
        host.set(battery_fraction=0.92, cpu_temp_c=48.0, idle_s=0.0, teleop_active=1.0)
        machine = LinuxHost(disk_path=brain.layout.root, names=MACHINE_READINGS)

        def taught(done: int, total: int) -> None:
            host.set(idle_s=0.0)
            tell.progress("recording", done, total)

        with host_readings(brain, MixedHost(host, machine)):
            folders = record_expert(
                brain.layout.episodes_dir,
                self.world,
                instructions=lessons(s.episodes),
                steps=s.episode_steps,
                seed=s.teach_seed,
                limits=limits,
                on_progress=taught,
            )
            tell.say(f"{len(folders)} RLDS episodes in {brain.layout.episodes_dir}")

            tell.act(3, "Gates: may the robot learn now?")
            tell.say(
                "Battery, heat and idle time are a simulated robot's; memory and disk are this machine's."
            )
            gates = gates_from_config(brain.config)
            files = FileHost(brain.layout.run_dir / HOST_FILE_NAME)
            host.set(idle_s=0.0)
            time.sleep(0.6)
            tell.gates("while it is being driven", gates.poll(files))
            host.set(idle_s=0.0, teleop_active=0.0)
            until = time.monotonic() + _PARKED_S
            while not (opened := gates.poll(files)).open and time.monotonic() < until:
                time.sleep(0.3)
            tell.gates("parked and charged", opened)

            tell.act(4, "Learn: the sidecar trains a LoRA adapter in the KV-shared layers and judges it")
            outcome = run_sidecar(brain, tell)
        verdict = outcome.get("verdict") or {}
        tell.verdict(verdict)

        tell.act(5, "Promote: live, while the robot is driving")
        swap = drive_live(brain, s, tell, passed=bool(verdict.get("passed")))

        tell.act(6, "After: the same held-out tracks")
        current = AdapterStore(brain.layout).current()
        calibration = Calibration()
        if current is not None:
            engine.use_adapter(current.path, sha256=current.compute_sha256())
            calibration = Calibration.from_file(current.path / "calibration.json")
        after = scoring.score(calibration, "after")
        after["completion_at_pi_speed"] = scoring.late(calibration)
        after["completion_at_pi_speed_by_paths_alone"] = scoring.late(calibration, reflex=False)
        unshifted_after = scoring.unshifted("adapter")
        unshifted_late_after = scoring.late(Calibration(), world=BASE)

        training = outcome.get("training", {})
        self.report = {
            "version": __version__,
            "settings": asdict(s),
            "before": before,
            "after": after,
            "forgetting": round(max(0.0, unshifted_before - unshifted_after), 4),
            "unshifted": {
                "before": unshifted_before,
                "before_at_pi_speed": unshifted_late,
                "after": unshifted_after,
                "after_at_pi_speed": unshifted_late_after,
            },
            "training": training,
            "calibration": asdict(calibration),
            "gates": opened.as_dict(),
            "swap": swap,
            "verdict": verdict,
            "promoted": current is not None,
            "episodes": len(folders),
            "pi_decision_time_s": DECISION_TIME_S,
            "wall_s": round(time.monotonic() - started, 1),
        }
        losses = [] if current is None else list((current.card() or {}).get("losses", []))
        draw(self.out / "demo.png", self.report, scoring.pictures, losses, brain.layout.episodes_dir)
        write_json_durably(self.out / "report.json", self.report)
        tell.scores(self.report)
        return self.report

    # The acts' parts.

    def _fresh_root(self) -> BrainRoot:
        if (self.out / "config.json").exists():
            raise BrainError(f"{self.out} is a brain root", remedy="choose another folder with --out")
        root = self.out.resolve() / "brain"
        try:
            BrainLayout(root).policy_socket  # noqa: B018  (asks whether the path fits a socket)
        except LayoutError:
            import tempfile

            root = Path(tempfile.mkdtemp(prefix="continuonbrain-"))
        if root.exists() and any(root.iterdir()):
            if not (self.out / _MARKER).exists():
                raise BrainError(
                    f"{root} is there already and was not made by the demo",
                    remedy="choose another folder with --out",
                )
            shutil.rmtree(root)
        # Before the root is made, and beside it: an interruption at any moment leaves a folder that is known.
        (self.out / _MARKER).write_text(
            "brain/ was made by `continuonbrain demo`; the next demo deletes it\n"
        )
        layout = init_brain_root(root, "sim-donkey", base_model=tiny_base_folder())
        config = json.loads(layout.config_path.read_text())
        config["robot"]["shift"] = self.settings.shift
        config["robot"]["decision_time_s"] = self.settings.decision_time_s
        config["max_steps"] = self.settings.max_steps
        config["training"]["seed"] = self.settings.seed
        write_json_durably(layout.config_path, config)
        return open_brain(root)
