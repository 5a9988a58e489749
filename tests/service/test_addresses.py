"""Which addresses are told of a service: by the rule, and what `serve` and `run` print."""

from __future__ import annotations

import socket

import pytest

from continuonbrain.cli.dashboard import Dashboard
from continuonbrain.service import addresses
from continuonbrain.service.addresses import private, reachable
from continuonbrain.storage.layout import BrainLayout

FOUND = [
    ("lo", "127.0.0.1"),
    ("lo", "::1"),
    ("wlan0", "192.168.7.20"),
    ("wlan0", "fe80::1%wlan0"),
    ("wlan0", "fd00::20"),
    ("wlan0", "dc:a6:32:00:00:01"),
    ("eth0", "10.0.0.5"),
    ("eth1", "10.0.0.5"),
    ("eth2", "169.254.3.4"),
    ("ppp0", "8.8.8.8"),
    ("docker0", "172.17.0.1"),
    ("br-12ab", "172.18.0.1"),
]


def test_private_addresses_of_the_lan_are_told_and_no_others() -> None:
    assert private(FOUND, six=False) == ["192.168.7.20", "10.0.0.5"]
    assert private(FOUND, six=True) == ["192.168.7.20", "fd00::20", "10.0.0.5"]


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        (None, ["127.0.0.1"]),
        ("192.168.7.20", ["192.168.7.20"]),
        ("fd00::20", ["[fd00::20]"]),
        ("0.0.0.0", ["robbie.local", "192.168.7.20", "10.0.0.5"]),
        ("::", ["robbie.local", "192.168.7.20", "[fd00::20]", "10.0.0.5"]),
    ],
)
def test_a_page_has_an_address_without_a_name_server_too(
    monkeypatch: pytest.MonkeyPatch, listen: str | None, hosts: list[str]
) -> None:
    monkeypatch.setattr(addresses, "_found", lambda: FOUND)
    monkeypatch.setattr(socket, "gethostname", lambda: "robbie.home")
    assert reachable(listen, 8080) == [f"http://{host}:8080" for host in hosts]


def test_a_run_tells_all_of_them(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_found", lambda: FOUND)
    monkeypatch.setattr(socket, "gethostname", lambda: "robbie")
    told = Dashboard(BrainLayout(tmp_path), 8080, "0.0.0.0")  # type: ignore[arg-type]
    assert told.addresses == [
        "http://robbie.local:8080",
        "http://192.168.7.20:8080",
        "http://10.0.0.5:8080",
    ]
    assert told.address == told.addresses[0]
    assert " or ".join(told.addresses) in told.in_words()


def test_the_interfaces_of_this_machine_can_be_asked() -> None:
    assert all(isinstance(name, str) and address for name, address in addresses._found())
