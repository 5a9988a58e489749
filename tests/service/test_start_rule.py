"""What a person is told who asks for a training."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.service.start_rule import LEARNS, Situation, answer
from continuonbrain.trainer.gate_rules import GateState

GATES = st.lists(
    st.builds(
        GateState,
        st.sampled_from(("battery", "cpu_temp", "teleop")),
        st.booleans(),
        st.none(),
        st.just("why"),
    ),
    max_size=3,
)
SITUATIONS = st.builds(
    Situation,
    running=st.booleans(),
    phase=st.sampled_from(("", "waiting", "gates", "judged", "refused", "failed", *sorted(LEARNS))),
    paused=st.booleans(),
    lessons=st.integers(0, 20),
    min_episodes=st.integers(1, 20),
    gates=GATES,
)


@given(SITUATIONS)
def test_a_yes_begins_or_names_what_it_waits_for_and_a_no_names_what_to_do(now: Situation) -> None:
    told = answer(now, run_it="run it")
    able = now.running and not now.paused and now.phase not in LEARNS and now.lessons >= now.min_episodes
    assert told.yes == able
    if not told.yes:
        assert told.words
        assert told.remedy
        return
    closed = [g for g in now.gates if not g.open]
    assert ("when the gates open" in told.words) == bool(closed)
    assert all(g.name.replace("_", " ") in told.words for g in closed)


def test_a_round_that_waited_for_a_gate_is_no_training() -> None:
    now = Situation(True, "gates", False, 16, 16, [GateState("teleop", False, 1.0, "a person drives")])
    told = answer(now, run_it="")
    assert (told.yes, told.words) == (
        True,
        "asked for: it begins when the gates open: teleop (a person drives)",
    )
    few = answer(Situation(True, "waiting", False, 3, 16, []), run_it="")
    assert few.words == "3 of 16 lessons: 13 more are needed before it can learn"
