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
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from continuonbrain import __version__
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.demo.shifts import STORIES
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.loops.child_process import launch_command
from continuonbrain.loops.drive_session import DriveSession
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
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import BASE, SHIFTS, World
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.layout import BrainLayout, LayoutError, init_brain_root
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.trainer.build_gates import gates_from_config
from continuonbrain.trainer.gates import GateReport

_MARKER = ".continuonbrain-demo"
DECISION_TIME_S = 0.75
"""What a Pi 5 may take for a decision of a real Gemma 3n; the demo also drives at this."""
_PARKED_S = 20.0
"""How long the parked robot's gates may take to open, seconds: idle time and dwell are seconds here."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """tracks: held-out tracks; follow_tracks: each instruction is tried on so many; episodes: lessons, of
    episode_steps ticks each (many short ones show more roads, light and beginnings than few long ones);
    max_steps: of training; decision_time_s: imposed on every decision of the whole story (0: as fast as this
    machine)."""

    shift: str = "tape"
    seed: int = 0
    tracks: int = 12
    follow_tracks: int = 4
    episodes: int = 40
    episode_steps: int = 150
    live_s: float = 6.0
    max_steps: int = 400
    decision_time_s: float = 0.0

    @classmethod
    def quick(cls, shift: str, seed: int, decision_time_s: float = 0.0) -> DemoSettings:
        """A third of the tracks and fewer steps: for a first look and for tests."""
        return cls(
            shift, seed, tracks=4, follow_tracks=1, live_s=4.0, max_steps=200, decision_time_s=decision_time_s
        )

    @property
    def lap_seeds(self) -> list[int]:
        """Tracks that no episode, no base state and no verdict was made on."""
        return [50_000 + 1000 * self.seed + i for i in range(self.tracks)]

    @property
    def follow_seeds(self) -> list[int]:
        return [50_500 + 1000 * self.seed + i for i in range(self.follow_tracks)]

    @property
    def teach_seed(self) -> int:
        return 60_000 + 1000 * self.seed


class Narrator:
    """Where the story is told. The CLI gives one that draws; this one is silent (tests, --json)."""

    def act(self, number: int, title: str) -> None:
        """A new act begins."""

    def say(self, text: str) -> None:
        """One sentence."""

    def progress(self, title: str, done: int, total: int, note: str = "") -> None:
        """A long step moves on."""

    def gates(self, title: str, report: GateReport) -> None:
        """The gates as they stand."""

    def verdict(self, verdict: dict[str, Any]) -> None:
        """The verdict's table."""

    def scores(self, report: dict[str, Any]) -> None:
        """The summary."""


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
        self.pictures: dict[str, Any] = {}

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

        tell.act(1, f"Before: {STORIES[s.shift]}")
        before = self._score(engine, Calibration(), limits, "before")
        unshifted_before = self._unshifted(engine, limits, "base")
        before["completion_at_pi_speed"] = self._late(engine, self.world, Calibration(), limits)
        unshifted_late = self._late(engine, BASE, Calibration(), limits)
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
            outcome = self._sidecar(brain)
        verdict = outcome.get("verdict") or {}
        tell.verdict(verdict)

        tell.act(5, "Promote: live, while the robot is driving")
        swap = self._live(brain, bool(verdict.get("passed")))

        tell.act(6, "After: the same held-out tracks")
        current = AdapterStore(brain.layout).current()
        calibration = Calibration()
        if current is not None:
            engine.use_adapter(current.path, sha256=current.compute_sha256())
            calibration = Calibration.from_file(current.path / "calibration.json")
        after = self._score(engine, calibration, limits, "after")
        after["completion_at_pi_speed"] = self._late(engine, self.world, calibration, limits)
        after["completion_at_pi_speed_by_paths_alone"] = self._late(
            engine, self.world, calibration, limits, reflex=False
        )
        unshifted_after = self._unshifted(engine, limits, "adapter")
        unshifted_late_after = self._late(engine, BASE, Calibration(), limits)

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
        draw(self.out / "demo.png", self.report, self.pictures, losses, brain.layout.episodes_dir)
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

    def _ticks(self, title: str) -> Callable[[int, int], None]:
        return lambda done, total: self.narrator.progress(title, done, total)

    def _score(self, engine: Any, calibration: Calibration, limits: Limits, key: str) -> dict[str, Any]:
        from continuonbrain.trainer.score import drive_score, follow_score

        lap = drive_score(
            engine,
            self.world,
            self.settings.lap_seeds,
            calibration=calibration,
            limits=limits,
            decision_time_s=self.settings.decision_time_s,
            on_tick=self._ticks(f"{self.settings.tracks} held-out tracks, one lap each"),
        )
        follow = follow_score(
            engine,
            self.world,
            self.settings.follow_seeds,
            calibration=calibration,
            limits=limits,
            decision_time_s=self.settings.decision_time_s,
            on_tick=self._ticks(f"{len(NAMES)} instructions on {self.settings.follow_tracks} tracks"),
        )
        self.pictures[key] = lap.trajectory
        return {
            "completion": round(lap.completion, 4),
            "tracks": lap.tracks,
            "laps": lap.laps,
            "lateral_error_m": round(lap.lateral_error_m, 4),
            "guard_share": round(lap.guard_share, 4),
            "following": round(follow.following, 4),
            "stop": follow.stop,
            "stop_by_model_alone": follow.stop_model,
            "following_by_instruction": follow.by_instruction,
        }

    def _late(
        self, engine: Any, world: World, calibration: Calibration, limits: Limits, *, reflex: bool = True
    ) -> float:
        from continuonbrain.trainer.score import drive_score

        score = drive_score(
            engine,
            world,
            self.settings.lap_seeds,
            calibration=calibration,
            limits=limits,
            decision_time_s=DECISION_TIME_S,
            reflex=reflex,
            on_tick=self._ticks(
                f"{'unshifted tracks' if world is BASE else 'the same'}, {DECISION_TIME_S} s a decision"
                + ("" if reflex else ", by paths alone")
            ),
        )
        return round(score.completion, 4)

    def _unshifted(self, engine: Any, limits: Limits, who: str) -> float:
        from continuonbrain.trainer.score import drive_score

        score = drive_score(
            engine,
            BASE,
            [s + 700 for s in self.settings.lap_seeds],
            calibration=Calibration(),
            limits=limits,
            decision_time_s=self.settings.decision_time_s,
            on_tick=self._ticks(f"unshifted tracks ({who})"),
        )
        return round(score.completion, 4)

    def _sidecar(self, brain: BrainRoot) -> dict[str, Any]:
        """Run the sidecar for one round as its own process, following its status file."""
        # Through the launcher: however the demo dies, its sidecar ends with it.
        command = launch_command(SIDECAR_MODULE, ["--root", str(brain.layout.root), "--once", "--hold"])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            while process.poll() is None:
                self._show_status(brain.layout)
                time.sleep(0.15)
            printed, errors = process.communicate()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(10)
        if process.returncode != 0:
            raise BrainError(f"the sidecar failed: {errors.strip()[-2000:]}", remedy="see the lines above")
        outcome: dict[str, Any] = json.loads(printed)
        if outcome["phase"] not in ("judged", "refused"):
            raise BrainError(f"the sidecar did not train: {outcome['phase']}: {outcome['detail']}")
        return outcome

    def _show_status(self, layout: BrainLayout) -> None:
        try:
            status = json.loads(layout.status_path.read_text())
        except (OSError, ValueError):
            return  # not written yet
        titles = {"read": "reading episodes", "cache": "frozen layers, once a sample", "train": "LoRA steps"}
        titles["reflex"] = "the reflex head"
        phase = str(status.get("phase", ""))
        title = titles.get(phase) or (f"judging: {status.get('detail', '')}" if phase == "judge" else "")
        if title and status.get("steps"):
            note = f"loss {status['loss']:.3f}" if phase == "train" and status.get("loss") is not None else ""
            self.narrator.progress(title, int(status["step"]), int(status["steps"]), note)

    def _live(self, brain: BrainRoot, passed: bool) -> dict[str, Any]:
        """Drive for real, promote in the middle; figures of the swap."""
        if not passed:
            self.narrator.say("The verdict is no: nothing is promoted, the base goes on driving.")
            return {"missed_ticks": None, "ms": None, "promoted": False}
        seed = self.settings.lap_seeds[0]
        with DriveSession(
            brain.layout,
            shift=self.settings.shift,
            track_seed=seed,
            seed=self.settings.seed,
            instruction="drive",
        ) as session:
            half = self.settings.live_s / 2
            self._drive_for(session, half, "on the base")
            command = launch_command(SIDECAR_MODULE, ["--root", str(brain.layout.root), "--promote"])
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BrainError(f"the promotion failed: {done.stderr.strip()[-2000:]}")
            promotion = json.loads(done.stdout)
            session.wait_for_adapter(promotion["sha256"], timeout_s=15.0)
            self._drive_for(session, half, f"on adapter {promotion['version_id']}")
            live = session.stop()
        swap = live.swap
        figures = {
            "missed_ticks": live.missed_ticks,
            "ms": round(promotion["notice_ms"], 1),
            "promoted": True,
            "ticks": live.ticks,
            "reflex_ticks": live.reflex_ticks,
            "ticks_on_adapter": swap.get("ticks_on_new", 0),
            "noticed": promotion["noticed"],
        }
        self.narrator.say(
            f"Swapped in {figures['ms']:.0f} ms while driving; {live.ticks} control ticks, {live.missed_ticks} missed."
        )
        return figures

    def _drive_for(self, session: DriveSession, seconds: float, what: str) -> None:
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            status = session.status()
            speed, error = status.get("speed_mps"), status.get("lane_error_m")
            note = (
                "starting" if speed is None or error is None else f"{speed:.2f} m/s, lane error {error:.2f} m"
            )
            self.narrator.progress(f"driving live {what}", int(passed * 10), int(seconds * 10), note)
            time.sleep(0.1)
