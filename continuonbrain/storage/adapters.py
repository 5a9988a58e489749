"""The store of LoRA adapters: versions that never change, and three names that point at them.

Rules:
- A version is whole or absent. Its behavioural files (`BEHAVIOURAL_FILES`) never change after staging;
  papers about it (card.json, verdict.json) may be attached.
- An adapter gets to drive (`current`) only by a verdict that passed, that was given to exactly these bytes,
  on exactly this base, against exactly what drives now. The sha256 is taken again from disk at that moment.
- It then drives on probation, until it is confirmed or taken back; one at a time.
- `current` absent means the base model alone. It changes by one atomic rename; after a crash at any point
  it is the old version whole or the new one whole.
- Every change is in the hash-chained history before it happens, and is finished from there after a crash.
- One writer at a time (a lock); readers need none.

`promotion_rule.py` and `probation_rule.py` are the rules themselves, without I/O; `AdapterStore` is the I/O around
them, `adapter_links.py` and `adapter_journal.py` are its parts.
"""

from __future__ import annotations

from collections.abc import Mapping

from continuonbrain.storage import durable
from continuonbrain.storage.adapter_reader import AdapterReader
from continuonbrain.storage.adapter_version import (
    BEHAVIOURAL_FILES,
    CARD_FILE,
    LAST_PROMOTION_FILE,
    REQUIRED_FILES,
    STALE_VERDICT_FILE,
    VERDICT_FILE,
    AdapterError,
    AdapterVersion,
    adapter_sha256,
    adapter_sha256_on_disk,
)
from continuonbrain.storage.history import HistoryEntry
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.plain_json import strict
from continuonbrain.storage.probation_rule import (
    LEARNED,
    PROBATION,
    Boot,
    Change,
    Confirm,
    Event,
    Promote,
    Refused,
    Revert,
    Rollback,
    Standing,
    Terms,
    decide,
)
from continuonbrain.storage.promotion_rule import (
    OnProbation,
    PromotionRefused,
    StaleVerdict,
    is_of_older_version,
    promotion_refusal,
    refusal_remedy,
    rival_refusal,
)

__all__ = [
    "BEHAVIOURAL_FILES",
    "CARD_FILE",
    "LAST_PROMOTION_FILE",
    "REQUIRED_FILES",
    "VERDICT_FILE",
    "AdapterError",
    "AdapterStore",
    "AdapterVersion",
    "OnProbation",
    "PromotionRefused",
    "StaleVerdict",
    "adapter_sha256",
    "adapter_sha256_on_disk",
    "promotion_refusal",
]

_LOCK_WAIT_S = 10.0


class AdapterStore(AdapterReader):
    """The adapters of one brain root, for reading and, one writer at a time, for changing."""

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
            self._journal.recover()
            durable.remove_staging_leftovers(self._layout.versions_dir)
            durable.remove_staging_leftovers(self._layout.adapters_dir)
            version_id = f"{self._last_counter() + 1:06d}-{adapter_sha256(files)[:8]}"
            path = self._layout.versions_dir / version_id
            durable.write_directory_durably(path, files)
            self._links.point(self._layout.candidate, version_id)
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
        self,
        version_id: str,
        verdict: Mapping[str, object] | None,
        *,
        base_sha256: str,
        terms: Terms | None = None,
        again: bool = False,
    ) -> AdapterVersion:
        """Let a version drive, if `promotion_refusal` and `probation_rule` have nothing against it.

        Promoting what drives already changes nothing but is checked all the same.

        Args:
            version_id: which one.
            verdict: what the trainer found; kept as verdict.json beside the adapter.
            base_sha256: of the base model that serves now.
            terms: of its probation; None confirms it at once.
            again: promote it although it was taken back on probation once: a person's decision.

        Raises:
            OnProbation: another adapter is; nothing was changed.
            StaleVerdict: it was judged against something else than what drives now; nothing was changed.
            PromotionRefused: the rules are against it; nothing was changed.
            AdapterError: there is no such version, or it is damaged.
            LockHeldError: another process is changing the store.
            OSError: the file system refused; `current` is the old one or the new one, whole.
        """
        with self._lock("promote an adapter"):
            version = self.get(version_id)
            sha256 = version.compute_sha256()
            verdict = self._sound(version, sha256, verdict, base_sha256)
            self._journal.recover()
            learned = version.learned_sha256()
            change = self._promotion(verdict, Promote(version_id, sha256, terms, again, learned))
            durable.write_json_durably(version.path / VERDICT_FILE, dict(verdict))
            if change is not None:
                about = {
                    **({} if terms is None else {PROBATION: terms.to_json()}),
                    **({"again": True} if again else {}),
                    **({LEARNED: learned} if learned != sha256 else {}),
                }
                self._journal.change(
                    change.event,
                    to=change.to,
                    previous=change.previous,
                    sha256=sha256,
                    verdict=verdict,
                    about=about,
                )
            last = self.last_change()
            if last is not None and last.to_version == version_id:
                self._journal.finish_promotion(last)
            if self._links.own_id(self._layout.candidate) == version_id:
                durable.remove_durably(self._layout.candidate)
        return version

    def may_promote(
        self,
        version: AdapterVersion,
        verdict: Mapping[str, object] | None,
        *,
        base_sha256: str,
        again: bool = False,
    ) -> None:
        """Raises what `promote` would, as things stand now; changes nothing."""
        sha256 = version.compute_sha256()
        verdict = self._sound(version, sha256, verdict, base_sha256)
        learned = version.learned_sha256()
        self._promotion(verdict, Promote(version.version_id, sha256, None, again, learned))

    def set_verdict_aside(self, version: AdapterVersion) -> None:
        """Have a version judged again: its verdict becomes `STALE_VERDICT_FILE`, for people. Raises LockHeldError,
        OSError."""
        with self._lock("set a verdict aside"):
            path = version.path / VERDICT_FILE
            if path.is_file():
                durable.write_bytes_durably(version.path / STALE_VERDICT_FILE, path.read_bytes())
                durable.remove_durably(path)

    def confirm(
        self, *, sha256: str | None = None, about: Mapping[str, object] | None = None
    ) -> HistoryEntry | None:
        """End the probation of what drives: it stays.

        Args:
            sha256: confirm only if this adapter is on probation; None whichever is.
            about: kept in the history: by whom, why, the figures.

        Returns:
            The entry; None when `sha256` is not on probation any more.

        Raises:
            AdapterError: none is on probation, or its bytes are not those that were promoted.
            LockHeldError, OSError: nothing was changed.
        """
        with self._lock("confirm an adapter"):
            self._journal.recover()
            state = self.standing()
            if sha256 is not None and (state.kind != "probation" or state.sha256 != sha256):
                return None
            change = self._decided(state, Confirm())
            if not self._links.is_whole(state.version_id, state.sha256):
                raise AdapterError(
                    f"adapter {state.version_id} is not confirmed: its bytes are not those that were promoted",
                    remedy=f"continuonbrain adapters rollback --root {self._layout.root}",
                )
            return self._made(change, state.sha256, about)

    def revert(self, *, sha256: str, about: Mapping[str, object] | None = None) -> HistoryEntry | None:
        """Take back the adapter that is on probation: what drove before drives again.

        Where that is damaged or gone the base model alone drives: what has been found bad does not stay because
        something else is bad, too.

        Args:
            sha256: revert only if this adapter is on probation, so that two who watch take back one.
            about: kept in the history.

        Returns:
            The entry; None when `sha256` is not on probation any more.

        Raises:
            AdapterError: the history is damaged.
            LockHeldError, OSError: `current` is the old one or the new one, whole.
        """
        with self._lock("take an adapter back"):
            self._journal.recover()
            state = self.standing()
            if state.kind != "probation" or state.sha256 != sha256:
                return None
            return self._go_back(state, self._decided(state, Revert()), about)

    def revert_after_boot(self, boot_id: str) -> HistoryEntry | None:
        """Take back an adapter that was on probation when the machine went down. None: there is none, or it is still
        the same start of the machine. Raises as `revert`."""
        if decide(self.standing(), Boot(boot_id)) is None:  # nearly always, and then without a lock
            return None
        with self._lock("take an adapter back"):
            self._journal.recover()
            state = self.standing()
            change = decide(state, Boot(boot_id))
            if not isinstance(change, Change):
                return None
            return self._go_back(state, change, {"by": "boot", "reason": "boot"})

    def rollback(
        self, *, from_version: str | None = None, about: Mapping[str, object] | None = None
    ) -> AdapterVersion | None:
        """Swap `current` and `previous`; a second rollback undoes the first. On probation: as `revert`. Where the
        previous one is damaged or gone the base model alone drives.

        Args:
            from_version: roll back only if this one drives now, so that a supervisor that tries twice does
                not bring the bad adapter back.
            about: kept in the history.

        Returns:
            What drives now; None is the base model alone.

        Raises:
            AdapterError: there is nothing to go back to, or `from_version` does not drive.
            LockHeldError: another process is changing the store.
            OSError: the file system refused; `current` is the old one or the new one, whole.
        """
        with self._lock("roll an adapter back"):
            self._journal.recover()
            state = self.standing()
            change = decide(state, Rollback())
            if from_version is not None and from_version != state.version_id:
                raise AdapterError(
                    f"adapter {from_version} is not rolled back: {state.version_id or 'the base model'} drives now"
                )
            if not isinstance(change, Change):
                raise AdapterError(
                    "there is nothing to roll back: the base model drives alone and no adapter came before",
                )
            if state.kind == "probation":
                entry = self._go_back(state, change, about)
                return None if entry.to_version is None else self.get(entry.to_version)
            if change.to is not None and not self._names_itself(change.to, self._bound(change.to)):
                # Whoever goes back wants what drives to stop driving. Once more brings it back.
                about = {**(about or {}), "instead_of": change.to}
                change = Change("rollback", None, change.previous)
            target = None if change.to is None else self.get(change.to)
            sha256 = None if target is None else target.compute_sha256()
            if change.previous is not None and not self._names_itself(change.previous, state.sha256):
                change = Change("rollback", change.to, None)  # nobody can go back to what is lost
            self._made(change, sha256, about)
        return target

    def recover(self) -> bool:
        """Finish a change that a crash interrupted. Call it once when a process starts that serves.

        Returns:
            Whether there was something to finish.

        Raises:
            AdapterError: the history is damaged, so that what should drive cannot be known.
            LockHeldError: another process is changing the store.
        """
        with self._lock("recover the adapter store"):
            return self._journal.recover()

    def _sound(
        self, version: AdapterVersion, sha256: str, verdict: Mapping[str, object] | None, base_sha256: str
    ) -> Mapping[str, object]:
        """A verdict by which these bytes may drive. Raises `PromotionRefused`."""
        reason = promotion_refusal(
            verdict, candidate_sha256=sha256, staged_sha8=version.sha8, base_sha256=base_sha256
        )
        if reason is None and verdict is not None:
            try:
                strict(verdict)
            except ValueError as error:
                reason = f"its verdict is damaged: {error}"
        if reason is not None or verdict is None:
            older = verdict is not None and verdict.get("passed") is True and is_of_older_version(verdict)
            raise (StaleVerdict if older else PromotionRefused)(
                version.version_id,
                reason or "it has no verdict",
                remedy=refusal_remedy(
                    verdict,
                    version.path,
                    root=self._layout.root,
                    whole=sha256.startswith(version.sha8),
                    is_candidate=self._links.own_id(self._layout.candidate) == version.version_id,
                ),
            )
        return verdict

    def _promotion(self, verdict: Mapping[str, object], event: Promote) -> Change | None:
        """What a promotion on a sound verdict changes now. Raises `PromotionRefused`."""
        state = self.standing()
        change = decide(state, event)
        if isinstance(change, Refused):
            kind = OnProbation if change.code == "on_probation" else PromotionRefused
            raise kind(event.version_id, change.reason, remedy=change.remedy)
        # After the probation of another: while it lasts nobody knows what the candidate has to be better than.
        reason = rival_refusal(
            verdict, candidate_sha256=event.sha256, current_sha256=self._drives_sha256(state)
        )
        if reason is not None:
            raise StaleVerdict(
                event.version_id,
                reason,
                remedy=f"have the candidate judged again: continuonbrain train --root {self._layout.root}",
            )
        return change

    def _drives_sha256(self, state: Standing) -> str:
        if state.version_id is None:
            return ""
        return state.sha256 or self.get(state.version_id).compute_sha256()

    def _decided(self, state: Standing, event: Event) -> Change:
        change = decide(state, event)
        if isinstance(change, Change):
            return change
        reason, remedy = (
            (change.reason, change.remedy) if isinstance(change, Refused) else ("nothing changes", "")
        )
        raise AdapterError(
            f"{reason} in {self._layout.adapters_dir}",
            remedy=remedy or f"see: continuonbrain adapters list --root {self._layout.root}",
        )

    def _go_back(self, state: Standing, change: Change, about: Mapping[str, object] | None) -> HistoryEntry:
        before = state.before or Standing()
        told = {**(about or {}), "reverted": state.version_id, "reverted_sha256": state.sha256}
        if change.to is not None and not self._names_itself(change.to, before.sha256):
            told["instead_of"] = change.to
            change = Change(change.event, None, None)
        sha256 = None if change.to is None else self.get(change.to).compute_sha256()
        return self._made(change, sha256, told)

    def _names_itself(self, version_id: str, sha256: str | None) -> bool:
        """Whole, and as the history bound it (a root that began without a history bound nothing)."""
        try:
            found = self.get(version_id).whole_sha256()
        except AdapterError:
            return False
        return sha256 is None or found == sha256

    def _bound(self, version_id: str) -> str | None:
        """The hash that the history says of a version; None where it says none."""
        of_it = (e.sha256 for e in reversed(self._journal.read()[0]) if e.to_version == version_id)
        return next((sha256 for sha256 in of_it if sha256), None)

    def _made(self, change: Change, sha256: str | None, about: Mapping[str, object] | None) -> HistoryEntry:
        return self._journal.change(
            change.event, to=change.to, previous=change.previous, sha256=sha256, about=about
        )

    def _last_counter(self) -> int:
        # The history counts too: a version that was deleted must not lend its number to another adapter.
        on_disk = [version.counter for version in self.list()]
        in_history = [int(e.to_version[:6]) for e in self._journal.read()[0] if e.to_version is not None]
        return max([0, *on_disk, *in_history])

    def _lock(self, purpose: str) -> ProcessLock:
        return ProcessLock(
            self._layout.adapters_lock_path,
            purpose=f"{purpose} in {self._layout.adapters_dir}",
            timeout_s=_LOCK_WAIT_S,
        )
