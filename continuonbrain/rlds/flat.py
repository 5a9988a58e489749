"""Export to the ecosystem's flat JSON: one file an episode, `{"metadata": {...}, "steps": [...]}`.

JSON holds no pictures, and an episode without them teaches nobody, so the frames lie beside it as they were recorded:
`NAME.frames/000000.jpg`, named by each step's `observation.video_frame_id` and, for `open_episode`, by
`observation.frame`. The JSON is written last: where it is, the frames are.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import MAX_FLAT_BYTES, Episode
from continuonbrain.rlds.step import FLAT_FRAMES, FrameRef
from continuonbrain.storage.durable import sync_directory

_TAGGED = len(".staging-") + 8


def export_flat(episode: Episode, out_file: Path) -> int:
    """Write `out_file` (NAME.json) and `NAME.frames/`. Returns the steps.

    Raises:
        EpisodeError: a step or a frame cannot be read, or one of the two is there already.
        OSError: the folder cannot be written; nothing is left behind.
    """
    frames = out_file.with_name(f"{out_file.stem}{FLAT_FRAMES}")
    refuse_taken(out_file)
    tag = secrets.token_hex(4)
    staging, staged_frames = (path.with_name(f".staging-{tag}-{path.name}") for path in (out_file, frames))
    try:
        with open(staging, "wb") as file:
            file.write(b'{"metadata": %s,\n"steps": [' % json.dumps(episode.metadata.to_json()).encode())
            for index, step in enumerate(episode):
                if step.frame_ref is not None:
                    staged_frames.mkdir(exist_ok=True)
                    jpeg = episode.frame_jpeg(index)
                    (staged_frames / f"{index:06d}.jpg").write_bytes(jpeg)
                    step = replace(
                        step, frame_ref=FrameRef(f"{frames.name}/{index:06d}.jpg", index, 0, len(jpeg))
                    )
                value = step.to_json()
                if step.frame_ref is not None:
                    value["observation"]["video_frame_id"] = step.frame_ref.file
                file.write(b"%s\n%s" % (b"," if index else b"", json.dumps(value, allow_nan=False).encode()))
                if file.tell() > MAX_FLAT_BYTES:
                    raise EpisodeError(
                        f"it takes more than {MAX_FLAT_BYTES >> 20} MiB as one JSON, which no reader opens",
                        file=episode.path,
                        step=index,
                        remedy="export it as tfds, or in parts",
                    )
            file.write(b"\n]}\n")
            file.flush()
            os.fsync(file.fileno())
        if staged_frames.exists():
            sync_directory(staged_frames)
            os.rename(staged_frames, frames)
        os.rename(staging, out_file)
        sync_directory(out_file.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        shutil.rmtree(staged_frames, ignore_errors=True)
        if not out_file.exists():
            shutil.rmtree(frames, ignore_errors=True)
        raise
    return len(episode)


def refuse_taken(out_file: Path) -> None:
    """Refuse to write where `out_file` or its frames are. EpisodeError."""
    frames = out_file.with_name(f"{out_file.stem}{FLAT_FRAMES}")
    _remove_half(out_file, frames)
    for target in (out_file, frames):
        if os.path.lexists(target):
            raise EpisodeError("this is there already", file=target, remedy="give another folder")


def _remove_half(out_file: Path, frames: Path) -> None:
    """Remove what an export left that was killed between its two renames.

    Frames alone may be anybody's; with the JSON that was to follow them still under its staging name they are ours.
    """
    staged = [
        path for path in out_file.parent.glob(".staging-*") if path.name[_TAGGED:] == f"-{out_file.name}"
    ]
    if staged and frames.is_dir() and not out_file.exists():
        shutil.rmtree(frames)
        for path in staged:
            path.unlink()
