"""One sha256 for a set of named files, the same whether they are in memory or on disk.

Each file goes in as its name and its content, both preceded by their length, in the order of their names.
The lengths keep ("ab", "c") and ("a", "bc") apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_PIECE_BYTES = 1 << 20


def sha256_of_contents(files: Mapping[str, bytes]) -> str:
    """Hash files that are in memory. Returns 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(_header(name, len(files[name])))
        digest.update(files[name])
    return digest.hexdigest()


def sha256_of_files(
    directory: Path, names: Iterable[str], *, on_bytes: Callable[[int], None] = lambda _: None
) -> str:
    """Hash the named files of a folder, in pieces of 1 MiB. Returns 64 hex digits.

    Args:
        on_bytes: called with how many more were read.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        with open(directory / name, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest.update(_header(name, size))
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                on_bytes(len(piece))
    return digest.hexdigest()


def sha256_of_json(value: object) -> str:
    """Hash plain data by its JSON with sorted keys: the same for the same settings, however they were written."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _header(name: str, size: int) -> bytes:
    encoded = name.encode("utf-8")
    return len(encoded).to_bytes(8, "big") + encoded + size.to_bytes(8, "big")


def sha256_of_adapter(path: Path) -> str:
    """Name of an adapter that no store has named: of its PEFT folder, or of a file that it was converted to."""
    if path.is_file():
        return sha256_of_files(path.parent, (path.name,))
    return sha256_of_files(path, ("adapter_config.json", "adapter_model.safetensors"))
