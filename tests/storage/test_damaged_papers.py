"""Papers and a history that a disk, an editor or another program damaged: told as damage, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.adapters import app
from continuonbrain.cli.doctor_brain import check_adapter, check_history
from continuonbrain.loops.mid import MidLoop, watch
from continuonbrain.robot.simulated_host import SimulatedHost
from continuonbrain.storage.adapters import AdapterError, AdapterStore, PromotionRefused
from continuonbrain.storage.layout import BrainLayout

PAPERS = {
    "NaN": b'{"passed": true, "evidence": {"x": NaN}}',
    "infinite": b'{"passed": true, "evidence": {"x": 1e999}}',
    "huge": b'{"passed": true, "evidence": {"x": 1' + b"0" * 400 + b"}}",
    "too long a number": b'{"x": ' + b"9" * 5000 + b"}",
    "deep": b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}",
    "very deep": b"[" * 100_000,
    "half a pair": b'{"x": "\\ud800"}',
    "a key twice": b'{"passed": false, "passed": true}',
    "binary": b"\xff\xfe\x00",
    "cut": b'{"passed": tr',
    "a list": b"[]",
}
ENTRY = (
    b'{"seq":2,"event":"promote","to":null,"from":null,"sha256":null,"verdict_sha256":null,"time_unix_s":1,'
    b'"prev_hash":"a","hash":"b"}'
)
LINES = {
    "NaN": ENTRY.replace(b'"time_unix_s":1', b'"time_unix_s":NaN'),
    "infinite": ENTRY.replace(b'"seq":2', b'"seq":1e999'),
    "a fraction": ENTRY.replace(b'"seq":2', b'"seq":2.5'),
    "deep": b"[" * 100_000,
    "half a pair": ENTRY.replace(b"promote", b"\\ud800"),
    "a key twice": ENTRY.replace(b'"seq":2', b'"seq":1,"seq":2'),
    "too long a number": ENTRY.replace(b'"seq":2', b'"seq":' + b"9" * 5000),
    "a list": b"[]",
    "nothing": b"",
    "zeros": b"\0" * 4096,
    "binary": b"\xff\xfe",
}


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
@pytest.mark.parametrize("name", ["verdict.json", "card.json"])
def test_a_damaged_paper_is_told_with_a_remedy(
    store: AdapterStore, adapters: type, name: str, paper: bytes
) -> None:
    version = adapters.promoted(store, "a")
    (version.path / name).write_bytes(paper)
    with pytest.raises(AdapterError, match=f"{name} is damaged") as caught:
        version.verdict() if name == "verdict.json" else version.card()
    assert caught.value.remedy
    root = str(store.layout.root)
    listed = CliRunner().invoke(app, ["list", "--root", root], catch_exceptions=False)
    assert f"{name} is damaged" in listed.output
    rows = json.loads(CliRunner().invoke(app, ["list", "--root", root, "--json"]).output)["adapters"]
    assert (rows[0]["verdict"] == "damaged") == (name == "verdict.json")
    if name == "verdict.json":
        assert rows[0]["trained_on"] == "16 episodes"


def test_the_doctor_names_a_damaged_paper_of_what_drives(store: AdapterStore, adapters: type) -> None:
    version = adapters.promoted(store, "a")
    for name in ("verdict.json", "card.json"):
        whole = (version.path / name).read_bytes()
        (version.path / name).write_bytes(PAPERS["NaN"])
        found = check_adapter(store.layout.root)
        assert not found.ok
        assert f"{name} is damaged" in found.value
        (version.path / name).write_bytes(whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "\ud800", b"1", {5: 1}])
def test_a_verdict_in_memory_that_cannot_be_written_is_refused(
    store: AdapterStore, adapters: type, value: object
) -> None:
    version = store.stage(adapters.files("a"))
    verdict = adapters.verdict(version, evidence={"x": value})
    with pytest.raises(PromotionRefused, match="damaged"):
        store.promote(version.version_id, verdict, base_sha256=adapters.BASE_SHA256)
    assert store.current() is None
    assert store.history() == ()


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_damaged_line_of_the_history_stops_every_change(
    store: AdapterStore, layout: BrainLayout, adapters: type, line: bytes
) -> None:
    version = adapters.promoted(store, "a")
    layout.history_path.write_bytes(layout.history_path.read_bytes() + line + b"\n")
    for change in (store.recover, store.standing, store.rollback, store.last_change):
        with pytest.raises(AdapterError, match=r"history\.jsonl") as caught:
            change()
        assert caught.value.remedy
    assert store.current() == version
    assert not check_history(layout.root).ok
    listed = CliRunner().invoke(app, ["list", "--root", str(layout.root)])
    assert "history.jsonl" in listed.output + str(listed.exception)


@pytest.mark.parametrize("name", ["verdict.json", "card.json"])
@pytest.mark.parametrize("paper", [PAPERS["NaN"], PAPERS["very deep"]], ids=["NaN", "very deep"])
def test_the_sidecar_outlives_a_damaged_paper(
    store: AdapterStore, layout: BrainLayout, adapters: type, name: str, paper: bytes
) -> None:
    version = store.stage(adapters.files("a"))
    store.attach(version, "verdict.json", json.dumps(adapters.verdict(version)).encode())
    (version.path / name).write_bytes(paper)
    trainer = MidLoop(open_brain(layout.root), host=SimulatedHost())
    rounds = iter([False, True])
    watch(trainer, every_s=0.01, should_stop=lambda: next(rounds, True))
    assert trainer.status.phase in ("failed", "waiting")
    assert store.current() is None


def test_a_history_that_is_no_text_is_told(store: AdapterStore, layout: BrainLayout) -> None:
    Path(layout.history_path).write_bytes(b"\xff\n")
    with pytest.raises(AdapterError, match=r"history\.jsonl cannot be read"):
        store.verify_history()
