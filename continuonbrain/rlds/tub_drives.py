"""The drives of a donkeycar tub: its records in time, cut where an episode must end, and their pictures.

JPEG bytes of the right size are taken as they are: decoding them only proves that they are whole.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import read_limited
from continuonbrain.rlds.reader import MAX_FRAME_BYTES, MAX_FRAME_PIXELS, refuse_packed_texts
from continuonbrain.rlds.tub_records import TubRecord, TubReport

FRAME_WIDTH, FRAME_HEIGHT = 160, 120
ASSUMED_STEP_S = 0.05  # donkeycar's default DRIVE_LOOP_HZ is 20
PLAUSIBLE_STEP_S = (0.02, 0.2)  # 5 to 50 Hz: outside, the timestamps are not the camera's
MAX_GAP_S = 0.5  # a longer hole ends an episode: what follows is not the consequence of what was before
_JPEG_QUALITY = 95  # only for images that must be resized: they were compressed once already


def sessions_of(records: list[TubRecord]) -> list[list[TubRecord]]:
    """Runs of one `_session_id`, in the tub's order."""
    runs: list[list[TubRecord]] = []
    for record in records:
        if not runs or runs[-1][-1].session != record.session:
            runs.append([])
        runs[-1].append(record)
    return runs


def with_times(session: list[TubRecord], report: TubReport) -> list[TubRecord]:
    """Seconds since the session's start: the tub's own when plausible, 50 ms an index otherwise."""
    stamps = [record.time_ms for record in session]
    known = [stamp for stamp in stamps if stamp is not None]
    gaps = [(b - a) / 1000 for a, b in pairwise(known)]
    median = statistics.median(gaps) if gaps else None
    if median is not None:
        report.median_spacing_ms = median * 1000
    plausible = (
        median is not None
        and len(known) == len(stamps)
        and PLAUSIBLE_STEP_S[0] <= median <= PLAUSIBLE_STEP_S[1]
        and min(gaps) > 0
    )
    if plausible:
        return [replace(record, time_s=((record.time_ms or 0) - known[0]) / 1000) for record in session]
    report.timestamps = "assumed 50 ms"
    # By index and not by position: a record that is missing or deleted left a hole in time as well.
    first = session[0].index
    return [replace(record, time_s=(record.index - first) * ASSUMED_STEP_S) for record in session]


def drives_of(session: list[TubRecord], max_steps: int) -> Iterator[list[TubRecord]]:
    """A session in parts that become one episode each: cut at `max_steps`, at gaps and where time does not run."""
    current: list[TubRecord] = []
    for record in session:
        if current:
            gap = record.time_s - current[-1].time_s
            if len(current) >= max_steps or not 0 < gap <= MAX_GAP_S:
                yield current
                current = []
        current.append(record)
    if current:
        yield current


def load_jpeg(path: Path, report: TubReport) -> bytes | None:
    """A whole 160x120 RGB JPEG; None (and counted) when the image is missing or corrupt."""
    try:
        data = read_limited(path, MAX_FRAME_BYTES)
    except OSError:
        report.missing_images += 1
        return None
    except EpisodeError:
        report.corrupt_images += 1
        return None
    try:
        refuse_packed_texts(data)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise ValueError("too large")
            image.load()
            if (
                image.format == "JPEG"
                and image.mode == "RGB"
                and image.size == (FRAME_WIDTH, FRAME_HEIGHT)
                and data.startswith(b"\xff\xd8")
            ):
                return data
            converted = image.convert("RGB").resize((FRAME_WIDTH, FRAME_HEIGHT), Image.Resampling.BOX)
    except Exception:  # Pillow's decoders raise many types on broken files; all mean the same here
        report.corrupt_images += 1
        return None
    out = io.BytesIO()
    converted.save(out, "JPEG", quality=_JPEG_QUALITY)
    report.resized += 1
    return out.getvalue()
