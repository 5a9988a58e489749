"""Looks at the gates from inside long work: a gate that closes waits for the next one.

Whoever does the work calls a `Look` as often as it can be put aside: between files, tensors, batches, and the layers
of a model. It returns when the work may go on, and costs next to nothing while all gates are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Look = Callable[[], None]


def unwatched() -> None:
    """The look of work that nobody pauses."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What a model runs one after the other: the members of its lists of modules, whatever they are called."""
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential))
    return [block for members in lists for block in members]


@contextmanager
def looking(blocks: Iterable[nn.Module], look: Look) -> Iterator[None]:
    """While this lasts every block looks before it runs, and again in the backward pass of what ran. A step of a slow
    machine takes longer than a closed gate may wait."""

    def before(_module: Any, args: tuple[Any, ...]) -> None:
        look()
        if args and isinstance(args[0], Tensor) and args[0].requires_grad:
            args[0].register_hook(lambda _gradient: look())

    handles = [block.register_forward_pre_hook(before) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
