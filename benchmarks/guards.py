"""How long does the guard take, and does anything unsafe come out of it?

    python -m benchmarks.guards [--calls 200000] [--seed 0] [--json]

Hostile inputs (numbers out of bounds, NaN, infinities, wrong types and keys, clocks that stand, jump and run
backwards, ages of nonsense) go through a `Guard`, with and without a jerk limit; every output is checked by rules
written down here once more. Then good commands are timed one by one.

Keys:
  p99_us        99 % of `Guard.step` calls took at most this long, jerk limit on (goal 20)
  p99_us_off    the same with the jerk limit off, as shipped
  calls_per_s   calls of `Guard.step` one after the other, jerk limit off
  action_guards_per_s  calls of `violates_safety` of the ecosystem's pair
  violations    outputs that broke a rule, over all hostile inputs (goal 0)
  interventions outputs with a reason, of `hostile` inputs: the inputs were hostile indeed
  control       violations that the same check counts when the guard is left out: it can fail (goal > 0)
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from continuonbrain.safety.action_guards import build_simple_action_guards
from continuonbrain.safety.guards import Guard, Guarded, Limits
from continuonbrain.safety.reasons import CORRECTIONS, STOPS, Reason

GOALS = {"p99_us": 20.0, "violations": 0}
JERKY = Limits(steering_max=0.8, throttle_min=-0.5, throttle_max=0.5, steering_jerk_per_s2=80.0)
PLAIN = Limits(steering_max=0.8, throttle_min=-0.5, throttle_max=0.5)
_NONSENSE: tuple[Any, ...] = (
    None, True, math.nan, math.inf, -math.inf, 10**400, "0.1", b"", [0.1, 0.1], (), (0.1,), {}, object(), 1j,
    {"steering": 0.1}, {"steering": 0.1, "throttle": 0.1, "brake": 0.0}, {"steering": math.nan, "throttle": 0.1},
)  # fmt: skip


def hostile(rng: random.Random, clock: float) -> dict[str, Any]:
    """Arguments of one step: mostly a drive, so that rates build up, and in one of six calls nonsense somewhere."""
    proposed: Any = (rng.uniform(-2, 2), rng.uniform(-2, 2))
    step = {
        "proposed": proposed if rng.random() < 0.5 else {"steering": proposed[0], "throttle": proposed[1]},
        "now_s": clock + rng.choice((0.0, 0.001, 0.05, 0.05, rng.uniform(0, 0.3))),
        "chunk_age_s": rng.uniform(0, 1),
    }
    if rng.random() < 1 / 6:
        field = rng.choice(("proposed", "now_s", "chunk_age_s", "teleop_age_s", "requested_stop"))
        step[field] = rng.choice((*_NONSENSE, rng.uniform(-5, 5), clock + rng.uniform(-1e6, 1e6)))
    return step


def breaks_a_rule(
    before: Guarded, after: Guarded, limits: Limits, elapsed_s: float, rate: float, *, tiny: float = 1e-7
) -> bool:
    """Whether `after` may not follow `before` (whose steering moved at `rate`, 1/s)."""
    numbers = (after.steering, after.throttle)
    if not all(type(n) is float and math.isfinite(n) for n in numbers):
        return True
    moved = after.steering - before.steering
    good = [
        limits.steering_min <= after.steering <= limits.steering_max,
        limits.throttle_min <= after.throttle <= limits.throttle_max,
        abs(moved) <= limits.steering_rate_per_s * elapsed_s + tiny,
        abs(after.throttle) - abs(before.throttle) <= limits.throttle_rate_per_s * elapsed_s + tiny,
        set(after.reasons) <= (set(Reason) if after.stopped else CORRECTIONS),
    ]
    if after.stopped:
        good += [after.throttle == 0.0, bool(STOPS & set(after.reasons))]
    elif limits.steering_jerk_per_s2 is not None:
        good += [abs(moved - rate * elapsed_s) <= limits.steering_jerk_per_s2 * elapsed_s**2 + tiny]
    return not all(good)


def count_violations(
    limits: Limits, calls: int, seed: int, step: Callable[..., Guarded] | None = None
) -> tuple[int, int]:
    """(outputs that broke a rule, outputs with a reason). step: instead of a guard's, for the control."""
    rng = random.Random(seed)
    take = Guard(limits).step if step is None else step
    before, rate, clock, broken, explained = Guarded(0.0, 0.0, (), True), 0.0, None, 0, 0
    for _ in range(calls):
        arguments = hostile(rng, clock or 0.0)
        after = take(arguments.pop("proposed"), **arguments)
        now = arguments["now_s"]
        usable = type(now) is float and math.isfinite(now)
        elapsed_s = 0.0
        if usable and clock is not None:
            elapsed_s = min(max(0.0, now - clock), limits.max_gap_s)
        clock = now if usable else clock
        broken += breaks_a_rule(before, after, limits, elapsed_s, rate)
        explained += bool(after.reasons)
        if after.stopped:
            rate = 0.0
        elif elapsed_s > 0.0:
            rate = (after.steering - before.steering) / elapsed_s
        before = after
    return broken, explained


def unguarded(proposed: Any, **_: Any) -> Guarded:
    """No guard: what is proposed is sent, where it can be sent at all."""
    try:
        steering, throttle = proposed if isinstance(proposed, tuple) else proposed.values()
        return Guarded(float(steering), float(throttle), (), False)
    except Exception:
        return Guarded(0.0, 0.0, (Reason.NO_PATH,), True)


def p99_us(limits: Limits, calls: int) -> float:
    """Of single calls with a command that moves; the best of three rounds, as others share the machine."""
    best = math.inf
    for _ in range(3):
        guard, took = Guard(limits), []
        for tick in range(calls):
            command = {"steering": math.sin(tick * 0.1), "throttle": 0.3}
            started = time.perf_counter_ns()
            guard.step(command, now_s=tick * 0.05, chunk_age_s=0.1)
            took.append(time.perf_counter_ns() - started)
        took.sort()
        best = min(best, took[int(0.99 * len(took))] / 1000)
    return best


def per_second(call: Callable[[int], object], calls: int) -> float:
    """Calls a second; the best of three rounds."""
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        for tick in range(calls):
            call(tick)
        best = max(best, calls / (time.perf_counter() - started))
    return best


def measure(calls: int, seed: int) -> dict[str, Any]:
    """All keys of the answer."""
    guard, command = Guard(PLAIN), (0.1, 0.3)
    _, violates = build_simple_action_guards(
        per_key_bounds={"steering": (-1.0, 1.0), "throttle": (-1.0, 1.0)}
    )
    action = {"steering": 0.1, "throttle": 0.3}
    found = [count_violations(limits, calls, seed + i) for i, limits in enumerate((JERKY, PLAIN))]
    return {
        "p99_us": round(p99_us(JERKY, min(calls, 50_000)), 2),
        "p99_us_off": round(p99_us(PLAIN, min(calls, 50_000)), 2),
        "calls_per_s": round(
            per_second(lambda tick: guard.step(command, now_s=tick * 0.05, chunk_age_s=0.1), calls)
        ),
        "action_guards_per_s": round(per_second(lambda _: violates(action), calls)),
        "violations": sum(broken for broken, _ in found),
        "interventions": sum(explained for _, explained in found),
        "hostile": 2 * calls,
        "control": count_violations(JERKY, min(calls, 20_000), seed, unguarded)[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    told = measure(args.calls, args.seed)
    ok = told["p99_us"] < GOALS["p99_us"] and told["violations"] == 0 and told["control"] > 0
    if args.json:
        print(json.dumps(told | {"ok": ok}, indent=1))
    else:
        for key, value in told.items():
            Console(highlight=False).print(f"{key:20} {value:,}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
