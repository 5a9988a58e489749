"""What the owner says about learning: not now, or now. Two files, so that it holds for every process and over a start.

`trainer/paused` closes the gate "owner" until it is gone; `run/train.wanted` has the next round learn also where no
episode is new, and is taken when that round has ended (`mid.py`).
"""

from __future__ import annotations

from continuonbrain.storage.durable import remove_durably, write_bytes_durably
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.trainer.gate_rules import GateState

OWNER = "owner"


def owner_gate(layout: BrainLayout) -> GateState:
    """Whether the owner lets it learn. A folder that cannot be asked is a pause."""
    path = layout.owner_pause_path
    try:
        path.lstat()
    except FileNotFoundError:
        return GateState(OWNER, True, None, "nobody has paused it")
    except OSError as error:
        return GateState(OWNER, False, None, f"{path} cannot be looked for: {error.strerror or error}")
    return GateState(OWNER, False, None, f"paused by a person: go on in the dashboard, or remove {path}")


def pause(layout: BrainLayout) -> None:
    """Learn no more until `go_on`. Raises OSError."""
    layout.owner_pause_path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_durably(layout.owner_pause_path, b"")


def go_on(layout: BrainLayout) -> None:
    """Learn again. Raises OSError."""
    if layout.owner_pause_path.exists():
        remove_durably(layout.owner_pause_path)


def want_training(layout: BrainLayout) -> None:
    """Have the sidecar's next round begin at once, whether anything is new or not. Raises OSError."""
    layout.run_dir.mkdir(parents=True, exist_ok=True)
    layout.wanted_path.write_bytes(b"")


def is_wanted(layout: BrainLayout) -> bool:
    """Whether that was asked for and not taken yet."""
    return layout.wanted_path.exists()


def take_wanted(layout: BrainLayout) -> bool:
    """Whether that was asked for; from now on it is not any more."""
    try:
        layout.wanted_path.unlink()
    except FileNotFoundError:
        return False
    except OSError:  # a disk that became read-only: asked for again and again it would never end
        return False
    return True
