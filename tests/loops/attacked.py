"""A robot, whoever it trusts, and good bundles of both kinds, to be made bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from continuonbrain.errors import BrainError
from continuonbrain.loops.cloud_import import import_bundle
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.storage.canonical_json import signable_bytes
from continuonbrain.storage.signing import PREFIX, Document, SignedFile, key_id_of, public_key_of, sign
from tests.loops.base_bundles import BasePair, listing, zipped

Files = dict[str, bytes]
MODULE = "model.layers.7.self_attn.q_proj"


def adapter_files(tag: float = 1.0, *, rank: int = 4, width: int = 128) -> Files:
    """An adapter of the tiny base's shapes."""
    name = f"base_model.model.{MODULE}"
    tensors = {
        f"{name}.lora_A.weight": np.full((rank, width), tag, np.float32),
        f"{name}.lora_B.weight": np.zeros((128, rank), np.float32),
    }
    named = f"continuonbrain:{base_sha256(tiny_base_folder())}"
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "layers_to_transform": [7],
        "base_model_name_or_path": named,
    }
    return {
        "adapter_model.safetensors": save(tensors),
        "adapter_config.json": json.dumps(settings).encode(),
        "calibration.json": b'{"steering_trim_rad": 0.0}',
    }


class Attacked:
    """A robot, whoever it trusts, and good bundles of one kind for it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.pair = BasePair(folder)
        self.kind = kind
        self.files: Files = adapter_files() if kind == "adapter" else self.pair.contents()

    def envelope(self, files: Files | None = None, private: bytes | None = None, **changes: Any) -> bytes:
        files = self.files if files is None else files
        if private is not None:
            changes = {"key_id": key_id_of(public_key_of(private))} | changes
        if self.kind == "base":
            if private is None:
                return self.pair.envelope(files, **changes)
            changes = {"base_sha256": self.pair.sha256, "grown_from": _GROWN(), "kind": "base"} | changes
        fields: dict[str, Any] = {
            "kind": "adapter",
            "key_id": self.pair.key.key_id,
            "counter": 1000,
            "base_sha256": base_sha256(tiny_base_folder()),
            "files": {n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()},
        }
        return sign(Document(**(fields | changes)), private or self.pair.own.load("shop"))

    def zip(self, envelope: bytes, files: list[tuple[str, bytes]] | Files | None = None) -> bytes:
        """A bundle of whatever names, its headers and directory as they should be."""
        listed = sorted(self.files.items()) if files is None else files
        pairs = sorted(listed.items()) if isinstance(listed, dict) else listed
        if self.kind == "base":
            return zipped(envelope, pairs)
        return _small(envelope, pairs)

    def good(self, **changes: Any) -> bytes:
        return self.zip(self.envelope(**changes))

    def refused(self, data: bytes, match: str) -> None:
        """Refused, and nothing is there that was not there before."""
        path = self.pair.write(data)
        before = listing(self.pair.folder)
        with pytest.raises(BrainError, match=match) as told:
            import_bundle(self.pair.here, path)
        assert listing(self.pair.folder) == before, "a refusal leaves nothing anywhere"
        assert told.value.remedy

    def envelope_by_hand(self, change: Callable[[dict[str, Any]], None]) -> bytes:
        """An envelope as whoever has the key could sign it with a program of their own, that asks nothing."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        raw = json.loads(self.envelope())
        change(raw["document"])
        key = Ed25519PrivateKey.from_private_bytes(self.pair.own.load("shop"))
        raw["signatures"][0]["value"] = key.sign(PREFIX + signable_bytes(raw["document"])).hex()
        return signable_bytes(raw)


def _GROWN() -> Any:
    from continuonbrain.storage.signing import GrownFrom
    from tests.loops.base_bundles import ADAPTER

    return GrownFrom(base_sha256(tiny_base_folder()), ADAPTER)


def _small(envelope: bytes, pairs: list[tuple[str, bytes]]) -> bytes:
    """A small bundle with entries of any name in any order."""
    import zlib

    from continuonbrain.storage import bundle

    entries, pieces = [], []
    for name, data in [("bundle.json", envelope), *pairs]:
        entry = (name, zlib.crc32(data), len(data))
        entries.append(entry)
        pieces += [bundle._local_header(entry), data]
    return b"".join([*pieces, bundle._directory(entries)])
