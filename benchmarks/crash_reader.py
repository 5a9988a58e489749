"""Reads a brain root as somebody would who has only the documentation: nothing of the product's code is used."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BEHAVIOUR = ("adapter_config.json", "adapter_model.safetensors", "calibration.json", "reflex.safetensors")
_VERSION = re.compile(r"\d{6}-[0-9a-f]{8}")


def chain(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The history's entries, and what is wrong with it, "" when nothing is."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], ""
    entries: list[dict[str, Any]] = []
    before = "0" * 64
    for number, line in enumerate(
        data.split(b"\n")[:-1], start=1
    ):  # behind the last newline nothing was acknowledged
        try:
            entry = json.loads(line)
            body = {k: v for k, v in entry.items() if k != "hash"}
            text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            sound = hashlib.sha256(text.encode()).hexdigest() == entry["hash"]
        except (ValueError, KeyError, AttributeError) as error:
            return entries, f"line {number}: {error}"
        if not sound or entry["prev_hash"] != before or entry["seq"] != number:
            return entries, f"line {number} breaks the chain"
        before = entry["hash"]
        entries.append(entry)
    return entries, ""


def sha256_of(folder: Path, names: Iterable[str] = _BEHAVIOUR) -> str:
    """Of the files that decide how something behaves (an adapter's, without names): length and name, length and content
    of each, by name."""
    digest = hashlib.sha256()
    for name in sorted(n for n in names if (folder / n).is_file()):
        data = (folder / name).read_bytes()
        digest.update(len(name).to_bytes(8, "big") + name.encode() + len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def named_by(link: Path) -> str | None:
    """The version that a link names; None when there is no link."""
    try:
        return Path(os.readlink(link)).name
    except FileNotFoundError:
        return None


def faults(root: Path, allowed: set[str | None]) -> list[str]:
    """What must hold at every moment. allowed: what `current` may name."""
    adapters = root / "model" / "adapters"
    told = []
    entries, problem = chain(adapters / "history.jsonl")
    if problem:
        told.append(f"history: {problem}")
    bound = {entry["to"]: entry["sha256"] for entry in entries}
    for slot in ("current", "candidate", "previous"):
        name = named_by(adapters / slot)
        if name is None:
            continue
        folder = adapters / slot
        if not _VERSION.fullmatch(name) or not folder.is_dir():
            told.append(f"{slot} names {name}, which is not there")
        elif (sha256 := sha256_of(folder))[:8] != name[7:] or bound.get(name, sha256) != sha256:
            told.append(f"{slot} names {name}, whose bytes hash to {sha256[:8]}")
        elif not (folder / "card.json").is_file() or not isinstance(
            json.loads((folder / "card.json").read_bytes()), dict
        ):
            told.append(f"{slot} names {name}, which has no card")
    told += _head_faults(adapters / "history.head", entries)
    current = named_by(adapters / "current")
    # Written down before it drives: what drives is what the last entry names or, not yet, what the one before does.
    written = (
        [entry["to"] for entry in entries[-2:]] if len(entries) > 1 else [None, *(e["to"] for e in entries)]
    )
    if current not in written:
        told.append(f"current is {current}, the history ends with {written}")
    if current not in allowed:
        told.append(f"current is {current}, allowed are {sorted(map(str, allowed))}")
    if current is not None:
        verdict = json.loads((adapters / "current" / "verdict.json").read_bytes())
        if verdict.get("candidate_sha256") != sha256_of(adapters / "current"):
            told.append(f"the verdict beside {current} is of other bytes")
    for version in (adapters / "versions").iterdir():
        if _VERSION.fullmatch(version.name) and sha256_of(version)[:8] != version.name[7:]:
            told.append(f"version {version.name} is not whole")
    manifest = root / "model" / "manifest.json"
    if not isinstance(json.loads(manifest.read_bytes()), dict):
        told.append("the manifest is no object")
    return told


def _head_faults(path: Path, entries: list[dict[str, Any]], behind: int = 1) -> list[str]:
    """`history.head` names the last entry; in the middle of a change it may be one behind, or not there before the
    first."""
    if not path.exists():
        return [] if len(entries) <= behind else [f"no history.head beside {len(entries)} entries"]
    head = json.loads(path.read_bytes())
    ends = [{"seq": entry["seq"], "hash": entry["hash"]} for entry in entries[-1 - behind :]]
    return [] if head in ends else [f"history.head names {head}, the history ends with {ends}"]


def unsettled(root: Path, told_from: int) -> list[str]:
    """What must hold after a recovery: links as the history's end says, everybody told once of every change.

    told_from: entries before this number were made without telling anybody.
    """
    adapters = root / "model" / "adapters"
    entries, _ = chain(adapters / "history.jsonl")
    told = _head_faults(adapters / "history.head", entries, behind=0)
    links = (named_by(adapters / "current"), named_by(adapters / "previous"))
    ends = (entries[-1]["to"], entries[-1]["from"]) if entries else (None, None)
    if links != ends:
        told.append(f"the links are {links}, the history ends with {ends}")
    if entries and entries[-1]["event"] == "promote" and named_by(adapters / "candidate") == ends[0]:
        told.append("what drives is still the candidate")
    log = root / "run" / "events" / "events.jsonl"
    events = [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]] if log.exists() else []
    for entry in entries[told_from:]:
        times = sum(event["data"].get("change") == entry["hash"] for event in events)
        if times != 1 and entry["event"] != "abandon":
            told.append(f"{entry['event']} (entry {entry['seq']}) was told {times} times")
    return told


def contents(root: Path) -> dict[str, bytes]:
    """Every file and link, without the locks, whose content is a label."""
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(root):
        for name in (*names, *(d for d in os.listdir(folder) if Path(folder, d).is_symlink())):
            path = Path(folder, name)
            if path.name.endswith("lock"):
                continue
            key = str(path.relative_to(root))
            found[key] = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
    return found
