"""What is read of a bundle that somebody who is trusted signed, and that is still not as an export writes it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud_train.bundles import OpenBundle
from continuonbrain.cloud_train.episodes import BundledEpisode, episodes_of
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.example_view import Column, Record, index_records, view_example
from continuonbrain.rlds.tfrecord import encode_example, frame_record

from .conftest import export, public_key
from .driving import robot_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> OpenBundle:
    folder = tmp_path_factory.mktemp("signed")
    given = robot_of(folder, episodes=2)
    path = export(given.brain, folder / "folder", as_zip=False).path
    checked = check_bundle(path, public_key(given.brain))
    return OpenBundle(
        path,
        path,
        checked.key,
        checked.counter,
        checked.manifest_sha256,
        checked.contents,
        given.brain.config,
    )


def renamed(bundle: OpenBundle, into: Path, name: str) -> OpenBundle:
    """The bundle with another pseudonym in its first episode."""
    shutil.copytree(bundle.folder, into)
    shard = next(p for p in sorted((into / min(bundle.contents.datasets)).iterdir()) if "tfrecord" in p.name)
    examples = []
    for offset in index_records(shard):
        columns = view_example(Record(shard, offset))
        examples.append({key: _values(column) for key, column in columns.items()})
    examples[0]["episode_metadata/episode_id"] = [name.encode()]
    shard.write_bytes(b"".join(frame_record(encode_example(e)) for e in examples))
    return replace(bundle, path=into, folder=into)


def _values(column: Column) -> Any:
    if column.kind == "bytes":
        return [column.item(i) for i in range(column.count)]
    dtype = np.dtype(np.float32 if column.kind == "float" else np.int64)
    return column.numbers(0, column.count, dtype)


def test_an_episode_without_its_first_part_is_told(bundle: OpenBundle, tmp_path: Path) -> None:
    assert [type(e) for e in episodes_of(bundle)] == [BundledEpisode] * 2
    found = list(episodes_of(renamed(bundle, tmp_path / "gap", "e-0123456789abcdef.1")))
    assert sorted(type(e).__name__ for e in found) == ["BundledEpisode", "EpisodeError"]
    (error,) = [e for e in found if isinstance(e, EpisodeError)]
    assert "has no first part" in str(error)


def test_a_bundle_of_which_nobody_can_say_what_is_in_it_is_named(bundle: OpenBundle, tmp_path: Path) -> None:
    odd = renamed(bundle, tmp_path / "odd", "somebody")
    with pytest.raises(EpisodeError, match="is no episode's pseudonym") as told:
        list(episodes_of(odd))
    assert str(odd.path) in str(told.value)
    assert "leave that bundle out" in told.value.remedy
