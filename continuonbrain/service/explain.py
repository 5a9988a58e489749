"""The last decision in words, from what the control process tells of it. A template, nothing is made up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from continuonbrain.rlds.step import Step
from continuonbrain.safety.reasons import STOPS, Reason

_WHY: dict[str, str] = {
    Reason.STEERING_BOUND: "steering was outside of its limits",
    Reason.THROTTLE_BOUND: "throttle was outside of its limits",
    Reason.STEERING_SLEW: "the wheels may not turn that fast",
    Reason.STEERING_JERK: "the wheels may not be jerked",
    Reason.THROTTLE_SLEW: "throttle may not change that fast",
    Reason.SAFETY_HEAD_WARN: "the safety head saw the edge of the road near",
    Reason.NOT_FINITE: "the command was not a number",
    Reason.WRONG_KEYS: "the command had the wrong fields",
    Reason.WRONG_TYPE: "the command had the wrong type",
    Reason.NO_PATH: "no path had been decided yet",
    Reason.STALE_PATH: "the path was too old to follow",
    Reason.DEADMAN: "nobody held the wheel",
    Reason.CLOCK: "the control loop was late",
    Reason.EMERGENCY_STOP: "the emergency stop is on",
    Reason.INSTRUCTION_STOP: "the instruction says stop",
    Reason.SENSOR_FAULT: "a sensor did not answer",
    Reason.LOW_BATTERY: "the battery is low",
    Reason.SAFETY_HEAD_BLOCK: "the safety head saw the car leaving the road",
    Reason.WORLD_HEAD_VETO: "the world head expected the path to lead off the road",
}


_STANDS = ("park", "stopped", "teach")


def is_deciding(tick: Mapping[str, Any]) -> bool:
    """Whether something is decided now: a control process runs, and neither stands nor is taught."""
    return bool(tick) and tick.get("mode") not in _STANDS


def tick_of(step: Step) -> dict[str, Any]:
    """A recorded step as the control process would have told it."""
    return {
        "mode": "recorded",
        "by": "person" if step.source.startswith("human") else "policy",
        "instruction": step.instruction,
        "proposed": None if step.proposed is None else list(step.proposed),
        "guarded": list(step.command),
        "reasons": list(step.reasons),
        "adapter_sha256": step.adapter_sha256,
        "latency_ms": step.latency_ms,
        "safety_head": step.safety_score,
    }


def in_words(tick: Mapping[str, Any]) -> str:
    """tick: `run/control.json`, or {} where no control process runs."""
    if not tick:
        return "Nothing was decided: no control process runs."
    mode = tick.get("mode")
    if mode in ("park", "stopped"):
        return "It is parked: nothing is decided while it stands."
    if mode == "teach":
        return "The simulated teacher drives, to show it how: nothing is decided meanwhile."
    by = "A person drives" if tick.get("by") == "person" else "It drives by itself"
    sentences = [f"{by}, told “{tick.get('instruction', '')}”."]
    if by.startswith("It") and (decided := _decided(tick)):
        sentences.append(decided)
    proposed, sent = _pair(tick.get("proposed")), _pair(tick.get("guarded"))
    if proposed is not None:
        sentences.append(f"Proposed was {_command(proposed)}.")
    said = tick.get("reasons")
    reasons = [r for r in said if isinstance(r, str)] if isinstance(said, list) else []
    why = " and ".join(_WHY.get(r, r.replace("_", " ")) for r in reasons)
    if any(r in STOPS for r in reasons):
        sentences.append(f"The guard stopped it, because {why}.")
    elif reasons and sent is not None:
        sentences.append(f"The guard made {_command(sent)} of it, because {why}.")
    elif sent is not None:
        sentences.append("The guard had nothing against it.")
    if isinstance(risk := tick.get("safety_head"), int | float):
        sentences.append(f"The safety head gave leaving the road a probability of {risk * 100:.0f} %.")
    if fault := tick.get("fault"):
        sentences.append(f"Something is wrong: {fault}.")
    return " ".join(sentences)


def _decided(tick: Mapping[str, Any]) -> str:
    took, age = tick.get("decision_ms"), tick.get("latency_ms")
    if not isinstance(took, int | float) and not isinstance(age, int | float):
        return ""
    sha = str(tick.get("adapter_sha256") or "")
    who = f"adapter {sha[:8]}" if sha else "the base alone"
    of = f" from a picture {age:.0f} ms old" if isinstance(age, int | float) else ""
    within = f", decided in {took:.0f} ms" if isinstance(took, int | float) else ", decided"
    return f"The path is of {who}{within}{of}."


def _pair(value: object) -> tuple[float, float] | None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return float(value[0]), float(value[1])
    return None


def _command(pair: tuple[float, float]) -> str:
    steering, throttle = pair
    side = (
        "straight ahead"
        if abs(steering) < 0.02
        else f"{abs(steering):.2f} to the {'left' if steering > 0 else 'right'}"
    )
    way = "no throttle" if abs(throttle) < 0.01 else f"throttle {throttle:+.2f}"
    return f"{side} with {way}"
