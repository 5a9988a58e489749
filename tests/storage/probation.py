"""What tests of the store on probation share."""

from __future__ import annotations

from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.probation_rule import Terms

BASE = "ba5e" * 16
TERMS = Terms(400, 0.0, "boot-1")


def sha256(store: AdapterStore) -> str:
    """Of what stands, "" where that is the base alone."""
    return store.standing().sha256 or ""
