"""The part of the played contract that is not driving: episodes, training, adapters, the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import Response

from tests.dashboard.fake_robot import FakeRobot

MIN_EPISODES = 6
FINDING = {
    "severity": "warning",
    "problem": "three frames are missing",
    "remedy": "continuonbrain episodes repair",
}
STEPS = 60


class FakeLearning:
    """A trainer that takes `seconds` and always passes; an adapter store of two slots."""

    def __init__(self, robot: FakeRobot) -> None:
        self.robot = robot
        self.reset()

    def reset(self) -> None:
        """Nothing was learned."""
        self.seconds = 4.0
        self.began_s: float | None = None
        self.paused = False
        self.candidate: dict[str, Any] | None = None
        self.current: dict[str, Any] | None = None
        self.promoted_s = 0.0
        self.confirmed = False
        self.made = 0
        self.entries: list[dict[str, Any]] = []
        self.past: list[dict[str, Any]] = []
        self.bent: dict[str, Any] = {}
        self.fate = ""
        self.engines: dict[str, Any] = {"driving": "torch", "words": "torch"}
        self.base: dict[str, Any] = {"slot": "", "previous": None, "state": "confirmed"}

    def taught(self) -> int:
        return sum(e.role == "human_teleop" and not e.bad for e in self.robot.episodes)

    def entry(self, event: str, to: str | None, before: str | None, reason: str = "") -> None:
        episodes = [e.id for e in self.robot.episodes]
        self.entries.append(
            {
                "at_unix_s": time.time(),
                "event": event,
                "from": before,
                "to": to,
                "by": "a person",
                "reason": reason,
                "episodes": episodes[2:] if event == "promote" else [],
                "verdict": None,
            }
        )

    def revert(self, reason: str) -> None:
        """What a probation does: what drives is taken back."""
        assert self.current is not None
        self.entry("revert", None, self.current["id"], reason)
        self.past.append(self.current)
        self.current = None

    def training(self) -> dict[str, Any]:
        enough = self.taught() >= MIN_EPISODES
        stands = self.robot.mode == "park"
        gates = [
            ("parked", stands, self.robot.mode, "it stands" if stands else "it drives"),
            ("battery", True, 0.82, "at least 0.5"),
            ("temperature", True, 51.2, "at most 70 °C"),
            ("cpu", True, 0.21, "at most 0.6"),
            ("episodes", enough, self.taught(), f"at least {MIN_EPISODES}"),
            ("budget", True, None, "3.1 of 10 Wh today"),
        ]  # fmt: skip
        done = 0.0 if self.began_s is None else min(1.0, (time.monotonic() - self.began_s) / self.seconds)
        step = int(done * STEPS)
        if done >= 1.0 and self.candidate is None and self.began_s is not None:
            self.made += 1
            self.candidate = adapter(f"v{self.made:04d}-1a2b3c4d", [e.id for e in self.robot.episodes])
            for episode in self.robot.episodes:
                episode.learned = True
            self.began_s = None
        losses = [round(2.2 * math.exp(-i / 18) + 0.2 + 0.05 * math.sin(i * 1.7), 4) for i in range(step)]
        works = self.began_s is not None
        return {
            "kind": "fast", "phase": "train" if works else "judged" if self.candidate else "waiting",
            "detail": "", "step": step, "steps": STEPS if works else 0, "loss": losses[-1] if losses else None,
            "losses": losses, "loss_steps": [i + 1 for i in range(step)], "part": 0, "parts": 0,
            "wanted": False, "said": "", "short": "", "holds": works, "running": True,
            "episodes": len(self.robot.episodes), "left_out": [], "paused": self.paused,
            "budget": {"energy_wh": {"used": 3.1, "limit": 10}, "write_mib": {"used": 120, "limit": None}},
            "seconds_left": (1 - done) * self.seconds if works else None,
            "gates": [{"name": n, "open": o, "value": v, "reason": r} for n, o, v, r in gates],
            **self.bent,
        }  # fmt: skip

    def routes(self, app: FastAPI, problem: Callable[..., Any]) -> None:
        robot = self.robot

        def find(name: str) -> Any:
            return next((e for e in robot.episodes if e.id == name), None)

        gone = problem(404, "there is no such episode", "load the list again")

        @app.post("/v1/recording")
        async def recording(said: dict[str, Any]) -> dict[str, Any]:
            robot.record(said["on"], said.get("instruction", "drive"))
            return said

        @app.get("/v1/episodes")
        async def episodes(limit: int = 50, before: str = "") -> dict[str, Any]:
            found = [
                {
                    "id": e.id, "instruction": e.instruction, "role": e.role, "kind": e.kind, "steps": e.steps,
                    "seconds": e.steps / 20, "started_unix_ms": e.started_unix_ms, "bad": e.bad,
                    "learned": e.learned, "fate": self.fate or ("passed" if e.learned else ""),
                    "thumbnail": f"/v1/episodes/{e.id}/frames/0.jpg",
                    "findings": [FINDING] if e.id == "episode-003" else [],
                }
                for e in robot.episodes
                if not before or e.id < before
            ]  # fmt: skip
            return {"episodes": found[:limit], "taught": self.taught(), "min_episodes": MIN_EPISODES}

        @app.get("/v1/episodes/{name}")
        async def episode(name: str) -> Any:
            e = find(name)
            return gone if e is None else {"id": e.id, "steps": e.steps, **e.columns}

        @app.get("/v1/episodes/{name}/frames/{n}.jpg")
        async def frame(name: str, n: int) -> Any:
            e = find(name)
            return gone if e is None else Response(e.frames[n], media_type="image/jpeg")

        @app.post("/v1/episodes/{name}")
        async def change(name: str, said: dict[str, Any]) -> Any:
            e = find(name)
            if e is None:
                return gone
            e.instruction = said.get("instruction", e.instruction)
            e.bad = said.get("bad", e.bad)
            return {"id": name}

        @app.delete("/v1/episodes/{name}")
        async def delete(name: str) -> Any:
            e = find(name)
            if e is None:
                return gone
            robot.episodes.remove(e)
            return Response(status_code=204)

        @app.get("/v1/training")
        async def training() -> dict[str, Any]:
            return self.training()

        @app.post("/v1/training")
        async def act(said: dict[str, str]) -> Any:
            if said["action"] == "start":
                self.began_s, self.candidate = time.monotonic(), None
            self.paused = said["action"] == "pause"
            return self.training()

        @app.get("/v1/status")
        async def status() -> dict[str, Any]:
            p: dict[str, Any] = {"state": "base", "version_id": ""}
            if self.current:
                ticks = int((time.monotonic() - self.promoted_s) * 20)
                p = {
                    "state": "confirmed" if self.confirmed else "probation", "version_id": self.current["id"],
                    "ticks": ticks, "of_ticks": 2000, "minutes": round(ticks / 1200, 2), "of_minutes": 2.0,
                    "incidents": {}, "restarts": 0,
                }  # fmt: skip
            name = self.current["id"] if self.current else ""
            return {
                "current": name, "probation": p, "problem": "", "gates": {}, "training": {},
                "engines": self.engines, "last_event": len(self.entries), "base": self.base,
            }  # fmt: skip

        @app.get("/v1/adapters")
        async def adapters() -> dict[str, Any]:
            slots = [(self.candidate, "candidate"), (self.current, "current")]
            past = [{**a, "slots": []} for a in self.past]
            return {"adapters": [*past, *({**a, "slots": [slot]} for a, slot in slots if a)]}

        @app.post("/v1/adapters/{name}/promote")
        async def promote(name: str) -> Any:
            found = next((a for a in [*self.past, self.candidate] if a and a["id"] == name), None)
            if found is None:
                return problem(404, "there is no such candidate", "train first")
            self.entry("promote", name, self.current["id"] if self.current else None)
            self.past = [a for a in self.past if a is not found]
            self.candidate = None if found is self.candidate else self.candidate
            self.current = found
            self.promoted_s, self.confirmed = time.monotonic(), False
            return {"id": name}

        @app.post("/v1/adapters/rollback")
        async def rollback() -> Any:
            if self.current is None:
                return problem(409, "the base alone drives", "there is nothing to roll back")
            self.entry("rollback", None, self.current["id"])
            self.past.append(self.current)
            self.current = None
            return {"id": ""}

        @app.post("/v1/adapters/confirm")
        async def confirm() -> Any:
            self.confirmed = True
            self.entry("confirm", self.current["id"] if self.current else None, None)
            return {}

        @app.get("/v1/adapters/{name}/promotion")
        async def promotion(name: str) -> dict[str, Any]:
            return {"may": True, "again": True, "reason": "its bytes were taken back", "remedy": ""}

        @app.get("/v1/history")
        async def history() -> dict[str, Any]:
            return {"entries": self.entries}

        @app.get("/v1/adapters/{name}/rollouts")
        async def rollouts(name: str) -> dict[str, Any]:
            fleet = robot.car.fleet
            points, half = fleet.tracks.points[0], float(fleet.tracks.half_m[0])
            shift = fleet.tracks.normal[0]
            off = (
                points
                + shift * (half * 1.4 * (1 - abs((np.arange(len(points)) / len(points)) * 2 - 1)))[:, None]
            )
            n = len(points) // 3
            return {
                "track": points.tolist(), "half_m": half, "before": off[:n].tolist(),
                "after": (points + shift * half * 0.2).tolist(), "completion_before": 0.33, "completion_after": 1.0,
            }  # fmt: skip

        @app.get("/v1/system")
        async def system() -> dict[str, Any]:
            names = [
                ("control", 61, 0.11),
                ("policy", 402, 0.35),
                ("sidecar", 88, 0.01),
                ("service", 74, 0.02),
            ]
            spread = {"p50": 210.0, "p99": 900.0, "p99.9": 2100.0, "max": 4200.0}
            return {
                "processes": [
                    {"name": n, "pid": 4000 + i, "rss_mib": m, "cpu": c, "alive": True, "restarts": 0}
                    for i, (n, m, c) in enumerate(names)
                ],
                "profile": {"lateness_us": spread, "work_us": spread, "stages_us": {"look": spread, "act": spread}},
                "temperatures": {"cpu": 51.2},
                "disk": {"free_mib": 21000, "total_mib": 59000},
                "battery": {"percent": 82, "charging": False},
            }  # fmt: skip

        @app.get("/v1/logs/{name}")
        async def logs(name: str, lines: int = 200) -> dict[str, Any]:
            return {"lines": [f"12:00:{i:02d} {name}: tick {i * 20}" for i in range(min(lines, 30))]}

        @app.get("/v1/doctor")
        async def doctor() -> dict[str, Any]:
            return {
                "checks": [
                    {"name": "gate battery", "ok": True, "value": 0.82, "reason": "at least 0.5"},
                    {"name": "base", "ok": True, "value": "tiny", "reason": ""},
                    {"name": "words", "ok": False, "value": None, "reason": "the base drives and is silent"},
                ]
            }


def adapter(name: str, episodes: list[str]) -> dict[str, Any]:
    """An adapter with card and a verdict that passed."""
    checks = [
        ("differs_from_base", 0.21, None, None, 0.001, None, "", "answers differ from the base"),
        ("gain", 0.031, 0.012, 0.049, 0.01, 8, "episodes", "closer to the driver on held-out steps"),
        ("completion", 0.98, 0.91, 1.0, 0.61, 8, "tracks", "share of a lap driven"),
        ("obeys_stop", 1.0, None, None, 0.9, 8, "tracks", "stands after the instruction stop"),
        ("replay", 0.018, 0.012, 0.026, 0.05, 256, "states", "remembers the base's own roads"),
    ]  # fmt: skip
    names = ("name", "value", "low", "high", "threshold", "n", "unit", "meaning")
    return {
        "id": name, "sha256": "ab" * 32, "passed": True, "damaged": "",
        "card": {"episodes": episodes[2:], "held_out": episodes[:2]},
        "verdict": {
            "passed": True, "reason": "", "hashes": {"candidate": "ab" * 32, "base": "cd" * 32},
            "checks": [{**dict(zip(names, c, strict=True)), "passed": True} for c in checks],
        },
    }  # fmt: skip
