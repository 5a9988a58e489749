"""The one place that decides what counts as a number on its way to an actuator."""

from __future__ import annotations

from math import isfinite
from numbers import Real

from continuonbrain.safety.reasons import Reason


def as_finite(value: object) -> float | Reason:
    """Return `value` as a finite float, or the reason why it is not one.

    Floats, ints and other real numbers (numpy scalars, fractions) pass. A bool is refused although
    Python calls it an int: `True` as a throttle is a bug upstream, not full speed. Strings, lists and
    zero-dimensional arrays are refused, never converted. Raises nothing, whatever `value` does.
    """
    if type(value) is float:  # the hot path: one type check, one finiteness check
        return value if isfinite(value) else Reason.NOT_FINITE
    try:
        if isinstance(value, bool) or not isinstance(value, Real):
            return Reason.WRONG_TYPE
        number = float(value)
        return number if isfinite(number) else Reason.NOT_FINITE
    except OverflowError:  # an int too large for a float
        return Reason.NOT_FINITE
    except Exception:  # a foreign number type may raise anything; the caller must still stop safely
        return Reason.WRONG_TYPE
