"""Bundles of adapters that are not taken: whatever is wrong with them, nothing changes."""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_import import (
    ImportRefused,
    StagingFailed,
    import_adapter,
)
from continuonbrain.storage import durable
from continuonbrain.storage.adapters import AdapterError
from continuonbrain.storage.bundle import BundleError, bundle_bytes
from continuonbrain.storage.key_counter import CounterLostError
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from continuonbrain.storage.signing import Document, SignedFile, key_id_of, public_key_of, sign
from continuonbrain.storage.trusted_keys import KeyRefused, OldCounterError, TrustedKeys
from tests.loops.import_pair import BASE, Pair, adapter, one_base, refused, state, taken


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    one_base(monkeypatch)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_no_byte_of_a_bundle_can_be_another(pair: Pair) -> None:
    """Flipped on the way: nothing in the file is slack."""
    data = pair.export().read_bytes()
    before = state(pair.here)
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= mask
            with pytest.raises(BrainError):
                import_adapter(pair.here, pair.write(bytes(changed)))
    assert state(pair.here) == before


def test_no_byte_can_be_another_where_sizes_and_crcs_are_made_to_fit(pair: Pair) -> None:
    """Flipped on purpose: the zip around it is right again."""
    with zipfile.ZipFile(pair.export()) as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist()}
    before = state(pair.here)
    for name, data in files.items():
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 0x01
            rest = files | {name: bytes(changed)}
            path = pair.write(bundle_bytes(rest.pop("bundle.json"), rest))
            with pytest.raises(BrainError):
                import_adapter(pair.here, path)
    assert state(pair.here) == before


def test_a_bundle_cut_short_anywhere_is_refused(pair: Pair) -> None:
    data = pair.export().read_bytes()
    before = state(pair.here)
    for length in range(len(data)):
        with pytest.raises(BundleError):
            import_adapter(pair.here, pair.write(data[:length]))
    assert state(pair.here) == before
    import_adapter(pair.here, pair.write(data))


def test_the_same_and_an_older_one_are_refused(pair: Pair) -> None:
    first, second = pair.export("a"), pair.export("b")
    import_adapter(pair.here, second)
    for old in (second, first):
        refused(pair.here, old, OldCounterError, "not above 2")
    import_adapter(pair.here, pair.export("a"))


def test_unknown_and_revoked_keys_are_refused(pair: Pair, tmp_path: Path) -> None:
    path = pair.export()
    stranger = Pair(tmp_path / "elsewhere")
    refused(pair.here, stranger.export(), KeyRefused, "not trusted")
    TrustedKeys(pair.here.layout).revoke("shop")
    refused(pair.here, path, KeyRefused, "revoked")
    nobody = open_brain(init_brain_root(tmp_path / "nobody", "sim-donkey").root)
    refused(nobody, path, KeyRefused, "trusts no key")


def test_a_trusted_keys_name_on_anothers_signature_is_refused(pair: Pair) -> None:
    other = bytes(range(32))
    files = taken(adapter())
    document = Document(
        kind="adapter",
        key_id=key_id_of(public_key_of(other)),
        counter=9,
        base_sha256=BASE,
        files={n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()},
    )
    envelope = sign(document, other).replace(document.key_id.encode(), pair.key.key_id.encode())
    refused(pair.here, pair.write(bundle_bytes(envelope, files)), BrainError, "signature does not belong")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base_sha256": "c" * 64}, "another base model"),
        ({"kind": "safety-head"}, "kind"),
    ],
)
def test_a_good_signature_on_the_wrong_thing_is_refused(
    pair: Pair, change: dict[str, Any], match: str
) -> None:
    refused(pair.here, pair.write(pair.signed(taken(adapter()), **change)), ImportRefused, match)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"lora_adapters.pt": b"a pickle"}, "lora_adapters.pt"),
        ({"modeling.py": b"import os"}, "modeling.py"),
        ({"adapter_config.json": b""}, "is empty"),
        ({"adapter_config.json": b"[]"}, "no JSON object"),
        ({"adapter_config.json": b"\xff"}, "no JSON"),
        ({"calibration.json": b"[" * 100_000}, "no JSON"),
        ({"card.json": b'{"a":' * 63 + b"1" + b"}" * 63}, "nested deeper"),
        ({"card.json": b"{}" + b" " * (4 << 20)}, "larger than 4 MiB"),
    ],
)
def test_signed_files_that_are_no_adapter_are_refused(
    pair: Pair, files: dict[str, bytes], match: str
) -> None:
    refused(pair.here, pair.write(pair.signed(taken(adapter()) | files)), ImportRefused, match)


def test_an_adapter_without_weights_is_refused(pair: Pair) -> None:
    refused(pair.here, pair.write(pair.signed({"adapter_config.json": b"{}"})), ImportRefused, "safetensors")


def test_huge_declared_sizes_are_refused_unread(pair: Pair) -> None:
    files = taken(adapter())
    signed = {n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()}
    signed["adapter_model.safetensors"] = replace(signed["adapter_model.safetensors"], bytes=2**50)
    refused(pair.here, pair.write(pair.signed(files, files=signed)), BundleError, "at most")


def test_what_is_no_file_is_refused(pair: Pair) -> None:
    refused(pair.here, pair.folder, ImportRefused, "is no file")
    os.mkfifo(pair.folder / "pipe")
    refused(pair.here, pair.folder / "pipe", ImportRefused, "is no file")
    refused(pair.here, pair.folder / "absent", FileNotFoundError)


def test_a_lost_counter_a_damaged_history_and_open_folders_are_refused(pair: Pair) -> None:
    path = pair.export()
    layout = pair.here.layout
    layout.history_path.write_text("not a history\n")
    refused(pair.here, path, AdapterError, "history")
    layout.history_path.unlink()
    layout.trusted_keys_dir.chmod(0o777)
    refused(pair.here, path, BrainError, "others can write")
    layout.trusted_keys_dir.chmod(0o755)
    layout.keys_dir.chmod(0o777)
    refused(pair.here, path, BrainError, "others can write")
    layout.keys_dir.chmod(0o755)
    (counter,) = layout.accepted_counters_dir.iterdir()
    counter.unlink()
    refused(pair.here, path, CounterLostError, "missing")


def test_a_disk_that_fills_after_the_counter_is_told_with_what_to_do(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pair.export()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_directory_durably", full)
        with pytest.raises(StagingFailed, match="No space left") as told:
            import_adapter(pair.here, path)
    assert "exported again" in told.value.remedy
    assert pair.store.candidate() is None
    refused(pair.here, path, OldCounterError)
    import_adapter(pair.here, pair.export())


def test_a_round_of_the_sidecar_is_not_disturbed(pair: Pair) -> None:
    path = pair.export()
    with ProcessLock(pair.here.layout.trainer_lock_path, purpose="train"):
        refused(pair.here, path, LockHeldError, "change the candidate")
    import_adapter(pair.here, path)


# Exporting.
