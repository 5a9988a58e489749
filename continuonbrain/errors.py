"""The one base class of every error that a person can act on.

The command line prints such an error as one line and its remedy, without a traceback. Anything else that
is raised is a defect in this project, and keeps its traceback. Each room derives its own narrow errors
where they are raised.
"""


class BrainError(Exception):
    """Something outside this program's code is wrong, and a person can put it right.

    Attributes:
        message: what is wrong, naming the file, the field and the value.
        remedy: the next step a person can take; empty when there is none to give.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message
