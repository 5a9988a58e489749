"""Saying that an episode may leave, in its metadata."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.marking import mark, relabel
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.sharing import answer_of, set_answer
from continuonbrain.rlds.writer import EpisodeWriter

RecordEpisode = Callable[..., Path]


def test_the_answer_stands_in_the_metadata_and_the_episode_is_whole(record: RecordEpisode) -> None:
    path = record(3)
    os.utime(path / "metadata.json", ns=(1_000, 2_000))
    before = open_episode(path).metadata
    assert set_answer(path, yes=True)
    assert not set_answer(path, yes=True)
    assert open_episode(path).metadata == replace(
        before, share={"cloud": True}, provenance=open_episode(path).metadata.provenance
    )
    assert set_answer(path, yes=False)
    assert open_episode(path).metadata.share == {"cloud": False}
    assert examine(path) == []
    assert (
        path / "metadata.json"
    ).stat().st_mtime_ns == 2_000  # the memory's age of it is that of its recording


def test_other_consent_is_kept(tmp_path: Path) -> None:
    metadata = replace(make_metadata_example("e"), share={"public": True, "license": "CC-BY-4.0"})
    writer = EpisodeWriter(tmp_path, metadata=metadata)
    writer.write(make_step_example())
    path = writer.close()
    set_answer(path, yes=True)
    assert open_episode(path).metadata.share == {"public": True, "license": "CC-BY-4.0", "cloud": True}


def test_what_is_open_altered_or_none_is_refused(tmp_path: Path, record: RecordEpisode) -> None:
    writer = EpisodeWriter(tmp_path / "open", metadata=make_metadata_example("e"))
    writer.write(make_step_example())
    with pytest.raises(EpisodeError, match="unfinished"):
        set_answer(writer.path, yes=True)
    writer.close()
    set_answer(writer.path, yes=True)
    path = record(2)
    file = path / "metadata.json"
    altered = file.read_bytes().replace(b"test/bench", b"test/bencH")
    file.write_bytes(altered)
    with pytest.raises(EpisodeError, match="CRC"):
        set_answer(path, yes=True)
    assert file.read_bytes() == altered
    with pytest.raises(EpisodeError, match="no place for an answer"):
        set_answer(tmp_path, yes=True)


def test_an_empty_share_is_a_no_and_stays_one_whatever_else_is_said(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, metadata=replace(make_metadata_example("e"), share={}))
    writer.write(make_step_example())
    path = writer.close()
    assert mark(path, bad=True)
    assert relabel(path, "keep right") == 1
    share = open_episode(path).metadata.share
    assert (share, answer_of(share)) == ({}, "no")
