"""What is shown of an episode, whatever finite numbers and texts its steps hold: never an exception, always JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.examples import make_metadata_example
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.summary import mean_of, sparkline

_REAL = st.floats(allow_nan=False, allow_infinity=False)
_LARGE = st.sampled_from([1.7976931348623157e308, -1.7976931348623157e308, 1e308, 5e-324, 0.0]) | _REAL
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_STEPS = st.builds(
    Step,
    command=st.tuples(_LARGE, _LARGE),
    proposed=st.none() | st.tuples(_LARGE, _LARGE),
    speed_mps=st.none() | _LARGE,
    yaw_rate_rps=st.none() | _LARGE,
    latency_ms=st.none() | _LARGE,
    source=_TEXT,
    instruction=_TEXT,
    adapter_sha256=_TEXT,
    monotonic_ns=st.integers(-(2**63), 2**63 - 1),
    wall_time_ms=st.integers(0, 2**43),
    tick=st.integers(0, 2**63 - 1),
    extra=st.dictionaries(st.just("dropped_before"), st.text("0123456789-+²", max_size=24)),
)
_FAST = [Step(command=(1e308, -1e308), source="", speed_mps=speed) for speed in (1e308, 1e308, -1e308)]


@given(st.lists(_STEPS, max_size=12))
@example(_FAST)
@settings(deadline=None, max_examples=40)
def test_show_stats_and_render_raise_on_no_finite_step(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "x.json"
    whole = {"metadata": make_metadata_example("x").to_json(), "steps": [step.to_json() for step in steps]}
    path.write_text(json.dumps(whole, allow_nan=False))
    for command in (["show"], ["stats"], ["render", str(folder / "out")]):
        for more in ([], ["--json"]):
            line = [command[0], str(path), *command[1:], *more]
            result = CliRunner().invoke(app, line)
            assert result.exit_code == 0, (line, result.exception)
    told = json.loads(CliRunner().invoke(app, ["show", str(path), "--json"]).stdout)
    assert told["torn"] == ""
    assert told["steps"] == len(steps)


@given(st.lists(_LARGE, min_size=1, max_size=50))
def test_a_mean_lies_between_the_least_and_the_most(values: list[float]) -> None:
    mean = mean_of(values)
    assert math.isfinite(mean)
    slack = 4 * math.ulp(max(map(abs, values))) if max(map(abs, values)) < 1e308 else 0.0
    assert min(values) - slack <= mean <= max(values) + slack
    assert len(sparkline(values)) == min(36, len(values))
