"""The arithmetic of a fleet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.fleet import Assumed, fleet

SMALL = Assumed(robots=10, minutes=1.0, samples=100, keep_days=10.0, gpus=2, tflops=100.0, used=0.5)


def test_a_small_fleet_by_hand() -> None:
    figures = fleet(SMALL, bytes_per_step=1000.0, flop_per_sample=1.8e14)
    assert figures["robot_mb_per_day"] == 1.2  # 60 s x 20 Hz x 1000 bytes
    assert figures["fleet_tb_per_day"] == 0.0  # 12 MB
    assert figures["samples"] == 1000
    assert figures["gpu_hours"] == 1.0  # 1.8e17 operations at 5e13 a second
    assert figures["hours_on_the_gpus"] == 0.5
    assert figures["usd_per_training"] == 2


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("fleet_tb_per_day", {"robots": 20_000}),
        ("robot_mb_per_day", {"minutes": 60.0}),
        ("gpu_hours", {"samples": 4_000}),
        ("usd_storage_month", {"keep_days": 180.0}),
        ("usd_per_training", {"gpu_hour": 4.0}),
        ("adapter_tb_sent", {"adapter_mb": 16.0}),
    ],
)
def test_twice_as_much_costs_twice_as_much(name: str, of: dict[str, float]) -> None:
    once = fleet(Assumed(), bytes_per_step=6000.0, flop_per_sample=3e12)
    twice = fleet(replace(Assumed(), **of), bytes_per_step=6000.0, flop_per_sample=3e12)
    assert twice[name] == pytest.approx(2 * once[name], rel=0.01)
