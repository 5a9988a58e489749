"""Changes of the base as operations of `benchmarks.crash_points`: a merged base is imported, switched to, confirmed,
taken back, rolled back.

Looked at with nothing of the product's code: `base_slot.json` is whole and names a base that is there; every slot that
can be seen is whole, byte by byte; after the next start everybody was told once of the last change.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from benchmarks.crash_points import (
    BOOT,
    NEXT_BOOT,
    Operation,
    new_root,
    run_apart,
)
from benchmarks.crash_reader import contents, sha256_of
from benchmarks.small_verdict import small_base_verdict
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.base_change import roll_back_base, switch_base
from continuonbrain.loops.base_import import import_base
from continuonbrain.loops.base_pack import pack_base
from continuonbrain.loops.base_probation import look_after_base, open_to_serve
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.base_files import BEHAVIOUR_FILES
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.driving_record import DrivingRecord, write_record
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys

_KEY = "shop"
_SLOT = re.compile(r"[0-9a-f]{16}")
_FILES = (
    "config.json",
    "connector.json",
    "connector.safetensors",
    "model.safetensors",
    "reflex.safetensors",
    "tokenizer.json",
)
_STARTS = "base_probation.json"
_TICKS = 200_000
"""Longer than any probation of the presets."""


# What an outsider sees.


def base_faults(root: Path, allowed: set[str]) -> list[str]:
    """What must hold at every moment. allowed: slots that may drive, "" for the base of config.json."""
    told = []
    state, bases = root / "model" / "base_slot.json", root / "model" / "bases"
    current = json.loads(state.read_bytes())["current"] if state.exists() else ""
    if current not in allowed:
        told.append(f"base {current!r} drives, allowed are {sorted(allowed)}")
    if current and not (bases / current).is_dir():
        told.append(f"base {current} drives and is not there")
    for slot in sorted(bases.iterdir()) if bases.is_dir() else []:
        if _SLOT.fullmatch(slot.name):
            sha256 = json.loads((slot / "slot.json").read_bytes())["base_sha256"]
            if not sha256.startswith(slot.name) or sha256 != sha256_of_base(slot / "base"):
                told.append(f"slot {slot.name} is not whole")
    return told


def base_unsettled(root: Path) -> list[str]:
    """What must hold after a start: everybody was told, once, of the last change."""
    state = root / "model" / "base_slot.json"
    change = json.loads(state.read_bytes())["change"] if state.exists() else 0
    log = root / "run" / "events" / "events.jsonl"
    events = [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]] if log.exists() else []
    times = sum(e["kind"] == "base" and e["data"].get("change") == change for e in events)
    return [] if change == 0 or times == 1 else [f"change {change} of the base was told {times} times"]


def sha256_of_base(folder: Path) -> str:
    """Of the files that decide how a base behaves."""
    return sha256_of(folder, _FILES)


# What operations begin with. The other machine is a root beside this one, and is not killed.


def _there(brain: BrainRoot) -> Path:
    return brain.layout.root.parent / "there"


def _bundle(brain: BrainRoot) -> Path:
    return _there(brain) / "merged.base"


def _merged(brain: BrainRoot) -> Path:
    return _there(brain) / "merged"


def _pack(brain: BrainRoot) -> None:
    _bundle(brain).unlink(missing_ok=True)
    pack_base(open_brain(_there(brain)), _merged(brain), _bundle(brain), key_name=_KEY)


def _offered(brain: BrainRoot) -> dict[str, str]:
    """The tiny base at home; elsewhere one that grew from it, packed with a key that is trusted."""
    home = brain.layout.base_model_dir
    for name in BEHAVIOUR_FILES:
        shutil.copyfile(tiny_base_folder() / name, home / name)
    there = new_root(_there(brain))
    own = PrivateKeys(there.layout)
    own.new(_KEY)
    TrustedKeys(brain.layout).trust(parse_public_key(own.public_path(_KEY).read_bytes(), what="key"))
    shutil.copytree(home, _merged(brain))
    weights = load_file(home / "model.safetensors")
    name = next(n for n in sorted(weights) if n.endswith("q_proj.weight"))
    weights[name] = weights[name] * weights[name].dtype.type(1.001)
    save_file(weights, _merged(brain) / "model.safetensors", metadata={"format": "pt"})
    card = json.loads((tiny_base_folder() / "card.json").read_bytes())
    card["grown_from"] = {"base_sha256": base_sha256(home), "adapter_sha256": "a" * 64}
    (_merged(brain) / "card.json").write_text(json.dumps(card))
    _pack(brain)
    return {}


def _passed(brain: BrainRoot) -> dict[str, str]:
    """Imported, with a verdict that lets it drive."""
    _offered(brain)
    taken = import_base(brain, _bundle(brain))
    servo = Calibration().to_json()
    verdict = small_base_verdict(taken.base_sha256, base_sha256(brain.layout.base_model_dir), servo)
    BaseSlots(brain.layout).get(taken.slot).judged(verdict, servo)
    return {}


def _on_probation(off_road: int) -> Callable[[BrainRoot], dict[str, str]]:
    def prepare(brain: BrainRoot) -> dict[str, str]:
        _passed(brain)
        switch_base(brain, _slot(brain), boot=BOOT)
        now = open_brain(brain.layout.root).layout
        write_record(now.driving_dir, None, DrivingRecord(_TICKS, _TICKS / 20.0, {"off_road": off_road}))
        return {}

    return prepare


def _slot(brain: BrainRoot) -> str:
    return sha256_of_base(_merged(brain))[:16]


# What they do.


def _import(brain: BrainRoot) -> None:
    if any(entry.slot == _slot(brain) for entry in BaseSlots(brain.layout).list()):
        return
    try:
        import_base(brain, _bundle(brain))
    except BrainError:  # killed behind the counter of the key: packed again, as a person has to
        _pack(brain)
        import_base(brain, _bundle(brain))


def _switch(brain: BrainRoot) -> None:
    switch_base(open_brain(brain.layout.root), _slot(brain), boot=BOOT)


def _look(brain: BrainRoot) -> None:
    look_after_base(open_brain(brain.layout.root), boot=BOOT)


def _roll_back(brain: BrainRoot) -> None:
    if BaseSlots(brain.layout).state().current:
        roll_back_base(open_brain(brain.layout.root))


def _judge(old: str, new: str) -> Callable[[Operation, BrainRoot], list[str]]:
    """old, new: which base drives before and behind the change: "base" or "merged"."""

    def judge(operation: Operation, brain: BrainRoot) -> list[str]:
        slots = {"base": "", "merged": _slot(brain)}
        root, before, after = brain.layout.root, slots[old], slots[new]
        problems = base_faults(root, {before, after})
        if not run_apart(lambda: open_to_serve(brain, boot=operation.boot)):
            return [*problems, "the next start fails"]
        settled = {before} if operation.always_old else {before, after}
        problems += base_faults(root, settled) + base_unsettled(root)
        seen = _without_starts(root)
        if not run_apart(lambda: open_to_serve(brain, boot=operation.boot)) or _without_starts(root) != seen:
            problems.append("a second start changes something")
        if operation.always_old:
            return problems
        if not run_apart(lambda: operation.act(brain)):
            return [*problems, "it cannot be done to its end"]
        leftovers = [p for p in (root / "model" / "bases").rglob("*") if ".staging" in p.name]
        problems += [f"{path.name} is left over" for path in leftovers]
        return problems + base_faults(root, {after}) + base_unsettled(root)

    return judge


def _without_starts(root: Path) -> dict[str, Any]:
    """Starts are counted while a base is on probation: that is what a start changes."""
    return {name: data for name, data in contents(root).items() if not name.endswith(_STARTS)}


OPERATIONS = (
    Operation("import_base", _offered, _import, judge=_judge("base", "base")),
    Operation("switch_base", _passed, _switch, judge=_judge("base", "merged")),
    Operation(
        "switch_base_then_reboot",
        _passed,
        _switch,
        boot=NEXT_BOOT,
        always_old=True,
        judge=_judge("base", "merged"),
    ),
    Operation("confirm_base", _on_probation(0), _look, judge=_judge("merged", "merged")),
    Operation("revert_base", _on_probation(4000), _look, judge=_judge("merged", "base")),
    Operation("rollback_base", _on_probation(0), _roll_back, judge=_judge("merged", "base")),
)
