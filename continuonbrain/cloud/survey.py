"""Looking at a memory: what each episode says of itself. Frames and steps are not read, but for the first of each."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from continuonbrain.cloud.images import bare_image
from continuonbrain.cloud.plain_jpeg import Size
from continuonbrain.cloud.plan import Candidate
from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import data_files, open_regular
from continuonbrain.rlds.limits import MAX_FRAME_BYTES, MAX_LINE_BYTES
from continuonbrain.rlds.marking import is_bad
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import list_episodes, open_episode, read_metadata
from continuonbrain.rlds.sharing import Answer, answer_of
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.tfrecord import read_record
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.storage.pseudonyms import Pseudonyms


def survey(episodes_dir: Path) -> list[Candidate]:
    """Every episode of a memory, in the order of names. Nothing is written."""
    return [_candidate(path) for path in list_episodes(episodes_dir)]


def files_of(path: Path) -> list[Path]:
    """What an episode consists of, in one order."""
    lines, blobs = data_files(path / "steps", "*.jsonl"), data_files(path / "blobs", "*.tfrecord")
    return [path / METADATA_FILE, *lines, *blobs]


def content_of(path: Path, names: Pseudonyms) -> str:
    """Names what is in an episode's steps: another one when a person has labelled it anew. Frames never change. Under
    the secret, as it stands in a journal that may lie on somebody's stick. Raises OSError, EpisodeError."""
    digest = hashlib.sha256()
    for file in data_files(path / "steps", "*.jsonl"):
        with open_regular(file) as lines:
            digest.update(hashlib.file_digest(lines, "sha256").digest())
    return names.of("content", digest.hexdigest())


def _candidate(path: Path) -> Candidate:
    name = path.name
    bad = False
    try:
        metadata = read_metadata(path / METADATA_FILE)
        answer, bad = answer_of(metadata.share), is_bad(metadata)
        start = metadata.start_time_unix_ms
        state = RecordingState.of(metadata)
        if state is not None and state.state != "closed":
            return Candidate(name, answer, finished=False, start_unix_ms=start, bad=bad)
        size = sum(file.stat().st_size for file in files_of(path))
        came = (path / METADATA_FILE).stat().st_mtime_ns
        steps = len(open_episode(path)) if state is None else state.steps
        found = _first_size(path) if steps > 0 else None
        return Candidate(name, answer, True, steps, size, start, found, bad=bad, came_ns=came)
    except EpisodeError as error:
        # Its metadata may be what is damaged: nobody knows what its share said.
        answer = _answer_or_no(path)
        return Candidate(name, answer, problem=f"it is damaged: {error.problem}", bad=bad)
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
        return Candidate(name, _answer_or_no(path), problem=problem, bad=bad)


def _answer_or_no(path: Path) -> Answer:
    try:
        return answer_of(read_metadata(path / METADATA_FILE).share)
    except EpisodeError:
        return "no"


def _first_size(path: Path) -> Size | None:
    """Of the first step's frame; None where it has none."""
    files = data_files(path / "steps", "*.jsonl")
    if not files:
        raise EpisodeError("the steps file is missing", file=path)
    with open_regular(files[0]) as lines:
        step = Step.from_json(parse_json(lines.readline(MAX_LINE_BYTES)))
    ref = step.frame_ref
    if ref is None:
        return None
    blob = path / ref.file
    with open_regular(blob) as frames:
        size = os.fstat(frames.fileno()).st_size
        data = read_record(frames, path=blob, offset=ref.offset, size=size, limit=MAX_FRAME_BYTES)
    return bare_image(data)[1]
