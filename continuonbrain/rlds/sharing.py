"""Whether an episode may leave the robot: what `share` in its metadata says, and saying it.

`share` is the ecosystem's object for consent; what it asks for there (title, licence, "public") is about publishing.
This project asks one question of its own, under a key of its own: `share.cloud`, true or false. Only `true` is a yes.
An episode with a `share` that does not say `cloud: true`, an empty one too, says no; one without any says nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.limits import MAX_METADATA_BYTES
from continuonbrain.rlds.marking import closed_metadata
from continuonbrain.rlds.metadata_seal import metadata_bytes
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.storage.durable import write_bytes_durably

CLOUD: Final = "cloud"
Answer: TypeAlias = Literal["yes", "no", "unsaid"]


def answer_of(share: Mapping[str, Any] | None) -> Answer:
    """What an episode's `share` says. Pure."""
    if share is None:
        return "unsaid"
    return "yes" if share.get(CLOUD) is True else "no"


def set_answer(path: Path, *, yes: bool) -> bool:
    """Write the answer into an episode's metadata, atomically; whether that changed anything.

    The file keeps its time: by it the memory knows how old an episode is.

    Raises:
        EpisodeError: no folder of a finished episode, or its metadata were altered or are full.
        OSError: the disk refused; the old answer stands.
    """
    file = path / METADATA_FILE
    if not file.is_file():
        raise EpisodeError(
            "there is no metadata.json, so there is no place for an answer",
            file=path,
            remedy="give an episode's folder, or a name that `continuonbrain episodes list --root DIR` prints",
        )
    metadata = closed_metadata(file)
    share = {**(metadata.share or {}), CLOUD: yes}
    if metadata.share == share:
        return False
    data = metadata_bytes(replace(metadata, share=share))
    if len(data) > MAX_METADATA_BYTES:
        raise EpisodeError(
            f"{len(data)} bytes are too many, {MAX_METADATA_BYTES} are read at most",
            file=file,
            field="metadata.share",
            remedy="put less into the metadata",
        )
    was = file.stat()
    write_bytes_durably(file, data, mode=stat.S_IMODE(was.st_mode))
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    return True
