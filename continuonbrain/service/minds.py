"""The base as the service asks it: for decisions and for words, with the current adapter in front of it.

Both engines are the service's own (the control and policy processes are never asked), are opened when they are first
needed, and follow promotions: before every answer the current adapter is looked up. One that does not fit is refused by
name, and the one before it stays.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.model.base_identity import is_driving_base
from continuonbrain.policy import codec
from continuonbrain.policy.chat import Chat, ChatError, ChatPrompt, Sampling, Turn
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import LANGUAGE_BUNDLES, engine_name, open_engine, open_words
from continuonbrain.policy.prompt import InstructionError
from continuonbrain.service.models import ActIn, ActOut, ChatIn, ChatOut, ChatPiece, EnginesOut
from continuonbrain.service.problems import ServiceError
from continuonbrain.storage.adapters import AdapterStore

log = logging.getLogger(__name__)

_WIDTH, _HEIGHT = 160, 120
_DATA_PREFIX = re.compile(r"^data:image/[a-z]{3,4};base64,")
_MAX_PIXELS = 4096 * 4096


class _Adaptable(Protocol):
    @property
    def adapter_sha256(self) -> str: ...

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None: ...


class Minds:
    """The engines of one brain. Its methods block; one at a time (the app sees to it), from any thread."""

    def __init__(self, brain: BrainRoot) -> None:
        self._brain = brain
        self._store = AdapterStore(brain.layout)
        self._base = brain.layout.base_model_dir
        self._driving: Engine | None = None
        self._chat: Chat | None = None
        self._talks: bool | None = None
        self._versions: dict[int, str] = {}
        self.refused = ""
        """Why the current adapter was refused when it was last asked for; "" when it was not."""

    def engines(self) -> EnginesOut:
        """What would compute; opens nothing."""
        policy = self._brain.config.policy
        if self._talks is None:
            try:
                ChatPrompt(self._base)  # a large base's tokenizer takes seconds: asked once
                self._talks = True
            except BrainError:
                self._talks = False
        words = engine_name(self._base, policy, LANGUAGE_BUNDLES) if self._talks else None
        drives = engine_name(self._base, policy) if is_driving_base(self._base) else None
        return EnginesOut(driving=drives, words=words)

    def act(self, asked: ActIn) -> ActOut:
        """Decide on a frame. `ServiceError` for one that is no picture, `BrainError` when the base cannot decide."""
        frame = decoded(asked.frame)
        if self._driving is None:
            self._driving = open_engine(self._base, self._brain.config.policy)
        engine = self._driving
        note = self._follow(engine)
        started = time.perf_counter()
        try:
            decided = engine.decide(frame[None], [asked.instruction], [asked.speed_mps])
        except InstructionError as error:
            raise ServiceError(422, error.message, remedy=error.remedy or "") from error
        return ActOut(
            curvature_per_m=decided.curvature[0].tolist(),
            at_m=list(codec.CURVATURE_KNOTS_M),
            speed_mps=decided.speed[0].tolist(),
            in_s=list(codec.SPEED_KNOTS_S),
            base_sha256=engine.base_sha256,
            adapter_sha256=engine.adapter_sha256,
            decision_ms=round((time.perf_counter() - started) * 1000, 2),
            note=note,
        )

    def answer(self, asked: ChatIn) -> Iterator[ChatPiece | ChatOut]:
        """Pieces of the answer, then the whole. Raises at once what a conversation is refused for."""
        turns = [Turn(m.role, m.content) for m in asked.messages]
        sampling = Sampling(asked.max_tokens, asked.temperature, asked.seed)
        if self._chat is None:
            prompt = ChatPrompt(self._base)
            self._chat = Chat(open_words(self._base, self._brain.config.policy), prompt)
        note = self._follow(self._chat.engine)
        try:
            pieces = self._chat.answer(turns, sampling)
        except ChatError as error:
            raise ServiceError(422, error.message, remedy=error.remedy or "") from error
        return self._told(self._chat, pieces, note)

    def _told(self, chat: Chat, pieces: Iterator[str], note: str) -> Iterator[ChatPiece | ChatOut]:
        said = []
        for piece in pieces:
            said.append(piece)
            yield ChatPiece(text=piece)
        yield ChatOut(
            text="".join(said),
            base_sha256=chat.engine.base_sha256,
            adapter_sha256=chat.engine.adapter_sha256,
            note=note,
        )

    def _follow(self, engine: _Adaptable) -> str:
        """Use the current adapter; why not, "" when it is in use."""
        self.refused = self._followed(engine)
        return self.refused

    def _followed(self, engine: _Adaptable) -> str:
        current = self._store.current()
        wanted = "" if current is None else current.version_id
        if self._versions.get(id(engine)) == wanted:
            return ""
        try:
            if current is None:
                engine.use_adapter(None)
            else:
                engine.use_adapter(current.path, sha256=current.whole_sha256(root=self._brain.layout.root))
        except BrainError as error:
            return error.message
        except Exception as error:  # whatever a stranger's bytes make a library raise
            log.error("adapter %s refused", wanted, exc_info=error)
            return f"adapter {wanted} cannot be used: {error!r}"
        self._versions[id(engine)] = wanted
        return ""


def decoded(frame: str) -> NDArray[np.uint8]:
    """A base64 JPEG or PNG as `[120, 160, 3]`; another size is scaled. `ServiceError` when it is none."""
    remedy = "send a JPEG or PNG of 160 x 120, base64"
    try:
        data = base64.b64decode("".join(_DATA_PREFIX.sub("", frame).split()), validate=True)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ServiceError(
                    422, f"a frame of {image.width} x {image.height} is too large", remedy=remedy
                )
            rgb = image.convert("RGB")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ServiceError(422, "the frame is no picture that can be read", remedy=remedy) from error
    if rgb.size != (_WIDTH, _HEIGHT):
        rgb = rgb.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)
    return np.asarray(rgb, np.uint8)
