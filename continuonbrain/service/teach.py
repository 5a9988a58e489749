"""Routes by which a person teaches: recording on and off, the episodes, their replay, label, mark and deletion."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request, Response

from continuonbrain.brain_root import BrainRoot
from continuonbrain.rlds.marking import instruction_of, is_bad, mark, relabel
from continuonbrain.rlds.reader import read_metadata
from continuonbrain.rlds.retention import Held, forget
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.service.drive import require_wheel, tell_robot
from continuonbrain.service.drive_models import RecordingIn
from continuonbrain.service.problems import ServiceError, errors
from continuonbrain.service.shelf import MOST_STEPS, Shelf
from continuonbrain.service.teach_models import (
    EpisodeChange,
    EpisodeChanged,
    EpisodeColumns,
    EpisodeName,
    EpisodesOut,
    RecordingOut,
)
from continuonbrain.service.wheel import Wheel
from continuonbrain.storage.lock import LockHeldError, ProcessLock

_LOCK_S = 1.0


def add_teach_routes(app: FastAPI, brain: BrainRoot, wheel: Wheel, shelf: Shelf) -> None:
    """`/v1/recording` and everything below `/v1/episodes`."""
    layout = brain.layout

    @app.post("/v1/recording", responses=errors(403, 409, 422))
    async def recording(asked: RecordingIn, request: Request) -> RecordingOut:
        """Record a person's lessons, or all other drives, or no more; with an instruction the robot is told that
        first."""
        require_wheel(wheel, request)

        def tell() -> None:
            if asked.instruction is not None:
                tell_robot(layout, {"type": "instruct", "instruction": asked.instruction})
            tell_robot(layout, {"type": "record", "on": asked.on, "what": asked.what})

        await asyncio.to_thread(tell)
        return RecordingOut(on=asked.on, what=asked.what, instruction=asked.instruction)

    @app.get("/v1/episodes", responses=errors(422))
    async def episodes(
        limit: Annotated[int, Query(ge=1, le=200)] = 50, before: EpisodeName | None = None
    ) -> EpisodesOut:
        """Finished episodes, the newest first; `before`: those after the one of this id."""

        def read() -> EpisodesOut:
            known = shelf.newest_first()
            return EpisodesOut(
                episodes=shelf.page(known, limit=limit, before=before or ""),
                taught=shelf.taught(known),
                min_episodes=brain.config.min_episodes,
            )

        return await asyncio.to_thread(read)

    @app.get("/v1/episodes/{name}", responses=errors(404, 409, 422))
    async def episode(name: Annotated[EpisodeName, Path()]) -> EpisodeColumns:
        """One episode's steps as columns."""
        return await asyncio.to_thread(shelf.columns, name)

    @app.get(
        "/v1/episodes/{name}/frames/{index}.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **errors(404, 409, 422)},
    )
    async def frame(
        name: Annotated[EpisodeName, Path()], index: Annotated[int, Path(ge=0, lt=MOST_STEPS)]
    ) -> Response:
        """The frame of a step, as it was recorded."""
        data = await asyncio.to_thread(shelf.frame, name, index)
        kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    @app.post("/v1/episodes/{name}", responses=errors(403, 404, 409, 422))
    async def change(name: Annotated[EpisodeName, Path()], asked: EpisodeChange) -> EpisodeChanged:
        """Say that it was driven to another instruction, or mark it as bad: then nobody learns from it."""
        if asked.instruction is None and asked.bad is None:
            raise ServiceError(422, "nothing is changed", remedy="give instruction, bad, or both")

        def write() -> EpisodeChanged:
            path = shelf.path_of(name)
            if asked.instruction is not None:
                with _nobody_learns(brain):
                    relabel(path, asked.instruction)
            if asked.bad is not None:
                mark(path, bad=asked.bad)
            metadata = read_metadata(path / METADATA_FILE)
            return EpisodeChanged(id=name, instruction=instruction_of(metadata), bad=is_bad(metadata))

        return await asyncio.to_thread(write)

    @app.delete("/v1/episodes/{name}", status_code=204, responses=errors(403, 404, 409, 422))
    async def delete(name: Annotated[EpisodeName, Path()]) -> Response:
        """Delete it, whole or not at all."""

        def remove() -> None:
            path = shelf.path_of(name)
            if path.is_symlink():
                raise ServiceError(409, f"{name} is a link to elsewhere", remedy="remove the link by hand")
            with _nobody_learns(brain):
                forget([Held(path, 0, 0, own=True, taught=True)])

        await asyncio.to_thread(remove)
        return Response(status_code=204)


@contextlib.contextmanager
def _nobody_learns(brain: BrainRoot) -> Iterator[None]:
    """While it is inside no trainer reads an episode. `ServiceError` when one does."""
    try:
        with ProcessLock(brain.layout.trainer_lock_path, purpose="change an episode", timeout_s=_LOCK_S):
            yield
    except LockHeldError as error:
        words = "the trainer reads the episodes now"
        raise ServiceError(409, words, remedy="try again when the training is over") from error
