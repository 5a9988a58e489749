"""Bases that could be merged ones, brains that exchange them, and bundles made by hand."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.base_pack import pack_base
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.storage.base_files import LARGEST
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.signing import Document, GrownFrom, SignedFile, sign
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys
from continuonbrain.storage.zip64 import Member, directory, local_header

ADAPTER = "a" * 64


def grown(folder: Path, *, by: float = 1.001, of: str = "") -> Path:
    """The tiny base with slightly larger numbers in one weight: another base of the same shapes, without graphs. of:
    what its card says that it grew from, "" for the tiny base."""
    folder.mkdir()
    for name in (
        "config.json",
        "connector.json",
        "connector.safetensors",
        "tokenizer.json",
        "reflex.safetensors",
    ):
        shutil.copyfile(tiny_base_folder() / name, folder / name)
    weights = load_file(tiny_base_folder() / "model.safetensors")
    name = sorted(n for n in weights if n.endswith("q_proj.weight"))[-1]
    weights[name] = weights[name] * weights[name].dtype.type(by)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    card = json.loads((tiny_base_folder() / "card.json").read_bytes())
    card["grown_from"] = {"base_sha256": of or base_sha256(tiny_base_folder()), "adapter_sha256": ADAPTER}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder, with links, folders and the sha256 of files; without lock files."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        elif not path.name.endswith(".lock"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class BasePair:
    """A bigger machine that packs a base, and a robot with the tiny base that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there = open_brain(init_brain_root(folder / "there", "sim-donkey").root)
        self.here = with_tiny_base(folder / "home" / "here")
        self.own = PrivateKeys(self.there.layout)
        self.key = self.own.new("shop")
        TrustedKeys(self.here.layout).trust(
            parse_public_key(self.own.public_path("shop").read_bytes(), what="")
        )
        self.base = grown(folder / "grown")
        self._number = 0

    @property
    def sha256(self) -> str:
        return base_sha256(self.base)

    def packed(self, **options: Any) -> Path:
        self._number += 1
        out = self.folder / f"{self._number}.base"
        pack_base(self.there, self.base, out, key_name="shop", **options)
        return out

    def contents(self) -> dict[str, bytes]:
        """The base's files in memory."""
        return {n: (self.base / n).read_bytes() for n in sorted(LARGEST) if (self.base / n).is_file()}

    def envelope(self, files: dict[str, bytes], **changes: Any) -> bytes:
        """An envelope as the owner of the key could sign it by hand."""
        fields: dict[str, Any] = {
            "kind": "base",
            "key_id": self.key.key_id,
            "counter": 1000,
            "base_sha256": self.sha256,
            "files": {n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()},
            "grown_from": GrownFrom(base_sha256(tiny_base_folder()), ADAPTER),
        }
        return sign(Document(**(fields | changes)), self.own.load("shop"))

    def write(self, data: bytes) -> Path:
        path = self.folder / "by-hand.base"
        path.write_bytes(data)
        return path


def zipped(envelope: bytes, files: list[tuple[str, bytes]]) -> bytes:
    """A bundle in the one spelling, of whatever files."""
    members, pieces = [], []
    for name, data in [("bundle.json", envelope), *files]:
        member = _member(name, data)
        members.append(member)
        pieces += [local_header(name, member.bytes, member.crc32), data]
    return b"".join([*pieces, directory(members)])


def _member(name: str, data: bytes) -> Member:
    import zlib

    return Member(name, len(data), zlib.crc32(data), hashlib.sha256(data).hexdigest())


def with_tiny_base(root: Path) -> BrainRoot:
    """A simulated robot with the shipped base, which is not copied."""
    root.parent.mkdir(parents=True, exist_ok=True)
    layout = init_brain_root(root, "sim-donkey")
    layout.base_model_dir.rmdir()
    layout.base_model_dir.symlink_to(tiny_base_folder())
    return open_brain(layout.root)


__all__ = ["ADAPTER", "BasePair", "grown", "listing", "with_tiny_base", "zipped"]
