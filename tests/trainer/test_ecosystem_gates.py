"""Claims about the ecosystem's own way to ask the gates: four probes, and its defaults."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.trainer.ecosystem_gates import build_pi5_gating


class TestEcosystemGating:
    PROBES: dict[str, Any] = {  # noqa: RUF012 - a constant of the tests
        "robot_idle": lambda: True,
        "teleop_active": lambda: False,
        "battery_level": lambda: 0.8,
        "cpu_temp": lambda: 50.0,
    }

    def test_four_good_probes_allow(self) -> None:
        assert build_pi5_gating(**self.PROBES).allow()

    def test_no_probes_at_all_do_not_allow(self) -> None:
        assert len(build_pi5_gating().report().closed) == 4

    @pytest.mark.parametrize("name", PROBES)
    @pytest.mark.parametrize("answer", [None, math.nan, "yes", -5.0, 1e9, [], OSError("bus error")])
    def test_a_probe_that_is_missing_raises_or_answers_nonsense_does_not_allow(
        self, name: str, answer: Any
    ) -> None:
        def probe() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert not build_pi5_gating(**{**self.PROBES, name: probe}).allow()
        assert not build_pi5_gating(**{**self.PROBES, name: None}).allow()

    def test_a_temperature_that_stands_still_and_a_probe_that_hangs_do_not_allow(self) -> None:
        now = [0.0]
        gating = build_pi5_gating(**self.PROBES, clock=lambda: now[0])
        seen = []
        for now[0] in range(0, 400, 10):
            seen.append(gating.allow())
        assert seen == [True] * 31 + [False] * 9
        go = threading.Event()
        hanging = build_pi5_gating(**{**self.PROBES, "battery_level": lambda: go.wait() or 0.8})
        assert not hanging.allow()
        go.set()

    def test_its_defaults_are_the_ecosystems(self) -> None:
        assert not build_pi5_gating(**{**self.PROBES, "battery_level": lambda: 0.39}).allow()
        assert not build_pi5_gating(**{**self.PROBES, "cpu_temp": lambda: 75.5}).allow()
        assert not build_pi5_gating(**{**self.PROBES, "robot_idle": lambda: False}).allow()
        assert not build_pi5_gating(**{**self.PROBES, "teleop_active": lambda: True}).allow()
        with pytest.raises(BrainError, match="min_battery"):
            build_pi5_gating(**self.PROBES, min_battery=math.nan)
