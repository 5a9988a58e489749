"""Where everything lies in a brain root. No other module builds one of these paths.

config.json
model/base_model/                       the base that acts and that adapters are trained on
model/manifest.json                     what an app reads to find base and adapter
model/safety/current/                   the safety head
model/world/current/                    the world head, where one was built
model/adapters/versions/000001-ab12cd34/
model/adapters/{current,candidate,previous} -> versions/...
model/adapters/history.jsonl            append-only, hash-chained
model/adapters/history.head             number and hash of its last entry
model/adapters/driving/                 what happened while each adapter drove
model/base_slot.json                    which base drives: the one that config.json names, or one of these
model/bases/<16 digits>/base/           a base that was imported
model/bases/<16 digits>/adapters/       what was learned on it, laid out as model/adapters
model/bases/<16 digits>/slot.json       which base it is and where it came from; verdict.json, calibration.json
rlds/episodes/
trainer/logs/  trainer/status.json  trainer/cache/
keys/trusted/ revoked/ accepted/        whose signed adapters are taken, and the last counter taken from each
keys/private/ public/ issued/           keys of this root's own
outbox/                                 bundles that the owner may take away, where that was opted in
run/                                    sockets and locks of the running processes
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from continuonbrain.configs import preset_bytes
from continuonbrain.errors import BrainError, belongs_to_another
from continuonbrain.storage.durable import (
    STAGING_PREFIX,
    copy_tree_durably,
    sync_directory,
    write_bytes_durably,
)
from continuonbrain.storage.manifest import manifest_from_settings, write_manifest

DEFAULT_ROOT = Path("/opt/continuonos/brain")

ROOT_ENVIRONMENT_VARIABLE = "CONTINUONBRAIN_ROOT"

_LONGEST_SOCKET_PATH = 107
"""sockaddr_un.sun_path holds 108 bytes with its terminating zero (Linux, unix(7))."""


class LayoutError(BrainError):
    """The brain root cannot be used as it is."""


@dataclass(frozen=True)
class BrainLayout:
    """Every path of one brain root.

    Attributes:
        root: the brain root; made absolute.
        rlds_dir, adapters_dir, log_dir, base_model_dir: as the config names them; relative ones are taken
            from the root. `continuonbrain.brain_root.open_brain` fills them in from config.json.
        base_slot: the slot whose base and adapters these are, "" for those that the config names.
    """

    root: Path
    rlds_dir: Path = Path("rlds/episodes")
    adapters_dir: Path = Path("model/adapters")
    log_dir: Path = Path("trainer/logs")
    base_model_dir: Path = Path("model/base_model")
    base_slot: str = ""

    def __post_init__(self) -> None:
        root = self.root.expanduser().absolute()
        object.__setattr__(self, "root", root)
        for name in ("rlds_dir", "adapters_dir", "log_dir", "base_model_dir"):
            # Joining an absolute path replaces the root, which is what the config promises.
            object.__setattr__(self, name, root / getattr(self, name))

    @property
    def config_path(self) -> Path:
        return self.root / "config.json"

    @property
    def episodes_dir(self) -> Path:
        return self.rlds_dir

    @property
    def manifest_path(self) -> Path:
        return self.root / "model" / "manifest.json"

    @property
    def safety_dir(self) -> Path:
        return self.root / "model" / "safety" / "current"

    @property
    def world_dir(self) -> Path:
        """Is not there until `continuonbrain model build-world` makes it."""
        return self.root / "model" / "world" / "current"

    @property
    def base_slot_path(self) -> Path:
        """Which base drives; absent while none was ever switched."""
        return self.root / "model" / "base_slot.json"

    @property
    def bases_dir(self) -> Path:
        """Bases that were imported."""
        return self.root / "model" / "bases"

    @property
    def bases_lock_path(self) -> Path:
        return self.root / "model" / ".bases.lock"

    def slot_dir(self, slot: str) -> Path:
        """The folder of an imported base."""
        return self.bases_dir / slot

    def on_slot(self, slot: str) -> BrainLayout:
        """The same root with the base and the adapters of a slot."""
        folder = self.slot_dir(slot)
        return replace(self, base_slot=slot, base_model_dir=folder / "base", adapters_dir=folder / "adapters")

    @property
    def base_calibration_path(self) -> Path | None:
        """The robot's servo, for an imported base that drives without an adapter. None: of the config's base, which
        begins with a nominal one."""
        return self.slot_dir(self.base_slot) / "calibration.json" if self.base_slot else None

    @property
    def versions_dir(self) -> Path:
        return self.adapters_dir / "versions"

    @property
    def current(self) -> Path:
        return self.adapters_dir / "current"

    @property
    def candidate(self) -> Path:
        return self.adapters_dir / "candidate"

    @property
    def previous(self) -> Path:
        return self.adapters_dir / "previous"

    @property
    def history_path(self) -> Path:
        return self.adapters_dir / "history.jsonl"

    @property
    def history_head_path(self) -> Path:
        """Where the history ends."""
        return self.adapters_dir / "history.head"

    @property
    def driving_dir(self) -> Path:
        """What happened while each adapter drove."""
        return self.adapters_dir / "driving"

    @property
    def adapters_lock_path(self) -> Path:
        return self.adapters_dir / ".lock"

    @property
    def trainer_dir(self) -> Path:
        return self.root / "trainer"

    @property
    def cache_dir(self) -> Path:
        """Cached activations of training samples; may be deleted at any time."""
        return self.trainer_dir / "cache"

    @property
    def training_state_path(self) -> Path:
        """Where an interrupted training job stands."""
        return self.trainer_dir / "state" / "job.state"

    @property
    def spent_path(self) -> Path:
        """What learning has cost today."""
        return self.status_path.with_name("spent.json")

    @property
    def reservoir_path(self) -> Path:
        """The episodes that stand for all that there were."""
        return self.trainer_dir / "reservoir.json"

    @property
    def slow_path(self) -> Path:
        """What the last docked round did."""
        return self.trainer_dir / "slow.json"

    @property
    def exports_path(self) -> Path:
        """What left, or may have left, in bundles."""
        return self.trainer_dir / "exports.jsonl"

    @property
    def export_lock_path(self) -> Path:
        return self.trainer_dir / ".export.lock"

    @property
    def outbox_dir(self) -> Path:
        """Bundles that wait for somebody to take them away; made when the owner has opted in."""
        return self.root / "outbox"

    @property
    def status_path(self) -> Path:
        return self.trainer_dir / "status.json"

    @property
    def trainer_lock_path(self) -> Path:
        return self.trainer_dir / ".lock"

    @property
    def keys_dir(self) -> Path:
        """Made by the first `continuonbrain keys` that needs it."""
        return self.root / "keys"

    @property
    def trusted_keys_dir(self) -> Path:
        return self.keys_dir / "trusted"

    @property
    def revoked_keys_dir(self) -> Path:
        return self.keys_dir / "revoked"

    @property
    def accepted_counters_dir(self) -> Path:
        """The last counter that was taken from each trusted key."""
        return self.keys_dir / "accepted"

    @property
    def private_keys_dir(self) -> Path:
        return self.keys_dir / "private"

    @property
    def pseudonyms_path(self) -> Path:
        """The secret that names are hidden with in what leaves."""
        return self.private_keys_dir / "pseudonyms.secret"

    @property
    def public_keys_dir(self) -> Path:
        """What is handed to others."""
        return self.keys_dir / "public"

    @property
    def issued_counters_dir(self) -> Path:
        """The last counter that each key of this root has signed."""
        return self.keys_dir / "issued"

    @property
    def keys_lock_path(self) -> Path:
        return self.keys_dir / ".lock"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def brain_lock_path(self) -> Path:
        """Held by the control process: one robot, one driver."""
        return self.run_dir / "brain.lock"

    @property
    def policy_socket(self) -> Path:
        """Frames in, action chunks out. Raises LayoutError when the path is too long for a socket."""
        return _socket_path(self.run_dir / "policy.sock")

    @property
    def notice_socket(self) -> Path:
        """Promotion notices. Raises LayoutError when the path is too long for a socket."""
        return _socket_path(self.run_dir / "notice.sock")

    @property
    def announced_path(self) -> Path:
        """Names the last change of the adapter that everybody was told of; each base's adapters have a history."""
        return self.run_dir / f"announced{self._of_slot}"

    @property
    def changing_lock_path(self) -> Path:
        """Held from before a change of what drives until everybody has been told, whichever base it is of."""
        return self.run_dir / "announced.lock"

    @property
    def base_announced_path(self) -> Path:
        """Names the last change of the base that everybody was told of."""
        return self.run_dir / "base_announced"

    @property
    def base_probation_path(self) -> Path:
        """How often the policy process was started while the base was on probation."""
        return self.run_dir / "base_probation.json"

    @property
    def driving_now_dir(self) -> Path:
        """The same as `driving_dir`, a second old and not synced."""
        return self.run_dir / f"driving{self._of_slot}"

    @property
    def _of_slot(self) -> str:
        return f"-{self.base_slot}" if self.base_slot else ""

    @property
    def probation_path(self) -> Path:
        """How often the policy process was started while the adapter was on probation."""
        return self.run_dir / "probation.json"

    @property
    def pairing_code_path(self) -> Path:
        """What lets a browser of the LAN in; only the service's own user reads it."""
        return self.run_dir / "pairing_code"

    @property
    def owner_pause_path(self) -> Path:
        """Is there while a person has paused the learning."""
        return self.trainer_dir / "paused"

    @property
    def wanted_path(self) -> Path:
        """Is there when a person wants a training now."""
        return self.run_dir / "train.wanted"

    @property
    def service_socket(self) -> Path:
        """The HTTP service. Raises LayoutError when the path is too long for a socket."""
        return _socket_path(self.run_dir / "service.sock")

    @property
    def events_dir(self) -> Path:
        """What happened, numbered."""
        return self.run_dir / "events"

    @property
    def listeners_dir(self) -> Path:
        """Processes that want a signal when what drives has changed."""
        return self.run_dir / "listeners"

    @property
    def directories(self) -> tuple[Path, ...]:
        """Every folder that `init_brain_root` creates, parents first."""
        return (
            self.root,
            self.base_model_dir,
            self.versions_dir,
            self.safety_dir,
            self.episodes_dir,
            self.log_dir,
            self.run_dir,
            self.listeners_dir,
        )


def init_brain_root(root: Path, preset: str, *, base_model: Path | None = None) -> BrainLayout:
    """Create the layout under `root`; what exists already is kept as it is.

    Args:
        root: the brain root.
        preset: name of a shipped preset, copied to config.json when there is none yet.
        base_model: folder copied to `model/base_model/` when that is still empty; None leaves it empty.
            The shipped safety head is copied to `model/safety/current/` unless a whole one with its card is there.

    Raises:
        UnknownPresetError: no preset has this name; nothing is created.
        LayoutError: the root cannot be created or written to, or is a folder of something else.
    """
    settings = preset_bytes(preset)
    layout = BrainLayout(root)
    try:
        if _is_of_something_else(layout):
            raise LayoutError(
                f"{layout.root} is not empty and not a brain root (it has no config.json)",
                remedy="choose an empty or a new folder with --root",
            )
        for directory in layout.directories:
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(directory))
        if base_model is not None and not any(layout.base_model_dir.iterdir()):
            copy_tree_durably(base_model, layout.base_model_dir)
        _restore_safety_head(layout.safety_dir)
        if not layout.config_path.exists():
            write_bytes_durably(layout.config_path, settings)
        if not layout.manifest_path.exists():
            write_manifest(layout, manifest_from_settings(layout, json.loads(settings)))
        for directory in layout.directories:
            sync_directory(directory)
    except OSError as error:
        if layout.root.exists() and (another := belongs_to_another(layout.root)) is not None:
            raise another from error
        raise LayoutError(
            f"cannot create the brain root {layout.root}: {error.strerror} ({error.filename})",
            remedy=f"choose another place with --root, or: sudo install -d -o $USER {layout.root}",
        ) from error
    return layout


def shipped_safety_head() -> Path:
    """The folder of the safety head that ships with the package."""
    return Path(str(resources.files("continuonbrain"))) / "model" / "safety_head"


def _restore_safety_head(folder: Path) -> None:
    """Put the shipped head there, unless there is one that its card tells of."""
    try:
        told = json.loads((folder / "card.json").read_bytes())["sha256"]
        if told == hashlib.sha256((folder / "safety_head.safetensors").read_bytes()).hexdigest():
            return
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    for file in sorted(shipped_safety_head().iterdir()):
        write_bytes_durably(folder / file.name, file.read_bytes())


def _is_of_something_else(layout: BrainLayout) -> bool:
    """A folder with files and no trace of a brain in it. Half a brain root is gone on with."""
    if layout.config_path.exists() or not layout.root.is_dir():
        return False
    if (
        layout.manifest_path.is_file()
    ):  # a root of ours that has lost its config.json, whatever else lies there
        return False
    # Half a root of ours is gone on with; so is what the tools of a file system leave in an empty one.
    inside = [p.relative_to(layout.root).parts for p in layout.directories if p.is_relative_to(layout.root)]
    ours = {"lost+found"} | {parts[0] for parts in inside if parts}
    # An init that was killed may have left one of its own files half written.
    return any(
        entry.name not in ours and not entry.name.startswith(STAGING_PREFIX)
        for entry in layout.root.iterdir()
    )


def _socket_path(path: Path) -> Path:
    length = len(os.fsencode(path))
    if length > _LONGEST_SOCKET_PATH:
        raise LayoutError(
            f"{path} is {length} bytes long; a Unix socket path holds {_LONGEST_SOCKET_PATH}",
            remedy="use a brain root with a shorter path",
        )
    return path
