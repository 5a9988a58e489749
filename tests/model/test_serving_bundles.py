"""Bundles of graphs that do not hold: whatever is damaged or promised wrongly is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from continuonbrain.errors import BrainError
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.spec import SPEC_FILE, BundleError, DrivingSpec
from continuonbrain.policy.litert_engine import LiteRTEngine
from tests.model.shipped_graphs import BASE

OtherNumbers = Callable[[Path, Callable[[float], float]], Iterator[tuple[str | int, ...]]]


def _json(folder: Path, **changes: object) -> None:
    path = folder / SPEC_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / SPEC_FILE).unlink(), "bundle.json cannot be read"),
        (lambda f: (f / DrivingSpec.graph_file).unlink(), "serving.tflite cannot be read"),
        (lambda f: (f / SPEC_FILE).write_text("{"), "bundle.json"),
        (lambda f: _json(f, format=2), "format"),
        (lambda f: _json(f, precision="int4"), "precision"),
        (lambda f: _json(f, surprise=1), "surprise"),
        (
            lambda f: (f / DrivingSpec.graph_file).write_bytes(
                (f / DrivingSpec.graph_file).read_bytes()[:-9]
            ),
            "damaged",
        ),
        (lambda f: (f / DrivingSpec.graph_file).write_bytes(b""), "damaged"),
    ],
)
def test_a_damaged_bundle_is_named(bundle: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(bundle)
    with pytest.raises(BundleError, match=said):
        Graphs(bundle, BASE)


def test_a_file_that_is_no_graph_is_refused_although_its_hash_is_right(bundle: Path) -> None:
    import hashlib

    # LiteRT itself crashes on a graph that is cut short; what stands between is the hash.
    for data in (b"", b"no graph" * 99):
        (bundle / DrivingSpec.graph_file).write_bytes(data)
        _json(bundle, graph_sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(BundleError, match="refuses"):
            Graphs(bundle, BASE)


def test_graphs_without_the_lora_inputs_that_are_promised_are_refused(bundle: Path) -> None:
    raw = json.loads((bundle / SPEC_FILE).read_text())
    raw["lora"]["sites"]["layers.3.mlp.up_proj"] = [128, 256]
    (bundle / SPEC_FILE).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="LoRA inputs"):
        Graphs(bundle, BASE)


@pytest.mark.parametrize("change", [lambda n: 2 * n, lambda n: n + 1, lambda n: 2**31])
def test_a_number_in_bundle_json_that_is_not_the_graphs_is_refused(
    bundle: Path, with_other_numbers: OtherNumbers, change: Callable[[float], float]
) -> None:
    """The runtime writes a shorter array into a longer buffer, and ends the process for a longer one."""
    for path in with_other_numbers(bundle / SPEC_FILE, change):
        try:
            LiteRTEngine(BASE, bundle)
        except BrainError:
            continue
        pytest.fail(f"{path} was not looked at")
