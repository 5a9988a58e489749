"""Claims about rebuilt disks: a flush is kept, what came after it may be anything that a power cut leaves."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from write_log import FLUSH, FUA, MAGIC, SECTOR, LogError, Told, crash_image, need_at, parse

SECTORS = 16
EMPTY = bytes(SECTORS * SECTOR)
Request = tuple[int, int, bytes]
"""Sector, flags, data."""


def log_of(requests: Sequence[Request]) -> bytes:
    """As qemu writes it."""
    log = struct.pack("<QQQI", MAGIC, 1, len(requests), SECTOR).ljust(SECTOR, b"\0")
    for sector, flags, data in requests:
        log += struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + data
    return log


def full(mark: int, sectors: int = 1) -> bytes:
    return bytes([mark]) * SECTOR * sectors


def marks(image: bytes | bytearray) -> list[int]:
    """The first byte of each sector; a sector is of one write or of none."""
    found = []
    for at in range(0, len(image), SECTOR):
        assert len(set(image[at : at + SECTOR])) == 1
        found.append(image[at])
    return found


def images(requests: Sequence[Request], cut: int, count: int = 300) -> list[list[int]]:
    log = log_of(requests)
    writes = parse(log)
    return [marks(crash_image(EMPTY, log, writes, cut, random.Random(seed))) for seed in range(count)]


def test_what_was_flushed_is_there_in_every_image() -> None:
    requests = [(0, 0, full(1)), (1, 0, full(2)), (0, FLUSH, b""), (1, 0, full(3)), (2, 0, full(4))]
    found = images(requests, len(requests))
    assert all(image[0] == 1 for image in found)
    assert {image[1] for image in found} == {2, 3}  # overwritten since, or not
    assert {image[2] for image in found} == {0, 4}


def test_a_flush_covers_what_was_before_it_and_not_its_own_data() -> None:
    found = images([(0, 0, full(1)), (1, FLUSH, full(2))], 2)
    assert all(image[0] == 1 for image in found)
    assert {image[1] for image in found} == {0, 2}


def test_fua_is_there_without_a_flush() -> None:
    found = images([(0, 0, full(1)), (1, FUA, full(2))], 2)
    assert all(image[1] == 2 for image in found)
    assert {image[0] for image in found} == {0, 1}


def test_a_later_write_may_be_there_without_an_earlier_one_and_two_to_one_place_change_places() -> None:
    found = images([(0, 0, full(1)), (1, 0, full(2)), (2, 0, full(3)), (2, 0, full(4))], 4)
    assert {(image[0], image[1]) for image in found} == {(0, 0), (1, 0), (0, 2), (1, 2)}
    assert {image[2] for image in found} == {0, 3, 4}


def test_a_write_is_torn_at_sectors_from_its_front() -> None:
    found = images([(4, 0, full(7, 4))], 1)
    assert {tuple(image[4:8]) for image in found} == {
        (0, 0, 0, 0),
        (7, 0, 0, 0),
        (7, 7, 0, 0),
        (7, 7, 7, 0),
        (7, 7, 7, 7),
    }


def test_nothing_after_the_cut_is_there_not_even_its_flush() -> None:
    requests = [(0, 0, full(1)), (1, 0, full(2)), (0, FLUSH, b"")]
    found = images(requests, 1)
    assert {(image[0], image[1]) for image in found} == {(0, 0), (1, 0)}
    assert images(requests, 0, 3) == [[0] * SECTORS] * 3


requests_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, SECTORS - 4), st.sampled_from([0, 0, 0, FLUSH, FUA, FLUSH | FUA]), st.integers(0, 4)
    ).filter(lambda request: request[2] or request[1] & FLUSH),
    max_size=20,
)


@given(asked=requests_of_any_kind, seed=st.integers(0, 2**32), data=st.data())
def test_every_sector_holds_a_write_that_no_flush_had_replaced(
    asked: list[tuple[int, int, int]], seed: int, data: st.DataObject
) -> None:
    requests = [(sector, flags, full(mark, n)) for mark, (sector, flags, n) in enumerate(asked, start=1)]
    log = log_of(requests)
    writes = parse(log)
    assert [(w.sector, w.flags, w.sectors) for w in writes] == asked
    cut = data.draw(st.integers(0, len(requests)))
    found = marks(crash_image(EMPTY, log, writes, cut, random.Random(seed)))
    for place in range(SECTORS):
        possible = {0}
        pending: set[int] = set()
        for mark, (sector, flags, n) in enumerate(asked[:cut], start=1):
            if flags & FLUSH and pending:
                possible, pending = {max(pending)}, set()
            if sector <= place < sector + n:
                pending.add(mark)
        assert found[place] in possible | pending


def test_a_log_that_ends_in_the_middle_of_a_request_ends_before_it() -> None:
    requests = [(0, 0, full(1)), (1, 0, full(2, 3))]
    whole = log_of(requests)
    assert len(parse(whole)) == 2
    for cut in range(len(whole) - 1, len(whole) - 4 * SECTOR, -300):
        assert len(parse(whole[:cut])) == 1
    assert len(parse(whole + bytes(5 * SECTOR))) == 2  # room that was not written yet


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"", "no superblock"),
        (bytes(4096), "no log of writes"),
        (struct.pack("<QQQI", MAGIC, 1, 0, 4096).ljust(SECTOR, b"\0"), "4096"),
        (log_of([(0, 4, b"")]), "flags 0x4"),
    ],
)
def test_what_is_no_log_is_refused(log: bytes, said: str) -> None:
    with pytest.raises(LogError, match=said):
        parse(log)


def test_only_what_had_left_the_machine_is_needed() -> None:
    told = [
        Told(100, "PROMOTING 1"),
        Told(200, "SYNCED a 3"),
        Told(300, "PROMOTED 1"),
        Told(300, "SYNCED a 7"),
        Told(400, "PROMOTING 2"),
        Told(500, "CLOSED a 9"),
    ]
    early, late = need_at(told, 299), need_at(told, 500)
    assert (early.synced, early.closed, early.promoted, early.begun) == ({"a": 3}, {}, 0, 2)
    assert (late.synced, late.closed, late.promoted, late.begun) == ({"a": 7}, {"a": 9}, 1, 2)


def test_a_line_that_nobody_knows_is_not_passed_over() -> None:
    with pytest.raises(LogError, match="SYNKED"):
        need_at([Told(0, "SYNKED a 3")], 1)
