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

import os
from dataclasses import dataclass, replace
from pathlib import Path

from continuonbrain.errors import BrainError

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


def _socket_path(path: Path) -> Path:
    length = len(os.fsencode(path))
    if length > _LONGEST_SOCKET_PATH:
        raise LayoutError(
            f"{path} is {length} bytes long; a Unix socket path holds {_LONGEST_SOCKET_PATH}",
            remedy="use a brain root with a shorter path",
        )
    return path
