"""How a job learned, as a picture beside its log."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.figure import Figure

_SMOOTH = 20


def loss_svg(losses: Sequence[float], title: str) -> bytes:
    """The loss of every step and its running mean over 20 steps, as SVG."""
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="#8b949e", linewidth=0.6, label="each step")
    if len(losses) >= 2 * _SMOOTH:
        mean = np.convolve(losses, np.ones(_SMOOTH) / _SMOOTH, "valid")
        axes.plot(steps[_SMOOTH - 1 :], mean, color="#1f6feb", label=f"mean of {_SMOOTH}")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    out = io.BytesIO()
    # No date and no random ids: the same losses give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "continuonbrain"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
