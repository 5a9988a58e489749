"""What stands between a new base and the robot: no verdict that says so of exactly these two, no switch. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from continuonbrain.storage.promotion_rule import failed_checks

BASE_VERDICT_VERSION = 1


def switch_refusal(
    verdict: Mapping[str, object] | None,
    *,
    base_sha256: str,
    adapter_sha256: str,
    calibration_sha256: str,
    against_base: str,
    against_adapter: str,
) -> str:
    """Why a base must not drive, "" when it may.

    Args:
        verdict: what stands beside it; it must have passed with all of its checks, carry its evidence, and name the
            rest.
        base_sha256, adapter_sha256, calibration_sha256: of the new base, of the adapter that drives on it, "" for none,
            and of the servo that it would drive with, from their bytes.
        against_base, against_adapter: sha256 of what drives now; "" is a base without an adapter.
    """
    if verdict is None:
        return "it has no verdict"
    version = verdict.get("version")
    if version != BASE_VERDICT_VERSION or isinstance(version, bool):
        return f"its verdict is of version {version!r}, this software switches on {BASE_VERDICT_VERSION}"
    if verdict.get("passed") is not True:
        return f"its verdict says that it did not pass{failed_checks(verdict)}"
    checks = verdict.get("checks")
    if not isinstance(checks, list) or not checks:
        return "its verdict has no checks: nothing was proved"
    if not all(isinstance(check, Mapping) and check.get("passed") is True for check in checks):
        return "its verdict says that it passed, its checks do not"
    if verdict.get("reason") != "":
        return "its verdict says that it passed and why it did not"
    evidence = verdict.get("evidence")
    if not isinstance(evidence, Mapping) or not evidence:
        return "its verdict has no evidence: nobody can say what it was founded on"
    for name, wanted, what in (
        ("base_sha256", base_sha256, "was given to another base"),
        ("adapter_sha256", adapter_sha256, "was given to it with another adapter"),
        ("calibration_sha256", calibration_sha256, "was given to it with another servo"),
        ("against_base_sha256", against_base, "is stale: it was judged against another base than drives now"),
        (
            "against_adapter_sha256",
            against_adapter,
            "is stale: it was judged against another adapter than drives now",
        ),
    ):
        found = verdict.get(name)
        if found != wanted:
            return f"its verdict {what} ({name} {_short(found)}, now {_short(wanted)})"
    return ""


def _short(value: object) -> str:
    if value == "":
        return "none"
    return value[:8] if isinstance(value, str) else "missing"
