"""Which base this is: the sha256 over the bytes that decide how it behaves. Free of torch.

An adapter names the base that it was trained on and is refused on any other.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from continuonbrain.errors import BrainError
from continuonbrain.storage.adapter_version import REQUIRED_FILES
from continuonbrain.storage.base_files import BEHAVIOUR_FILES, OPTIONAL_FILES
from continuonbrain.storage.content_hash import sha256_of_files
from continuonbrain.storage.durable import replace_file

IDENTITY_FILE = ".continuonbrain-identity.json"
_QUICKLY_READ = 64 << 20
"""Bytes that are hashed every time."""


class BaseModelError(BrainError):
    """A base model folder is missing, incomplete or damaged."""


def tiny_base_folder() -> Path:
    """The tiny base that ships inside the package."""
    return Path(str(resources.files("continuonbrain"))) / "model" / "tiny_base"


def is_driving_base(folder: Path) -> bool:
    """Whether the base was built to drive; any other Hugging Face folder at most talks."""
    return (folder / "connector.json").exists()


def check_base_files(folder: Path) -> None:
    """`BaseModelError` names a weights file of the base that is cut short or none. Its numbers are not read."""
    for name in (n for n in BEHAVIOUR_FILES if n.endswith(".safetensors")):
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise BaseModelError(
                f"base model file {folder / name} is damaged: {error}",
                remedy=f"copy the base again, whole; for the tiny one remove {folder}, then: continuonbrain init",
            ) from error


def checkpoint_sha256(folder: Path) -> str:
    """Identity of a Hugging Face folder, with what a driving base has besides where it is one.

    Ten gigabytes take minutes to read, so a folder's identity is kept beside it (`IDENTITY_FILE`), with the sizes and
    times of the files that it was computed from. `BaseModelError` names a missing file.
    """
    if is_driving_base(folder):
        return base_sha256(folder)
    try:
        names = ["config.json", *sorted(p.name for p in folder.glob("*.safetensors"))]
        names += [n for n in ("model.safetensors.index.json", "tokenizer.json") if (folder / n).exists()]
        stats = {n: (folder / n).stat() for n in sorted(names)}
        seen = {n: [s.st_size, s.st_mtime_ns] for n, s in stats.items()}
        kept = _kept_identity(folder)
        if kept.get("files") == seen and isinstance(kept.get("sha256"), str):
            return str(kept["sha256"])
        sha256 = sha256_of_files(folder, names)
        if sum(size for size, _ in seen.values()) > _QUICKLY_READ:
            with contextlib.suppress(OSError):  # a folder that cannot be written is read again next time
                told = {"sha256": sha256, "files": seen}
                replace_file(folder / IDENTITY_FILE, (json.dumps(told, indent=1) + "\n").encode())
        return sha256
    except OSError as error:
        raise BaseModelError(
            f"base model file {error.filename} cannot be read: {error.strerror}",
            remedy="give the folder of a Hugging Face checkpoint",
        ) from error


def _kept_identity(folder: Path) -> dict[str, object]:
    try:
        value = json.loads((folder / IDENTITY_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def base_sha256(folder: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Identity of the base in `folder`. `BaseModelError` names a missing file. on_bytes: called with how many more were
    read."""
    try:
        present = [name for name in OPTIONAL_FILES if (folder / name).exists()]
        return sha256_of_files(folder, [*BEHAVIOUR_FILES, *present], on_bytes=on_bytes)
    except OSError as error:
        if all((folder / name).exists() for name in REQUIRED_FILES):
            raise BaseModelError(
                f"{folder} holds an adapter, not a base model",
                remedy="to see an adapter: continuonbrain adapters show VERSION --root ROOT",
            ) from error
        if not is_driving_base(folder) and any(folder.glob("*.safetensors")):
            raise BaseModelError(
                f"the base in {folder} was not built to drive (it has no connector.json)",
                remedy="it may answer in words: continuonbrain chat; to drive, set base_model_path in config.json to a "
                "driving base",
            ) from error
        raise BaseModelError(
            f"base model file {error.filename} cannot be read: {error.strerror}",
            remedy="set base_model_path in config.json to a driving base, "
            "or run `continuonbrain init` for the tiny one",
        ) from error
