"""What can be wrong with an episode, said with file, step, field and the next thing to do."""

from __future__ import annotations

from pathlib import Path

from continuonbrain.errors import BrainError


class EpisodeError(BrainError):
    """An episode, or a part of one, cannot be written or read as what it claims to be.

    Attributes:
        problem: the bare sentence, without the place.
        file: the file that is wrong, or None when the value never reached a file.
        step: index of the step inside the episode, or None.
        field: dotted name of the field ("action.command"), or "".
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | None = None,
        step: int | None = None,
        field: str = "",
        remedy: str = "",
    ) -> None:
        place = [str(file)] if file is not None else []
        if step is not None:
            place.append(f"step {step}")
        if field:
            place.append(field)
        super().__init__(f"{', '.join(place)}: {problem}" if place else problem, remedy=remedy)
        self.problem = problem
        self.file = file
        self.step = step
        self.field = field

    def at(self, *, file: Path | None = None, step: int | None = None, remedy: str = "") -> EpisodeError:
        """The same error with the place filled in by a caller who knows it."""
        return EpisodeError(
            self.problem,
            file=self.file if self.file is not None else file,
            step=self.step if self.step is not None else step,
            field=self.field,
            remedy=self.remedy or remedy,
        )


class CorruptRecordError(EpisodeError):
    """A TFRecord file, or the Example inside a record, is torn or altered.

    Attributes:
        offset: byte offset of the bad record in `file` (or of the bad byte inside the Example).
        torn: True when the bytes merely end too early (a crash while appending), False when they are wrong.
    """

    def __init__(self, problem: str, *, file: Path | None, offset: int, torn: bool = False) -> None:
        super().__init__(
            f"{problem} at byte {offset}",
            file=file,
            remedy="continuonbrain episodes doctor PATH" if file is not None else "",
        )
        self.offset = offset
        self.torn = torn


def doctor_remedy(path: Path) -> str:
    """The remedy that every reading error names."""
    return f"continuonbrain episodes doctor {path}"
