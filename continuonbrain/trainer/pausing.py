"""Looks at the gates from inside a model's pass: between its layers, forward and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from continuonbrain.trainer.look import Look


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
