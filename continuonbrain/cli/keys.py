"""`continuonbrain keys`: whose signed adapters this brain takes, and the keys that it signs with itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.episodes_common import print_json
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.storage.key_counter import CounterLostError
from continuonbrain.storage.public_key import checked_name, parse_public_key
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Whose signed adapters are taken; own keys to sign with."
)

_LARGEST_KEY_FILE = 64 << 10


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What the key is called, e.g. workshop.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Make a key to sign adapters with. The private part stays in ROOT/keys/private; the .pub file is for others."""
    own = PrivateKeys(open_brain(root).layout)
    key = own.new(name)
    path = own.public_path(name)
    if as_json:
        print_json({"name": name, "key_id": key.key_id, "public_file": str(path)})
        return
    _say(f"key {name}  {key.key_id}\nhand this file to those who shall take what it signs: {path}")


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="A .pub file that `keys new` wrote.")],
    name: Annotated[str | None, typer.Option("--name", help="Call it something else here.")] = None,
    counter: Annotated[
        int | None,
        typer.Option("--counter", min=0, help="Take only counters above this one; needed after a loss."),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Take signed adapters of this key from now on, as candidates."""
    with open(file, "rb") as opened:
        key = parse_public_key(opened.read(_LARGEST_KEY_FILE), what=str(file))
    if name is not None:
        key = replace(key, name=checked_name(name))
    status = TrustedKeys(open_brain(root).layout).trust(key, counter=counter)
    if as_json:
        print_json({"name": key.name, "key_id": key.key_id, "last_counter": status.last})
        return
    _say(
        f"trusted: {key.name}  {key.key_id}  (counters above {status.last})\n"
        "compare the id with its owner's, over another way than the file came"
    )


@app.command("list")
def list_keys(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List trusted, revoked and own keys. Exit 1: a key's counter is lost."""
    layout = open_brain(root).layout
    known = TrustedKeys(layout).list()
    own = PrivateKeys(layout)
    rows = [
        {
            "name": status.name,
            "key_id": status.key_id,
            "state": "revoked" if status.revoked else "trusted",
            "last_counter": status.last,
            "problem": status.problem,
        }
        for status in known
    ]
    rows += [_own_row(own, name) for name in own.names()]
    if as_json:
        print_json({"keys": rows})
    elif not rows:
        _say(
            f"no keys: nothing that others signed is taken. Next: continuonbrain keys trust FILE.pub --root {root}"
        )
    else:
        table = Table("name", "state", "last counter", Column("key id", overflow="fold"))
        for row in rows:
            last = row["last_counter"]
            cells = (row["name"], row["state"], "" if last is None else last, row["key_id"])
            table.add_row(*(str(cell) for cell in cells))
        Console(highlight=False).print(table)
        for row in rows:
            if row["problem"]:
                _say(f"{row['name'] or str(row['key_id'])[:16]}: {row['problem']}")
    if any(row["problem"] for row in rows):
        raise typer.Exit(1)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its name, or at least 8 digits of its id.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Never take anything of this key again. What it signed before stays until you remove or roll it back."""
    gone = TrustedKeys(open_brain(root).layout).revoke(key)
    if as_json:
        print_json({"name": gone.name, "key_id": gone.key_id, "state": "revoked"})
        return
    _say(
        f"revoked: {gone.name}  {gone.key_id}\nwhat came from it names it in its card: continuonbrain adapters show "
        f"--root {root}"
    )


@app.command()
def recount(
    name: Annotated[str, typer.Argument(help="A key of this root.")],
    counter: Annotated[int, typer.Option("--counter", min=0, help="The last one that was signed with it.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """After a loss: say which counter an own key has signed last. Whoever took a bundle of it knows."""
    key = PrivateKeys(open_brain(root).layout).recount(name, counter)
    if as_json:
        print_json({"name": name, "key_id": key.key_id, "last_counter": counter})
        return
    _say(f"key {name} signs with counters above {counter} from now on")


def _own_row(own: PrivateKeys, name: str) -> dict[str, Any]:
    key_id = own.key_id(name)
    row = {"name": name, "key_id": key_id, "state": "own", "last_counter": None, "problem": ""}
    try:
        return {**row, "last_counter": own.last_issued(key_id)}
    except CounterLostError as error:
        return {**row, "problem": str(error)}


def _say(text: str) -> None:
    Console(highlight=False).print(text, markup=False, soft_wrap=True)
