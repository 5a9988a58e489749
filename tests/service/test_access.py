"""Who guesses the pairing code waits, and nobody keeps the owner out. With a clock of its own."""

from __future__ import annotations

import pytest

from continuonbrain.service.access import Pairing

OWNER = "192.168.1.2"
DAY_S = 24 * 3600.0


class Console:
    """A pairing, its clock and what the console shows."""

    def __init__(self) -> None:
        self.now = 0.0
        self.shown: list[str] = []
        self.pairing = Pairing(self.shown.append, clock=lambda: self.now)

    @property
    def code(self) -> str:
        return self.shown[-1]

    @property
    def wrong(self) -> str:
        return f"{(int(self.code) + 1) % 10 ** len(self.code):0{len(self.code)}}"

    def guess(self, address: str) -> str:
        return self.pairing.try_code(self.wrong, address)


def test_the_pause_of_an_address_doubles_up_to_an_hour() -> None:
    console = Console()
    for pause_s in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        assert [console.guess("10.0.0.9") for _ in range(10)] == ["wrong"] * 10
        assert console.pairing.closed_s("10.0.0.9") == pytest.approx(pause_s)
        assert console.pairing.try_code(console.code, "10.0.0.9") == "closed"  # not even the right one
        console.now += pause_s - 1
        assert console.guess("10.0.0.9") == "closed"
        console.now += 1.5
    assert console.pairing.try_code(console.code, "10.0.0.9") == "opens"


def test_strangers_of_one_address_or_many_never_close_it_for_the_owner() -> None:
    console = Console()
    for day in range(3):
        for stranger in range(300):
            for _ in range(15):
                console.guess(f"10.{day}.{stranger // 250}.{stranger % 250}")
        assert console.pairing.closed_s(OWNER) == 0
        assert console.pairing.try_code(console.code, OWNER) == "opens"
        console.now += DAY_S


def test_a_code_of_six_digits_is_guessed_at_a_hundred_times_at_most() -> None:
    console = Console()
    assert len(console.code) == 6
    tried = 0
    for stranger in range(1000):
        while len(console.code) == 6 and console.guess(f"10.0.{stranger // 250}.{stranger % 250}") == "wrong":
            tried += 1
    assert tried == 100
    assert len(console.code) == 12
    old = console.code
    for stranger in range(1000):
        console.guess(f"10.1.{stranger // 250}.{stranger % 250}")
    assert console.code == old  # who types it is not interrupted any more
    assert console.pairing.try_code(old, OWNER) == "opens"
    assert len(console.code) == 6


def test_a_machine_has_one_ipv6_network_and_one_ipv4_address_in_two_spellings() -> None:
    console = Console()
    for guess in range(10):
        console.guess(f"2001:db8:1:2::{guess:x}")
        console.guess("::ffff:10.0.0.9" if guess % 2 else "10.0.0.9")
    assert console.pairing.closed_s("2001:db8:1:2:ffff::1") > 0
    assert console.pairing.closed_s("10.0.0.9") > 0
    assert console.pairing.closed_s("2001:db8:1:3::1") == 0
    assert console.pairing.closed_s("fe80::1%eth0") == 0


def test_a_used_code_is_told_as_one_and_counts_for_nothing() -> None:
    console = Console()
    code = console.code
    assert console.pairing.try_code(code, OWNER) == "opens"
    assert [console.pairing.try_code(code, OWNER) for _ in range(20)] == ["used"] * 20
    assert console.pairing.closed_s(OWNER) == 0
    assert console.guess(OWNER) == "wrong"
    assert console.pairing.try_code(console.code, OWNER) == "opens"


def test_a_new_code_at_the_robot_hears_everybody_again() -> None:
    console = Console()
    while console.pairing.closed_s(OWNER) == 0:
        console.guess(OWNER)
    console.pairing.renew()
    assert console.pairing.closed_s(OWNER) == 0
    assert console.pairing.try_code(console.code, OWNER) == "opens"


def test_what_is_remembered_of_guessers_is_bounded() -> None:
    console = Console()
    for stranger in range(5000):
        console.guess(f"10.{stranger // 62500}.{stranger // 250 % 250}.{stranger % 250}")
    assert len(console.pairing._guessers) <= 1024
