"""Keys: who is trusted, how far they were followed, and that nobody else can have written or read them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.storage import owned_file
from continuonbrain.storage.key_counter import CounterLostError
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.owned_file import FileNotSafeError, read_owned
from continuonbrain.storage.public_key import KeyFileError, PublicKey, parse_public_key
from continuonbrain.storage.signing import public_key_of
from continuonbrain.storage.trusted_keys import KeyRefused, OldCounterError, PrivateKeys, TrustedKeys


def key(number: int = 1, name: str = "") -> PublicKey:
    return PublicKey(name or f"key{number}", public_key_of(bytes([number]) * 32))


@pytest.fixture
def keys(layout: BrainLayout) -> TrustedKeys:
    return TrustedKeys(layout)


def accepted(layout: BrainLayout, of: PublicKey) -> Path:
    return layout.accepted_counters_dir / f"{of.key_id}.json"


def test_a_key_is_trusted_until_it_is_revoked_and_never_again(keys: TrustedKeys) -> None:
    with pytest.raises(KeyRefused, match="not trusted"):
        keys.get(key().key_id)
    keys.trust(key())
    assert keys.get(key().key_id) == key()
    assert keys.revoke("key1").key_id == key().key_id
    with pytest.raises(KeyRefused, match="revoked"):
        keys.get(key().key_id)
    with pytest.raises(KeyRefused, match="revoked"):
        keys.trust(key())
    assert [(s.name, s.revoked) for s in keys.list()] == [("key1", True)]


def test_a_revocation_wins_over_a_trusted_file_and_over_its_own_damage(
    keys: TrustedKeys, layout: BrainLayout
) -> None:
    keys.trust(key())
    trusted = layout.trusted_keys_dir / f"{key().key_id}.json"
    data = trusted.read_bytes()
    keys.revoke(key().key_id[:8])
    trusted.write_bytes(data)
    (layout.revoked_keys_dir / trusted.name).write_bytes(b"")
    with pytest.raises(KeyRefused, match="revoked"):
        keys.get(key().key_id)


@pytest.mark.parametrize("named", ["nobody", "", key().key_id[:7], "f" * 63])
def test_revoking_what_names_no_key_is_refused(keys: TrustedKeys, named: str) -> None:
    with pytest.raises(KeyRefused, match="names no trusted key"):
        keys.revoke(named)
    keys.trust(key())
    with pytest.raises(KeyRefused, match="names no trusted key"):
        keys.revoke(named)


def test_a_key_can_be_revoked_before_it_is_known_and_when_its_file_is_damaged(
    keys: TrustedKeys, layout: BrainLayout
) -> None:
    keys.revoke(key(1).key_id)
    keys.trust(key(2))
    (layout.trusted_keys_dir / f"{key(2).key_id}.json").write_bytes(b"damaged")
    assert "JSON" in next(s.problem for s in keys.list() if not s.revoked)
    keys.trust(key(3))  # one damaged file is in nobody else's way
    keys.revoke(key(2).key_id[:12])
    for number in (1, 2):
        with pytest.raises(KeyRefused, match="revoked"):
            keys.trust(key(number))


def test_what_a_killed_writer_left_of_a_private_key_goes_with_the_next_one(layout: BrainLayout) -> None:
    own = PrivateKeys(layout)
    own.new("one")
    half = layout.private_keys_dir / ".staging-0a0b0c0d-two.json"
    half.write_bytes(b"half")
    assert own.names() == ("one",)
    own.new("two")
    assert own.names() == ("one", "two")
    assert not half.exists()


def test_two_keys_of_one_name_would_be_mistaken(keys: TrustedKeys) -> None:
    keys.trust(key(1, "shop"))
    with pytest.raises(KeyRefused, match="another key is called 'shop'"):
        keys.trust(key(2, "shop"))
    keys.trust(key(1, "shop"))  # the same one again is fine


def test_counters_only_grow(keys: TrustedKeys) -> None:
    keys.trust(key())
    keys.accept(key(), 3)
    for old in (3, 2, 0, -1):
        with pytest.raises(OldCounterError, match="not above 3"):
            keys.accept(key(), old)
    keys.accept(key(), 9)
    assert keys.trust(key()).last == 9
    assert keys.trust(key(), counter=20).last == 20
    with pytest.raises(KeyRefused, match="below 20"):
        keys.trust(key(), counter=5)


def test_each_key_counts_for_itself(keys: TrustedKeys) -> None:
    for number in (1, 2):
        keys.trust(key(number))
    keys.accept(key(1), 100)
    keys.accept(key(2), 1)


def flipped(data: bytes) -> bytes:
    return data.replace(b'"last":3', b'"last":2')


@pytest.mark.parametrize(
    "damage", [None, b"", b"{}", b"\0" * 200, flipped, lambda data: data[:-1], lambda data: data + b"\n"]
)
def test_a_lost_or_damaged_counter_is_refused_until_a_person_gives_one(
    keys: TrustedKeys, layout: BrainLayout, damage: Any
) -> None:
    keys.trust(key())
    keys.accept(key(), 3)
    path = accepted(layout, key())
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
    for attempt in (lambda: keys.accept(key(), 9), lambda: keys.trust(key())):
        with pytest.raises(CounterLostError) as lost:
            attempt()
        assert "--counter" in lost.value.remedy
    assert "counter" in keys.list()[0].problem
    keys.trust(key(), counter=3)
    keys.accept(key(), 4)


def test_a_counter_of_another_key_is_no_counter(keys: TrustedKeys, layout: BrainLayout) -> None:
    for number in (1, 2):
        keys.trust(key(number))
    accepted(layout, key(1)).write_bytes(accepted(layout, key(2)).read_bytes())
    with pytest.raises(CounterLostError):
        keys.accept(key(1), 1)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_trusted_key_that_others_can_write_is_refused(
    keys: TrustedKeys, layout: BrainLayout, mode: int
) -> None:
    keys.trust(key())
    path = layout.trusted_keys_dir / f"{key().key_id}.json"
    path.chmod(mode)
    with pytest.raises(FileNotSafeError, match="others can write") as refused:
        keys.get(key().key_id)
    assert "chmod go-w" in refused.value.remedy
    path.chmod(0o644)
    layout.trusted_keys_dir.chmod(0o775)
    with pytest.raises(FileNotSafeError, match="others can write"):
        keys.get(key().key_id)


def test_a_link_and_another_keys_file_are_refused(keys: TrustedKeys, layout: BrainLayout) -> None:
    keys.trust(key())
    path = layout.trusted_keys_dir / f"{key().key_id}.json"
    path.write_bytes(key(2).to_bytes())
    with pytest.raises(KeyFileError, match="another key"):
        keys.get(key().key_id)
    path.rename(layout.root / "elsewhere")
    path.symlink_to(layout.root / "elsewhere")
    with pytest.raises(FileNotSafeError, match="not a link"):
        keys.get(key().key_id)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_private_key_that_others_can_read_is_refused(layout: BrainLayout, mode: int) -> None:
    own = PrivateKeys(layout)
    own.new("shop")
    path = layout.private_keys_dir / "shop.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    own.load("shop")
    path.chmod(mode)
    with pytest.raises(FileNotSafeError, match="others can read or write it") as refused:
        own.load("shop")
    assert "chmod go-rwx" in refused.value.remedy
    path.chmod(0o600)
    path.parent.chmod(0o750)
    with pytest.raises(FileNotSafeError):
        own.load("shop")


def test_a_private_key_is_0600_whatever_the_umask_is(layout: BrainLayout) -> None:
    before = os.umask(0)
    try:
        PrivateKeys(layout).new("shop")
    finally:
        os.umask(before)
    assert (layout.private_keys_dir / "shop.json").stat().st_mode & 0o777 == 0o600


def test_a_private_key_of_somebody_else_is_refused(
    layout: BrainLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = PrivateKeys(layout)
    own.new("shop")
    user = os.geteuid()
    monkeypatch.setattr(owned_file.os, "geteuid", lambda: user + 1)
    with pytest.raises(FileNotSafeError, match="belongs to user"):
        own.load("shop")


def test_a_pipe_in_place_of_a_key_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    tmp_path.chmod(0o700)
    with pytest.raises(FileNotSafeError, match="is no file"):
        read_owned(tmp_path / "pipe", private=True)


def test_a_damaged_private_key_is_refused_and_not_shown(layout: BrainLayout) -> None:
    own = PrivateKeys(layout)
    own.new("shop")
    path = layout.private_keys_dir / "shop.json"
    whole = path.read_bytes()
    secret = own.load("shop").hex()
    for data in (
        whole[:-10],
        whole.replace(secret[:4].encode(), b"0000", 1),
        b"",
        whole.replace(b"private", b"privat"),
    ):
        if data == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(KeyFileError, match="damaged") as refused:
            own.load("shop")
        assert secret[8:24] not in str(refused.value)


def test_own_counters_are_used_up_once(layout: BrainLayout) -> None:
    own = PrivateKeys(layout)
    made = own.new("shop")
    assert own.next_counter(made.key_id) == 1
    own.issue(made.key_id, 1)
    assert own.next_counter(made.key_id) == 2
    assert own.next_counter(made.key_id, counter=50) == 50
    with pytest.raises(OldCounterError):
        own.next_counter(made.key_id, counter=1)
    (layout.issued_counters_dir / f"{made.key_id}.json").unlink()
    with pytest.raises(CounterLostError, match="missing"):
        own.next_counter(made.key_id)
    assert own.next_counter(made.key_id, counter=51) == 51
    with pytest.raises(CounterLostError, match="keys recount NAME --counter LAST"):
        own.last_issued(made.key_id)
    assert own.recount("shop", 50) == made
    assert own.last_issued(made.key_id) == 50
    assert own.next_counter(made.key_id) == 51
    with pytest.raises(OldCounterError, match="below 50"):
        own.recount("shop", 49)
    own.recount("shop", 50)
    assert own.next_counter(made.key_id) == 51
    with pytest.raises(KeyFileError, match="already"):
        own.new("shop")


@pytest.mark.parametrize("name", ["", "../up", "A", "a/b", ".hidden", "x" * 33, "a b", "é"])
def test_a_name_that_is_no_plain_file_name_is_refused(layout: BrainLayout, name: str) -> None:
    with pytest.raises(KeyFileError, match="cannot be called"):
        PrivateKeys(layout).new(name)


def test_a_public_key_file_says_what_it_is_or_is_refused() -> None:
    data = key().to_bytes()
    assert parse_public_key(data, what="it") == key()
    for at in range(len(data) - 1):
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            other = parse_public_key(bytes(changed), what="it")
        except KeyFileError:
            continue
        else:
            assert other.public == key().public, "only the name may differ"


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_a_key_is_trusted_with_a_counter_or_not_at_all(
    layout: BrainLayout, dying_os: Any, adapters: Any, after: bool
) -> None:
    for change in range(30):
        number = change + 1
        dying = dying_os(change, after=after)
        with contextlib.suppress(adapters.SimulatedDeathError):
            TrustedKeys(layout).trust(key(number))
        dying_os()
        fresh = TrustedKeys(layout)
        try:
            fresh.get(key(number).key_id)
        except BrainError:
            assert dying.dead
        else:
            fresh.check_newer(key(number), 1)
        fresh.trust(key(number))
        fresh.check_newer(key(number), 1)
        if not dying.dead:
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_a_revocation_is_made_or_can_be_made_again(
    layout: BrainLayout, dying_os: Any, adapters: Any, after: bool
) -> None:
    for change in range(30):
        number = change + 1
        dying_os()
        TrustedKeys(layout).trust(key(number))
        dying = dying_os(change, after=after)
        with contextlib.suppress(adapters.SimulatedDeathError):
            TrustedKeys(layout).revoke(f"key{number}")
        dying_os()
        fresh = TrustedKeys(layout)
        if not fresh.is_revoked(key(number).key_id):
            fresh.revoke(f"key{number}")
        with pytest.raises(KeyRefused, match="revoked"):
            fresh.get(key(number).key_id)
        if not dying.dead:
            return
    raise AssertionError("it never came to its end")


# The eight points of small order and the ways to write them that are not canonical, as in "Taming the many EdDSAs"
# (Chalkias, Garillot, Nikolaenko, 2020), table 1.
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
)


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_key_that_anybody_can_sign_for_is_refused(public: str) -> None:
    with pytest.raises(KeyFileError, match="anybody can sign"):
        parse_public_key(PublicKey("weak", bytes.fromhex(public)).to_bytes(), what="it")
