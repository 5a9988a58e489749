"""The rules of training elsewhere that know no files: order, balance, duplicates, projection, recipe."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.cloud_train.balance import Seen, balanced, distinct, in_time
from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.order import passes_of, rows_of_step, rows_of_worker
from continuonbrain.cloud_train.projection import ModuleError, projected, total, truncated
from continuonbrain.cloud_train.recipe import common, recipe_of
from continuonbrain.cloud_train.train import _one_key_each
from continuonbrain.config.load import load_preset
from continuonbrain.trainer.dataset import sampling_weights

CONFIG = load_preset("sim-donkey")


@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    size=st.integers(1, 60),
    accumulate=st.integers(1, 4),
    workers=st.integers(1, 5),
)
def test_all_workers_together_see_each_row_of_a_step_once(
    seed: int, step: int, size: int, accumulate: int, workers: int
) -> None:
    chances = np.full(50, 1 / 50)
    rows = rows_of_step(seed, step, chances, size * accumulate)
    assert np.array_equal(rows, rows_of_step(seed, step, chances, size * accumulate))
    if size < workers:
        with pytest.raises(ValueError, match="too small"):
            passes_of(rows, accumulate, 0, workers)
        return
    shares = [passes_of(rows, accumulate, worker, workers) for worker in range(workers)]
    assert Counter(rows.tolist()) == Counter(r for own in shares for part in own for r in part.tolist())
    assert all(len(own) == accumulate and min(map(len, own)) > 0 for own in shares)


def test_steps_and_seeds_differ_and_chances_are_kept() -> None:
    chances = np.array([0.7, 0.3, 0.0])
    rows = np.concatenate([rows_of_step(3, step, chances, 100) for step in range(100)])
    assert np.bincount(rows, minlength=3) / len(rows) == pytest.approx(chances, abs=0.02)
    uniform = np.full(1000, 1e-3)
    drawn = {tuple(rows_of_step(seed, step, uniform, 8)) for seed in range(3) for step in range(30)}
    assert len(drawn) == 90


def test_a_worker_needs_what_its_passes_hold() -> None:
    chances = np.full(30, 1 / 30)
    needed = rows_of_worker(1, range(5), chances, 8, accumulate=2, worker=1, workers=2)
    own = [passes_of(rows_of_step(1, s, chances, 8), 2, 1, 2) for s in range(5)]
    assert needed.tolist() == sorted({r for step in own for part in step for r in part.tolist()})
    assert len(rows_of_worker(1, range(0), chances, 8, accumulate=2, worker=1, workers=2)) == 0


NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=60))
def test_robots_and_instructions_are_balanced(drawn: list[tuple[str, str]]) -> None:
    robots, said = [r for r, _ in drawn], [i for _, i in drawn]
    found = balanced(robots, said)
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()
    counts = Counter(robots)
    for one in counts:
        rows = [i for i, r in enumerate(robots) if r == one]
        for other in counts:  # the law of instructions, among robots: n samples, sqrt(n) parts
            share = found[[i for i, r in enumerate(robots) if r == other]].sum()
            assert found[rows].sum() / share == pytest.approx((counts[one] / counts[other]) ** 0.5)
        within = found[rows] / found[rows].sum()
        assert within == pytest.approx(sampling_weights([said[i] for i in rows]))
    if len(counts) == 1:
        assert found == pytest.approx(sampling_weights(said))


EPISODES = st.lists(
    st.builds(
        Seen,
        NAMES,
        NAMES,
        st.sampled_from(["x", "y", "z", "w"]),
        st.integers(0, 3),
        st.tuples(st.integers(0, 2), st.integers(0, 2)),
        st.sampled_from([("left",), ("right",)]),
    ),
    max_size=12,
)


@given(EPISODES, st.randoms(use_true_random=False))
def test_of_what_came_twice_one_is_kept_whatever_the_order(
    episodes: list[Seen], chance: random.Random
) -> None:
    kept = [episodes[i] for i in distinct(episodes)]
    assert len({e.content for e in kept}) == len(kept)
    assert len({(e.robot, e.episode) for e in kept}) == len(kept)
    assert distinct(kept) == list(range(len(kept)))
    shuffled = list(episodes)
    chance.shuffle(shuffled)
    assert sorted(map(repr, (shuffled[i] for i in distinct(shuffled)))) == sorted(map(repr, kept))
    names = {e.content for e in episodes} | {e.robot + "/" + e.episode for e in episodes}
    assert bool(kept) == bool(names)
    for e in kept:  # nobody learns words that a later bundle does not have
        same = [o for o in episodes if (o.robot, o.episode) == (e.robot, e.episode)]
        assert e.words in {o.words for o in same if o.place == max(o.place for o in same)}


def test_of_one_episode_exported_twice_the_larger_pictures_are_kept() -> None:
    half, whole = Seen("r", "e", "half", 100), Seen("r", "e", "whole", 400)
    assert distinct([half, whole]) == [1]
    copied = Seen("another", "copy", "whole", 400)
    assert len(distinct([whole, copied])) == 1


def test_the_words_of_the_later_bundle_win_over_larger_pictures() -> None:
    before = Seen("r", "e", "a", 400, (1, 0), ("keep left",))
    after = Seen("r", "e", "b", 100, (2, 0), ("keep right",))
    large = Seen("r", "e", "c", 400, (2, 0), ("keep right",))
    larger_before = Seen("r", "e", "d", 900, (1, 0), ("keep right",))
    assert distinct([before, after]) == distinct([before, after, before]) == [1]
    assert distinct([after, before, large]) == [2]
    assert distinct([larger_before, after]) == [0]  # the same words: the larger pictures
    later = Seen("r", "e", "a again", 400, (3, 0), ("keep left",))
    assert distinct([before, after, large, later]) == [3]


def test_episodes_are_in_the_order_in_which_they_came() -> None:
    def some(counter: int, names: str, robot: str = "r") -> list[Seen]:
        return [Seen(robot, n, robot + n, place=(counter, i)) for i, n in enumerate(names)]

    def order(*parts: list[Seen]) -> str:
        seen = [e for part in parts for e in part]
        return "".join(seen[i].episode for i in in_time(seen, distinct(seen)))

    assert order(some(2, "cd"), some(10, "ef"), some(1, "ab")) == "abcdef"
    assert order(some(1, "cd"), some(2, "abcde")) == "abcde"  # first a part, then all
    assert order(some(1, "abcd"), some(2, "cd")) == "abcd"
    # A few old lessons, labelled anew, stand before what came since; where two bundles differ the later one is right.
    assert order(some(1, "abcdef"), some(2, "cegh"), some(3, "bhij"), some(4, "j")) == "abcdefghij"
    assert order(some(1, "abcd"), some(2, "efgh"), some(3, "cfij")) == "abcdefghij"
    assert order(some(1, "abcd"), some(2, "dxb")) == "adcxb"
    assert order(some(7, "yz", "s"), some(9, "ab")) == "abyz"


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    k=st.integers(1, 10),
    rank=st.integers(1, 10),
)
def test_the_projection_is_the_nearest_of_its_rank(
    seed: int, rows: int, columns: int, k: int, rank: int
) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(k, columns)), random.normal(size=(rows, k))
    (near_a, near_b), error = truncated(a, b, rank)
    assert near_a.shape == (rank, columns)
    assert near_b.shape == (rows, rank)
    product = b @ a
    values = np.linalg.svd(product, compute_uv=False)
    best = float(np.sqrt((values[rank:] ** 2).sum()))  # Eckart and Young: nothing of this rank is nearer
    assert np.linalg.norm(product - near_b @ near_a) == pytest.approx(best, abs=1e-9)
    assert error.lost == pytest.approx(best, abs=1e-9)
    assert error.norm == pytest.approx(float(np.linalg.norm(product)))
    assert 0 <= error.relative <= 1


def test_the_error_of_a_whole_is_that_of_all_its_numbers() -> None:
    random = np.random.default_rng(0)
    pairs = {
        name: (random.normal(size=(6, 9)).astype(np.float32), random.normal(size=(7, 6)).astype(np.float32))
        for name in ("m.0", "m.1", "elsewhere")
    }
    found = projected(pairs, frozenset({"m.0", "m.1"}), 2)
    assert found.dropped == ("elsewhere",)
    assert found.pairs.keys() == {"m.0", "m.1"}
    assert found.errors["elsewhere"].relative == 1.0
    before = np.concatenate([(b @ a).ravel() for a, b in pairs.values()])
    after = np.concatenate(
        [(found.pairs[n][1] @ found.pairs[n][0]).ravel() if n in found.pairs else np.zeros(63) for n in pairs]
    )
    assert found.relative == pytest.approx(np.linalg.norm(before - after) / np.linalg.norm(before), rel=1e-4)
    assert found.pairs["m.0"][0].dtype == np.float32
    assert total({}).relative == ModuleError(0.0, 0.0).relative == 0.0


def test_the_recipe_is_the_robots() -> None:
    recipe = recipe_of(CONFIG)
    assert (recipe.rank, recipe.alpha, recipe.targets) == (8, 32.0, CONFIG.lora_layers)
    assert (recipe.max_steps, recipe.batch_size, recipe.learning_rate) == (400, 48, 3e-3)
    assert recipe_of(CONFIG, rank=32).alpha == 128.0  # the same scale
    assert recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(TrainRefused, match="seed"):
        recipe_of(CONFIG, seed=-1)


def test_robots_that_do_not_train_alike_need_a_word() -> None:
    assert common([CONFIG, CONFIG]) is CONFIG
    other = CONFIG.with_overrides({"learning_rate": 1e-4})
    with pytest.raises(TrainRefused, match=r"learning_rate is 0.003 and 0.0001"):
        common([CONFIG, other])


@pytest.mark.parametrize("name", ["eval_tail_episodes", "min_eval_episodes", "max_eval_steps"])
def test_no_robot_alone_says_what_is_held_out(name: str) -> None:
    other = CONFIG.with_overrides({"promotion": {name: getattr(CONFIG.promotion, name) + 1}})
    for order in ([CONFIG, other], [other, CONFIG]):
        with pytest.raises(TrainRefused, match=f"promotion.{name} is"):
            common(order)


def test_a_robots_name_comes_with_one_key() -> None:
    """Who is trusted with lessons of their own robots puts nobody else's in their place."""

    def bundle(robot: str, key_id: str) -> Any:
        return SimpleNamespace(
            path=Path(f"{key_id}.zip"),
            contents=SimpleNamespace(robot=robot),
            key=SimpleNamespace(key_id=key_id * 64),
        )

    _one_key_each(
        [bundle("robot-1", "a"), bundle("robot-2", "b"), bundle("robot-1", "a"), bundle("robot-3", "b")]
    )
    with pytest.raises(TrainRefused, match=r"a\.zip and b\.zip say that they are of one robot \(robot-1\)"):
        _one_key_each([bundle("robot-1", "a"), bundle("robot-1", "b")])
