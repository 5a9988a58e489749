"""What a bundle says of itself: `manifest.json`, and `bundle.json`, which signs it. Pure.

`manifest.json` names every member before it, in their order, by length and sha256. `bundle.json` is a signed document
as docs/signing.md has it, of kind "memory", whose one file is `manifest.json`. Both are canonical JSON. They come
last, so that a bundle can be written in one pass, and one that was cut short has neither.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from continuonbrain import __version__
from continuonbrain.cloud.errors import BundleRefused
from continuonbrain.cloud.privacy import FACES, privacy_with
from continuonbrain.storage.canonical_json import NotSignableError, parse_signable, signable_bytes
from continuonbrain.storage.signing import (
    Document,
    SignatureRefused,
    SignedFile,
    parse_envelope,
    verify,
)
from continuonbrain.storage.zip64 import Member, is_member_name

FORMAT: Final = "continuonbrain.memory.1"
KIND_MEMORY: Final = "memory"
MANIFEST, ENVELOPE = "manifest.json", "bundle.json"
EPISODES, ORDER = "episodes.jsonl", "order"
"""The list of a bundle's records, and which field of it says when an episode came."""
LARGEST_MANIFEST: Final = 16 << 20
LARGEST_ENVELOPE: Final = 64 << 10

_REMEDY = "copy it again, whole; if that does not help, have it exported again"


@dataclass(frozen=True, slots=True)
class SignedMember:
    """A member as a manifest names it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Blurred:
    """How many faces were found and blurred, in how many of the pictures that leave, and how many those are."""

    faces: int = 0
    in_pictures: int = 0
    of_pictures: int = 0

    def __add__(self, other: Blurred) -> Blurred:
        return Blurred(
            self.faces + other.faces,
            self.in_pictures + other.in_pictures,
            self.of_pictures + other.of_pictures,
        )


@dataclass(frozen=True)
class Contents:
    """What a manifest says.

    Attributes:
        robot: the pseudonym of who recorded.
        base_sha256: the base that the adapters belong to.
        frames: "keep", "half" or "none".
        episodes, steps: records and steps in all datasets.
        datasets: by their folder: height and width of the pictures (none: 0, 0), records, steps.
        adapters: of the slots "current" and "slow" what there is: version and sha256.
        faces: what was done to faces in pictures, "" for nothing.
        blurred: to how many, None where none were looked for, or nobody counted (an older bundle).
        members: every file but the manifest and its signature, in their order.
    """

    robot: str
    base_sha256: str
    frames: str
    episodes: int
    steps: int
    datasets: Mapping[str, Mapping[str, int]]
    adapters: Mapping[str, Mapping[str, str]]
    members: tuple[SignedMember, ...]
    faces: str = ""
    blurred: Blurred | None = None


def manifest_bytes(contents: Contents) -> bytes:
    """The text of `manifest.json`."""
    return signable_bytes(
        {
            "format": FORMAT,
            "program": f"continuonbrain {__version__}",
            "robot": contents.robot,
            "base_sha256": contents.base_sha256,
            "frames": contents.frames,
            "episodes": contents.episodes,
            "steps": contents.steps,
            "datasets": contents.datasets,
            "adapters": contents.adapters,
            "privacy": privacy_with(contents.faces),
            "members": [{"name": m.name, "bytes": m.bytes, "sha256": m.sha256} for m in contents.members],
            **({} if contents.blurred is None else {"blurred": asdict(contents.blurred)}),
        }
    )


_ROBOT = re.compile(r"robot-[0-9a-f]{16}")
_OF_A_DATASET = {"height", "width", "episodes", "steps"}
_INFO = "dataset_info.json"


def document_of(manifest: bytes, base_sha256: str) -> Document:
    """What is signed; key and counter are still to be filled in."""
    signed = SignedFile(hashlib.sha256(manifest).hexdigest(), len(manifest))
    return Document(
        kind=KIND_MEMORY, key_id="0" * 64, counter=1, base_sha256=base_sha256, files={MANIFEST: signed}
    )


def parse_manifest(data: bytes, *, what: str) -> Contents:
    """Read a manifest. Raises BundleRefused."""
    try:
        raw = parse_signable(data, what=f"{what}: {MANIFEST}")
    except NotSignableError as error:
        raise BundleRefused(error.message, remedy=_REMEDY) from error
    if raw.get("format") != FORMAT:
        raise BundleRefused(
            f"{what}: manifest.json: format is {str(raw.get('format'))[:60]!r}, this program reads {FORMAT}",
            remedy="install the version of continuonbrain that it was exported with",
        )
    try:
        members = tuple(
            SignedMember(_text(m["name"]), _count(m["bytes"]), _text(m["sha256"])) for m in raw["members"]
        )
        contents = Contents(
            _text(raw["robot"]),
            _text(raw["base_sha256"]),
            _text(raw["frames"]),
            _count(raw["episodes"]),
            _count(raw["steps"]),
            {_text(n): {k: _count(v) for k, v in d.items()} for n, d in raw["datasets"].items()},
            {_text(n): {k: _text(v) for k, v in a.items()} for n, a in raw["adapters"].items()},
            members,
            _text(raw.get("privacy", {}).get("coarsened", {}).get(FACES, "")),
            _blurred(raw.get("blurred")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleRefused(f"{what}: manifest.json is not one ({error!r})", remedy=_REMEDY) from error
    names = [m.name for m in members]
    if len(set(names)) != len(names) or not all(map(is_member_name, names)):
        raise BundleRefused(f"{what}: manifest.json: a member's name is none, or there twice", remedy=_REMEDY)
    if not _ROBOT.fullmatch(contents.robot):
        raise BundleRefused(f"{what}: manifest.json: robot is no robot's pseudonym", remedy=_REMEDY)
    for folder, told in contents.datasets.items():
        # What is read is what was signed: a dataset is a folder of members, and nothing beside the bundle.
        if told.keys() != _OF_A_DATASET or f"{folder}/{_INFO}" not in names:
            raise BundleRefused(
                f"{what}: manifest.json: dataset {folder[:80]!r} is none of its members", remedy=_REMEDY
            )
    return contents


def checked(
    members: Sequence[Member], manifest: bytes, envelope: bytes, public: bytes, *, what: str
) -> tuple[Document, Contents]:
    """That these members are exactly those that the owner of the key `public` (32 raw bytes) signed.

    Args:
        members: what is there, in its order, with the manifest and its signature at the end.

    Raises:
        BundleRefused, NotSignableError, SignatureRefused.
    """
    parsed = parse_envelope(envelope)
    verify(parsed, public)
    document = parsed.document
    told = {MANIFEST: SignedFile(hashlib.sha256(manifest).hexdigest(), len(manifest))}
    if document.kind != KIND_MEMORY or document.files != told:
        raise SignatureRefused(
            f"{what}: what was signed is not this manifest.json", remedy="do not use it; " + _REMEDY
        )
    contents = parse_manifest(manifest, what=what)
    if contents.base_sha256 != document.base_sha256:
        raise BundleRefused(f"{what}: manifest.json and bundle.json name two bases", remedy=_REMEDY)
    names = [m.name for m in members]
    wanted = [m.name for m in contents.members] + [MANIFEST, ENVELOPE]
    if names != wanted:
        odd = sorted(set(names) ^ set(wanted))
        raise BundleRefused(
            f"{what}: its members are not those of the manifest ({', '.join(odd[:3]) or 'another order'})",
            remedy=_REMEDY,
        )
    for found, signed in zip(members, contents.members, strict=False):
        if (found.bytes, found.sha256) != (signed.bytes, signed.sha256):
            raise BundleRefused(
                f"{what}: {found.name} is not the file that was signed (its sha256 differs)", remedy=_REMEDY
            )
    return document, contents


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value


def _blurred(value: object) -> Blurred | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]!r} says of no faces how many")
    return Blurred(*(_count(value[name]) for name in ("faces", "in_pictures", "of_pictures")))


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value
