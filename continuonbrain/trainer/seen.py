"""What a set of samples shows, as a vision tower sees it: every frame once, kept on disk until the prompts are run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.checkpoint import Checkpoint
from continuonbrain.model.phases import Precision
from continuonbrain.model.vision import embed, load_vision, pixels
from continuonbrain.trainer.look import Look, unwatched
from continuonbrain.trainer.pausing import blocks_of, looking
from continuonbrain.trainer.token_samples import TokenSample, frame_key

_SCRATCH = ".seen-"


def forget_looks(folder: Path) -> None:
    """Remove what a process that was killed while it looked has left in a folder."""
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


class Seen:
    """Soft tokens of the frames of some samples, while it is entered. folder: where they may be kept meanwhile;
    look: at the gates, from inside the tower.

    Raises:
        CheckpointError: there are frames and no vision tower.
        BrainError: the folder cannot be written.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        samples: Sequence[TokenSample],
        precision: Precision,
        frame_px: int,
        folder: Path,
        look: Look = unwatched,
    ) -> None:
        self._checkpoint, self._precision, self._px, self._folder = checkpoint, precision, frame_px, folder
        self._frames: dict[str, NDArray[np.uint8]] = {frame_key(f): f for s in samples for f in s.frames}
        self._ids = [i for s in samples if s.frames for i in s.ids]
        self._look_at_gates, self._placeholder = look, -1
        self._hard: dict[int, Tensor] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Seen:
        if self._frames:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._scratch = tempfile.TemporaryDirectory(dir=self._folder, prefix=_SCRATCH)
                self._look(Path(self._scratch.name))
            except (OSError, SafetensorError) as error:
                self.__exit__()
                raise BrainError(
                    f"{self._folder} cannot keep what the frames look like: {error}",
                    remedy="make the folder writable, on a disk with a MiB to spare for every frame",
                ) from error
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _look(self, scratch: Path) -> None:
        vision = load_vision(self._checkpoint, self._precision.compute)
        self._placeholder = vision.placeholder
        self._hard = vision.hard_tokens(self._ids)
        blocks = blocks_of(vision)
        for name, frame in self._frames.items():
            self._look_at_gates()
            with looking(blocks, self._look_at_gates):
                soft = vision.soft_tokens(pixels([frame], self._px))[0]
            save_file({"soft": soft.contiguous()}, scratch / name)

    def inputs(self, text: Any, sample: TokenSample) -> dict[str, Tensor]:
        """What the text model is called with for a sample.

        Raises:
            BrainError: the prompt has not as many placeholders as its frames have soft tokens.
        """
        ids = torch.tensor([sample.ids])
        if not sample.frames:
            return {"input_ids": ids}
        assert self._scratch is not None
        scratch = Path(self._scratch.name)
        soft = torch.cat([load_file(scratch / frame_key(f))["soft"] for f in sample.frames])
        try:
            return embed(text, ids, soft, placeholder=self._placeholder, hard=self._hard)
        except ValueError as error:
            raise BrainError(
                f"a sample with {len(sample.frames)} frames: {error}",
                remedy="put as many image tokens into the prompt as the checkpoint's vision_soft_tokens_per_image",
            ) from error
