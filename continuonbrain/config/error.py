"""What a setting's fault is told as."""

from __future__ import annotations

from continuonbrain.errors import BrainError


class ConfigError(BrainError):
    """A setting is missing, misspelt, of the wrong kind or out of range.

    Attributes:
        source: the file (or preset) it stands in.
        key: dotted name of the setting, "" when the file as a whole is at fault.
        value: what was found there, None when nothing was.
    """

    def __init__(
        self, *, source: str, problem: str, key: str = "", value: object = None, remedy: str = ""
    ) -> None:
        where = f"{source}: {key}" if key else source
        shown = f" = {_shorten(value)}" if value is not None else ""
        super().__init__(f"{where}{shown}: {problem}", remedy=remedy)
        self.source = source
        self.key = key
        self.value = value


def _shorten(value: object, limit: int = 80) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python's limit on the digits of an integer
        text = "a number of thousands of digits"
    return text if len(text) <= limit else text[: limit - 3] + "..."
