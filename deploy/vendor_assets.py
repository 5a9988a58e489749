"""Fetch what the dashboard and its tests have of others, through npm, pinned by version and sha256 of the archive.

    python deploy/vendor_assets.py            # writes the files
    python deploy/vendor_assets.py --check    # exit code 1 when the files in the tree are others

Needs npm and the network; users need neither: the files are in the package.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Asset:
    """An npm package: which of its files (paths in the archive) go into which folder."""

    package: str
    sha256: str
    files: tuple[str, ...]
    folder: str


ASSETS = (
    Asset(
        "uplot@1.6.32",
        "4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d",
        ("LICENSE", "dist/uPlot.iife.min.js", "dist/uPlot.min.css"),
        "continuonbrain/service/static/vendor/uplot",
    ),
    Asset(
        "axe-core@4.14.1",
        "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
        ("LICENSE", "axe.min.js"),
        "tests/dashboard/vendor/axe-core",
    ),
)


def fetched(asset: Asset) -> dict[str, bytes]:
    """File name -> bytes. SystemExit when the archive is not the pinned one."""
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", "--silent", asset.package], cwd=folder, check=True, capture_output=True, text=True
        )
        archive = Path(folder, packed.stdout.strip().splitlines()[-1])
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != asset.sha256:
            sys.exit(f"{asset.package}: the archive has sha256 {found}, pinned is {asset.sha256}")
        with tarfile.open(archive) as tar:
            files = {}
            for name in asset.files:
                member = tar.extractfile(f"package/{name}")
                if member is None:
                    sys.exit(f"{asset.package}: {name} is no file")
                files[Path(name).name] = member.read()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wrong = []
    for asset in ASSETS:
        for name, data in fetched(asset).items():
            path = ROOT / asset.folder / name
            if check:
                if not path.is_file() or path.read_bytes() != data:
                    wrong.append(str(path.relative_to(ROOT)))
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if wrong:
        sys.exit("not as published: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
