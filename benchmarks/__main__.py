"""The benchmarks: what each of them asks, and what it prints.

    python -m benchmarks [--markdown]     a line each; --markdown: as docs/benchmarks.md has them
    python -m benchmarks NAME             all that this one says of itself

Everything is taken from the modules' docstrings; nothing is imported or run.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_LONGEST_KEYS = 160
_KEY = r"[a-z0-9_]+"
_INTRODUCTION = """\
# Benchmarks

`python -m benchmarks --markdown` made this list of what the modules say of themselves, and a test holds it to that.
`python -m benchmarks NAME` tells all of one: its options, every key that it prints, how long it takes.

| command | what it asks | what it prints |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One that a person runs. asks: the first paragraph; prints: its keys, shortened."""

    name: str
    command: str
    asks: str
    prints: str
    says: str


def benchmarks(folder: Path = HERE) -> list[Benchmark]:
    """Every module whose docstring has the command that runs it and the keys that it prints, by name. What has not is a
    part of another one."""
    files = [*folder.glob("*.py"), *folder.glob("*/__main__.py")]
    found = [described(p.parent.name if p.name == "__main__.py" else p.stem, _docstring(p)) for p in files]
    own = folder.name  # this module, where the folder is its own
    return sorted((b for b in found if b is not None and b.name != own), key=lambda b: b.name)


def described(name: str, says: str) -> Benchmark | None:
    """What a docstring tells; None where it is not one of a benchmark."""
    called = re.search(rf"python (-m benchmarks\.{name}|benchmarks/{name}\.py)\b", says)
    keys = next((p for p in says.split("\n\n") if p.startswith(("Keys", "Prints "))), None)
    if called is None or keys is None:
        return None
    return Benchmark(name, called.group(), _first(says), _short(keys), says)


def markdown(found: list[Benchmark]) -> str:
    """The page of docs."""
    rows = [f"| `{b.command}` | {_cell(b.asks)} | {_cell(b.prints)} |\n" for b in found]
    return _INTRODUCTION + "".join(rows)


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_bytes())) or ""


def _first(says: str) -> str:
    return " ".join(says.split("\n\n")[0].split())


def _short(keys: str) -> str:
    """Names alone of a table of keys, the beginning of a sentence about them."""
    table = [m.group(1) for m in re.finditer(rf"^  ({_KEY}(?:, {_KEY})*)(?=\s)", keys, re.MULTILINE)]
    if table:
        text = ", ".join(table)
    else:
        text = re.sub(r"^Keys[^:]*: |^Prints ", "", " ".join(keys.split()))
        while text != (text := re.sub(r" ?\([^()]*\)", "", text)):  # from within outwards
            pass
        text = re.split(r"\. (?:Takes|Needs) ", text)[0].rstrip(".")
    if len(text) <= _LONGEST_KEYS:
        return text
    return text[:_LONGEST_KEYS].rpartition(" ")[0].rstrip(",;:") + " ..."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Print the list, or one of them; 2 when there is none of this name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the benchmarks are.")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--markdown", action="store_true", help="the page of docs")
    given = parser.parse_args(arguments)
    found = benchmarks()
    if given.name is not None:
        one = next((b for b in found if b.name == given.name), None)
        if one is None:
            names = ", ".join(b.name for b in found)
            print(f"error: there is no benchmark {given.name!r}; there are: {names}", file=sys.stderr)
            return 2
        print(one.says)
        return 0
    if given.markdown:
        print(markdown(found), end="")
        return 0
    for b in found:
        print(f"{b.command}\n    {b.asks}\n    prints: {b.prints}")
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
