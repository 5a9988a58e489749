"""Bundles as a trainer takes them: checked whole, by a key that was given, before anything of them is unpacked.

A zip's members are then copied into the working folder, each against the sha256 that was signed; a folder is read where
it lies. Nothing in a bundle is unpickled: episodes are TFRecords, the rest is JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from continuonbrain.cloud.check import check_bundle, read_envelope
from continuonbrain.cloud.errors import BundleRefused
from continuonbrain.cloud.manifest import Contents, SignedMember
from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.config.brain import BrainConfig
from continuonbrain.config.error import ConfigError
from continuonbrain.config.load import parse_config
from continuonbrain.errors import BrainError, told_from
from continuonbrain.rlds.files import open_regular, read_limited
from continuonbrain.storage.plain_json import load_plain
from continuonbrain.storage.public_key import PublicKey
from continuonbrain.storage.signing import parse_envelope

_PIECE = 1 << 20
_SETTINGS = "config.json"
_LARGEST_SETTINGS = 1 << 20
_REMEDY = "copy it again, whole; if that does not help, have it exported again"


@dataclass(frozen=True)
class OpenBundle:
    """A bundle that was checked. folder: where its members lie as files; counter: of its key, higher in a later bundle;
    settings: of the robot, without its texts."""

    path: Path
    folder: Path
    key: PublicKey
    counter: int
    manifest_sha256: str
    contents: Contents
    settings: BrainConfig

    @property
    def in_time(self) -> tuple[str, int, str]:
        """Sorts a robot's bundles: the counter of its key is the order in which they were made."""
        return self.contents.robot, self.counter, self.manifest_sha256

    def told(self) -> dict[str, object]:
        """For `training.json`."""
        return {
            "manifest_sha256": self.manifest_sha256,
            "robot": self.contents.robot,
            "key_id": self.key.key_id,
            "episodes": self.contents.episodes,
            "steps": self.contents.steps,
        }


def open_bundle(path: Path, keys: Sequence[PublicKey], *, base_sha256: str, unfinished: Path) -> OpenBundle:
    """Check a bundle and lay its members out as files.

    Args:
        keys: of whom bundles are taken.
        base_sha256: of the base that is trained on: another robot's adapter could not be used there.
        unfinished: a folder to unpack a zip in.

    Raises:
        BundleRefused, SignatureRefused, NotSignableError: it is not exactly what an owner of these keys signed, or it
            cannot be read.
        TrainRefused: nobody's of these keys, or of another base.
        OSError: `unfinished` cannot be written.
    """
    with _its_own_errors(path):
        checked = check_bundle(path, _key_of(path, keys))
    contents = checked.contents
    if contents.base_sha256 != base_sha256:
        raise TrainRefused(
            f"{path} is of a robot that drives with base {contents.base_sha256[:12]}, not {base_sha256[:12]}",
            remedy="give that base with --base: an adapter is of use on the base that it was trained on only",
        )
    folder = path
    if not path.is_dir():
        folder = unfinished / checked.manifest_sha256[:16]
        _unpack(path, contents.members, folder)
    with _its_own_errors(path):
        settings = _settings(folder / _SETTINGS, path)
    return OpenBundle(path, folder, checked.key, checked.counter, checked.manifest_sha256, contents, settings)


@contextlib.contextmanager
def _its_own_errors(path: Path) -> Iterator[None]:
    """Where nothing but a bundle is read: what the system refuses is a fault of that bundle, a pipe under its name say,
    and no reason to end a run that may go on without it."""
    try:
        yield
    except OSError as error:
        told = told_from(error) or BrainError(f"{path}: {error}", remedy=_REMEDY)
        raise BundleRefused(told.message, remedy=told.remedy) from error


def _key_of(path: Path, keys: Sequence[PublicKey]) -> PublicKey:
    """The key that a bundle says it was signed with, if it is one of these; the signature is checked later."""
    if not path.exists():
        raise BundleRefused(f"{path}: there is no such bundle", remedy="give what `cloud export` wrote")
    envelope = read_envelope(path)
    key_id = parse_envelope(envelope).document.key_id
    for key in keys:
        if key.key_id == key_id:
            return key
    known = ", ".join(f"{k.name} ({k.key_id[:12]})" for k in keys) or "none"
    raise TrainRefused(
        f"{path} was signed with key {key_id[:12]}; the keys that were given are {known}",
        remedy="if you trust whoever exported it, give their .pub file too: --key ROBOT.pub",
    )


def _unpack(path: Path, members: Sequence[SignedMember], folder: Path) -> None:
    """The members as files below `folder`; those that are there already and whole stay."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        for member in members:
            target = folder / member.name  # a member's name leads nowhere else (`zip64.is_member_name`)
            if not _is_whole(target, member):
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member.name) as source, open(target, "wb") as out:
                    _copy(source, out, member, path)  # type: ignore[arg-type]  # ZipExtFile reads as a file does


def _copy(source: BinaryIO, out: BinaryIO, member: SignedMember, path: Path) -> None:
    digest, left = hashlib.sha256(), member.bytes
    while left and (piece := source.read(min(left, _PIECE))):
        digest.update(piece)
        out.write(piece)
        left -= len(piece)
    if left or digest.hexdigest() != member.sha256:
        raise BundleRefused(f"{path}: {member.name} changed while it was read", remedy=_REMEDY)


def _is_whole(target: Path, member: SignedMember) -> bool:
    try:
        with open_regular(target) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == member.sha256
    except OSError:
        return False


def _settings(file: Path, bundle: Path) -> BrainConfig:
    try:
        value = load_plain(read_limited(file, _LARGEST_SETTINGS))
        settings = value["settings"] if isinstance(value, dict) else None
        if not isinstance(settings, dict):
            raise ValueError("an object with `settings` is needed")
        return parse_config(json.dumps(settings).encode(), source=f"{bundle}: {_SETTINGS}")
    except ConfigError as error:
        raise BundleRefused(
            f"the settings of the robot cannot be used: {error.message}",
            remedy="give the recipe yourself: --config CONFIG.json",
        ) from error
    except (KeyError, ValueError) as error:
        raise BundleRefused(f"{bundle}: {_SETTINGS} holds no settings ({error})", remedy=_REMEDY) from error
