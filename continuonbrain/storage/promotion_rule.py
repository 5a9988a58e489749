"""The rule that stands between a trained adapter and the robot: no matching verdict, no promotion. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from continuonbrain.errors import BrainError

VERDICT_VERSION = 2
"""What `verdict.json` is written as. 1: point estimates; 2: intervals, by cluster, and more hashes."""
_KNOWN_VERSIONS = (1, VERDICT_VERSION)


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


class OnProbation(PromotionRefused):
    """Not now: another adapter is on probation. It may be promoted when that one is confirmed or taken back."""


def promotion_refusal(
    verdict: Mapping[str, object] | None, *, candidate_sha256: str, staged_sha8: str, base_sha256: str
) -> str | None:
    """Why this adapter must not drive, or None when it may.

    Args:
        verdict: what the trainer found; it must say `passed: true` and name the two hashes. Without a version it is
            of version 1; of one that is not known here nobody knows what its "passed" means.
        candidate_sha256: of the adapter, from its bytes on disk now.
        staged_sha8: the first 8 digits from when it was staged.
        base_sha256: of the base model that serves now.
    """
    if not candidate_sha256.startswith(staged_sha8):
        return f"its bytes changed after staging (they hash to {candidate_sha256[:8]}, not {staged_sha8})"
    if verdict is None:
        return "it has no verdict"
    version = verdict.get("version", 1)
    if type(version) is not int or version not in _KNOWN_VERSIONS:
        return f"its verdict is of version {version!r}, this software knows {' and '.join(map(str, _KNOWN_VERSIONS))}"
    if verdict.get("passed") is not True:
        return "its verdict says that it did not pass"
    checks = verdict.get("checks", [])
    if not isinstance(checks, list) or not all(
        isinstance(c, Mapping) and c.get("passed") is True for c in checks
    ):
        return "its verdict says that it passed, its checks do not"
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
    return None


def _short(value: object) -> str:
    return value[:8] if isinstance(value, str) and value else "missing"
