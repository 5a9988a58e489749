"""The nearest adapter of a smaller shape, and how far away it is. Numbers only: no files, no torch.

LoRA adds D = B A to a weight. Of all matrices of rank r the one with the smallest Frobenius distance to D keeps its r
largest singular values (Eckart and Young 1936, "The approximation of one matrix by another of lower rank"), and that
distance is the root of the sum of squares of the others. D itself is never formed: with B = Q1 R1 and A' = Q2 R2 its
singular values are those of the small R1 R2'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]
Pair = tuple[Matrix, Matrix]
"""A `[rank, in]`, and B `[out, rank]` with the adapter's scale in it."""


@dataclass(frozen=True, slots=True)
class ModuleError:
    """norm: Frobenius norm of what a module added; lost: of what is missing from it now."""

    norm: float
    lost: float

    @property
    def relative(self) -> float:
        """lost / norm, in [0, 1]; 0 where nothing was added."""
        return self.lost / self.norm if self.norm > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Projected:
    """pairs: of rank `rank` exactly; dropped: modules that are not in it; errors: of every module there was."""

    rank: int
    pairs: dict[str, Pair]
    dropped: tuple[str, ...]
    errors: dict[str, ModuleError]

    @property
    def relative(self) -> float:
        """Of the whole: root of the sum of squares lost, over that of all there was."""
        return total(self.errors).relative


def total(errors: Mapping[str, ModuleError]) -> ModuleError:
    """The error of all modules together: squares of Frobenius norms add up."""
    return ModuleError(
        math.hypot(*(e.norm for e in errors.values())), math.hypot(*(e.lost for e in errors.values()))
    )


def truncated(a: Matrix, b: Matrix, rank: int) -> tuple[Pair, ModuleError]:
    """The nearest pair of a rank to A `[k, in]` and B `[out, k]`, in their types; computed in fp64. Of a smaller rank
    than asked it is filled up with zeros. Singular values are shared out evenly between the two."""
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    q_a, r_a = np.linalg.qr(a.astype(np.float64).T)
    u, values, v = np.linalg.svd(r_b @ r_a.T)
    root = np.sqrt(values[:rank])
    near_b = q_b @ u[:, : len(root)] * root
    near_a = root[:, None] * (q_a @ v.T[:, : len(root)]).T
    missing = rank - len(root)
    near_a = np.pad(near_a, ((0, missing), (0, 0))).astype(a.dtype)
    near_b = np.pad(near_b, ((0, 0), (0, missing))).astype(b.dtype)
    error = ModuleError(float(np.linalg.norm(values)), float(np.linalg.norm(values[rank:])))
    return (near_a, near_b), error


def projected(pairs: Mapping[str, Pair], modules: frozenset[str], rank: int) -> Projected:
    """An adapter on `modules` alone, of a rank: what lies elsewhere is dropped and lost whole."""
    kept: dict[str, Pair] = {}
    errors: dict[str, ModuleError] = {}
    for name, (a, b) in sorted(pairs.items()):
        pair, error = truncated(a, b, rank)
        if name in modules:
            kept[name], errors[name] = pair, error
        else:
            errors[name] = ModuleError(error.norm, error.norm)
    return Projected(rank, kept, tuple(sorted(set(pairs) - modules)), errors)
