"""`continuonbrain keys` and `adapters import/export` as a person uses them: real processes, two brain roots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from continuonbrain.model.base_identity import checkpoint_sha256, tiny_base_folder
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from tests.loops.attacked import adapter_files


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Two brains on the tiny base; the first has an adapter."""
    found = []
    for name in ("there", "here"):
        layout = init_brain_root(tmp_path / name, "sim-donkey")
        layout.base_model_dir.rmdir()
        layout.base_model_dir.symlink_to(tiny_base_folder())
        found.append(layout)
    card = {"base_sha256": checkpoint_sha256(tiny_base_folder())}
    AdapterStore(found[0]).stage(adapter_files() | {"card.json": json.dumps(card).encode()})
    return found[0].root, found[1].root


def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "continuonbrain.cli.main", *map(str, args)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def said(*args: object, code: int = 0) -> dict[str, object]:
    value = json.loads(run(*args, "--json", code=code).stdout)
    assert isinstance(value, dict)
    return value


def test_a_lost_counter_of_an_own_key_is_told_and_set(roots: tuple[Path, Path], tmp_path: Path) -> None:
    there, _ = roots
    made = said("keys", "new", "shop", "--root", there)
    (there / "keys/issued" / f"{made['key_id']}.json").unlink()
    out = tmp_path / "a.bundle"
    told = run("adapters", "export", "candidate", out, "--key", "shop", "--root", there, code=2).stderr
    assert f"keys recount NAME --counter LAST --root {there}" in told
    (row,) = said("keys", "list", "--root", there, code=1)["keys"]  # type: ignore[misc]
    assert "recount" in row["problem"]
    done = said("keys", "recount", "shop", "--counter", "7", "--root", there)
    assert done == {"name": "shop", "key_id": made["key_id"], "last_counter": 7}
    (row,) = said("keys", "list", "--root", there)["keys"]  # type: ignore[misc]
    assert (row["last_counter"], row["problem"]) == (7, "")
    done = said("adapters", "export", "candidate", out, "--key", "shop", "--root", there)
    assert done["counter"] == 8
    assert "below 8" in run("keys", "recount", "shop", "--counter", "7", "--root", there, code=2).stderr


def test_the_whole_way_in_json(roots: tuple[Path, Path], tmp_path: Path) -> None:
    there, here = roots
    out = tmp_path / "a.bundle"
    made = said("keys", "new", "shop", "--root", there)
    done = said("adapters", "export", "candidate", out, "--key", "shop", "--root", there)
    assert (done["counter"], done["key_id"], done["bytes"]) == (1, made["key_id"], out.stat().st_size)
    trusted = said("keys", "trust", made["public_file"], "--name", "workshop", "--root", here)
    assert trusted == {"name": "workshop", "key_id": made["key_id"], "last_counter": 0}
    taken = said("adapters", "import", out, "--root", here)
    assert (taken["key"], taken["counter"], taken["signatures_not_verified"]) == ("workshop", 1, [])
    shown = said("adapters", "show", "candidate", "--root", here)
    assert (shown["id"], shown["sha256"], shown["verdict"]) == (taken["candidate"], taken["sha256"], None)
    keys = said("keys", "list", "--root", here)["keys"]
    assert keys == [
        {
            "name": "workshop",
            "key_id": made["key_id"],
            "state": "trusted",
            "last_counter": 1,
            "problem": "",
        }
    ]
    assert said("keys", "revoke", "workshop", "--root", here)["state"] == "revoked"


def test_every_refusal_says_what_to_do_next(roots: tuple[Path, Path], tmp_path: Path) -> None:
    there, here = roots
    out = tmp_path / "a.bundle"
    public = there / "keys" / "public" / "shop.pub"
    run("keys", "new", "shop", "--root", there)
    run("adapters", "export", "candidate", out, "--key", "shop", "--root", there)

    def refused(*args: object, next_step: str) -> None:
        told = run(*args, code=2)
        lines = told.stderr.splitlines()
        assert lines[0].startswith("error: ")
        assert lines[1].startswith("  try: ")
        assert next_step in lines[1]
        assert "Traceback" not in told.stderr

    refused("adapters", "import", out, "--root", here, next_step="keys trust FILE.pub")
    run("keys", "trust", public, "--root", here)
    run("adapters", "import", out, "--root", here)
    refused("adapters", "import", out, "--root", here, next_step="exported again")
    refused("adapters", "import", public, "--root", here, next_step="copy it again")
    card = json.dumps({"base_sha256": checkpoint_sha256(tiny_base_folder())}).encode()
    AdapterStore(BrainLayout(there)).stage(adapter_files(float("nan")) | {"card.json": card})
    odd = tmp_path / "odd.bundle"
    run("adapters", "export", "candidate", odd, "--key", "shop", "--root", there)
    refused("adapters", "import", odd, "--root", here, next_step="exported again, for this base")
    refused("adapters", "import", tmp_path / "absent", "--root", here, next_step="check that path")
    refused("keys", "trust", out, "--root", here, next_step="keys new")
    refused("keys", "new", "shop", "--root", there, next_step="another name")
    refused("keys", "revoke", "nobody", "--root", here, next_step="keys list")
    refused(
        "adapters", "export", "candidate", out, "--key", "shop", "--root", there, next_step="another name"
    )
    run("keys", "revoke", "shop", "--root", here)
    refused("keys", "trust", public, "--root", here, next_step="keys new")


def test_a_lost_counter_shows_in_the_list(roots: tuple[Path, Path]) -> None:
    there, here = roots
    assert "nothing that others signed" in run("keys", "list", "--root", here).stdout
    public = said("keys", "new", "shop", "--root", there)["public_file"]
    run("keys", "trust", public, "--root", here)
    for counter in (here / "keys" / "accepted").iterdir():
        counter.unlink()
    assert "is missing" in run("keys", "list", "--root", here, code=1).stdout
    run("keys", "trust", public, "--counter", "4", "--root", here)
    assert said("keys", "list", "--root", here)["keys"][0]["last_counter"] == 4  # type: ignore[index]


def test_no_private_number_is_ever_printed(roots: tuple[Path, Path]) -> None:
    there, _ = roots
    new = run("keys", "new", "shop", "--root", there)
    secret = json.loads((there / "keys" / "private" / "shop.json").read_text())["private"]
    for done in (new, run("keys", "list", "--root", there), run("keys", "list", "--json", "--root", there)):
        assert secret[:16] not in done.stdout + done.stderr


def test_listing_commands_do_not_load_the_cryptography() -> None:
    program = (
        "import sys, continuonbrain.cli.adapters, continuonbrain.cli.keys\n"
        "print('cryptography' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
