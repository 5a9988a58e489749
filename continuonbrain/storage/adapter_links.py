"""The three names in the adapter store, and the versions that they point at."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from continuonbrain.storage import durable
from continuonbrain.storage.adapter_version import VERSION_ID, AdapterError, AdapterVersion
from continuonbrain.storage.layout import BrainLayout


class AdapterLinks:
    """Reads and moves the links of one brain root. Reading needs no lock, moving needs the store's."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout

    def versions(self) -> tuple[AdapterVersion, ...]:
        """All versions, oldest first; a file that is named like one is none. Raises AdapterError when the folder cannot
        be read."""
        try:
            names = os.listdir(self._layout.versions_dir)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise AdapterError(f"{self._layout.versions_dir} cannot be read: {error.strerror}") from error
        ids = sorted(name for name in names if VERSION_ID.fullmatch(name))
        versions = (AdapterVersion(version_id, self._layout.versions_dir / version_id) for version_id in ids)
        return tuple(version for version in versions if version.path.is_dir())

    def get(self, version_id: str) -> AdapterVersion:
        """The version with this id. Raises AdapterError when there is none."""
        path = self._layout.versions_dir / version_id
        if not VERSION_ID.fullmatch(version_id) or not path.is_dir():
            known = ", ".join(version.version_id for version in self.versions()[-5:]) or "none yet"
            raise AdapterError(
                f"there is no adapter {version_id!r} in {self._layout.versions_dir}",
                remedy=f"see: continuonbrain adapters list --root {self._layout.root} (newest: {known})",
            )
        return AdapterVersion(version_id, path)

    def target_id(self, slot: Path) -> str | None:
        """The id that a link names, whether that version is there or not. Raises AdapterError for a foreign link."""
        try:
            target = os.readlink(slot)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AdapterError(
                f"{slot} is not a symlink made by this store: {error.strerror}",
                remedy=f"move {slot} away; adapters live in {self._layout.versions_dir}",
            ) from error
        name = Path(target).name
        if not VERSION_ID.fullmatch(name):
            raise AdapterError(
                f"{slot} points at {target}, which is not a version of this store",
                remedy=f"remove the link {slot}, then: continuonbrain adapters list --root {self._layout.root}",
            )
        return name

    def own_id(self, slot: Path) -> str | None:
        """As `target_id`, but what is not a link of this store counts as no link."""
        try:
            return self.target_id(slot)
        except AdapterError:
            return None

    def version(self, slot: Path) -> AdapterVersion | None:
        """The version that a link names. Raises AdapterError when it is gone or the link is foreign."""
        version_id = self.target_id(slot)
        if version_id is None:
            return None
        if not (self._layout.versions_dir / version_id).is_dir():
            raise AdapterError(
                f"{slot} points at {version_id}, which is gone",
                remedy="restore that folder, or "
                + (
                    f"roll back: continuonbrain adapters rollback --root {self._layout.root}"
                    if slot == self._layout.current
                    else f"remove the link {slot}"
                ),
            )
        return self.get(version_id)

    def point(self, slot: Path, version_id: str | None) -> None:
        """Have a link name a version, None removes it; what is no link of this store is set aside. Raises OSError."""
        try:
            if self.target_id(slot) == version_id:
                return
        except AdapterError:
            os.rename(slot, slot.with_name(f"{slot.name}.aside-{secrets.token_hex(4)}"))
        if version_id is None:
            durable.remove_durably(slot)
        else:
            # Relative, so that a brain root can be moved or mounted elsewhere.
            durable.replace_symlink_atomically(slot, f"{self._layout.versions_dir.name}/{version_id}")

    def is_whole(self, version_id: str | None, sha256: str | None) -> bool:
        """Whether this version is there with these bytes; the base alone (None) always is."""
        if version_id is None:
            return True
        try:
            return self.get(version_id).compute_sha256() == sha256
        except AdapterError:
            return False
