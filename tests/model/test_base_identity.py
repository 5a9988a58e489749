"""Which base this is, without reading ten gigabytes at every start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from continuonbrain.model import base_identity
from continuonbrain.model.base_identity import (
    IDENTITY_FILE,
    BaseModelError,
    base_sha256,
    checkpoint_sha256,
    tiny_base_folder,
)

TALKING_BASE = Path(__file__).parents[1] / "talking_base" / "base"
RIGHT = checkpoint_sha256(TALKING_BASE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(base_identity, "_QUICKLY_READ", 1000)
    shutil.copytree(TALKING_BASE, tmp_path / "b")
    return tmp_path / "b"


def test_a_large_folder_is_read_once_and_again_when_a_file_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checkpoint_sha256(folder)
    assert first == RIGHT

    def unread(*_: object) -> str:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(base_identity, "sha256_of_files", unread)
        assert checkpoint_sha256(folder) == first
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert checkpoint_sha256(folder) != first
    (folder / "more.safetensors").write_bytes(b"")
    assert checkpoint_sha256(folder) != first


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"sha256": 5}', b'{"sha256": "x", "files": {}}'])
def test_what_is_kept_is_believed_only_when_it_fits(folder: Path, kept: bytes) -> None:
    (folder / IDENTITY_FILE).write_bytes(kept)
    assert checkpoint_sha256(folder) == RIGHT


def test_a_small_folder_leaves_nothing_and_a_driving_base_is_itself(tmp_path: Path) -> None:
    shutil.copytree(TALKING_BASE, tmp_path / "b")
    checkpoint_sha256(tmp_path / "b")
    assert not (tmp_path / "b" / IDENTITY_FILE).exists()
    assert checkpoint_sha256(tiny_base_folder()) == base_sha256(tiny_base_folder())


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"config\.json cannot be read"):
        checkpoint_sha256(tmp_path)
