"""`import` as an operation of `benchmarks.crash_points`: an adapter of another brain, signed, becomes the candidate.

Killed between the counter of the key and the candidate, the same bundle is refused from then on; it is then exported
again, which is what a person has to do.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.crash_points import Operation, driving, new_root, staged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_import import export_adapter, import_adapter
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys

_KEY = "shop"


def _there(brain: BrainRoot) -> Path:
    return brain.layout.root.parent / "there"


def _bundle(brain: BrainRoot) -> Path:
    return _there(brain) / "adapter.bundle"


def _prepare(brain: BrainRoot) -> dict[str, str]:
    there = new_root(_there(brain))
    own = PrivateKeys(there.layout)
    own.new(_KEY)
    TrustedKeys(brain.layout).trust(parse_public_key(own.public_path(_KEY).read_bytes(), what="key"))
    staged(there, "from elsewhere")
    export_adapter(there, "candidate", _bundle(brain), key_name=_KEY)
    return {"old": driving(brain, "old")}


def _weights(version: AdapterVersion) -> bytes:
    """What makes it that adapter; its servo is this robot's own here."""
    return (version.path / "adapter_model.safetensors").read_bytes()


def _import(brain: BrainRoot) -> None:
    there = open_brain(_there(brain))
    sent = AdapterStore(there.layout).candidate()
    assert sent is not None
    store = AdapterStore(brain.layout)
    candidate = store.candidate()
    if candidate is not None and _weights(candidate) == _weights(sent):
        return
    try:
        import_adapter(brain, _bundle(brain))
    except BrainError:
        _bundle(brain).unlink()
        export_adapter(there, "candidate", _bundle(brain), key_name=_KEY)
        import_adapter(brain, _bundle(brain))
    candidate = store.candidate()
    assert candidate is not None
    assert _weights(candidate) == _weights(sent)


IMPORT = Operation("import", _prepare, _import, "old")
