"""The golden files are what the service takes and gives: parsed and written again they are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from continuonbrain.service import models
from continuonbrain.storage.event_log import KINDS
from continuonbrain.storage.manifest import CAPABILITIES

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = {
    "problem.json": models.Problem,
    "adapters.json": models.AdaptersOut,
    "act_request.json": models.ActIn,
    "act.json": models.ActOut,
    "chat_request.json": models.ChatIn,
    "chat.json": models.ChatOut,
    "status.json": models.StatusOut,
}


def read(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_is_what_the_model_writes(name: str) -> None:
    model = FILES[name].model_validate(read(name))
    assert model.model_dump(mode="json") == read(name)


def test_every_kind_of_event_has_one() -> None:
    events = [models.EventOut.model_validate(e) for e in read("events.json")]
    assert [e.model_dump(mode="json") for e in events] == read("events.json")
    assert {e.kind for e in events} == set(KINDS)


def test_the_manifest_is_the_example() -> None:
    example = GOLDEN.parents[1] / "continuonbrain" / "model" / "manifest.pi5.example.json"
    assert read("manifest.json") == json.loads(example.read_text())
    for name, capability in read("manifest.json")["capabilities"].items():
        assert capability == CAPABILITIES[name]


def test_no_golden_file_is_left_unread() -> None:
    named = {*FILES, "events.json", "manifest.json", "events.sse", "README.md"}
    assert {p.name for p in GOLDEN.iterdir()} == named


def test_a_stream_is_what_the_helpers_of_these_tests_read(helpers: Any) -> None:
    gap, rollback = list(helpers.events(iter((GOLDEN / "events.sse").read_text().split("\n"))))[:2]
    assert (gap["event"], gap["data"]) == ("gap", {"after": 6, "next": 8})
    assert (rollback["id"], rollback["data"]["kind"]) == ("8", "rollback")
