"""Backups: laid out as a root, whole or not there, checked byte by byte, restored only where nothing is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from continuonbrain.storage import backup, durable
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.backup import (
    BackupError,
    back_up,
    backups,
    check_backup,
    restore,
    restore_of_base,
    slots_in,
)
from continuonbrain.storage.layout import BrainLayout, init_brain_root

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture
def root(tmp_path: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    store = AdapterStore(layout)
    for number in range(2):
        store.stage(FILES | {"calibration.json": str(number).encode()})
    (layout.keys_dir / "private").mkdir(parents=True)
    (layout.keys_dir / "private" / "secret").write_text("secret")
    (layout.episodes_dir / "an-episode").mkdir()
    (layout.episodes_dir / "an-episode" / "metadata.json").write_text("{}")
    os.symlink("versions/" + store.list()[0].version_id, layout.current)
    layout.history_path.write_text("{}\n")
    return layout


def versions(layout: BrainLayout) -> dict[str, set[str]]:
    return {"": {v.version_id for v in AdapterStore(layout).list()[:1]}}


def test_a_backup_is_laid_out_as_the_root_without_keys_and_episodes(
    root: BrainLayout, tmp_path: Path
) -> None:
    made = back_up(root, tmp_path / "out", versions=versions(root), keep=3)
    copy = BrainLayout(made.path)
    assert copy.config_path.read_bytes() == root.config_path.read_bytes()
    assert [v.version_id for v in AdapterStore(copy).list()] == sorted(versions(root)[""])
    assert os.readlink(copy.current) == os.readlink(root.current)
    assert copy.current.resolve().is_dir()
    told = "\n".join(str(p) for p in made.path.rglob("*"))
    assert "secret" not in told
    assert "an-episode" not in told
    assert check_backup(made.path) == []


def test_the_oldest_go_and_numbers_are_not_used_again(root: BrainLayout, tmp_path: Path) -> None:
    for _ in range(5):
        back_up(root, tmp_path / "out", versions=versions(root), keep=2)
    assert [p.name for p in backups(tmp_path / "out")] == ["000004", "000005"]


@pytest.mark.parametrize("file", ["config.json", "contents.json", "model/manifest.json"])
def test_any_changed_byte_is_found(root: BrainLayout, tmp_path: Path, file: str) -> None:
    made = back_up(root, tmp_path / "out", versions=versions(root), keep=2)
    path = made.path / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(data)
    assert check_backup(made.path)
    with pytest.raises(BackupError, match="not whole"):
        restore(made.path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_name_that_leads_out_is_refused(root: BrainLayout, tmp_path: Path) -> None:
    made = back_up(root, tmp_path / "out", versions=versions(root), keep=2)
    contents = json.loads((made.path / "contents.json").read_text())
    for name in ("../config.json", "/etc/passwd", "model/../../x"):
        (made.path / "contents.json").write_text(
            json.dumps(contents | {"files": contents["files"] | {name: "0"}})
        )
        assert any("leads out" in p for p in check_backup(made.path))


def test_a_link_to_anywhere_else_is_refused(root: BrainLayout, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    made = back_up(root, tmp_path / "out", versions=versions(root), keep=2)
    os.symlink(outside, made.path / "elsewhere")
    (outside / "file").write_text("x")
    contents = json.loads((made.path / "contents.json").read_text())
    contents["files"] |= {"elsewhere": f"-> {outside}", "elsewhere/file": backup._sha256(outside / "file")}
    (made.path / "contents.json").write_text(json.dumps(contents))
    assert any("which no backup holds" in p for p in check_backup(made.path))
    with pytest.raises(BackupError):
        restore(made.path, tmp_path / "new")


def test_what_was_backed_up_comes_back_and_overwrites_nothing(root: BrainLayout, tmp_path: Path) -> None:
    made = back_up(root, tmp_path / "out", versions=versions(root), keep=2)
    assert restore(made.path, tmp_path / "new") == made.files
    new = BrainLayout(tmp_path / "new")
    assert new.history_path.read_bytes() == root.history_path.read_bytes()
    assert os.readlink(new.current) == os.readlink(root.current)
    before = {p: p.read_bytes() for p in new.root.rglob("*") if p.is_file()}
    with pytest.raises(BackupError, match="already"):
        restore(made.path, new.root)
    assert {p: p.read_bytes() for p in new.root.rglob("*") if p.is_file()} == before


def test_a_disk_that_lies_leaves_the_backups_of_before(
    root: BrainLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(root, tmp_path / "out", versions=versions(root), keep=1)

    def torn(source: Path, target: Path) -> str:
        target.write_bytes(source.read_bytes()[:-1])
        return backup._sha256(source)

    monkeypatch.setattr(backup, "_copied", torn)
    with pytest.raises(BackupError, match="reads back as something else"):
        back_up(root, tmp_path / "out", versions=versions(root), keep=1)
    assert [p.name for p in backups(tmp_path / "out")] == ["000001"]
    assert not list(durable.staging_leftovers(tmp_path / "out"))


def test_a_full_disk_is_told(root: BrainLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> str:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(backup, "_copied", full)
    with pytest.raises(BackupError, match="No space left") as caught:
        back_up(root, tmp_path / "out", versions=versions(root), keep=1)
    assert "slow.backup_dir" in caught.value.remedy
    assert backups(tmp_path / "out") == []


def test_robots_that_share_a_disk_have_folders_of_their_own(root: BrainLayout, tmp_path: Path) -> None:
    other = BrainLayout(tmp_path / "other" / "brain")
    mine, theirs = (backup.backup_folder(layout, str(tmp_path / "disk")) for layout in (root, other))
    assert mine != theirs
    assert mine.parent == theirs.parent == tmp_path / "disk"
    assert backup.backup_folder(root, "backups") == root.root / "backups"


@pytest.mark.parametrize(
    "named", [".", "rlds/episodes", "model/adapters", "model/adapters/x", "trainer", "run/x"]
)
def test_a_folder_that_is_somebody_elses_is_refused(root: BrainLayout, named: str) -> None:
    with pytest.raises(BackupError, match=r"slow\.backup_dir"):
        backup.backup_folder(root, named)


def test_what_is_no_backup_of_ours_is_never_deleted(root: BrainLayout, tmp_path: Path) -> None:
    photos = tmp_path / "out" / "2019"
    photos.mkdir(parents=True)
    (photos / "contents.json").write_text('{"files": {}}')
    for _ in range(3):
        back_up(root, tmp_path / "out", versions=versions(root), keep=1)
    assert photos.is_dir()


SLOT = "0123456789abcdef"


def with_an_imported_base(root: BrainLayout) -> tuple[BrainLayout, str]:
    """What was learned on it, and by which adapter."""
    there = root.on_slot(SLOT)
    (there.base_model_dir).mkdir(parents=True)
    (there.base_model_dir / "model.safetensors").write_bytes(b"gigabytes")
    version = AdapterStore(there).stage(FILES | {"calibration.json": b"of the other base"})
    os.symlink(f"versions/{version.version_id}", there.current)
    there.history_path.write_text('{"of": "the other base"}\n')
    root.base_slot_path.write_text("{}")
    return there, version.version_id


def test_what_was_learned_on_an_imported_base_comes_back_beside_that_base(
    root: BrainLayout, tmp_path: Path
) -> None:
    there, version_id = with_an_imported_base(root)
    made = back_up(root, tmp_path / "out", versions=versions(root) | {SLOT: {version_id}}, keep=2)
    assert not list(made.path.rglob("base_slot.json"))
    assert b"gigabytes" not in b"".join(p.read_bytes() for p in made.path.rglob("*") if p.is_file())
    new = BrainLayout(tmp_path / "new")
    restore(made.path, new.root)
    assert (
        new.history_path.read_bytes() == root.history_path.read_bytes()
    )  # of the base that config.json names
    assert os.readlink(new.current) == os.readlink(root.current)
    assert not new.bases_dir.exists()
    assert slots_in(made.path) == [SLOT]
    with pytest.raises(BackupError, match="is not in"):
        restore_of_base(made.path, new, SLOT)
    with pytest.raises(BackupError, match="holds nothing of base"):
        restore_of_base(made.path, new, "f" * 16)
    (new.on_slot(SLOT).base_model_dir).mkdir(parents=True)  # it was imported again
    (new.slot_dir(SLOT) / "adapters").mkdir()
    restore_of_base(made.path, new, SLOT)
    back = AdapterStore(new.on_slot(SLOT))
    assert back.current_id() == version_id
    assert new.on_slot(SLOT).history_path.read_bytes() == there.history_path.read_bytes()
    with pytest.raises(BackupError, match="already"):
        restore_of_base(made.path, new, SLOT)
