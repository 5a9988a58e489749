"""Bad adapters are refused on the real path, in the engine that serves, each by the check that is meant for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from benchmarks import bad_candidates  # noqa: E402
from continuonbrain.loops.promotion import promote_candidate, roll_back  # noqa: E402
from continuonbrain.policy.calibration import Calibration  # noqa: E402
from continuonbrain.robot.sim.shifts import world  # noqa: E402
from continuonbrain.safety.guards import Limits  # noqa: E402
from continuonbrain.trainer.score import drive_score  # noqa: E402

BAD = (
    "noise weights",
    "zero adapter",
    "mirrored steering",
    "NaN weights",
    "the base itself",
    "an adapter for another base",
)


@pytest.fixture(scope="module")
def misjudged(tmp_path_factory: pytest.TempPathFactory) -> bad_candidates.Misjudged:
    """A robot whose servo is mounted the other way round, and a candidate that has learned just that."""
    return bad_candidates.misjudged_candidate(
        tmp_path_factory.mktemp("bad") / "robot", course=bad_candidates.short_course("reverse")
    )


@pytest.mark.long
def test_a_good_candidate_is_promoted_and_every_bad_one_refused_for_its_own_reason(
    misjudged: bad_candidates.Misjudged,
) -> None:
    brain, store = misjudged.brain, bad_candidates.MidLoop(misjudged.brain).store
    hashes = misjudged.verdict["hashes"]
    assert hashes["candidate"] == misjudged.version.compute_sha256()
    named = {k for k, v in hashes.items() if v}
    assert {"base", "reflex", "evaluation", "held_out", "course", "replay", "config", "rules"} <= named
    assert hashes["safety_head"], "what it would have stopped is counted"
    assert misjudged.verdict["engine"]
    assert promote_candidate(brain).version_id == misjudged.version.version_id
    roll_back(brain)
    bench = bad_candidates.Bench(brain)
    bench.course = None  # what refuses these needs no driving
    cases = bad_candidates.bad_cases(brain, bad_candidates.behavioural_files(misjudged.version.path))
    rows: list[dict[str, Any]] = [bench.try_case(case) for case in cases]
    assert tuple(row["case"] for row in rows) == BAD
    wrong = {row["case"]: row["reason"] for row in rows if not row["right_reason"]}
    assert wrong == {}
    assert bad_candidates.summary(rows) == {"cases": 6, "promoted_bad": 0, "wrong_reason": 0}
    assert store.current() is None
    # The same verdict again, bit for bit: its intervals are drawn with the evaluation's name as seed.
    again = bench.judge(cases[0].files)[1]
    first = store.get(rows[0]["version_id"]).verdict()
    assert first is not None
    assert again["checks"] == first["checks"]


@pytest.mark.long
def test_what_was_judged_in_another_world_passes_and_drives_off_the_road(
    misjudged: bad_candidates.Misjudged,
) -> None:
    """No verdict can know that the robot has changed since: this is what probation is for."""
    assert misjudged.verdict["passed"]
    engine = bad_candidates.open_engine(misjudged.brain.layout.base_model_dir, misjudged.brain.config.policy)
    limits = Limits.from_config(misjudged.brain.config.guards)

    def completion(folder: Path | None, calibration: Calibration) -> float:
        engine.use_adapter(folder, sha256="" if folder is None else "a" * 64)
        return drive_score(
            engine, world(misjudged.drives_in), (40_500,), calibration=calibration, limits=limits
        ).completion

    fitted = Calibration.from_file(misjudged.version.path / "calibration.json")
    assert completion(None, Calibration()) == 1.0
    assert completion(misjudged.version.path, fitted) < 0.2


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_whole_proof_with_a_trained_candidate_and_one_that_forgets(tmp_path: Path) -> None:
    result = bad_candidates.run(tmp_path / "robot", "tape", lambda _said: None)
    assert result["good_promoted"], result["good"]
    assert (result["cases"], result["promoted_bad"], result["wrong_reason"]) == (7, 0, 0), result["by_case"]
