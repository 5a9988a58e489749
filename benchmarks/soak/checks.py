"""What must hold: the flight recorder's rules, and the store and the episodes on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.plan import PATH_LIMIT_S, Fault
from continuonbrain.errors import BrainError
from continuonbrain.rlds.reader import is_being_recorded, list_episodes, open_episode
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout

_TICK_S = 0.05
_LATE_S = 2 * _TICK_S
_COASTS_S = 3.0
"""A simulated car at full speed stands this long after its throttle went to 0 (drag 1.2/s: exp(-3.6) of 2 m/s)."""
_STANDS_MPS = 0.1
_RETRIES = 5


@dataclass
class Flight:
    """What the flight recorder wrote so far. Call `read` for more."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> list[dict[str, Any]]:
        """The lines that are new, each whole."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [json.loads(line) for line in whole.splitlines()]
        self.lines += new
        return new

    def between(self, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """Lines of this time."""
        return [line for line in self.lines if start_s <= line["t"] <= end_s]


def drives(line: dict[str, Any]) -> bool:
    """A tick in which the policy drives."""
    return bool(line["what"] == "tick" and line["mode"] == "autopilot")


def unsafe_ticks(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Ticks that no guard should have let through, in words: throttle although nothing was seen, or although the path
    was missing or too old. Whatever the faults were."""
    found = []
    for line in lines:
        if not drives(line) or line["throttle"] <= 0.0:
            continue
        age = line["path_age"]
        if not line["seen"]:
            found.append(f"{line['t']:.2f}: throttle {line['throttle']} without an observation")
        elif age is None or age > PATH_LIMIT_S + _LATE_S:
            found.append(f"{line['t']:.2f}: throttle {line['throttle']} on a path of {age} s")
    return found


def stopped_after(
    lines: Sequence[dict[str, Any]], fault: Fault, start_s: float, end_s: float
) -> float | None:
    """Seconds from the fault to the first command to stop after which none drove until the fault's end; 0 where nothing
    was driven, None where it went on. lines: of that time."""
    last = start_s
    for line in lines:
        if start_s <= line["t"] <= end_s and drives(line) and line["throttle"] > 0.0:
            last = line["t"]
    after = round(last - start_s, 3)
    return after if last == start_s or end_s - last >= 1.0 else None


def still_moves(lines: Sequence[dict[str, Any]], fault: Fault, start_s: float, end_s: float) -> bool:
    """Whether the car, told to stop, had not come to rest before the fault was over."""
    assert fault.stops_s is not None
    from_s = start_s + fault.stops_s + _COASTS_S
    late = [line for line in lines if from_s <= line["t"] <= end_s and drives(line)]
    return any(line["speed"] > _STANDS_MPS for line in late)


def fastest_mps(lines: Sequence[dict[str, Any]]) -> float:
    """The true speed of the fastest tick that the policy drove, m/s."""
    return max((float(line["speed"]) for line in lines if drives(line)), default=0.0)


def ended_at_rest(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the last thing that the body did was to stop (or it stood parked)."""
    last = next((line for line in reversed(lines) if line["what"] != "open"), None)
    return last is None or last["what"] == "stop" or last["mode"] == "park" or last["throttle"] == 0.0


def store_faults(layout: BrainLayout) -> list[str]:
    """What is wrong with history and links. Others change them meanwhile: only what stays wrong counts."""
    for attempt in range(_RETRIES):
        found = _store_faults(layout)
        if not found or attempt == _RETRIES - 1:
            return found
        time.sleep(0.7)
    return []


def _store_faults(layout: BrainLayout) -> list[str]:
    try:
        store = AdapterStore(layout)
        check = store.verify_history()
        if not check.ok:
            return [f"history: {check.problem}"]
        current = store.current()
        if current is not None and not current.compute_sha256().startswith(current.sha8):
            return [f"current ({current.version_id}) is not whole"]
        standing = store.standing()
        if standing.version_id != store.current_id():
            return [f"current is {store.current_id()}, the history says {standing.version_id}"]
    except (BrainError, OSError) as error:
        return [f"store: {error}"]
    return []


def episode_faults(layout: BrainLayout, *, newest: int | None = None, ended: bool = False) -> list[str]:
    """Episodes that cannot be read to their end. newest: look at so many only; ended: nothing runs any more, so that an
    open one is one that nobody closed."""
    found = []
    for path in list_episodes(layout.episodes_dir)[-(newest or 0) :]:
        if is_being_recorded(path):
            if ended:
                found.append(f"{path.name}: still being recorded")
            continue
        try:
            episode = open_episode(path)
            for index, step in enumerate(episode):
                if step.frame_ref is not None:  # while its camera fails, a robot records that it saw nothing
                    episode.frame_jpeg(index)
        except FileNotFoundError:
            continue  # retention took it meanwhile
        except BrainError as error:
            if path.exists() and not is_being_recorded(path):
                found.append(f"{path.name}: {error.message}")
    return found
