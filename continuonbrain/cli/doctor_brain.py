"""The doctor's look at what a brain thinks with and has learned: base, engine, adapters, heads, trainer."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from continuonbrain.cli.doctor_check import Check
from continuonbrain.errors import BrainError, installing

if TYPE_CHECKING:
    from continuonbrain.storage.adapters import AdapterVersion

_WORKING = ("read", "cache", "train", "reflex", "judge")


def brain_checks(root: Path) -> list[Check]:
    """Of a root whose config is valid."""
    base = check_base(root)
    checks = [base, *([check_engine(root)] if base.ok else [])]
    if has_base(root):  # one that cannot drive may talk
        checks += [check_words(root), check_adapter(root)]
    return [
        *checks,
        check_safety_head(root),
        *check_world_head(root),
        check_history(root),
        check_trainer(root),
    ]


def check_base(root: Path) -> Check:
    """The base model is there, and the simulated robot's shift is one that exists."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import base_sha256, check_base_files
    from continuonbrain.robot.sim.shifts import world

    brain = open_brain(root)
    folder = brain.layout.base_model_dir
    try:
        if brain.config.robot.kind == "sim-donkey":
            world(brain.config.robot.shift)
        sha256 = base_sha256(folder)
        check_base_files(folder)
    except BrainError as error:
        return Check("base model", False, error.message, error.remedy)
    return Check("base model", True, f"{folder} {sha256[:12]}")


def has_base(root: Path) -> bool:
    """Whether there is a base at all, of whatever kind."""
    from continuonbrain.brain_root import open_brain

    return (open_brain(root).layout.base_model_dir / "config.json").is_file()


def check_engine(root: Path) -> Check:
    """What decides, and whether its bundle is whole and of this base."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import base_sha256
    from continuonbrain.model.serving.spec import KNOWN_FILE, DrivingSpec
    from continuonbrain.policy.open_engine import BUNDLES, engine_name

    brain = open_brain(root)
    folder, policy = brain.layout.base_model_dir, brain.config.policy
    if engine_name(folder, policy) == "torch":
        there = importlib.util.find_spec("torch") is not None
        return Check("engine", there, "torch", f"{installing('train')}, or export a bundle")
    bundle = folder / BUNDLES / policy.precision
    try:
        spec = DrivingSpec.read(bundle)
    except BrainError as error:
        return Check("engine", False, error.message, error.remedy)
    if not (bundle / KNOWN_FILE).is_file():
        return Check("engine", False, f"{bundle / KNOWN_FILE} is missing", "copy the folder whole")
    if spec.base_sha256 != base_sha256(folder):
        return Check(
            "engine", False, f"{bundle} is of another base", "export it again: continuonbrain model export"
        )
    if importlib.util.find_spec("ai_edge_litert") is None:
        return Check("engine", False, "LiteRT is not installed", installing("litert"))
    return Check("engine", True, f"litert, {policy.precision}, adapters up to rank {spec.lora.rank}")


def check_history(root: Path) -> Check:
    """The history's hash chain holds from the first entry to the last."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.storage.adapters import AdapterStore

    layout = open_brain(root).layout
    store = AdapterStore(layout)
    remedy = (
        f"restore {layout.history_path} and {layout.history_head_path.name} beside it from a copy; both moved away, a "
        "new history begins and what drives stays"
    )
    try:
        check = store.verify_history()
        if not check.ok:
            told = f"{layout.history_path} {check.problem}; {check.entries} entries before it are sound"
            return Check("history", False, told, remedy)
        state, names = store.standing(), store.current_id()
    except BrainError as error:
        return Check("history", False, error.message, error.remedy or remedy)
    if names != state.version_id:
        told = f"current names {names or 'nothing'}, the history ends with {state.version_id or 'the base'}"
        again = f"the next start puts it right: continuonbrain run --root {root}"
        return Check("history", False, told, again)
    on = f", {state.version_id} is on probation" if state.kind == "probation" else ""
    return Check("history", True, f"{check.entries} entries, the chain holds{on}")


def check_adapter(root: Path) -> Check:
    """The adapter in use is whole, and of this base."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.base_identity import checkpoint_sha256
    from continuonbrain.model.serving.adapter_inputs import BASE_PREFIX
    from continuonbrain.storage.adapters import AdapterStore

    layout = open_brain(root).layout
    back = f"continuonbrain adapters rollback --root {root}"
    try:
        store = AdapterStore(layout)
        current = store.current()
        store.previous()  # links that name nothing, or something else, are told
        candidate = store.candidate()
        if candidate is not None and (told := _damage(candidate)):
            return Check(
                "adapter",
                False,
                f"the candidate: {told}",
                f"train another one: continuonbrain train --root {root}",
            )
        if current is None:
            return Check("adapter", True, "none: the base drives alone")
        if not current.compute_sha256().startswith(current.sha8):
            return Check("adapter", False, f"{current.path} is damaged", back)
        current.card()
        current.verdict()
        named = json.loads((current.path / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except BrainError as error:
        return Check("adapter", False, error.message, error.remedy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check("adapter", False, f"{layout.current} cannot be read: {error!r}", back)
    try:
        base = checkpoint_sha256(layout.base_model_dir)
    except BrainError as error:
        return Check("adapter", False, error.message, error.remedy)
    if named != BASE_PREFIX + base:
        return Check("adapter", False, f"{current.version_id} was trained on another base", back)
    return Check("adapter", True, f"{current.version_id} is whole and of this base")


def _damage(version: AdapterVersion) -> str:
    from continuonbrain.storage.adapters import AdapterError

    try:
        version.whole_sha256()
    except AdapterError as error:
        return error.message
    return ""


def check_safety_head(root: Path) -> Check:
    """The safety head is whole, and the manifest has its thresholds; or no head is wanted."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.policy.open_watch import open_watches

    brain = open_brain(root)
    layout = brain.layout
    if not brain.config.heads.safety.enabled:
        remedy = "set heads.safety.enabled to true in config.json"
        return Check("safety head", False, "none watches: heads.safety.enabled is off", remedy, needed=False)
    try:
        watch = open_watches(layout.safety_dir, layout.manifest_path)()
    except BrainError as error:
        return Check("safety head", False, error.message, error.remedy)
    limits, told = watch.caution.thresholds, watch.calibration
    value = f"slows from {limits.warn:g}, stops from {limits.block:g}"
    wanted = brain.config.heads.safety
    if (wanted.warn_threshold, wanted.block_threshold) != (limits.warn, limits.block):
        value += f" (config.json says {wanted.warn_threshold:g} and {wanted.block_threshold:g}: from the next start on)"
    if told.mount_yaw_rad:
        value += f"; the camera looks {math.degrees(told.mount_yaw_rad):+.0f} degrees aside"
    return Check("safety head", True, value)


def check_words(root: Path) -> Check:
    """Whether the base answers in words (`continuonbrain chat`). Informs only."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.model.serving.spec import KNOWN_FILE, BundleError, LanguageSpec
    from continuonbrain.policy.open_engine import LANGUAGE_BUNDLES, engine_name

    brain = open_brain(root)
    folder, policy = brain.layout.base_model_dir, brain.config.policy
    try:
        from continuonbrain.policy.chat import ChatPrompt

        ChatPrompt(folder)
        engine = engine_name(folder, policy, LANGUAGE_BUNDLES)
        if engine == "litert":
            bundle = folder / LANGUAGE_BUNDLES / policy.precision
            LanguageSpec.read(bundle)
            if not (bundle / KNOWN_FILE).is_file():
                raise BundleError(f"{bundle / KNOWN_FILE} is missing", remedy="copy the folder whole")
    except (BrainError, ImportError) as error:
        told = error.message if isinstance(error, BrainError) else f"{error}"
        remedy = error.remedy if isinstance(error, BundleError) else "none is needed to drive"
        return Check("words", False, told, remedy, needed=False)
    return Check("words", True, engine, needed=False)


def check_world_head(root: Path) -> list[Check]:
    """Where it is enabled: whether its edge build is whole, and of this root's safety head."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.policy.open_world import open_vetoes

    brain = open_brain(root)
    if not brain.config.heads.world.enabled:
        return []
    layout = brain.layout
    try:
        head = open_vetoes(layout.world_dir, layout.safety_dir, layout.manifest_path)().head
    except BrainError as error:
        return [Check("world head", False, error.message, error.remedy)]
    return [Check("world head", True, f"{layout.world_dir} {head.sha256[:12]}")]


def check_trainer(root: Path) -> Check:
    """Whether somebody trains on this root now, by what the trainer says itself. Informs only."""
    import psutil

    from continuonbrain.brain_root import open_brain

    try:
        status = json.loads(open_brain(root).layout.status_path.read_bytes())
        pid, phase = int(status["pid"]), str(status["phase"])
        step, steps = int(status["step"]), int(status["steps"])
        detail = str(status.get("detail") or "")
    except (OSError, ValueError, KeyError, TypeError):
        return Check("trainer", True, "has not run yet", needed=False)
    if phase in _WORKING and psutil.pid_exists(pid):
        paused = f"; {detail}" if detail.startswith("paused") else ""
        return Check("trainer", True, f"at work, pid {pid}: {phase} {step} of {steps}{paused}", needed=False)
    # What the trainer saw: some faults (a sensor that is stuck) show in many looks only, and this is one.
    why = f": {detail}" if detail and phase in ("gates", "waiting") else ""
    return Check("trainer", True, f"not at work; last: {phase}{why}", needed=False)
