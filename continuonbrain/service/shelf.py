"""A memory's finished episodes, for who looks at them: the list, one's steps as columns, its frames, what is wrong.

The doctor reads every frame, so it works behind, one episode after the other, and what it found is kept for as long as
the files are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.loops.taught_by import Fate, fates
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.finding import Finding
from continuonbrain.rlds.marking import counts, driver_of, instruction_of, is_bad
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.reader import Episode, list_episodes, open_episode, read_metadata
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE
from continuonbrain.service.problems import ServiceError
from continuonbrain.service.teach_models import EpisodeColumns, EpisodeKind, EpisodeOut, FindingOut
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout

MOST_STEPS = 20_000
"""Of one episode, shown: a page cannot draw more."""
_MOST_OPEN = 4
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Known:
    path: Path
    metadata: EpisodeMetadata
    started_ms: int
    stamp: Stamp


class Shelf:
    """The episodes of one root. Safe to use from several threads."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._metadata: dict[str, tuple[Stamp, _Known]] = {}
        self._findings: dict[str, tuple[Stamp, list[Finding]]] = {}
        self._open: dict[tuple[str, Stamp], Episode] = {}
        self._asked: set[str] = set()
        self._doctor = ThreadPoolExecutor(1, thread_name_prefix="doctor")

    def newest_first(self) -> list[_Known]:
        """Every finished episode that can be read."""
        found = [known for path in list_episodes(self._layout.episodes_dir) if (known := self._look(path))]
        return sorted(found, key=lambda k: (k.started_ms, k.path.name), reverse=True)

    def taught(self, known: Iterable[_Known]) -> int:
        """How many count as episodes to learn from."""
        return sum(counts(k.metadata) for k in known)

    def page(self, known: list[_Known], *, limit: int, before: str) -> list[EpisodeOut]:
        """`limit` of them after the one that is called `before`; "" for the first."""
        names = [k.path.name for k in known]
        at = names.index(before) + 1 if before in names else 0 if not before else len(names)
        try:
            became = fates(AdapterStore(self._layout))
        except (BrainError, OSError):  # a damaged store is told where adapters are
            became = {}
        return [self._out(k, became.get(k.path.name, "")) for k in known[at : at + limit]]

    def path_of(self, name: str) -> Path:
        """Of a finished episode. `ServiceError` 404 for any other."""
        path = self._layout.episodes_dir / name
        if self._look(path) is not None:
            return path
        raise ServiceError(
            404, f"there is no finished episode {name!r}", remedy="GET /v1/episodes lists them"
        )

    def columns(self, name: str) -> EpisodeColumns:
        """Its steps, the first `MOST_STEPS` of them. Raises `ServiceError`, `EpisodeError`."""
        steps = list(self._steps(self._opened(name)))
        first_ns = steps[0].monotonic_ns if steps else 0
        pairs = [(None, None) if s.proposed is None else s.proposed for s in steps]
        return EpisodeColumns(
            id=name,
            steps=len(steps),
            time_s=[round((s.monotonic_ns - first_ns) / 1e9, 4) for s in steps],
            steering=[_short(p[0]) for p in pairs],
            throttle=[_short(p[1]) for p in pairs],
            guarded_steering=[round(s.command[0], 5) for s in steps],
            guarded_throttle=[round(s.command[1], 5) for s in steps],
            speed_mps=[_short(s.speed_mps) for s in steps],
            reasons=[list(s.reasons) for s in steps],
            safety_head=[_short(s.safety_score) for s in steps],
            surprise=[_short(s.surprise) for s in steps],
            instruction=[s.instruction for s in steps],
            source=[s.source for s in steps],
        )

    def last_decision(self) -> Step | None:
        """The last step of the newest episode that a policy drove; None where there is none, or it cannot be read."""
        for known in self.newest_first():
            if known.metadata.control_role.startswith("human"):
                continue
            try:
                episode = self._opened(known.path.name)
                return episode.step(-1) if len(episode) else None
            except BrainError:
                return None
        return None

    def frame(self, name: str, index: int) -> bytes:
        """The recorded image of a step. Raises `ServiceError` 404, `EpisodeError`."""
        episode = self._opened(name)
        if index >= len(episode):
            raise ServiceError(404, f"step {index} of {len(episode)}", remedy="ask for an earlier one")
        return episode.frame_jpeg(index)

    def _steps(self, episode: Episode) -> Iterator[Step]:
        for index in range(min(len(episode), MOST_STEPS)):
            yield episode.step(index)

    def _opened(self, name: str) -> Episode:
        path = self.path_of(name)
        key = (name, _stamp(path))
        with self._lock:
            episode = self._open.pop(key, None)
        episode = episode or open_episode(path, strict=False)
        with self._lock:
            self._open[key] = episode
            while len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]
        return episode

    def _look(self, path: Path) -> _Known | None:
        """What is known of it; None when it is unfinished or cannot be read."""
        try:
            stamp = _stamp(path)
            with self._lock:
                before = self._metadata.get(path.name)
            if before is not None and before[0] == stamp:
                return before[1]
            metadata = read_metadata(path / METADATA_FILE)
            state = RecordingState.of(metadata)
            if state is not None and state.state != "closed":
                return None
            started = metadata.start_time_unix_ms or stamp[0] // 1_000_000
            known = _Known(path, metadata, started, stamp)
        except (BrainError, OSError):
            return None
        with self._lock:
            self._metadata[path.name] = stamp, known
        return known

    def _out(self, known: _Known, fate: Fate) -> EpisodeOut:
        metadata, name = known.metadata, known.path.name
        state = RecordingState.of(metadata)
        steps = state.steps if state is not None and state.steps >= 0 else self._count(name)
        return EpisodeOut(
            id=name,
            instruction=instruction_of(metadata) or self._said(name),
            role=metadata.control_role,
            kind=_kind_of(metadata),
            steps=min(steps, MOST_STEPS),
            seconds=(metadata.duration_ms or 0) / 1000,
            started_unix_ms=known.started_ms,
            bad=is_bad(metadata),
            learned=fate in ("passed", "drives"),
            fate=fate,
            findings=self._found(known),
            thumbnail=f"/v1/episodes/{name}/frames/0.jpg",
        )

    def _count(self, name: str) -> int:
        try:
            return len(self._opened(name))
        except BrainError:
            return 0

    def _said(self, name: str) -> str:
        """What the first step was driven to, for who writes no tag."""
        try:
            episode = self._opened(name)
            return episode.step(0).instruction if len(episode) else ""
        except BrainError:
            return ""

    def _found(self, known: _Known) -> list[FindingOut] | None:
        name = known.path.name
        with self._lock:
            found = self._findings.get(name)
            if found is None or found[0] != known.stamp:
                if name not in self._asked:
                    self._asked.add(name)
                    self._doctor.submit(self._examine, known)
                return None
        return [FindingOut(severity=f.severity, problem=f.problem, remedy=f.remedy) for f in found[1]]

    def _examine(self, known: _Known) -> None:
        try:
            found = examine(known.path)
        finally:
            with self._lock:
                self._asked.discard(known.path.name)
        with self._lock:
            self._findings[known.path.name] = known.stamp, found


def _kind_of(metadata: EpisodeMetadata) -> EpisodeKind:
    driver = driver_of(metadata)
    if driver == "simulated teacher":
        return "simulated lesson"
    if not metadata.control_role.startswith("human"):
        return "drive"
    return "correction" if "correction" in metadata.tags else "lesson"


def _stamp(path: Path) -> Stamp:
    """Changes when the episode does. A label leaves the metadata's time as it was."""
    metadata, steps = (path / METADATA_FILE).stat(), (path / STEPS_FILE).stat()
    return metadata.st_mtime_ns, steps.st_mtime_ns, metadata.st_ino


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
