"""The rule of `benchmarks.cloud_lift` and its report: rows of each way and seed -> figures, intervals, words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from continuonbrain.trainer.bootstrap import paired

BASE, DEVICE, CLOUD, FLEET = "base", "on_device", "cloud", "cloud_fleet"
SCORES = {"completion": 1, "instructions": 1, "held_out_error": -1}
"""Score -> its better direction."""
WAYS = (BASE, DEVICE, CLOUD, FLEET)


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds of one way, and each seed's."""
    by_seed = {s: [round(mean(r[s]), 4) for r in rows] for s in SCORES} | {
        "seconds": [r["seconds"] for r in rows]
    }
    found: dict[str, Any] = {name: round(median(values), 4) for name, values in by_seed.items()}
    found |= {"steps": rows[0]["steps"], "rank": rows[0]["rank"]}
    if "trained_rank" in rows[0]:
        errors = [r["projection_error"] for r in rows]
        found |= {"trained_rank": rows[0]["trained_rank"], "projection_error": round(median(errors), 4)}
        by_seed["projection_error"] = errors
    return found | {"by_seed": by_seed}


def against(own: Sequence[dict[str, Any]], device: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rule at work on one way: for each score the difference to the device's, and what it says."""
    found = {}
    for score, sign in SCORES.items():
        values, rival, seeds = [], [], []
        for a, b in zip(own, device, strict=True):
            values += a[score]
            rival += b[score]
            seeds += [a["seed"]] * len(a[score])
        sure = paired(values, rival, seed=[0, *score.encode()], groups=seeds)
        by_seed = [round(mean(a[score]) - mean(b[score]), 4) for a, b in zip(own, device, strict=True)]
        says = "no difference shown"
        if sure is not None:
            least, most = sorted((sign * sure.low, sign * sure.high))
            if least > 0 and all(sign * d >= 0 for d in by_seed):
                says = "better"
            elif most < 0:
                says = "worse"
        found[score] = {
            "difference": round(mean(values) - mean(rival), 4),
            "low": None if sure is None else round(sure.low, 4),
            "high": None if sure is None else round(sure.high, 4),
            "by_seed": by_seed,
            "says": says,
        }
    return found


def beats(compared: dict[str, Any]) -> bool:
    """Better in one score at least, worse in none."""
    said = [c["says"] for c in compared.values()]
    return "better" in said and "worse" not in said


def in_words(way: str, compared: dict[str, Any]) -> str:
    """Why a way beats the device, or does not."""
    parts = [
        f"{score} {c['says']} ({c['difference']:+.4f}, between {c['low']} and {c['high']})"
        for score, c in compared.items()
    ]
    return f"{way} {'beats' if beats(compared) else 'does not beat'} on_device: {'; '.join(parts)}"


def report(seeds: Sequence[int], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the rows of these seeds come to."""
    of = {way: [r for s in seeds for r in rows if (r["seed"], r["way"]) == (s, way)] for way in WAYS}
    compared = {way: against(of[way], of[DEVICE]) for way in (CLOUD, FLEET)}
    told: dict[str, Any] = {way: summed(of[way]) for way in WAYS}
    for way, found in compared.items():
        told[way]["against_device"] = found
    return {
        **told,
        "cloud_beats_on_device": beats(compared[CLOUD]),
        "cloud_fleet_beats_on_device": beats(compared[FLEET]),
        "why": ". ".join(in_words(way, found) for way, found in compared.items()),
        "seeds": list(seeds),
    }


def table(told: dict[str, Any]) -> str:
    """For a document: medians over the seeds, and in brackets each seed's."""
    lines = [
        "| | steps | rank | completion | instructions | held-out error | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        found = told[way]
        rank = f"{found['trained_rank']} -> {found['rank']}" if "trained_rank" in found else found["rank"]
        figures = [f"{found[s]:.3f} ({', '.join(f'{v:.3f}' for v in found['by_seed'][s])})" for s in SCORES]
        lines.append(
            f"| {way} | {found['steps']} | {rank} | {' | '.join(figures)} | {found['seconds']:.0f} |"
        )
    errors = ", ".join(f"{way} {told[way]['projection_error']}" for way in (CLOUD, FLEET))
    return "\n".join([*lines, "", f"projection error: {errors}", told["why"]])
