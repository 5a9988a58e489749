"""What an import asks of numbers and settings, before anybody reckons with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.model.weight_shapes import (
    ShapeError,
    adapter_refusal,
    odd_number,
    other_shapes,
    shapes_of,
)

RANK = 4


@pytest.fixture(scope="module")
def sha256() -> str:
    return base_sha256(tiny_base_folder())


@pytest.fixture(scope="module")
def fitting(sha256: str) -> dict[str, bytes]:
    """One module's adapter."""
    shapes = shapes_of(tiny_base_folder() / "model.safetensors")
    module = next(n for n in sorted(shapes) if n.endswith("q_proj.weight")).removesuffix(".weight")
    outputs, inputs = shapes[f"{module}.weight"]
    tensors = {
        f"base_model.model.{module}.lora_A.weight": np.full((RANK, inputs), 0.01, np.float32),
        f"base_model.model.{module}.lora_B.weight": np.full((outputs, RANK), 0.01, np.float32),
    }
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 16,
        "base_model_name_or_path": f"continuonbrain:{sha256}",
    }
    return {
        "adapter_config.json": json.dumps(settings).encode(),
        "adapter_model.safetensors": save(tensors),
    }


def test_one_that_fits_is_taken(fitting: dict[str, bytes], sha256: str) -> None:
    assert adapter_refusal(fitting, tiny_base_folder(), base_sha256=sha256) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r": True}, "r = True is no rank"),
        ({"r": 0}, "r = 0 is no rank"),
        ({"r": 1025}, "r = 1025 is no rank"),
        ({"r": "4"}, "is no rank"),
        ({"r": 5}, "fits this base"),
        ({"peft_type": "IA3"}, "is not LORA"),
        ({"lora_alpha": 0}, "lora_alpha = 0"),
        ({"lora_alpha": -16}, "lora_alpha = -16"),
        ({"lora_alpha": 1e7}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "cannot be read"),
        ({"lora_alpha": float("inf")}, "cannot be read"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"base_model_name_or_path": "continuonbrain:" + "c" * 64}, "is not this base"),
        ({"base_model_name_or_path": "google/gemma-3n-E2B"}, "is not this base"),
        ({"base_model_name_or_path": None}, "is not this base"),
    ],
)
def test_settings_that_are_not_a_plain_adapters_of_this_base_are_refused(
    fitting: dict[str, bytes], sha256: str, changes: dict[str, Any], says: str
) -> None:
    settings = json.loads(fitting["adapter_config.json"]) | changes
    files = {**fitting, "adapter_config.json": json.dumps(settings).encode()}
    assert says in adapter_refusal(files, tiny_base_folder(), base_sha256=sha256)


@pytest.mark.parametrize(
    "respelled",
    [
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.decode().encode("utf-32-le"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b"[" + data + b"]",
        lambda data: b"null",
        lambda data: b"[" * 100_000,
    ],
    ids=["UTF-16", "UTF-32", "with a mark", "a list", "null", "deep"],
)
def test_settings_that_not_every_reader_reads_alike_are_refused(
    fitting: dict[str, bytes], sha256: str, respelled: Callable[[bytes], bytes]
) -> None:
    files = {**fitting, "adapter_config.json": respelled(fitting["adapter_config.json"])}
    assert adapter_refusal(files, tiny_base_folder(), base_sha256=sha256).startswith("adapter_")


BITS = {
    "F16": (np.uint16, 0x7C00, int(np.float16(65504).view(np.uint16))),
    "BF16": (np.uint16, 0x7F80, int(np.float32(1e6).view(np.uint32)) >> 16),
    "F32": (np.uint32, 0x7F80_0000, int(np.float32(1e6).view(np.uint32))),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000, int(np.float64(1e6).view(np.uint64))),
}
"""A type's infinity, and the largest number that is taken."""


def written(path: Path, kind: str, bits: int, at: int, count: int) -> Path:
    """A file of two tensors, in the second of which one number has these bits."""
    numbers = np.zeros(count, BITS[kind][0])
    numbers[at] = bits
    whole = np.full(4, -1, np.int64).tobytes()
    header = {
        "first": {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]},
        "second": {"dtype": kind, "shape": [count], "data_offsets": [32, 32 + numbers.nbytes]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole + numbers.tobytes())
    return path


@pytest.mark.parametrize("kind", sorted(BITS))
@pytest.mark.parametrize("at", [0, 12, 99])
def test_a_number_that_is_none_is_found_in_every_type_and_the_largest_is_one(
    tmp_path: Path, kind: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("continuonbrain.model.weight_shapes._PIECE", 64)  # more than one piece
    whole, infinite, largest = BITS[kind]
    sign = 1 << (8 * np.dtype(whole).itemsize - 1)
    for bits in (infinite, infinite | sign, infinite + 1, sign - 1, largest + 1, (largest + 1) | sign):
        assert odd_number(written(tmp_path / "f", kind, bits, at, 100)) == "second"
    for bits in (largest, largest | sign, 0, sign, 1):
        assert odd_number(written(tmp_path / "f", kind, bits, at, 100)) == ""


def with_number(fitting: dict[str, bytes], number: float) -> dict[str, bytes]:
    """The adapter with one number changed."""
    from safetensors.numpy import load

    tensors = load(fitting["adapter_model.safetensors"])
    tensors[sorted(tensors)[1]][-1, -1] = number
    return {**fitting, "adapter_model.safetensors": save(tensors)}


def test_the_largest_numbers_that_an_adapter_may_hold(fitting: dict[str, bytes], sha256: str) -> None:
    def refusal(files: dict[str, bytes]) -> str:
        return adapter_refusal(files, tiny_base_folder(), base_sha256=sha256)

    def scaled(alpha: float) -> dict[str, bytes]:
        settings = json.loads(fitting["adapter_config.json"]) | {"lora_alpha": alpha}
        return {**fitting, "adapter_config.json": json.dumps(settings).encode()}

    beyond = float(np.nextafter(np.float32(1000), np.float32(np.inf)))
    for sign in (1, -1):
        assert refusal(with_number(fitting, sign * 1000.0)) == ""
        assert "up to 1000" in refusal(with_number(fitting, sign * beyond))
    assert refusal(scaled(1_000_000)) == refusal(scaled(1e6)) == ""
    assert "up to 1e+06" in refusal(scaled(1_000_001))
    assert "up to 1e+06" in refusal(scaled(1e6 + 0.5))


def test_a_base_has_exactly_the_tensors_of_that_which_it_grew_from(tmp_path: Path) -> None:
    def file(name: str, **tensors: Any) -> Path:
        (tmp_path / name).write_bytes(save(tensors))
        return tmp_path / name

    one, two = np.ones(3, np.float32), np.ones((2, 3), np.float32)
    grown_from = file("before", a=one, b=two)
    assert other_shapes(file("same", a=one + 1, b=two), grown_from) == ""
    assert other_shapes(file("half", a=one.astype(np.float16), b=two), grown_from) == ""
    assert (
        other_shapes(file("more", a=one, b=two, c=one), grown_from)
        == "more: c is in one of the two bases only"
    )
    assert other_shapes(file("less", a=one), grown_from) == "less: b is in one of the two bases only"
    assert "b is [3, 2], [2, 3] in the base" in other_shapes(
        file("turned", a=one, b=two.T.copy()), grown_from
    )
    assert "a holds I32, F32 in" in other_shapes(file("whole", a=one.astype(np.int32), b=two), grown_from)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e4])
def test_an_adapter_of_numbers_to_which_nothing_can_be_added_is_refused(
    fitting: dict[str, bytes], sha256: str, number: float
) -> None:
    files = with_number(fitting, number)
    assert "other than finite" in adapter_refusal(files, tiny_base_folder(), base_sha256=sha256)


def test_an_adapter_is_pairs_of_matrices_of_weights_that_the_base_has(
    fitting: dict[str, bytes], sha256: str
) -> None:
    from safetensors.numpy import load

    def refusal(change: Callable[[dict[str, Any]], None]) -> str:
        tensors = load(fitting["adapter_model.safetensors"])
        change(tensors)
        files = {**fitting, "adapter_model.safetensors": save(tensors)}
        return adapter_refusal(files, tiny_base_folder(), base_sha256=sha256)

    a, b = sorted(load(fitting["adapter_model.safetensors"]))
    assert "has one matrix of two" in refusal(lambda t: t.pop(a))
    assert "has one matrix of two" in refusal(lambda t: t.pop(b))
    assert "holds no tensors" in refusal(lambda t: t.clear())
    assert "is no LoRA matrix" in refusal(lambda t: t.update({a.replace("lora_A", "lora_C"): t.pop(a)}))
    assert "the base has no" in refusal(lambda t: t.update({a.replace("q_proj", "x_proj"): t.pop(a)}))
    norm = next(n for n in shapes_of(tiny_base_folder() / "model.safetensors") if n.endswith("norm.weight"))
    of_a_norm = f"base_model.model.{norm.removesuffix('.weight')}.lora_A.weight"
    assert "the base has no" in refusal(lambda t: t.update({of_a_norm: t.pop(a)}))


def test_free_metadata_are_no_tensor(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(save({"a": np.ones(3, np.float32)}, {"format": "pt"}))
    assert odd_number(tmp_path / "f") == ""


def test_a_file_that_is_none_is_told_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ShapeError, match="no safetensors file"):
        odd_number(tmp_path / "f")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_numbers_of_a_type_that_nobody_reckons_with_are_odd(tmp_path: Path, kind: str) -> None:
    text = json.dumps({"a": {"dtype": kind, "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "f").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert odd_number(tmp_path / "f") == "a"
