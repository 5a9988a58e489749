"""The bases of one brain root: the one that config.json names, and those that were imported, one of which drives.

    model/base_slot.json            which one drives, what drove before, a probation, the newest changes
    model/bases/<slot>/slot.json    which base this is and where it came from; written once, with the base
    model/bases/<slot>/base/        its files, which never change
    model/bases/<slot>/adapters/    what was learned on it: a store of its own
    model/bases/<slot>/verdict.json, calibration.json   of the last judgment

A change of the base is one atomic, durable replacement of `base_slot.json`: killed at any point there is the old base
with its adapter or the new one with its own. A slot is whole or absent. A slot that is named and not there, or a file
that cannot be read, is an error and never the other base.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.errors import BrainError
from continuonbrain.storage.base_files import BEHAVIOUR_FILES
from continuonbrain.storage.base_slot_rule import SLOT, BaseEvent, BaseState, Refused, decide, told
from continuonbrain.storage.durable import remove_staging_leftovers, write_bytes_durably, write_json_durably
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.plain_json import load_strict

SLOT_FILE, VERDICT_FILE, CALIBRATION_FILE = "slot.json", "verdict.json", "calibration.json"
_LOCK_WAIT_S = 10.0
_LARGEST = 1 << 20


class BaseSlotError(BrainError):
    """A base slot is missing, damaged, or cannot be changed so."""


@dataclass(frozen=True)
class BaseSlot:
    """An imported base. about: its `slot.json`."""

    slot: str
    path: Path
    about: Mapping[str, Any]

    @property
    def base(self) -> Path:
        """The base's own folder."""
        return self.path / "base"

    @property
    def base_sha256(self) -> str:
        """The base's identity, as it was imported."""
        return str(self.about["base_sha256"])

    def verdict(self) -> dict[str, Any] | None:
        """`verdict.json`, None when there is none. Raises BaseSlotError when it is damaged."""
        path = self.path / VERDICT_FILE
        try:
            value = load_strict(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BaseSlotError(
                f"{path} cannot be read: {error}", remedy=f"continuonbrain base verdict {self.slot}"
            ) from error
        if not isinstance(value, dict):
            raise BaseSlotError(
                f"{path} holds no JSON object", remedy=f"continuonbrain base verdict {self.slot}"
            )
        return value

    def judged(self, verdict: Mapping[str, Any], calibration: bytes) -> None:
        """Keep a verdict and the servo that it was given with, durably, the verdict last. Raises OSError."""
        remove_staging_leftovers(self.path)
        write_bytes_durably(self.path / CALIBRATION_FILE, calibration)
        write_bytes_durably(self.path / VERDICT_FILE, (json.dumps(verdict, indent=2) + "\n").encode())


class BaseSlots:
    """The bases of one brain root, for reading and, one writer at a time, for changing."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout

    def state(self) -> BaseState:
        """Which base drives. Raises BaseSlotError for a file that cannot be read."""
        path = self._layout.base_slot_path
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError(f"it is longer than {_LARGEST} bytes")
            return BaseState.from_json(load_strict(path.read_bytes()))
        except FileNotFoundError:
            return BaseState()
        except (OSError, ValueError) as error:
            raise BaseSlotError(
                f"{path} does not say which base drives: {error}",
                remedy=f"remove {path}: the base that config.json names then drives with its own adapter",
            ) from error

    def list(self) -> tuple[BaseSlot, ...]:
        """All imported bases that are whole to the eye, by slot."""
        found = []
        for path in sorted(self._layout.bases_dir.glob("*")):
            if SLOT.fullmatch(path.name):
                try:
                    found.append(self.get(path.name))
                except BaseSlotError:
                    continue  # `get` tells of it to whoever means it
        return tuple(found)

    def get(self, slot: str) -> BaseSlot:
        """An imported base. Its files' bytes are not read. Raises BaseSlotError when it is not there, or not whole."""
        path = self._layout.slot_dir(slot)
        if not SLOT.fullmatch(slot) or not path.is_dir():
            raise BaseSlotError(
                f"there is no base {slot!r} in {self._layout.bases_dir}",
                remedy=f"see: continuonbrain base list --root {self._layout.root}",
            )
        again = "import it again after removing that folder"
        try:
            about = load_strict((path / SLOT_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise BaseSlotError(f"{path / SLOT_FILE} cannot be read: {error}", remedy=again) from error
        sha256 = about.get("base_sha256") if isinstance(about, dict) else None
        if not isinstance(sha256, str) or len(sha256) != 64 or not sha256.startswith(slot):
            raise BaseSlotError(f"{path / SLOT_FILE} is of another base", remedy=again)
        if missing := [name for name in BEHAVIOUR_FILES if not (path / "base" / name).is_file()]:
            raise BaseSlotError(f"base {slot} has no {missing[0]} any more", remedy=again)
        return BaseSlot(slot, path, about)

    def change(
        self, event: BaseEvent, about: Mapping[str, Any], *, change: int | None = None
    ) -> BaseState | None:
        """Let an event change which base drives: one atomic, durable replacement.

        Args:
            event: what happens.
            about: kept with the change, for people: by whom, why.
            change: only if this is still the last change, so that two who watch do one thing.

        Returns:
            The new state; None when the event changes nothing.

        Raises:
            BaseSlotError: the rule is against it, or what would drive is not there; nothing was changed.
            LockHeldError, OSError: the old state stands, or the new one.
        """
        with self.lock("change the base"):
            remove_staging_leftovers(self._layout.base_slot_path.parent)
            state = self.state()
            if change is not None and state.change != change:
                return None
            new = decide(state, event)
            if isinstance(new, Refused):
                raise BaseSlotError(
                    new.reason,
                    remedy=new.remedy or f"see: continuonbrain base list --root {self._layout.root}",
                )
            if new is None:
                return None
            if new.current:
                self.get(new.current)
            new = told(new, {**about, "time_unix_s": round(time.time(), 3)})
            write_json_durably(self._layout.base_slot_path, new.to_json())
            return new

    def lock(self, purpose: str) -> ProcessLock:
        """Held by whoever changes which base drives, or adds one."""
        self._layout.bases_lock_path.parent.mkdir(parents=True, exist_ok=True)
        return ProcessLock(
            self._layout.bases_lock_path,
            purpose=f"{purpose} of {self._layout.root}",
            timeout_s=_LOCK_WAIT_S,
        )
