"""One adapter on disk: its files, the sha256 that names it, its papers (card and verdict)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.errors import BrainError
from continuonbrain.storage.content_hash import sha256_of_contents, sha256_of_files
from continuonbrain.storage.plain_json import load_strict

REFLEX_FILE = "reflex.safetensors"
CALIBRATION_FILE = "calibration.json"
BEHAVIOURAL_FILES: tuple[str, ...] = (
    "adapter_config.json",
    "adapter_model.safetensors",
    CALIBRATION_FILE,
    REFLEX_FILE,
)
"""What decides how the robot behaves, and therefore what the sha256 of an adapter covers."""

REQUIRED_FILES: tuple[str, ...] = ("adapter_config.json", "adapter_model.safetensors")

VERDICT_FILE = "verdict.json"
STALE_VERDICT_FILE = "verdict.stale.json"
"""A verdict against something else than what drives now. Nobody but people reads it."""
CARD_FILE = "card.json"
LAST_PROMOTION_FILE = ".last_promotion.json"

_PAPER_REMEDY = "remove it, or train again"

VERSION_ID = re.compile(r"(\d{6})-([0-9a-f]{8})")


class AdapterError(BrainError):
    """An adapter is incomplete, damaged or not there."""


@dataclass(frozen=True)
class AdapterVersion:
    """One version on disk.

    Attributes:
        version_id: "<counter>-<first 8 digits of its sha256>", for example "000001-ab12cd34".
        path: its folder.
    """

    version_id: str
    path: Path

    @property
    def counter(self) -> int:
        return int(self.version_id[:6])

    @property
    def sha8(self) -> str:
        return self.version_id[7:]

    def compute_sha256(self) -> str:
        """Hash the behavioural files from the bytes on disk now. Raises AdapterError."""
        return adapter_sha256_on_disk(self.path)

    def learned_sha256(self) -> str:
        """`compute_sha256` without the servo's calibration, which every round fits anew. Raises AdapterError."""
        return adapter_sha256_on_disk(self.path, without=CALIBRATION_FILE)

    def whole_sha256(self, *, root: Path | None = None) -> str:
        """`compute_sha256`, and that it is what the version is named after. Raises AdapterError.

        root: for the remedy.
        """
        sha256 = self.compute_sha256()
        if not sha256.startswith(self.sha8):
            raise AdapterError(
                f"adapter {self.version_id} is damaged: its bytes hash to {sha256[:8]}",
                remedy="go back to the one before: continuonbrain adapters rollback"
                + ("" if root is None else f" --root {root}"),
            )
        return sha256

    def card(self) -> dict[str, Any] | None:
        """card.json, or None when there is none. Raises AdapterError."""
        return _read_json_object(self.path / CARD_FILE)

    def verdict(self) -> dict[str, Any] | None:
        """verdict.json, or None when there is none. Raises AdapterError."""
        return _read_json_object(self.path / VERDICT_FILE)


def adapter_sha256(files: Mapping[str, bytes]) -> str:
    """The sha256 of an adapter in memory; files that are not behavioural do not count."""
    return sha256_of_contents({name: data for name, data in files.items() if name in BEHAVIOURAL_FILES})


def adapter_sha256_on_disk(directory: Path, *, without: str = "") -> str:
    """The sha256 of the adapter in `directory`, from its bytes; `without` one of its files. Raises AdapterError."""
    for name in REQUIRED_FILES:
        if not (directory / name).is_file():
            raise AdapterError(
                f"adapter {directory} has no {name}", remedy="it is damaged: roll back or train a new one"
            )
    present = [name for name in BEHAVIOURAL_FILES if name != without and (directory / name).is_file()]
    try:
        return sha256_of_files(directory, present)
    except OSError as error:
        raise AdapterError(f"adapter {directory} cannot be read: {error}") from error


def _read_json_object(path: Path) -> dict[str, Any] | None:
    try:
        value = load_strict(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error}", remedy=_PAPER_REMEDY) from error
    except ValueError as error:
        raise AdapterError(f"{path} is damaged: {error}", remedy=_PAPER_REMEDY) from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path} is damaged: it must hold a JSON object", remedy=_PAPER_REMEDY)
    return value
