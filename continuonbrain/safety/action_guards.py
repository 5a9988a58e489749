"""The ecosystem's pair of action guards, failing closed. Pure functions over one action, without a memory of time.

`safety/guards.py` is what stands before the actuators; this pair compares and checks actions where a caller of the
ecosystem expects exactly these two functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, isfinite

from continuonbrain.errors import BrainError
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason


def build_simple_action_guards(
    *,
    numeric_abs_limit: float | None = None,
    per_key_bounds: Mapping[str, tuple[float, float]] | None = None,
    delta_weight: float = 1.0,
) -> tuple[Callable[[object, object], float], Callable[[object], bool]]:
    """Return `(action_distance, violates_safety)`, the ecosystem's pair, failing closed.

    An action is a number or a mapping from key to number. Where the ecosystem's own version shrugs (NaN,
    missing or extra keys, lists, strings, bools, a number compared with a mapping), this one says
    violation and infinite distance.

    Args:
        numeric_abs_limit: largest |value| of a plain number, and of each value of a mapping when
            `per_key_bounds` is None.
        per_key_bounds: `{key: (low, high)}`; a mapping must then have exactly these keys.
        delta_weight: factor on the distance, > 0.

    `action_distance(a, b)` is `delta_weight` times the mean absolute difference over keys;
    `violates_safety(action)` is True for anything outside the bounds. Neither raises.

    Raises:
        BrainError: a limit, bound or weight that is not usable, naming it.
    """
    if numeric_abs_limit is not None:
        limit = as_finite(numeric_abs_limit)
        if isinstance(limit, Reason) or limit < 0.0:
            raise BrainError(
                f"build_simple_action_guards: numeric_abs_limit={numeric_abs_limit!r} is not a number >= 0",
                remedy="give a finite number >= 0, or None for no limit",
            )
    weight = as_finite(delta_weight)
    if isinstance(weight, Reason) or weight <= 0.0:
        raise BrainError(
            f"build_simple_action_guards: delta_weight={delta_weight!r} is not a number > 0",
            remedy="give a finite number > 0 (1.0 leaves distances as they are)",
        )
    bounds: dict[str, tuple[float, float]] | None = None
    if per_key_bounds is not None:
        bounds = {}
        given: Mapping[str, object] = per_key_bounds
        for key, pair in given.items():
            edges = tuple(pair) if isinstance(pair, (tuple, list)) and len(pair) == 2 else (None, None)
            low, high = as_finite(edges[0]), as_finite(edges[1])
            if isinstance(low, Reason) or isinstance(high, Reason) or low > high:
                raise BrainError(
                    f"build_simple_action_guards: per_key_bounds[{key!r}]={pair!r} is not (low, high)",
                    remedy="give two finite numbers, low <= high",
                )
            bounds[key] = (low, high)

    def numbers_of(action: object) -> dict[str, float] | None:
        """The action as {key: finite number} ('' for a plain number), or None when it is not one."""
        try:
            if isinstance(action, Mapping):
                items = dict(action.items())
                if not items or (bounds is not None and items.keys() != bounds.keys()):
                    return None
            else:
                items = {"": action}
        except Exception:  # a foreign mapping may raise anything
            return None
        numbers: dict[str, float] = {}
        for key, raw in items.items():
            value = as_finite(raw)
            if isinstance(value, Reason) or not isinstance(key, str):
                return None
            numbers[key] = value
        return numbers

    def action_distance(a: object, b: object) -> float:
        left, right = numbers_of(a), numbers_of(b)
        if left is None or right is None or left.keys() != right.keys():
            return inf
        distance = weight * sum(abs(left[key] - right[key]) for key in left) / len(left)
        return distance if isfinite(distance) else inf

    def violates_safety(action: object) -> bool:
        numbers = numbers_of(action)
        if numbers is None:
            return True
        if bounds is not None:
            # Where keys are asked for, a plain number has the wrong ones.
            return not isinstance(action, Mapping) or any(
                not bounds[key][0] <= value <= bounds[key][1] for key, value in numbers.items()
            )
        return numeric_abs_limit is not None and any(
            abs(value) > numeric_abs_limit for value in numbers.values()
        )

    return action_distance, violates_safety
