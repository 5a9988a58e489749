"""The frames beside a flat JSON episode, read by whoever reads it: reader, doctor and repair.

A frame is a whole file, `NAME.frames/000000.jpg`. A name that a link leads elsewhere is not part of the episode: it
would be read, exported and published with it.
"""

from __future__ import annotations

import os
from pathlib import Path

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.files import open_regular
from continuonbrain.rlds.step import FrameRef


def read_flat_frame(folder: Path, ref: FrameRef, limit: int) -> bytes:
    """The encoded frame that a step of a flat JSON in `folder` names.

    Raises:
        EpisodeError: the file has another length, is longer than `limit`, or a link leads out of its folder.
        OSError: it is not there, or cannot be read.
    """
    path = folder / ref.file
    try:
        inside = path.resolve().is_relative_to(folder.resolve() / Path(ref.file).parent)
    except (ValueError, RuntimeError) as error:  # no name of a file, or a loop of links
        raise EpisodeError(f"cannot be found: {error}", file=path, field="observation.frame") from error
    if not inside:
        raise EpisodeError("a link leads out of the episode", file=path, field="observation.frame")
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != ref.length or size > limit:
            raise CorruptRecordError(f"{size} bytes are here, {ref.length} are declared", file=path, offset=0)
        return file.read(size)
