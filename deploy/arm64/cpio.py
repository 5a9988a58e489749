"""A cpio archive in the format "newc", as the kernel unpacks it at boot (Documentation/driver-api/early-userspace/
buffer-format.rst). Written here because that is shorter than asking for another program."""

from __future__ import annotations

from collections.abc import Mapping

_FILE, _FOLDER = 0o100755, 0o040755


def archive(files: Mapping[str, bytes]) -> bytes:
    """Files, executable, by their path without a leading slash; the folders that they need come with them."""
    folders = sorted({name[:i] for name in files for i, letter in enumerate(name) if letter == "/"})
    entries = [(name, _FOLDER, b"") for name in folders] + [(n, _FILE, data) for n, data in files.items()]
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        links = 2 if mode == _FOLDER else 1
        fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields)
        out += name.encode() + b"\0"
        out += bytes(-len(out) % 4)
        out += data
        out += bytes(-len(out) % 4)
    return bytes(out)
