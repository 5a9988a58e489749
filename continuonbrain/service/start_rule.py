"""What a person is told who asks for a training: that it begins, what it waits for, or why it cannot. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from continuonbrain.trainer.gate_rules import GateState

LEARNS = frozenset({"check", "read", "cache", "train", "reflex", "judge"})
"""Phases in which a trainer is at it. "gates" is none: a round that waited for a gate has ended."""


@dataclass(frozen=True, slots=True)
class Situation:
    """running: a sidecar lives that could take the wish; lessons: episodes that teach; gates: as they stand now."""

    running: bool
    phase: str
    paused: bool
    lessons: int
    min_episodes: int
    gates: Sequence[GateState]


@dataclass(frozen=True, slots=True)
class Answer:
    """words: what is told; remedy: only of a no."""

    yes: bool
    words: str
    remedy: str = ""


def answer(now: Situation, *, run_it: str) -> Answer:
    """The answer to "start". run_it: the remedy where no sidecar runs."""
    if now.paused:
        return Answer(False, "learning is paused", "let it go on first")
    if not now.running:
        return Answer(False, "no trainer runs that could learn now", run_it)
    if now.phase in LEARNS:
        return Answer(False, "it learns already", "wait until this training is over")
    if (missing := now.min_episodes - now.lessons) > 0:
        words = f"{now.lessons} of {now.min_episodes} lessons: {missing} more are needed before it can learn"
        return Answer(False, words, "record them under Teach, or lower min_episodes in config.json")
    return Answer(True, waits_for(now.gates) or "asked for: it begins within seconds")


def waits_for(gates: Sequence[GateState]) -> str:
    """What a training that is asked for waits for; "" when all gates are open."""
    closed = [f"{gate.name.replace('_', ' ')} ({gate.reason})" for gate in gates if not gate.open]
    return f"asked for: it begins when the gates open: {', '.join(closed)}" if closed else ""
