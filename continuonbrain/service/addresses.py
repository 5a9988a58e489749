"""Under which addresses a browser reaches a service of this machine. Nobody is asked over the network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

import psutil

_EVERYWHERE = ("0.0.0.0", "::")
_OF_CONTAINERS = ("docker", "br-", "veth", "virbr", "lxc", "podman", "cni")
"""Names of interfaces begin so behind which no browser of the LAN is."""


def reachable(listen: str | None, port: int) -> list[str]:
    """URLs of a service that listens there (None: on loopback), the one to tell first. Of all addresses: the name of
    this machine, which is found where there is mDNS, then the private address of each interface."""
    if listen in (None, ""):
        hosts = ["127.0.0.1"]
    elif listen in _EVERYWHERE:
        name = f"{socket.gethostname().partition('.')[0]}.local"
        hosts = [name, *private(_found(), six=listen == "::")]
    else:
        hosts = [str(listen)]
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}" for host in hosts]


def private(found: Iterable[tuple[str, str]], *, six: bool) -> list[str]:
    """Those of (interface, address) that a browser of the LAN may reach: private ones, of networks that are no
    container's. six: those of IPv6, too."""
    kept: list[str] = []
    for interface, text in found:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:  # a hardware address
            continue
        apart = address.is_loopback or address.is_link_local or address.is_unspecified
        if apart or not address.is_private or (address.version == 6 and not six):
            continue
        if not interface.startswith(_OF_CONTAINERS) and str(address) not in kept:
            kept.append(str(address))
    return kept


def _found() -> list[tuple[str, str]]:
    """Of the interfaces that are up."""
    try:
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        interfaces = psutil.net_if_addrs()
    except OSError:  # a sandbox: the name has to do
        return []
    return [(name, a.address) for name, its in interfaces.items() if name in up for a in its]
