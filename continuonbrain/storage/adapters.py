"""The store of LoRA adapters: versions that never change, and three names that point at them.

Rules:
- A version is whole or absent. Its behavioural files (`BEHAVIOURAL_FILES`) never change after staging;
  papers about it (card.json, verdict.json) may be attached.
- An adapter gets to drive (`current`) only by a verdict that passed, that was given to exactly these bytes,
  on exactly this base. The sha256 is taken again from disk at that moment.
- `current` absent means the base model alone. It changes by one atomic rename; after a crash at any point
  it is the old version whole or the new one whole.
- Every change is in the hash-chained history before it happens, and is finished from there after a crash.
- One writer at a time (a lock); readers need none.

`promotion_rule.py` is the rule itself, without I/O; `AdapterStore` is the I/O around it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from continuonbrain.storage import durable
from continuonbrain.storage.adapter_version import (
    BEHAVIOURAL_FILES,
    CARD_FILE,
    LAST_PROMOTION_FILE,
    REQUIRED_FILES,
    VERDICT_FILE,
    VERSION_ID,
    AdapterError,
    AdapterVersion,
    adapter_sha256,
    adapter_sha256_on_disk,
)
from continuonbrain.storage.history import HistoryCheck, HistoryEntry, next_entry, parse_history
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.promotion_rule import PromotionRefused, promotion_refusal

__all__ = [
    "BEHAVIOURAL_FILES",
    "CARD_FILE",
    "LAST_PROMOTION_FILE",
    "REQUIRED_FILES",
    "VERDICT_FILE",
    "AdapterError",
    "AdapterStore",
    "AdapterVersion",
    "PromotionRefused",
    "adapter_sha256",
    "adapter_sha256_on_disk",
    "promotion_refusal",
]

_LOCK_WAIT_S = 10.0


class AdapterStore:
    """The adapters of one brain root."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout

    # Reading needs no lock: a version never changes and a name changes in one step.

    @property
    def layout(self) -> BrainLayout:
        """The root whose adapters these are."""
        return self._layout

    def list(self) -> tuple[AdapterVersion, ...]:
        """All versions, oldest first. Raises AdapterError when the folder cannot be read."""
        try:
            names = os.listdir(self._layout.versions_dir)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise AdapterError(f"{self._layout.versions_dir} cannot be read: {error.strerror}") from error
        ids = sorted(name for name in names if VERSION_ID.fullmatch(name))
        return tuple(AdapterVersion(version_id, self._layout.versions_dir / version_id) for version_id in ids)

    def get(self, version_id: str) -> AdapterVersion:
        """The version with this id. Raises AdapterError when there is none."""
        path = self._layout.versions_dir / version_id
        if not VERSION_ID.fullmatch(version_id) or not path.is_dir():
            known = ", ".join(version.version_id for version in self.list()[-5:]) or "none yet"
            raise AdapterError(
                f"there is no adapter {version_id!r} in {self._layout.versions_dir}",
                remedy=f"see: continuonbrain adapters list --root {self._layout.root} (newest: {known})",
            )
        return AdapterVersion(version_id, path)

    def current(self) -> AdapterVersion | None:
        """The adapter that drives; None is the base model alone. Raises AdapterError when damaged."""
        return self._slot(self._layout.current)

    def candidate(self) -> AdapterVersion | None:
        """The adapter that waits for a verdict or a promotion. Raises AdapterError when damaged."""
        return self._slot(self._layout.candidate)

    def previous(self) -> AdapterVersion | None:
        """What `rollback` returns to; None is the base model alone. Raises AdapterError when damaged."""
        return self._slot(self._layout.previous)

    def find(self, name: str) -> AdapterVersion:
        """A version by its id, or by the slot that it stands in. `AdapterError` when there is none."""
        slots = {"current": self.current, "candidate": self.candidate, "previous": self.previous}
        if name not in slots:
            return self.get(name)
        found = slots[name]()
        if found is None:
            raise AdapterError(
                f"there is no {name} adapter"
                + (": the base model drives alone" if name == "current" else ""),
                remedy=f"continuonbrain adapters list --root {self.layout.root}",
            )
        return found

    def history(self) -> tuple[HistoryEntry, ...]:
        """The sound entries of the history, oldest first. Raises AdapterError when it cannot be read."""
        return self._read_history()[0]

    def verify_history(self) -> HistoryCheck:
        """Check the hash chain from its first entry on. Raises AdapterError when it cannot be read."""
        return self._read_history()[1]

    # Writing.

    def stage(self, files: Mapping[str, bytes]) -> AdapterVersion:
        """Write a new version and point `candidate` at it.

        Args:
            files: file name -> content; at least `REQUIRED_FILES`.

        Raises:
            AdapterError: a required file is missing or a name is not a plain file name.
            LockHeldError: another process is changing the store.
            OSError: the file system refused; no part of the version is left behind.
        """
        for name in REQUIRED_FILES:
            if not files.get(name):
                raise AdapterError(f"cannot stage an adapter without {name}")
        for name in files:
            if not name or name.startswith(".") or "/" in name or "\0" in name:
                raise AdapterError(f"cannot stage a file named {name!r}: it must be a plain file name")
        self._layout.versions_dir.mkdir(parents=True, exist_ok=True)
        with self._lock("stage an adapter"):
            self._recover()
            durable.remove_staging_leftovers(self._layout.versions_dir)
            durable.remove_staging_leftovers(self._layout.adapters_dir)
            version_id = f"{self._last_counter() + 1:06d}-{adapter_sha256(files)[:8]}"
            path = self._layout.versions_dir / version_id
            durable.write_directory_durably(path, files)
            self._point(self._layout.candidate, version_id)
        return AdapterVersion(version_id, path)

    def attach(self, version: AdapterVersion, name: str, data: bytes) -> None:
        """Put a paper (card.json, verdict.json, a picture) beside a version, durably.

        Raises:
            AdapterError: `name` is a behavioural file or not a plain file name.
            OSError: the file system refused.
        """
        if name in BEHAVIOURAL_FILES:
            raise AdapterError(
                f"{name} decides how adapter {version.version_id} behaves and cannot be replaced",
                remedy="stage a new version",
            )
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise AdapterError(f"cannot attach a file named {name!r}: it must be a plain file name")
        durable.write_bytes_durably(version.path / name, data)

    def promote(
        self, version_id: str, verdict: Mapping[str, object] | None, *, base_sha256: str
    ) -> AdapterVersion:
        """Let a version drive, if `promotion_refusal` has nothing against it.

        Promoting what drives already changes nothing but is checked all the same.

        Args:
            version_id: which one.
            verdict: what the trainer found; kept as verdict.json beside the adapter.
            base_sha256: of the base model that serves now.

        Raises:
            PromotionRefused: the rules are against it; nothing was changed.
            AdapterError: there is no such version, or it is damaged.
            LockHeldError: another process is changing the store.
            OSError: the file system refused; `current` is the old one or the new one, whole.
        """
        with self._lock("promote an adapter"):
            version = self.get(version_id)
            sha256 = version.compute_sha256()
            reason = promotion_refusal(
                verdict, candidate_sha256=sha256, staged_sha8=version.sha8, base_sha256=base_sha256
            )
            if reason is not None or verdict is None:
                raise PromotionRefused(
                    version_id, reason or "it has no verdict", remedy="train and judge it again on this base"
                )
            self._recover()
            durable.write_json_durably(version.path / VERDICT_FILE, dict(verdict))
            old_id = self._slot_id(self._layout.current)
            if old_id != version_id:
                self._change("promote", to=version_id, previous=old_id, sha256=sha256, verdict=verdict)
            self._write_last_promotion(version, sha256)
            if self._slot_id(self._layout.candidate) == version_id:
                durable.remove_durably(self._layout.candidate)
        return version

    def rollback(self, *, from_version: str | None = None) -> AdapterVersion | None:
        """Swap `current` and `previous`; a second rollback undoes the first.

        Args:
            from_version: roll back only if this one drives now, so that a supervisor that tries twice does
                not bring the bad adapter back.

        Returns:
            What drives now; None is the base model alone.

        Raises:
            AdapterError: there is nothing to go back to, `from_version` does not drive, or the previous
                version is damaged (`current` is left as it is).
            LockHeldError: another process is changing the store.
            OSError: the file system refused; `current` is the old one or the new one, whole.
        """
        with self._lock("roll an adapter back"):
            self._recover()
            current_id = self._slot_id(self._layout.current)
            previous_id = self._slot_id(self._layout.previous)
            if current_id is None and previous_id is None:
                raise AdapterError(
                    "there is nothing to roll back: the base model drives alone and no adapter came before",
                )
            if from_version is not None and from_version != current_id:
                raise AdapterError(
                    f"adapter {from_version} is not rolled back: {current_id or 'the base model'} drives now"
                )
            target = None if previous_id is None else self.get(previous_id)
            sha256 = None if target is None else _whole_sha256(target)
            self._change("rollback", to=previous_id, previous=current_id, sha256=sha256, verdict=None)
        return target

    def last_change(self) -> HistoryEntry | None:
        """The newest entry of the history, also one that a crash interrupted. Raises AdapterError."""
        entries, check = self._read_history()
        if not check.ok:
            raise _damaged_history(self._layout.history_path, check)
        return entries[-1] if entries else None

    def recover(self) -> bool:
        """Finish a change that a crash interrupted. Call it once when a process starts that serves.

        Returns:
            Whether there was something to finish.

        Raises:
            AdapterError: the history is damaged, so that what should drive cannot be known.
            LockHeldError: another process is changing the store.
        """
        with self._lock("recover the adapter store"):
            return self._recover()

    # The steps of a change. All are idempotent, so recovery repeats them from the top.

    def _change(
        self,
        event: str,
        *,
        to: str | None,
        previous: str | None,
        sha256: str | None,
        verdict: Mapping[str, object] | None,
    ) -> None:
        entries, check = self._read_history()
        if not check.ok:
            raise _damaged_history(self._layout.history_path, check)
        entry = next_entry(
            entries[-1] if entries else None,
            event=event,
            to_version=to,
            from_version=previous,
            sha256=sha256,
            verdict=verdict,
            time_unix_s=round(time.time(), 3),
        )
        durable.append_line_durably(self._layout.history_path, entry.to_json_line())
        self._settle(entry)

    def _settle(self, entry: HistoryEntry) -> None:
        self._point(self._layout.previous, entry.from_version)
        self._point(self._layout.current, entry.to_version)

    def _recover(self) -> bool:
        entries, check = self._read_history()
        if not check.ok:
            raise _damaged_history(self._layout.history_path, check)
        if not entries:
            return False
        last = entries[-1]
        current_id = self._slot_id(self._layout.current)
        previous_id = self._slot_id(self._layout.previous)
        if (current_id, previous_id) == (last.to_version, last.from_version):
            return False
        if self._is_whole(last.to_version, last.sha256):
            self._settle(last)
            if last.event == "promote" and last.to_version is not None and last.sha256 is not None:
                self._write_last_promotion(self.get(last.to_version), last.sha256)
            return True
        # What was to drive is gone or damaged: stay with what drives, and say so in the history.
        current = None if current_id is None else self.get(current_id)
        self._change(
            "abandon",
            to=current_id,
            previous=previous_id,
            sha256=None if current is None else current.compute_sha256(),
            verdict=None,
        )
        return True

    def _is_whole(self, version_id: str | None, sha256: str | None) -> bool:
        if version_id is None:
            return True
        try:
            return self.get(version_id).compute_sha256() == sha256
        except AdapterError:
            return False

    def _point(self, slot: Path, version_id: str | None) -> None:
        if self._slot_id(slot) == version_id:
            return
        if version_id is None:
            durable.remove_durably(slot)
        else:
            # Relative, so that a brain root can be moved or mounted elsewhere.
            durable.replace_symlink_atomically(slot, f"{self._layout.versions_dir.name}/{version_id}")

    def _slot_id(self, slot: Path) -> str | None:
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

    def _slot(self, slot: Path) -> AdapterVersion | None:
        version_id = self._slot_id(slot)
        if version_id is None:
            return None
        if not (self._layout.versions_dir / version_id).is_dir():
            raise AdapterError(
                f"{slot} points at {version_id}, which is gone",
                remedy="restore that folder, or roll back: continuonbrain adapters rollback "
                f"--root {self._layout.root}",
            )
        return self.get(version_id)

    def _last_counter(self) -> int:
        # The history counts too: a version that was deleted must not lend its number to another adapter.
        on_disk = [version.counter for version in self.list()]
        in_history = [int(e.to_version[:6]) for e in self._read_history()[0] if e.to_version is not None]
        return max([0, *on_disk, *in_history])

    def _read_history(self) -> tuple[tuple[HistoryEntry, ...], HistoryCheck]:
        try:
            return parse_history(durable.read_whole_lines(self._layout.history_path))
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterError(f"{self._layout.history_path} cannot be read: {error}") from error

    def _write_last_promotion(self, version: AdapterVersion, sha256: str) -> None:
        record = {
            "timestamp_unix_s": int(time.time()),
            "current_path": str(self._layout.current),
            "sha256": sha256,
        }
        durable.write_json_durably(version.path / LAST_PROMOTION_FILE, record)

    def _lock(self, purpose: str) -> ProcessLock:
        return ProcessLock(
            self._layout.adapters_lock_path,
            purpose=f"{purpose} in {self._layout.adapters_dir}",
            timeout_s=_LOCK_WAIT_S,
        )


def _whole_sha256(version: AdapterVersion) -> str:
    sha256 = version.compute_sha256()
    if not sha256.startswith(version.sha8):
        raise AdapterError(
            f"adapter {version.version_id} is damaged: its bytes hash to {sha256[:8]}",
            remedy=f"remove the link to it, or restore {version.path} from a backup",
        )
    return sha256


def _damaged_history(path: Path, check: HistoryCheck) -> AdapterError:
    return AdapterError(
        f"{path} {check.problem}",
        remedy="what drives stays as it is; look at the file, then move it away to start a new history",
    )
