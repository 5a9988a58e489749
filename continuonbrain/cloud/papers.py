"""The small files of a bundle: base, settings, doctor's report, the list of episodes; and the adapters' own files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.adapter_texts import (
    header_bytes,
    strange_calibration,
    strange_header,
    strange_setting,
    texts_of,
)
from continuonbrain.cloud.errors import ExportRefused
from continuonbrain.cloud.manifest import ORDER
from continuonbrain.cloud.plan import Dataset
from continuonbrain.cloud.privacy import clean_settings
from continuonbrain.cloud.shards import VERSION, folder_of
from continuonbrain.loops.slow_adapter import KIND, card_of, standing_slow
from continuonbrain.rlds.tfds import dataset_info, features_json
from continuonbrain.storage.adapter_reader import AdapterReader
from continuonbrain.storage.adapters import BEHAVIOURAL_FILES

_LARGEST_JSON = 1 << 20
_HEADER_LENGTH = 8


@dataclass(frozen=True)
class Slot:
    """An adapter that travels. name: "current", or "slow" for the one below it; files: sorted."""

    name: str
    version_id: str
    sha256: str
    kind: str
    files: tuple[Path, ...]

    def told(self) -> dict[str, str]:
        """For the manifest."""
        return {"version": self.version_id, "sha256": self.sha256, "kind": self.kind}


def slots_of(brain: BrainRoot) -> tuple[Slot, ...]:
    """The adapters that travel: what drives, and the slow one below it where that is another. Their cards stay.

    Raises:
        AdapterError: what drives is damaged.
        ExportRefused: a file of theirs names this machine, or says what no adapter of this project says.
    """
    store = AdapterReader(brain.layout)
    current, slow = store.current(), standing_slow(store)
    found = [] if current is None else [("current", current)]
    if slow is not None and (current is None or slow.version.version_id != current.version_id):
        found.append(("slow", slow.version))
    slots = []
    for name, version in found:
        files = tuple(version.path / n for n in sorted(BEHAVIOURAL_FILES) if (version.path / n).is_file())
        sha256 = version.whole_sha256(root=brain.layout.root)
        for file in files:
            _refuse_texts(file, brain)
        kind = card_of(version).get(KIND)
        slots.append(
            Slot(name, version.version_id, sha256, kind if kind in ("fast", "slow") else "fast", files)
        )
    return tuple(slots)


def settings_paper(brain: BrainRoot) -> bytes:
    """`config.json` without paths and free texts."""
    settings, stay = clean_settings(brain.config)
    return _text({"schema": 1, "settings": settings, "taken_out": list(stay)})


def base_paper(base_sha256: str, slots: Sequence[Slot]) -> bytes:
    """`base.json`: which base, and which adapters of it."""
    return _text(
        {"schema": 1, "base_sha256": base_sha256, "adapters": {slot.name: slot.told() for slot in slots}}
    )


def doctor_paper(facts: Iterable[Mapping[str, Any]], *, decoded: bool) -> bytes:
    """`doctor.json`: what was seen of the episodes while they were read.

    Args:
        decoded: whether pictures left, and so were decoded.
    """
    lines = [line for fact in facts for line in fact.get("doctor", ())]
    return _text(
        {
            "schema": 1,
            "pictures_decoded": decoded,
            "healthy": not any(line["severity"] == "error" for line in lines),
            "findings": lines,
        }
    )


def episodes_paper(facts: Iterable[Mapping[str, Any]], in_time: Sequence[str]) -> bytes:
    """`episodes.jsonl`: a line for each record of the datasets, with its sha256, and its episode's place in time among
    those of the bundle, which datasets of several sizes do not tell. in_time: pseudonyms of all that leave."""
    order = {name: i for i, name in enumerate(in_time)}
    lines = (line for fact in facts for line in fact.get("episodes", ()))
    return b"".join(_line({**line, ORDER: order[line["episode"]]}) for line in lines)


def dataset_papers(dataset: Dataset, facts: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """`features.json` and `dataset_info.json` of a dataset, by member name. facts: of its shards, in order."""
    height, width = dataset.size or (0, 0)
    features = features_json(height, width, images=dataset.size is not None)
    total = sum(int(f["bytes"]) for f in facts)
    info = dataset_info(dataset.name, VERSION, total, [int(f["examples"]) for f in facts])
    folder = folder_of(dataset)
    return {
        f"{folder}/dataset_info.json": json.dumps(info, indent=2).encode() + b"\n",
        f"{folder}/features.json": json.dumps(features, indent=4, sort_keys=True).encode(),
    }


def refuse_places(data: bytes, brain: BrainRoot, what: str) -> None:
    """Refuse bytes that name where things lie on this machine, also as this project spells JSON. Raises
    ExportRefused."""
    for place in {str(brain.layout.root), str(brain.layout.root.resolve()), os.path.expanduser("~")}:
        spellings = (os.fsencode(place), json.dumps(place)[1:-1].encode())
        if len(place) > 1 and any(spelling in data for spelling in spellings):
            raise ExportRefused(
                f"{what} names a folder of this machine ({place}), and would take it out of the house",
                remedy="train the adapter again with this version, or take that text out and stage it anew",
            )


def _refuse_texts(file: Path, brain: BrainRoot) -> None:
    """Refuse a file of an adapter for what it says beside numbers. Raises ExportRefused."""
    with open(file, "rb") as opened:
        if file.suffix == ".json":
            data = opened.read(_LARGEST_JSON + 1)
            told = data
            is_settings = file.name == "adapter_config.json"
            strange = strange_setting(data) if is_settings else strange_calibration(data)
        else:
            start = opened.read(_HEADER_LENGTH)
            data = start + opened.read(header_bytes(start))
            told = data[_HEADER_LENGTH:]
            strange = strange_header(data)
    for text in (told, *(text.encode("utf-8", "surrogateescape") for text in texts_of(told))):
        refuse_places(text, brain, str(file))
    if len(data) > _LARGEST_JSON and file.suffix == ".json":
        strange = "more than a megabyte"
    if strange:
        raise ExportRefused(
            f"{file}: {strange} is nothing that this project writes there, and would leave word for word",
            remedy="train the adapter again with this version, or take that out and stage it anew",
        )


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"
