"""Questions that may hang, asked with a time budget.

A read of a kernel file can wait for ever (a bus that does not answer, a mount whose server is gone), and Python cannot
end a thread that waits in the kernel. So each question has a thread of its own, which is left behind when it does not
answer; while it hangs, the same question is not asked again: there are never more threads than questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Generic, TypeVar

from continuonbrain.errors import BrainError

T = TypeVar("T")


class Patience(Generic[T]):
    """Asks questions by name and waits `budget_s` seconds for all of them together.

    Raises `BrainError` when the budget is no time that can pass.
    """

    def __init__(self, budget_s: float) -> None:
        if not 0.0 < budget_s < inf:
            raise BrainError(
                f"budget_s={budget_s!r} is not a time to wait for a probe",
                remedy="give seconds, more than 0",
            )
        self.budget_s = budget_s
        self._asked: dict[str, threading.Thread] = {}
        # Two who ask at once (requests to the service) would take each other's question for one that hangs.
        self._turn = threading.Lock()

    @property
    def no_answer(self) -> str:
        """What to say of a question without an answer."""
        return f"did not answer in {self.budget_s:g} s"

    def ask(self, questions: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """The answers that came in time. Questions must not raise: one that does has no answer."""
        with self._turn:
            # Each call has its own dictionary: an answer that comes late belongs to nobody.
            answers: dict[str, T] = {}
            started: list[threading.Thread] = []
            deadline = time.monotonic() + self.budget_s
            for name, question in questions.items():
                old = self._asked.get(name)
                if old is not None and old.is_alive():
                    continue
                thread = threading.Thread(
                    target=_answer, args=(answers, name, question), name=f"probe {name}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # no more threads on this machine: no answer
                    continue
                self._asked[name] = thread
                started.append(thread)
            for thread in started:
                thread.join(max(0.0, deadline - time.monotonic()))
            return answers.copy()


def _answer(answers: dict[str, T], name: str, question: Callable[[], T]) -> None:
    answers[name] = question()
