"""From the columns of an Example to the values of one step, as `features.json` declares them.

The flat layout is that of tensorflow_datasets (`core/example_parser.py`, `core/features/tensor_feature.py`): numbers
row-major, booleans and all integers as int64, every float as float32, uint64 as the int64 of the same bits, images and
text as bytes, a tensor with `encoding` as the bytes of its array (perhaps deflated), one whose shape is open in more
than one place as `KEY/shape` and `KEY/value`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.example_view import BYTES, MAX_VALUE_BYTES, Column
from continuonbrain.rlds.feature_spec import IMAGE, TEXT, FeatureSpec
from continuonbrain.rlds.reader import MAX_FRAME_PIXELS, refuse_packed_texts

Value: TypeAlias = "NDArray[Any] | str | bytes | list[Any]"
"""Numbers as an array (of shape () for one number), text as str (bytes where it is not UTF-8), images as arrays,
lists of texts, of images and of lists as lists."""

_FLAT, _ROWS = "ragged_flat_values", "ragged_row_lengths_"
_MAX_ROWS = 1 << 20
# Pillow's modes by the channels that features.json declares; None and 0 leave them to the image.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Feature:
    """One declared feature of one Example.

    Attributes:
        spec: what is declared.
        steps: how many values it must have; None at the level of the episode, where it has one.
    """

    def __init__(self, spec: FeatureSpec, key: str, columns: Mapping[str, Column]) -> None:
        """`key` is the flattened key in `columns`; KeyError when the feature is not in the Example."""
        self.spec = spec
        self._key = key
        self._level = 1 if key != spec.key else 0  # a step's feature stands in a list of steps
        depth = len(spec.lists) + self._level
        self._offsets: list[NDArray[np.int64]] = []
        self._shape: Column | None = None
        ragged = depth > 1

        def column(name: str) -> Column:
            return columns[f"{name}/{_FLAT}"] if ragged else columns[name]

        if spec.own_shape:
            self._column = column(f"{key}/value")
            self._shape = column(f"{key}/shape")
            rows = f"{key}/value"
        else:
            self._column = column(key)
            rows = key
        if ragged:
            self._read_rows(rows, depth - 1, columns)

    def _bad(self, problem: str) -> EpisodeError:
        return EpisodeError(problem, field=self._key)

    def _read_rows(self, key: str, levels: int, columns: Mapping[str, Column]) -> None:
        for level in range(levels):
            column = columns[f"{key}/{_ROWS}{level}"]
            if column.kind == BYTES:
                raise self._bad("row lengths that are bytes")
            if column.count > _MAX_ROWS:
                raise self._bad(f"more than {_MAX_ROWS} rows")
            lengths = column.numbers(0, column.count, np.dtype(np.int64))
            if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= 1 << 40:
                raise self._bad("a row's length is negative or beyond reason")
            offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
            if self._offsets and int(self._offsets[-1][-1]) != lengths.size:
                raise self._bad(f"{lengths.size} rows are here, {self._offsets[-1][-1]} are declared")
            self._offsets.append(offsets)
        if int(self._offsets[-1][-1]) != self._values():
            raise self._bad(f"{self._values()} values are here, {self._offsets[-1][-1]} are declared")

    def _values(self) -> int:
        """Innermost values: arrays, texts or images."""
        if self._one_item or self.spec.size is None:
            return self._column.count if self._one_item else -1
        size = self.spec.size
        count = self._column.count
        if size and count % size:
            raise self._bad(f"{count} numbers are not a multiple of {size}, the size of its shape")
        return count // size if size else 0

    @property
    def _one_item(self) -> bool:
        """Whether one value is one entry of a list of bytes."""
        spec = self.spec
        return (
            spec.kind in (IMAGE,) or spec.encoding != "none" or (spec.dtype == "string" and spec.shape == ())
        )

    def length(self) -> int | None:
        """Values in the outermost list, None where the data do not tell (a shape whose size is open, or 0)."""
        if self._offsets:
            return int(self._offsets[0].size - 1)
        if not self._one_item and (self.spec.size is None or self.spec.size == 0):
            return None
        return self._values()

    def of_step(self, index: int, steps: int) -> Value:
        """The value of step `index` of `steps`.

        Raises:
            EpisodeError: what is stored is not what `features.json` declares, or is too large.
        """
        if self._offsets:
            return self._row(0, index)
        return self._one(index, steps)

    def of_episode(self) -> Value:
        """The value of a feature that is not below `steps`."""
        if self._offsets:
            return [self._row(0, row) for row in range(self._offsets[0].size - 1)]
        if not self.spec.lists:
            return self._one(0, 1)
        count = self._values()
        if count < 0:
            raise self._bad("a list of tensors whose shape is open cannot be told apart")
        return self._many(0, count)

    def _row(self, level: int, row: int) -> Value:
        low, high = int(self._offsets[level][row]), int(self._offsets[level][row + 1])
        if level == len(self._offsets) - 1:
            return self._many(low, high)
        return [self._row(level + 1, inner) for inner in range(low, high)]

    def _many(self, low: int, high: int) -> Value:
        """Values `low` to `high`: one array of numbers, or a list of anything else."""
        if self._one_item or self.spec.dtype == "string":
            found: list[Value] = []
            size = 0
            for index in range(low, high):
                value = self._one(index, self._values())
                found.append(value)
                size += value.nbytes if isinstance(value, np.ndarray) else len(value)
                if size > 2 * MAX_VALUE_BYTES:
                    raise self._bad(
                        f"a list of more than {2 * MAX_VALUE_BYTES} bytes in one step is too long"
                    )
            return found
        if (per := self.spec.size) is None:
            raise self._bad("a list of tensors whose shape is open cannot be told apart")
        return self._numbers(low * per, high * per).reshape(high - low, *self.spec.shape)

    def _one(self, index: int, of: int) -> Value:
        spec = self.spec
        if self._one_item:
            self._need(BYTES)
            if index >= self._column.count:
                raise self._bad(f"{self._column.count} values are here, {of} are needed")
            return self._decoded(self._column.item(index), index)
        per, rest = divmod(self._column.count, of)
        if rest or (spec.size is not None and per != spec.size):
            want = "" if spec.size is None else f" of {spec.size}"
            raise self._bad(f"{self._column.count} values are not {of} times the shape{want}")
        if spec.dtype == "string":
            self._need(BYTES)
            return [_text(self._column.item(at)) for at in range(index * per, (index + 1) * per)]
        return self._shaped(self._numbers(index * per, (index + 1) * per), spec.shape)

    def _need(self, kind: str) -> None:
        if self._column.kind != kind and self._column.count:
            raise self._bad(f"a list of {kind} is needed, not of {self._column.kind}")

    def _numbers(self, low: int, high: int) -> NDArray[Any]:
        dtype = self.spec.numpy
        if high > low:
            self._need("float" if dtype.kind == "f" else "int")
        return self._column.numbers(low, high, dtype)

    def _shaped(self, numbers: NDArray[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
        sizes = [-1 if size is None else size for size in shape]
        try:
            return numbers.reshape(sizes)
        except (ValueError, OverflowError, MemoryError) as error:
            raise self._bad(f"{numbers.size} numbers do not have the shape {list(shape)}") from error

    def _decoded(self, data: bytes, index: int) -> Value:
        spec = self.spec
        if spec.kind == IMAGE:
            try:
                return decode_any_image(data, spec)
            except EpisodeError as error:
                raise self._bad(error.problem) from error
        if spec.kind == TEXT or spec.dtype == "string":
            return _text(data)
        if spec.encoding == "zlib":
            data = _inflated(data, self._key)
        shape = spec.shape
        if self._shape is not None:
            rank = len(shape)
            if self._shape.kind == BYTES or self._shape.count < (index + 1) * rank:
                raise self._bad("a tensor without its shape")
            stored = self._shape.numbers(index * rank, (index + 1) * rank, np.dtype(np.int64))
            if any(size < 0 for size in stored):
                raise self._bad(f"a shape of {stored.tolist()}")
            shape = tuple(int(size) for size in stored)
        if spec.dtype == "bfloat16":
            if len(data) % 2:
                raise self._bad(f"{len(data)} bytes are no bfloat16")
            wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
            return self._shaped(wide.view(np.float32), shape)
        if len(data) % spec.numpy.itemsize:
            raise self._bad(f"{len(data)} bytes are not a multiple of {spec.numpy.itemsize}")
        return self._shaped(np.frombuffer(data, spec.numpy.newbyteorder("<")).astype(spec.numpy), shape)


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _inflated(data: bytes, key: str) -> bytes:
    """Deflated bytes of an array; a bomb is stopped at the size that a value may have."""
    inflater = zlib.decompressobj()
    try:
        out = inflater.decompress(data, MAX_VALUE_BYTES)
    except zlib.error as error:
        raise EpisodeError(f"not zlib: {error}", field=key) from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise EpisodeError(f"cut short, or larger than {MAX_VALUE_BYTES} bytes", field=key)
    return out


def decode_any_image(data: bytes, spec: FeatureSpec) -> NDArray[Any]:
    """A PNG or JPEG as [H, W, C] of the declared channels and type: uint8, uint16, or float32 in a PNG's four channels.

    Raises:
        EpisodeError: not such an image, larger than `MAX_FRAME_PIXELS`, or of another size than declared.
    """
    channels = spec.shape[-1] if spec.shape else None
    mode = _MODES.get(4 if spec.dtype == "float32" else channels or 0)
    refuse_packed_texts(data)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise EpisodeError(f"an image of {image.width}x{image.height} is too large")
            if image.mode.startswith("I"):  # 16 bits a channel: only grey ones are whole in Pillow
                pixels: NDArray[Any] = np.asarray(image).astype(np.uint16)
            elif mode is None:
                plain = image if image.mode in _MODES.values() else image.convert("RGB")
                pixels = np.asarray(plain, np.uint8)
            else:
                pixels = np.asarray(image if image.mode == mode else image.convert(mode), np.uint8)
    except EpisodeError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ValueError, ...
        raise EpisodeError(f"the image cannot be decoded: {str(error)[:200]}") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if spec.dtype == "float32":
        pixels = np.ascontiguousarray(pixels).view(np.float32)
    elif spec.dtype == "uint16" and pixels.dtype != np.uint16:
        raise EpisodeError("16 bits in more than one channel cannot be read")
    if len(spec.shape) == 3 and any(
        want not in (None, 0, is_) for want, is_ in zip(spec.shape, pixels.shape, strict=True)
    ):
        raise EpisodeError(f"an image of {list(pixels.shape)} is not of the declared {list(spec.shape)}")
    return pixels
