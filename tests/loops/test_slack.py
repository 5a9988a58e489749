"""Other threads begin when a tick has ended, and a loop that stands holds nobody up."""

from __future__ import annotations

import threading
import time

from continuonbrain.loops.slack import Slack


def waiting(slack: Slack, at_most_s: float) -> tuple[threading.Thread, list[float]]:
    done: list[float] = []

    def work() -> None:
        slack.wait(at_most_s)
        done.append(time.monotonic())

    thread = threading.Thread(target=work)
    before = len(slack._waiting)
    thread.start()
    deadline = time.monotonic() + 5
    while len(slack._waiting) <= before and time.monotonic() < deadline:
        time.sleep(0.001)
    return thread, done


def test_all_that_wait_begin_at_the_end_of_a_tick() -> None:
    slack = Slack()
    first = waiting(slack, 60.0)
    second = waiting(slack, 60.0)
    slack.begin()
    for thread, done in (first, second):
        thread.join(5.0)
        assert done


def test_a_loop_that_stands_gathers_nobody() -> None:
    slack = Slack()
    for _ in range(50):
        slack.wait(0.001)
    assert slack._waiting == []


def test_who_comes_after_a_tick_waits_for_the_next() -> None:
    slack = Slack()
    slack.begin()
    thread, done = waiting(slack, 60.0)
    assert not done
    slack.begin()
    thread.join(5.0)
    assert done


def test_a_loop_that_stands_holds_nobody_up() -> None:
    slack, began = Slack(), time.monotonic()
    slack.wait(0.05)
    assert 0.04 < time.monotonic() - began < 5.0
