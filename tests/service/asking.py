"""What tests ask the service with, and what a problem must look like."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
from PIL import Image

FRAME = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def picture(frame: Any = FRAME, kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["detail"]
    return body
