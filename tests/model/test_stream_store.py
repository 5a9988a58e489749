"""Cached streams come back to the bit or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from continuonbrain.model import record_cache  # noqa: E402
from continuonbrain.model.record_cache import RecordCache, RecordCacheError, identity  # noqa: E402
from continuonbrain.model.stream_store import StreamStore  # noqa: E402
from continuonbrain.model.streams import Streams, collate  # noqa: E402

BIG = 1 << 30


def streams(seed: int, positions: int = 3, keys: int = 7) -> Streams:
    g = torch.Generator().manual_seed(seed)
    kv = {
        kind: (torch.randn(1, 2, keys, 4, generator=g), torch.randn(1, 2, keys, 4, generator=g).bfloat16())
        for kind in ("full_attention", "sliding_attention")
    }
    return Streams(
        torch.randn(4, 1, positions, 8, generator=g).bfloat16(),
        torch.randn(1, positions, 2, 5, generator=g),
        kv,
        {kind: torch.tensor([seed]) for kind in kv},
        torch.arange(keys - positions, keys)[None],
        torch.arange(positions)[None],
    )


def same(a: Streams, b: Streams) -> bool:
    one, other = a.tensors(), b.tensors()
    return one.keys() == other.keys() and all(
        torch.equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one
    )


def test_what_was_put_comes_back_also_in_another_process_life(tmp_path: Path) -> None:
    store = StreamStore(tmp_path / "cache", "a", max_bytes=BIG)
    for i in range(5):
        store.put(f"episode/{i}", streams(i))
    again = StreamStore(tmp_path / "cache", "a", max_bytes=BIG)
    assert len(again) == 5
    for i in range(5):
        found = again.get(f"episode/{i}")
        assert found is not None
        assert same(found, streams(i))
    assert again.get("episode/5") is None
    late = StreamStore(tmp_path / "cache", "a", max_bytes=BIG)
    again.put("episode/5", streams(5))
    assert "episode/5" not in late
    late.refresh()
    assert "episode/5" in late


def test_streams_of_another_base_are_never_found_and_make_room(tmp_path: Path) -> None:
    old = StreamStore(tmp_path, identity("base one", "layout 1"), max_bytes=BIG)
    old.put("episode/0", streams(0))
    new = StreamStore(tmp_path, identity("base two", "layout 1"), max_bytes=BIG)
    assert "episode/0" not in new
    new.put("episode/1", streams(1))
    assert len(list(tmp_path.iterdir())) == 1
    old.refresh()
    assert old.get("episode/0") is None
    assert (
        identity("base one", "layout 1")
        != identity("base one", "layout 2")
        != identity("base on", "elayout 2")
    )


@pytest.mark.parametrize("at", ["last byte", "cut in half", "length", "key", "tensor bytes"])
def test_a_torn_or_altered_record_is_a_miss_and_the_ones_before_it_stay(tmp_path: Path, at: str) -> None:
    store = StreamStore(tmp_path, "a", max_bytes=BIG)
    store.put("first", streams(1))
    (file,) = tmp_path.iterdir()
    start = file.stat().st_size
    store.put("second", streams(2))
    data = bytearray(file.read_bytes())
    if at == "cut in half":
        data = data[: start + (len(data) - start) // 2]
    else:
        data[
            {"last byte": len(data) - 1, "length": start, "key": start + 12, "tensor bytes": len(data) - 99}[
                at
            ]
        ] ^= 1
    file.write_bytes(bytes(data))
    again = StreamStore(tmp_path, "a", max_bytes=BIG)
    first = again.get("first")
    assert first is not None
    assert same(first, streams(1))
    assert again.get("second") is None
    again.put("second", streams(2))
    third = StreamStore(tmp_path, "a", max_bytes=BIG)
    second = third.get("second")
    assert second is not None
    assert same(second, streams(2))


def test_a_file_that_was_replaced_under_a_reader_gives_no_other_samples_streams(tmp_path: Path) -> None:
    for name, key in (("a", "first"), ("b", "other")):
        StreamStore(tmp_path / name, "one", max_bytes=BIG).put(key, streams(len(key)))
    reader = StreamStore(tmp_path / "a", "one", max_bytes=BIG)
    (mine,), (theirs,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    mine.write_bytes(theirs.read_bytes())  # whole, and its checksums are right
    assert reader.get("first") is None


def test_the_folder_stays_below_its_bound_and_the_newest_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_cache, "_SEGMENT_BYTES", 8_000)
    store = StreamStore(tmp_path, "a", max_bytes=30_000)
    for i in range(100):
        store.put(str(i), streams(i))
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 30_000
    assert "99" in store
    assert "0" not in store
    kept = [i for i in range(100) if str(i) in store]
    assert kept == list(range(kept[0], 100))
    found = store.get("99")
    assert found is not None
    assert same(found, streams(99))


def test_a_folder_that_cannot_be_written_is_named_and_nothing_half_written_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StreamStore(tmp_path, "a", max_bytes=BIG)
    store.put("first", streams(1))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    write = os.write
    calls = 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(descriptor, data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_cache.os, "write", full)
    with pytest.raises(RecordCacheError, match="No space left") as error:
        store.put("second", streams(2))
    assert str(tmp_path) in str(error.value)
    assert error.value.remedy
    assert file.read_bytes() == whole
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordCacheError, match="cannot be written"):
        StreamStore(tmp_path / "file" / "cache", "a", max_bytes=BIG).put("x", streams(0))


def test_ragged_streams_from_disk_make_one_batch(tmp_path: Path) -> None:
    store = StreamStore(tmp_path, "a", max_bytes=BIG)
    made = [streams(1, 3, 7), streams(2, 1, 9), streams(3, 5, 5)]
    for i, part in enumerate(made):
        store.put(str(i), part)
    found = [store.get(str(i)) for i in range(3)]
    assert same(collate([f for f in found if f is not None]), collate(made))
    assert collate(made).index.shape == (3, 5)


def test_a_reader_never_gets_another_keys_streams_whatever_the_writer_does(tmp_path: Path) -> None:
    """Room for one record or two: every put throws out the file that a reader has indexed."""
    store = StreamStore(tmp_path, "a", max_bytes=6_000)
    store.put("0", streams(0))
    size = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert 2 * size > 3_000
    readers = []
    for i in range(1, 40):
        readers.append(StreamStore(tmp_path, "a", max_bytes=6_000))
        store.put(str(i), streams(i))
        for reader in (*readers, store):
            for key in range(i + 1):
                found = reader.get(str(key))
                assert found is None or same(found, streams(key))
    assert len(list(tmp_path.iterdir())) >= 1
    assert len(store) <= 6_000 // size + 1


def test_a_folder_that_is_emptied_and_filled_again_answers_no_old_key(tmp_path: Path) -> None:
    store = StreamStore(tmp_path, "a", max_bytes=BIG)
    for i in range(4):
        store.put(str(i), streams(i))
    for path in tmp_path.iterdir():
        path.unlink()
    for i in range(4, 9):
        store.put(str(i), streams(i))
    assert [store.get(str(i)) for i in range(4)] == [None] * 4
    for i in range(4, 9):
        found = store.get(str(i))
        assert found is not None
        assert same(found, streams(i))


def test_files_of_others_in_the_folder_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a-backup.tfrecord").write_bytes(b"not one of ours")
    (tmp_path / "notes.txt").write_text("keep")
    store = StreamStore(tmp_path, "a", max_bytes=BIG)
    store.put("1", streams(1))
    assert store.get("1") is not None
    assert (tmp_path / "notes.txt").exists()


def test_two_writers_do_not_write_over_each_other(tmp_path: Path) -> None:
    one, other = (StreamStore(tmp_path, "a", max_bytes=BIG) for _ in range(2))
    for i in range(6):
        (one if i % 2 else other).put(str(i), streams(i))
    reader = StreamStore(tmp_path, "a", max_bytes=BIG)
    for i in range(6):
        found = reader.get(str(i))
        assert found is not None
        assert same(found, streams(i))


def test_after_a_clock_was_set_back_the_oldest_still_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_cache, "_SEGMENT_BYTES", 4096)
    now = 2_000_000_000_000_000_000
    monkeypatch.setattr(record_cache.time, "time_ns", lambda: now)
    ahead = RecordCache(tmp_path, "id", max_bytes=16_000)
    for i in range(12):
        ahead.put(f"old {i}", bytes(1000))
    now = 1_000_000_000_000_000_000
    later = RecordCache(tmp_path, "id", max_bytes=16_000)
    for i in range(10):
        later.put(f"new {i}", bytes(1000))
    assert all(f"new {i}" in later for i in range(10))
    assert "old 0" not in later
