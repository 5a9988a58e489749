"""The text of `metadata.json`, sealed with a checksum of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.tfrecord import crc32c

_METADATA_CRC = "metadata_crc32c"
_METADATA_SEAL = re.compile(rb'"metadata_crc32c": "([0-9a-f]{8})"\s*\}\s*\}\s*\}\s*\Z')


def metadata_bytes(metadata: EpisodeMetadata) -> bytes:
    """The text of `metadata.json`; that of a recording of ours is sealed with the CRC of all its other bytes.

    A flipped bit in `environment_id` is still text, so nothing but a checksum can tell.
    """
    value = metadata.to_json()
    recording = metadata.provenance.get("recording")
    if not isinstance(recording, Mapping):
        return _json_text(value)
    # The seal is the last value of the file, whatever others put into the provenance.
    provenance = {name: item for name, item in metadata.provenance.items() if name != "recording"}
    recording = {name: item for name, item in recording.items() if name != _METADATA_CRC}
    value["provenance"] = {**provenance, "recording": {**recording, _METADATA_CRC: "0" * 8}}
    data = _json_text(value)
    seal = _METADATA_SEAL.search(data)
    assert seal is not None
    start, end = seal.span(1)
    return b"%s%08x%s" % (data[:start], crc32c(data[:start] + data[end:]), data[end:])


def _json_text(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def metadata_alteration(data: bytes, metadata: EpisodeMetadata) -> EpisodeError | None:
    """What the seal of a `metadata.json` says: an error when its bytes were altered; None when whole or unsealed.

    Args:
        data: the whole file.
        metadata: what was read from it.
    """
    seal = _METADATA_SEAL.search(data)
    if seal is not None:
        start, end = seal.span(1)
        altered = crc32c(data[:start] + data[end:]) != int(seal.group(1), 16)
    else:
        state = RecordingState.of(metadata)
        altered = state is not None and state.metadata_crc32c != ""
    if not altered:
        return None
    return EpisodeError(
        "the CRC of the metadata does not match: its bytes were altered",
        field=f"metadata.provenance.recording.{_METADATA_CRC}",
        remedy="look at its values; continuonbrain episodes repair PATH OUT writes them anew",
    )
