"""Adapters between two brains: what is taken is exactly what was signed, a candidate and no more, once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import adapter_import
from continuonbrain.loops.adapter_import import (
    ExportRefused,
    ImportRefused,
    StagingFailed,
    export_adapter,
    import_adapter,
)
from continuonbrain.loops.promotion import promote_candidate
from continuonbrain.model.base_identity import checkpoint_sha256, tiny_base_folder
from continuonbrain.storage import durable
from continuonbrain.storage.adapters import AdapterError, AdapterStore, PromotionRefused, adapter_sha256
from continuonbrain.storage.bundle import BundleError, bundle_bytes
from continuonbrain.storage.key_counter import CounterLostError
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.signing import Document, Signature, SignedFile, key_id_of, public_key_of, sign
from continuonbrain.storage.trusted_keys import KeyRefused, OldCounterError, PrivateKeys, TrustedKeys

BASE = "b" * 64


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing a real base in each of thousands of imports would be most of these tests."""
    monkeypatch.setattr(adapter_import, "checkpoint_sha256", lambda _folder: BASE)


def adapter(tag: str = "a", **changes: bytes) -> dict[str, bytes]:
    return {
        "adapter_model.safetensors": f"weights of {tag}".encode() * 9,
        "adapter_config.json": b'{"r": 8}',
        "calibration.json": b'{"steering_trim": 0.0}',
        "lora_adapters.pt": b"a pickle",
        "card.json": json.dumps({"base_sha256": BASE, "episodes": ["e1"], "losses": [0.5]}).encode(),
    } | changes


def taken(files: dict[str, bytes]) -> dict[str, bytes]:
    """What of an adapter decides how it behaves."""
    return {n: d for n, d in files.items() if n not in ("lora_adapters.pt", "card.json")}


class Pair:
    """A brain that exports and one that imports and trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there = open_brain(init_brain_root(folder / "there", "sim-donkey").root)
        self.here = open_brain(init_brain_root(folder / "here", "sim-donkey").root)
        self.own = PrivateKeys(self.there.layout)
        self.key = self.own.new("shop")
        TrustedKeys(self.here.layout).trust(
            parse_public_key(self.own.public_path("shop").read_bytes(), what="")
        )
        self.store = AdapterStore(self.here.layout)
        self._number = 0

    def export(self, tag: str = "a", *, counter: int | None = None, **changes: bytes) -> Path:
        AdapterStore(self.there.layout).stage(adapter(tag, **changes))
        self._number += 1
        out = self.folder / f"{self._number}.bundle"
        export_adapter(self.there, "candidate", out, key_name="shop", counter=counter)
        return out

    def signed(self, contents: dict[str, bytes], **changes: Any) -> bytes:
        """A bundle as the owner of the key could make one by hand."""
        fields: dict[str, Any] = {
            "kind": "adapter",
            "key_id": self.key.key_id,
            "counter": 1000,
            "base_sha256": BASE,
            "files": {n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in contents.items()},
        }
        return bundle_bytes(sign(Document(**(fields | changes)), self.own.load("shop")), contents)

    def write(self, data: bytes) -> Path:
        path = self.folder / "by-hand.bundle"
        path.write_bytes(data)
        return path

    def last(self) -> int | None:
        (status,) = TrustedKeys(self.here.layout).list()
        return status.last


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def state(brain: BrainRoot) -> dict[str, Any]:
    """Everything in a brain root but the lock files."""
    found: dict[str, Any] = {}
    for path in sorted(brain.layout.root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file() and not path.name.endswith(".lock"):
            found[str(path)] = path.read_bytes()
    return found


def refused(
    brain: BrainRoot, path: Path, kind: type[BaseException] = BrainError, match: str | None = None
) -> None:
    before = state(brain)
    with pytest.raises(kind, match=match) as told:
        import_adapter(brain, path)
    assert state(brain) == before, "a refusal changes nothing"
    if isinstance(told.value, BrainError):
        assert told.value.remedy


# What is taken.


def test_an_adapter_goes_from_one_brain_to_another_and_waits_there(pair: Pair) -> None:
    done = import_adapter(pair.here, pair.export(**{"verdict.json": b'{"passed": true}'}))
    assert pair.store.candidate() == done.version
    assert pair.store.current() is None
    assert done.sha256 == done.version.compute_sha256() == adapter_sha256(adapter())
    on_disk = {p.name: p.read_bytes() for p in done.version.path.iterdir()}
    card = json.loads(on_disk.pop("card.json"))
    assert on_disk == taken(adapter()), "no pickle, no verdict"
    assert card["imported"]["key_name"] == "shop"
    assert card["imported"]["key_id"] == pair.key.key_id
    assert card["imported"]["counter"] == 1
    assert card["origin"]["verdict"] == {"passed": True}
    assert card["origin"]["card"]["episodes"] == ["e1"]
    assert card.keys() == {"adapter_sha256", "base_sha256", "imported", "origin"}


def test_whose_place_it_takes_is_told(pair: Pair) -> None:
    first = import_adapter(pair.here, pair.export("a"))
    assert first.instead_of == ""
    second = import_adapter(pair.here, pair.export("b"))
    assert second.instead_of == first.version.version_id
    assert pair.store.get(first.version.version_id).path.is_dir()


def test_the_senders_verdict_does_not_make_it_drive_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real identity of a real base: everything matches but whose verdict it is."""
    monkeypatch.setattr(adapter_import, "checkpoint_sha256", checkpoint_sha256)
    pair = Pair(tmp_path)
    for brain in (pair.there, pair.here):
        brain.layout.base_model_dir.rmdir()
        brain.layout.base_model_dir.symlink_to(tiny_base_folder())
    base_sha256 = checkpoint_sha256(tiny_base_folder())
    verdict = {"passed": True, "candidate_sha256": adapter_sha256(adapter()), "base_sha256": base_sha256}
    card = {"base_sha256": base_sha256}
    import_adapter(
        pair.here,
        pair.export(**{"card.json": json.dumps(card).encode(), "verdict.json": json.dumps(verdict).encode()}),
    )
    with pytest.raises(PromotionRefused, match="no verdict"):
        promote_candidate(pair.here)
    assert pair.store.current() is None


def test_what_was_imported_can_be_exported_on(pair: Pair) -> None:
    import_adapter(pair.here, pair.export())
    PrivateKeys(pair.here.layout).new("robot")
    out = pair.folder / "on.bundle"
    export_adapter(pair.here, "candidate", out, key_name="robot")
    TrustedKeys(pair.there.layout).trust(
        parse_public_key(PrivateKeys(pair.here.layout).public_path("robot").read_bytes(), what="")
    )
    assert import_adapter(pair.there, out).sha256 == adapter_sha256(adapter())


def test_a_second_signature_is_told_as_not_verified(pair: Pair) -> None:
    files = taken(adapter())
    document = Document(
        kind="adapter",
        key_id=pair.key.key_id,
        counter=5,
        base_sha256=BASE,
        files={n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()},
        algorithms=("ed25519", "ml-dsa-65"),
    )
    second = Signature("ml-dsa-65", "d" * 64, "ab" * 3309)
    data = bundle_bytes(sign(document, pair.own.load("shop"), [second]), files)
    done = import_adapter(pair.here, pair.write(data))
    assert done.not_verified == ("ml-dsa-65",)
    card = done.version.card()
    assert card is not None
    assert card["imported"]["signatures_not_verified"] == ["ml-dsa-65"]


# What is refused.


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


def test_an_export_is_refused_without_a_trace(pair: Pair) -> None:
    store = AdapterStore(pair.there.layout)
    out = pair.folder / "out.bundle"

    def no(match: str, *, key: str = "shop", kind: type[BrainError] = BrainError) -> None:
        before = state(pair.there)
        with pytest.raises(kind, match=match):
            export_adapter(pair.there, "candidate", out, key_name=key)
        assert state(pair.there) == before
        assert not out.exists()

    no("no candidate")
    version = store.stage(adapter(**{"card.json": b"{}"}))
    no("does not say on which base", kind=ExportRefused)
    version = store.stage(adapter())
    no("no key 'other'", key="other")
    (pair.there.layout.private_keys_dir / "shop.json").chmod(0o644)
    no("others can read")
    (pair.there.layout.private_keys_dir / "shop.json").chmod(0o600)
    (version.path / "adapter_model.safetensors").write_bytes(b"changed")
    no("damaged")
    out.write_bytes(b"mine")
    with pytest.raises(ExportRefused, match="exists already"):
        export_adapter(pair.there, "candidate", out, key_name="shop")
    assert out.read_bytes() == b"mine"


def test_each_export_has_a_counter_of_its_own(pair: Pair) -> None:
    for number in (1, 2, 3):
        AdapterStore(pair.there.layout).stage(adapter())
        done = export_adapter(pair.there, "candidate", pair.folder / f"n{number}", key_name="shop")
        assert done.counter == number
    assert (
        export_adapter(pair.there, "candidate", pair.folder / "n9", key_name="shop", counter=9).counter == 9
    )


# Killed.


class KillingOs:
    """Stands in for `os` inside `durable`: SIGKILL before or after the n-th change of the file system."""

    CHANGES = frozenset({"open", "write", "fsync", "replace", "rename", "symlink", "unlink", "mkdir"})

    def __init__(self, change: int, *, after: bool) -> None:
        self.change, self.after, self.seen = change, after, 0

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            number, self.seen = self.seen, self.seen + 1
            if number == self.change and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*args, **kwargs)
            if number == self.change:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call


def killed_in(work: Callable[[], object], change: int, *, after: bool) -> bool:
    """Do the work in a child that is killed at that change; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        durable.os = KillingOs(change, after=after)  # type: ignore[attr-defined]
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def changes(limit: int = 80) -> Iterator[int]:
    yield from range(limit)
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
def test_killed_anywhere_an_import_is_whole_or_absent_and_a_newer_one_works(
    tmp_path: Path, after: bool
) -> None:
    pair = Pair(tmp_path)
    import_adapter(pair.here, pair.export("before"))
    outcomes = set()
    for change in changes():
        path = pair.export(f"new {change}")
        before, last = pair.store.candidate(), pair.last()
        assert last is not None
        killed = killed_in(lambda path=path: import_adapter(pair.here, path), change, after=after)
        candidate, counted = pair.store.candidate(), pair.last() == last + 1
        arrived = candidate != before
        assert candidate is not None
        assert candidate.whole_sha256()
        assert pair.last() in (last, last + 1)
        assert counted or not arrived, "never a candidate whose counter was not noted"
        outcomes.add((counted, arrived))
        if counted:
            refused(pair.here, path, OldCounterError)
        else:
            import_adapter(pair.here, path)
        newer = import_adapter(pair.here, pair.export(f"newer {change}"))
        assert pair.store.candidate() == newer.version
        assert pair.store.current() is None
        if not killed:
            break
    assert outcomes == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
def test_killed_anywhere_no_counter_is_signed_twice(tmp_path: Path, after: bool) -> None:
    pair = Pair(tmp_path)
    AdapterStore(pair.there.layout).stage(adapter())
    seen: set[int] = set()
    for change in changes():
        out = tmp_path / f"e{change}"
        killed = killed_in(
            lambda out=out: export_adapter(pair.there, "candidate", out, key_name="shop"), change, after=after
        )
        counters = [export_adapter(pair.there, "candidate", tmp_path / f"f{change}", key_name="shop").counter]
        if out.exists():
            with zipfile.ZipFile(out) as zipped:
                counters.append(json.loads(zipped.read("bundle.json"))["document"]["counter"])
        assert not seen & set(counters)
        seen.update(counters)
        if not killed:
            break
    assert len(seen) > 5
