"""`cloud pack`: an adapter's folder as one signed file, which `continuonbrain cloud import` takes as a candidate."""

from __future__ import annotations

from pathlib import Path

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud_train.errors import FitRefused
from continuonbrain.loops.adapter_import import Exported, write_bundle
from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.storage.adapter_version import BEHAVIOURAL_FILES, CARD_FILE, REQUIRED_FILES
from continuonbrain.storage.plain_json import load_plain

_PREFIX = "continuonbrain:"


def pack(folder: Path, out: Path, signer: BrainRoot, *, key_name: str, base: Path | None = None) -> Exported:
    """Sign an adapter's folder.

    Args:
        folder: of `cloud train` (its `adapter/` is taken), of `cloud fit --out`, or an adapter's.
        signer: a brain root with the key.
        base: must be the one that the adapter names, where it is given.

    Raises:
        FitRefused: there is no adapter, `out` is there, or it was trained on another base.
        ExportRefused, KeyFileError, OSError.
    """
    source = folder / "adapter" if (folder / "adapter").is_dir() else folder
    if (folder / "full").is_dir() and source == folder:
        raise FitRefused(
            f"{folder} holds no adapter in a robot's shape",
            remedy=f"continuonbrain cloud fit {folder} --for ROBOT --out ADAPTER, and pack that",
        )
    if missing := [n for n in REQUIRED_FILES if not (source / n).is_file()]:
        raise FitRefused(
            f"{source} has no {missing[0]}: there is no adapter that a robot takes",
            remedy="give what `cloud train` or `cloud fit --out` wrote",
        )
    if out.exists() or out.is_symlink():
        raise FitRefused(f"{out} is there already", remedy="remove it, or choose another name")
    names = (*BEHAVIOURAL_FILES, CARD_FILE)
    files = {n: (source / n).read_bytes() for n in names if (source / n).is_file()}
    sha256 = base_of(files)
    if base is not None and (given := checkpoint_sha256(base)) != sha256:
        raise FitRefused(
            f"{source} was trained on base {sha256[:12]}, not {given[:12]}",
            remedy="give that one: --base FOLDER",
        )
    return write_bundle(signer, files, out, base_sha256=sha256, key_name=key_name, what=str(source))


def base_of(files: dict[str, bytes]) -> str:
    """The base that an adapter names. Raises FitRefused."""
    try:
        named = str(load_plain(files["adapter_config.json"])["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise FitRefused(
            f"adapter_config.json cannot be read ({error!r})", remedy="train it again"
        ) from error
    if not named.startswith(_PREFIX):
        raise FitRefused(
            f"adapter_config.json: base_model_name_or_path {named[:60]!r} names no base that can be checked",
            remedy="give an adapter that this program has trained",
        )
    return named.removeprefix(_PREFIX)
