"""Faces in pictures that leave, found by OpenCV's cascade of Haar features (extra `blur`); it misses some.

The model (Viola and Jones 2001; trained by R. Lienhart) comes in the wheel of OpenCV 4, and not in that of 5.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from continuonbrain.cloud.errors import ExportRefused
from continuonbrain.cloud.images import Box
from continuonbrain.errors import installing

MODEL: Final = "haarcascade_frontalface_default.xml"
_SCALE, _NEIGHBOURS = 1.1, 3
_SMALLEST: Final = 20
"""Pixels. The model itself was trained on 24."""


@dataclass(frozen=True)
class FaceFinder:
    """What finds faces.

    Attributes:
        told: by what, for the manifest.
        find: where they are in a picture, uint8 `[height, width, 3]`; sorted.
    """

    told: str
    find: Callable[[NDArray[np.uint8]], list[Box]]


def face_finder() -> FaceFinder:
    """The one there is. Raises ExportRefused: no OpenCV, or one without the model."""
    remedy = f"{installing('blur')}; or leave pictures out: --frames none"
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise ExportRefused(
            f"faces are found by OpenCV, which cannot be loaded here ({error})", remedy=remedy
        ) from error
    data = getattr(getattr(cv2, "data", None), "haarcascades", "")
    model = Path(data) / MODEL
    if not hasattr(cv2, "CascadeClassifier") or not model.is_file():
        raise ExportRefused(f"OpenCV {cv2.__version__} comes without {MODEL}; OpenCV 4 has it", remedy=remedy)
    cascade = cv2.CascadeClassifier(str(model))

    def find(pixels: NDArray[np.uint8]) -> list[Box]:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        found = cascade.detectMultiScale(grey, _SCALE, _NEIGHBOURS, minSize=(_SMALLEST, _SMALLEST))
        return sorted((int(x), int(y), int(w), int(h)) for x, y, w, h in found)

    return FaceFinder(f"OpenCV {cv2.__version__}, {MODEL}", find)
