"""What the emulated machine tells on its serial port, read. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MARK = "@@ "


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was shown, or not. seconds: inside the machine; journal: its last lines, where it failed."""

    name: str
    ok: bool
    seconds: float
    detail: str
    journal: str = ""

    def line(self) -> str:
        """For a person; with the journal where it failed."""
        words = f"{'ok  ' if self.ok else 'FAIL'} {self.name} ({self.seconds:.0f} s): {self.detail}"
        return words + (f"\n{self.journal}" if self.journal else "")

    def to_json(self) -> dict[str, Any]:
        told = {"name": self.name, "ok": self.ok, "seconds": self.seconds, "detail": self.detail}
        return told | ({"journal": self.journal} if self.journal else {})


@dataclass(slots=True)
class Report:
    """Grows with `feed`. ok: all parts were, and the machine has said that it came to its end."""

    cpu: str
    emulated: bool = True
    parts: list[Part] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    _rest: bytes = b""

    @property
    def ok(self) -> bool:
        return self.ended and bool(self.parts) and all(part.ok for part in self.parts)

    def feed(self, data: bytes) -> list[Part]:
        """Take what the console printed; the parts that are new. Lines that are not meant for us are passed over."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        new = []
        for line in lines:
            text = line.decode(errors="replace").strip()
            if not text.startswith(MARK):
                continue
            try:
                told = json.loads(text[len(MARK) :])
            except ValueError:
                continue  # the kernel wrote in between: the part is missing, and so is the end's "ok"
            if "name" in told:
                new.append(_part(told))
            elif "end" in told:
                self.ended = True
            else:
                self.about |= {str(key): str(value) for key, value in told.items()}
        self.parts += new
        return new

    def to_json(self) -> dict[str, Any]:
        return {
            "parts": [part.to_json() for part in self.parts],
            **self.about,
            "cpu": self.cpu,
            "emulated": self.emulated,
            "ok": self.ok,
        }

    def summary(self) -> str:
        """One line."""
        good = sum(part.ok for part in self.parts)
        about = ", ".join(f"{key} {value}" for key, value in self.about.items())
        end = "" if self.ended else "; the machine ended before it was done"
        return f"{good} of {len(self.parts)} parts ok, {'emulated ' if self.emulated else ''}{self.cpu}: {about}{end}"


def _part(told: dict[str, Any]) -> Part:
    return Part(
        str(told["name"]),
        told.get("ok") is True,
        float(told.get("seconds", 0.0)),
        str(told.get("detail", "")),
        str(told.get("journal", "")),
    )
