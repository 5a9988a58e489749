"""The rule that stands between a trained adapter and the robot: no matching verdict, no promotion. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from continuonbrain.errors import BrainError

VERDICT_VERSION = 3
"""What `verdict.json` is written as. 1: point estimates; 2: intervals, by cluster, and more hashes; 3: speeds, every
lesson, and the best that was reached. Older ones are shown and promote nothing any more."""
_OLDER_VERSIONS = (1, 2)
_NAMED = 5


class PromotionRefused(BrainError):
    """The rules do not let this adapter drive. Nothing was changed.

    Attributes:
        version_id: which adapter.
        reason: why, as one sentence without the adapter's name.
    """

    def __init__(self, version_id: str, reason: str, *, remedy: str = "") -> None:
        super().__init__(f"adapter {version_id} is not promoted: {reason}", remedy=remedy)
        self.version_id = version_id
        self.reason = reason


class StaleVerdict(PromotionRefused):
    """Its verdict was sound and says nothing about now: another adapter drives, or it is of an older version. Judged
    again it may be promoted."""


class OnProbation(PromotionRefused):
    """Not now: another adapter is on probation. It may be promoted when that one is confirmed or taken back."""


def promotion_refusal(
    verdict: Mapping[str, object] | None, *, candidate_sha256: str, staged_sha8: str, base_sha256: str
) -> str | None:
    """Why this adapter must not drive, or None when it may.

    Args:
        verdict: what the trainer found; it must say `passed: true`, name the two hashes, and carry the checks and the
            evidence that it is founded on. Without a version it is of version 1; of one that is not known here nobody
            knows what its "passed" means.
        candidate_sha256: of the adapter, from its bytes on disk now.
        staged_sha8: the first 8 digits from when it was staged.
        base_sha256: of the base model that serves now.
    """
    if not candidate_sha256.startswith(staged_sha8):
        return f"its bytes changed after staging (they hash to {candidate_sha256[:8]}, not {staged_sha8})"
    if verdict is None:
        return "it has no verdict"
    version = verdict.get("version", 1)
    if type(version) is not int or version not in (*_OLDER_VERSIONS, VERDICT_VERSION):
        return f"its verdict is of version {version!r}, this software promotes on version {VERDICT_VERSION}"
    if verdict.get("passed") is not True:
        return f"its verdict says that it did not pass{failed_checks(verdict)}"
    if is_of_older_version(verdict):
        return f"its verdict is of version {version}, which is only shown: this software promotes on {VERDICT_VERSION}"
    checks = verdict.get("checks")
    if not isinstance(checks, list) or not checks:
        return f"its verdict has no checks (checks {_told(checks)}): nothing was proved"
    if not all(isinstance(c, Mapping) and c.get("passed") is True for c in checks):
        return "its verdict says that it passed, its checks do not"
    if verdict.get("reason") != "":
        return f"its verdict says that it passed and why it did not (reason {_told(verdict.get('reason'))})"
    for name in ("hashes", "evidence"):
        value = verdict.get(name)
        if not isinstance(value, Mapping) or not value:
            return f"its verdict has no {name} ({name} {_told(value)}): nobody can say what it was founded on"
    if verdict.get("candidate_sha256") != candidate_sha256:
        return (
            "its verdict was given to other bytes "
            f"(candidate_sha256 {_short(verdict.get('candidate_sha256'))}, on disk {candidate_sha256[:8]})"
        )
    if verdict.get("base_sha256") != base_sha256:
        return (
            f"it was judged on another base model (base_sha256 {_short(verdict.get('base_sha256'))}, "
            f"serving {base_sha256[:8]})"
        )
    for name, sha256 in (("candidate", candidate_sha256), ("base", base_sha256)):
        told = _hashes(verdict).get(name)
        if told != sha256:
            return (
                f"its verdict contradicts itself (hashes.{name} {_short(told)}, {name}_sha256 {sha256[:8]})"
            )
    if not _is_rival(_hashes(verdict).get("current")):
        return "its verdict does not say what it was judged against (hashes.current)"
    return None


def refusal_remedy(
    verdict: Mapping[str, object] | None, version: Path, *, root: Path, whole: bool, is_candidate: bool
) -> str:
    """What to do where `promotion_refusal` has something against an adapter.

    Args:
        verdict: beside it.
        version: its folder, named as it is.
        root: of the brain.
        whole: its bytes are those that were staged.
        is_candidate: it is what the next round of learning looks at.
    """
    train = f"continuonbrain train --root {root}"
    if not whole:
        return f"do not use it; have it packed and import it again, or train another one: {train} --again"
    if verdict is not None and verdict.get("passed") is not True:
        return (
            f"what was asked and found: continuonbrain adapters show {version.name} --full --root {root}, from "
            f"{version / 'verdict.json'}; another one: {train} --again"
        )
    if is_candidate and (verdict is None or is_of_older_version(verdict)):
        return f"have it judged beside what drives now: {train}"
    return f"train another one: {train} --again"


def rival_refusal(verdict: Mapping[str, object], *, candidate_sha256: str, current_sha256: str) -> str | None:
    """Why a verdict says nothing about now, or None: the candidate was found better than what drove then.

    Settings and safety head are not compared: `config_sha256` covers every setting, also those that change nothing of
    how an adapter drives, and a head is fitted anew with every training.

    Args:
        verdict: one that `promotion_refusal` has nothing against.
        candidate_sha256: of the adapter. It may drive already: then it is no rival of its own.
        current_sha256: of what drives now, "" for the base alone.
    """
    judged = _hashes(verdict).get("current")
    if judged == current_sha256 or current_sha256 == candidate_sha256:
        return None
    return f"it was judged against {_rival(judged)}, {_rival(current_sha256)} drives now"


def failed_checks(verdict: Mapping[str, object]) -> str:
    """The checks that a verdict says failed, as the end of a sentence; "" where it names none."""
    checks = verdict.get("checks")
    listed = [c for c in checks if isinstance(c, Mapping)] if isinstance(checks, list) else []
    names = [str(c.get("name"))[:40] for c in listed if c.get("passed") is not True]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" (failed: {', '.join(names[:_NAMED])}{more})" if names else ""


def is_of_older_version(verdict: Mapping[str, object]) -> bool:
    """Whether an older release wrote it."""
    version = verdict.get("version", 1)
    return type(version) is int and version in _OLDER_VERSIONS


def _hashes(verdict: Mapping[str, object]) -> Mapping[str, object]:
    found = verdict.get("hashes")
    return found if isinstance(found, Mapping) else {}


def _is_rival(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}|", value) is not None


def _rival(sha256: object) -> str:
    return "the base alone" if sha256 == "" else _short(sha256)


def _told(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]


def _short(value: object) -> str:
    return value[:8] if isinstance(value, str) and value else "missing"
