"""Two brains of which one exports adapters and the other takes them, and what a refusal must leave alone."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import adapter_import
from continuonbrain.loops.adapter_import import (
    export_adapter,
    import_adapter,
)
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.bundle import bundle_bytes
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.signing import Document, SignedFile, sign
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys

BASE = "b" * 64


def one_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing a real base in each of thousands of imports would be most of these tests."""
    monkeypatch.setattr(adapter_import, "checkpoint_sha256", lambda _folder: BASE)


def adapter(tag: str = "a", **changes: bytes) -> dict[str, bytes]:
    return {
        "adapter_model.safetensors": f"weights of {tag}".encode() * 9,
        "adapter_config.json": b'{"r": 8}',
        "calibration.json": b'{"steering_trim": 0.0}',
        "lora_adapters.pt": b"a pickle",
        "card.json": json.dumps({"base_sha256": BASE, "episodes": ["e1"], "losses": [0.5]}).encode(),
    } | changes


def taken(files: dict[str, bytes]) -> dict[str, bytes]:
    """What of an adapter decides how it behaves on another robot: its servo is none of that."""
    return {n: d for n, d in files.items() if n not in ("lora_adapters.pt", "card.json", "calibration.json")}


class Pair:
    """A brain that exports and one that imports and trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there = open_brain(init_brain_root(folder / "there", "sim-donkey").root)
        self.here = open_brain(init_brain_root(folder / "here", "sim-donkey").root)
        self.own = PrivateKeys(self.there.layout)
        self.key = self.own.new("shop")
        TrustedKeys(self.here.layout).trust(
            parse_public_key(self.own.public_path("shop").read_bytes(), what="")
        )
        self.store = AdapterStore(self.here.layout)
        self._number = 0

    def export(self, tag: str = "a", *, counter: int | None = None, **changes: bytes) -> Path:
        AdapterStore(self.there.layout).stage(adapter(tag, **changes))
        self._number += 1
        out = self.folder / f"{self._number}.bundle"
        export_adapter(self.there, "candidate", out, key_name="shop", counter=counter)
        return out

    def signed(self, contents: dict[str, bytes], **changes: Any) -> bytes:
        """A bundle as the owner of the key could make one by hand."""
        fields: dict[str, Any] = {
            "kind": "adapter",
            "key_id": self.key.key_id,
            "counter": 1000,
            "base_sha256": BASE,
            "files": {n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in contents.items()},
        }
        return bundle_bytes(sign(Document(**(fields | changes)), self.own.load("shop")), contents)

    def write(self, data: bytes) -> Path:
        path = self.folder / "by-hand.bundle"
        path.write_bytes(data)
        return path

    def last(self) -> int | None:
        (status,) = TrustedKeys(self.here.layout).list()
        return status.last


def state(brain: BrainRoot) -> dict[str, Any]:
    """Everything in a brain root but the lock files."""
    found: dict[str, Any] = {}
    for path in sorted(brain.layout.root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file() and not path.name.endswith(".lock"):
            found[str(path)] = path.read_bytes()
    return found


def refused(
    brain: BrainRoot, path: Path, kind: type[BaseException] = BrainError, match: str | None = None
) -> None:
    before = state(brain)
    with pytest.raises(kind, match=match) as told:
        import_adapter(brain, path)
    assert state(brain) == before, "a refusal changes nothing"
    if isinstance(told.value, BrainError):
        assert told.value.remedy
