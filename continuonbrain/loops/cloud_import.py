"""What comes back from a bigger machine: an adapter becomes a candidate, a base a slot. Neither drives by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_import import Imported, import_adapter, regular_file
from continuonbrain.loops.base_import import ImportedBase, import_base
from continuonbrain.model.base_identity import is_driving_base
from continuonbrain.model.serving.adapter_inputs import inputs_of_files
from continuonbrain.model.serving.spec import DrivingSpec
from continuonbrain.model.weight_shapes import adapter_refusal
from continuonbrain.policy.calibration import Calibration, CalibrationError
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex, ReflexError
from continuonbrain.storage.adapter_version import CALIBRATION_FILE
from continuonbrain.storage.base_files import PRECISIONS, SERVING
from continuonbrain.storage.large_bundle import is_large

_HEAD = 16


def import_bundle(
    brain: BrainRoot, path: Path, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Imported | ImportedBase:
    """Take a bundle of either kind. How it is spelled says which reader checks it, and the reader then checks all of
    it, the kind as well. progress: of a base, which takes minutes. Raises as `import_adapter` and `import_base`."""
    with regular_file(path) as (file, _):
        head = file.read(_HEAD)
    if is_large(head):
        return import_base(brain, path, progress=progress)
    return import_fitting(brain, path)


def import_fitting(brain: BrainRoot, path: Path) -> Imported:
    """Take an adapter that this brain's base and reflex could be driven with. Raises as `import_adapter`."""
    base = brain.layout.base_model_dir

    def fits(files: Mapping[str, bytes], base_sha256: str) -> str:
        try:
            if REFLEX_FILE in files:
                Reflex(files[REFLEX_FILE])
            if CALIBRATION_FILE in files:
                Calibration.from_json(files[CALIBRATION_FILE])
        except (ReflexError, CalibrationError) as error:
            return error.message
        if not is_driving_base(base):
            return ""
        return adapter_refusal(files, base, base_sha256=base_sha256) or _served(files, base, base_sha256)

    return import_adapter(brain, path, fits=fits)


def _served(files: Mapping[str, bytes], base: Path, base_sha256: str) -> str:
    """Why the base's graphs take no such adapter; "" where they do, or there are none."""
    for precision in PRECISIONS:
        folder = base / SERVING / precision
        if (folder / DrivingSpec.graph_file).is_file():
            try:
                inputs_of_files(files, DrivingSpec.read(folder).lora, base_sha256=base_sha256)
            except BrainError as error:
                return f"{error.message} ({error.remedy})"
    return ""
