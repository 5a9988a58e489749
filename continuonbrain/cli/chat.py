"""`continuonbrain chat`: talk to the base, with what the robot has learned in front of it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.config import PolicyConfig
from continuonbrain.errors import BrainError
from continuonbrain.storage.adapters import AdapterStore

if TYPE_CHECKING:
    from continuonbrain.policy.chat import Chat, Sampling


class EngineChoice(StrEnum):
    """What computes the words."""

    AUTO = "auto"
    LITERT = "litert"
    TORCH = "torch"


class PrecisionChoice(StrEnum):
    """How LiteRT graphs hold the base's weights."""

    FP32 = "fp32"
    INT8 = "int8"


def chat(
    text: Annotated[
        str | None,
        typer.Argument(help="What to say; without it a conversation, line by line.", show_default=False),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    base: Annotated[
        Path | None,
        typer.Option("--base", help="A Gemma 3n folder, instead of a brain root's base.", show_default=False),
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter", help="current, candidate, previous, an adapter's id, none, or a PEFT folder."
        ),
    ] = "current",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=8192)] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, max=2.0, help="0: always the likeliest word.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    engine: Annotated[
        EngineChoice | None,
        typer.Option("--engine", help="As config.json says without.", show_default=False),
    ] = None,
    precision: Annotated[
        PrecisionChoice | None,
        typer.Option("--precision", help="Of the graphs; as config.json says without.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Talk to the base with the current adapter, as it would answer in words. No robot moves."""
    folder, policy, learned = _where(root, base, adapter)
    chosen = {"engine": engine, "precision": precision}
    policy = PolicyConfig.model_validate(
        policy.model_dump() | {name: value.value for name, value in chosen.items() if value is not None}
    )
    from continuonbrain.policy.chat import Chat, ChatPrompt, Sampling, Turn
    from continuonbrain.policy.open_engine import open_words

    prompt = ChatPrompt(folder)  # says at once that a base cannot talk
    console = Console(stderr=True, highlight=False)
    with console.status("loading the base"):
        words = open_words(folder, policy)
        words.use_adapter(learned)
    talk = Chat(words, prompt)
    sampling = Sampling(max_tokens, temperature, seed)
    if text is not None:
        pieces = []
        for piece in talk.answer([Turn("user", text)], sampling):
            pieces.append(piece)
            if not as_json:
                typer.echo(piece, nl=False)
        if as_json:
            said = {
                "answer": "".join(pieces),
                "base_sha256": words.base_sha256,
                "adapter_sha256": words.adapter_sha256,
            }
            typer.echo(json.dumps(said))
        else:
            typer.echo()
        return
    _converse(talk, sampling, console)


def _converse(talk: Chat, sampling: Sampling, console: Console) -> None:
    from continuonbrain.policy.chat import Turn

    if sys.stdin.isatty():
        console.print("an empty line ends the conversation")
    turns: list[Turn] = []
    while True:
        if sys.stdin.isatty():
            console.print("> ", end="")
        line = sys.stdin.buffer.readline().decode(errors="replace").strip()
        if not line:
            return
        turns.append(Turn("user", line))
        pieces = []
        for piece in talk.answer(turns, sampling):
            pieces.append(piece)
            typer.echo(piece, nl=False)
        typer.echo()
        turns.append(Turn("assistant", "".join(pieces)))


def _where(root: Path, base: Path | None, adapter: str) -> tuple[Path, PolicyConfig, Path | None]:
    """The base's folder, what opens it, and the adapter's folder (None: the base alone)."""
    given = Path(adapter)
    if base is not None:
        if not (base / "config.json").is_file():
            below = sorted(p.parent for p in base.glob("*/config.json")) if base.is_dir() else []
            raise BrainError(
                f"--base {base} is no base: it has no config.json"
                if base.is_dir()
                else f"--base {base}: no such folder",
                remedy=f"did you mean {below[0]}?" if below else "give the folder of a Gemma 3n checkpoint",
            )
        if adapter in ("current", "none"):  # a folder has no current one
            return base, PolicyConfig(), None
        if not given.exists():
            raise BrainError(
                f"--adapter {adapter} is no folder",
                remedy="with --base give a PEFT folder (or what it was converted to), or talk to a brain root (--root) "
                "for its adapters",
            )
        return base, PolicyConfig(), given
    brain = open_brain(root)
    folder, policy = brain.layout.base_model_dir, brain.config.policy
    if adapter == "none":
        return folder, policy, None
    store = AdapterStore(brain.layout)
    if adapter == "current":  # never a folder of that name which happens to be here
        current = store.current()
        if current is None:
            return folder, policy, None
        current.whole_sha256(root=root)
        return folder, policy, current.path
    if "/" in adapter or (given.exists() and adapter not in ("candidate", "previous")):
        return folder, policy, given
    return folder, policy, store.find(adapter).path
