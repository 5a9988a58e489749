"""What a bundle is: a folder with graphs of a base and `bundle.json`, which says what they take and give.

    serving.tflite    of a driving bundle: signatures `prefix`, `see`, `read`, `answer` (see `signatures.py`)
    language.tflite   of a language bundle: signatures `prefill`, `next` (see `language.py`)
    bundle.json       this module: whose base, which prompt, which modules take LoRA, sha256 of the graphs

The base's own folder stays beside it: embedding tables are read there, row by row, and never enter a graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from continuonbrain.errors import BrainError
from continuonbrain.storage.durable import replace_file

FORMAT = 1
SPEC_FILE = "bundle.json"
KNOWN_FILE = "known_answer.safetensors"
_AGAIN = "export it again: continuonbrain model export BASE OUT (x86-64), and copy the folder whole"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=2**31)]


class BundleError(BrainError):
    """A serving bundle is missing, damaged, or not of this base."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class PromptSpec(_Part):
    """The one prompt that the graphs are made for: `prefix` tokens that only the instruction decides, then the state,
    `image` soft tokens, and `queries` question tokens at the end. answers: ids of the answer tokens, in one row."""

    layout_version: Count
    length: Count
    prefix: Count
    image_start: Count
    image: Count
    queries: Count
    answer_first: Annotated[int, Field(ge=0)]
    answers: Count


class ModelSpec(_Part):
    """Sizes. kinds: of attention among the trained layers; embed_scale, per_layer_scale: of the tables' rows."""

    hidden: Count
    layers: Count
    below: Count
    """Layers below the cut."""
    per_layer: Count
    kinds: tuple[str, ...]
    embed_scale: float
    per_layer_scale: float
    embed_tensor: str
    per_layer_tensor: str


class LoraSpec(_Part):
    """rank: what the graphs take (smaller ones are padded with zeros); sites: module -> sizes in and out."""

    rank: Count
    sites: Mapping[str, tuple[Count, Count]]


class CheckSpec(_Part):
    """What the export's comparison with torch gave over prompts with and without adapters: the largest difference of a
    logit, the share of answers whose likeliest token is the same (in words: is likely within a tenth of a nat), and
    torch's largest logit."""

    prompts: Count
    max_logit_diff: float
    agreement: float
    largest_logit: float = 0.0


class _Bundle(_Part):
    """What every `bundle.json` says."""

    graph_file: ClassVar[str]
    what: ClassVar[str]

    format: Literal[1]
    base_sha256: Sha256
    precision: Literal["fp32", "int8"]
    graph_sha256: Sha256
    model: ModelSpec
    lora: LoraSpec
    check: CheckSpec
    made_with: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The description of the bundle in `folder`, its graph file's hash compared.

        Raises:
            BundleError: what is missing, cannot be read, is of another format, or was changed.
        """
        path, graph = folder / SPEC_FILE, folder / cls.graph_file
        try:
            spec = cls.model_validate_json(path.read_bytes())
            with graph.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{error.filename} cannot be read: {error.strerror}", remedy=_AGAIN) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "it"
            raise BundleError(
                f"{path} describes no {cls.what} bundle: {where}: {first['msg']}", remedy=_AGAIN
            ) from error
        if found != spec.graph_sha256:
            raise BundleError(
                f"{graph} is damaged: its sha256 is {found[:12]}..., {SPEC_FILE} says "
                f"{spec.graph_sha256[:12]}...",
                remedy=_AGAIN,
            )
        return spec

    def write(self, folder: Path) -> None:
        """Write `bundle.json`: last, so that a folder without one is no bundle."""
        replace_file(folder / SPEC_FILE, (self.model_dump_json(indent=2) + "\n").encode())


class DrivingSpec(_Bundle):
    """Graphs that drive."""

    graph_file: ClassVar[str] = "serving.tflite"
    what: ClassVar[str] = "driving"
    prompt: PromptSpec


class LanguageSpec(_Bundle):
    """Graphs that answer in words. context: tokens that a conversation may have; chunk: tokens that are read at once;
    end: ids that end an answer."""

    graph_file: ClassVar[str] = "language.tflite"
    what: ClassVar[str] = "language"
    context: Count
    chunk: Count
    vocabulary: Count
    end: tuple[Annotated[int, Field(ge=0)], ...]


def read_bundle(folder: Path) -> DrivingSpec | LanguageSpec:
    """The description of a bundle of either kind. Raises `BundleError`."""
    talks = (folder / LanguageSpec.graph_file).exists()
    return LanguageSpec.read(folder) if talks else DrivingSpec.read(folder)
