"""The smallest verdict that promotes, for benchmarks and tests that are about something else than judging."""

from __future__ import annotations

import hashlib
from typing import Any

from continuonbrain.storage.adapter_version import AdapterVersion, adapter_sha256_on_disk
from continuonbrain.storage.base_verdict_rule import BASE_VERDICT_VERSION
from continuonbrain.storage.promotion_rule import VERDICT_VERSION


def small_verdict(candidate_sha256: str, base_sha256: str, current_sha256: str = "") -> dict[str, Any]:
    """One check, passed. current_sha256: what it was judged against, "" the base alone."""
    return {
        "version": VERDICT_VERSION,
        "passed": True,
        "reason": "",
        "candidate_sha256": candidate_sha256,
        "base_sha256": base_sha256,
        "hashes": {"candidate": candidate_sha256, "base": base_sha256, "current": current_sha256},
        "checks": [
            {"name": "completion", "value": 1.0, "threshold": 0.5, "passed": True, "meaning": "drives"}
        ],
        "evidence": {"held_out_steps": 0},
    }


def small_base_verdict(
    base_sha256: str, against_base_sha256: str, calibration: bytes, *, against_adapter_sha256: str = ""
) -> dict[str, Any]:
    """The same for a base without an adapter. calibration: the servo that it was given with."""
    return {
        "version": BASE_VERDICT_VERSION,
        "passed": True,
        "reason": "",
        "checks": [{"name": "completion", "passed": True}],
        "evidence": {"held_out_steps": 0},
        "base_sha256": base_sha256,
        "adapter_sha256": "",
        "calibration_sha256": hashlib.sha256(calibration).hexdigest(),
        "against_base_sha256": against_base_sha256,
        "against_adapter_sha256": against_adapter_sha256,
    }


def judged(version: AdapterVersion, base_sha256: str) -> dict[str, Any]:
    """The same for a version in its store, against what drives there now."""
    current = version.path.parent.parent / "current"
    rival = adapter_sha256_on_disk(current) if current.is_dir() else ""
    return small_verdict(version.compute_sha256(), base_sha256, rival)
