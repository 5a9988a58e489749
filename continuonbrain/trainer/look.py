"""Looks at the gates from inside long work: a gate that closes waits for the next one.

Whoever does the work calls a `Look` as often as it can be put aside: between files, tensors, batches, and the layers
of a model (`pausing.py`). It returns when the work may go on, and costs next to nothing while all gates are open.
"""

from __future__ import annotations

from collections.abc import Callable

Look = Callable[[], None]


def unwatched() -> None:
    """The look of work that nobody pauses."""
