"""Which base this is: the sha256 over the bytes that decide how it behaves. Free of torch.

An adapter names the base that it was trained on and is refused on any other.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from continuonbrain.errors import BrainError
from continuonbrain.storage.adapter_version import REFLEX_FILE, REQUIRED_FILES
from continuonbrain.storage.content_hash import sha256_of_files

BEHAVIOUR_FILES = (
    "config.json",
    "connector.json",
    "connector.safetensors",
    "model.safetensors",
    "tokenizer.json",
)

OPTIONAL_FILES = (REFLEX_FILE,)
"""Count where they are: they decide too."""


class BaseModelError(BrainError):
    """A base model folder is missing, incomplete or damaged."""


def tiny_base_folder() -> Path:
    """The tiny base that ships inside the package."""
    return Path(str(resources.files("continuonbrain"))) / "model" / "tiny_base"


def check_base_files(folder: Path) -> None:
    """`BaseModelError` names a weights file of the base that is cut short or none. Its numbers are not read."""
    for name in (n for n in BEHAVIOUR_FILES if n.endswith(".safetensors")):
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise BaseModelError(
                f"base model file {folder / name} is damaged: {error}",
                remedy="copy the base again, whole; `continuonbrain init` brings the tiny one",
            ) from error


def checkpoint_sha256(folder: Path) -> str:
    """Identity of a Hugging Face folder, with what a driving base has besides where it is one. Reads every weight once:
    some seconds a gigabyte. `BaseModelError` names a missing file.
    """
    if (folder / "connector.json").exists():
        return base_sha256(folder)
    try:
        shards = sorted(p.name for p in folder.glob("*.safetensors"))
        index = [n for n in ("model.safetensors.index.json", "tokenizer.json") if (folder / n).exists()]
        return sha256_of_files(folder, ["config.json", *index, *shards])
    except OSError as error:
        raise BaseModelError(
            f"base model file {error.filename} cannot be read: {error.strerror}",
            remedy="give the folder of a Hugging Face checkpoint",
        ) from error


def base_sha256(folder: Path) -> str:
    """Identity of the base in `folder`. `BaseModelError` names a missing file."""
    try:
        present = [name for name in OPTIONAL_FILES if (folder / name).exists()]
        return sha256_of_files(folder, [*BEHAVIOUR_FILES, *present])
    except OSError as error:
        if all((folder / name).exists() for name in REQUIRED_FILES):
            raise BaseModelError(
                f"{folder} holds an adapter, not a base model",
                remedy="to see an adapter: continuonbrain adapters show VERSION --root ROOT",
            ) from error
        raise BaseModelError(
            f"base model file {error.filename} cannot be read: {error.strerror}",
            remedy="set base_model_path in config.json to a driving base, "
            "or run `continuonbrain init` for the tiny one",
        ) from error
