"""Durable writes: the order of the calls, and what is left when one of them is the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from continuonbrain.storage import durable

Install = Callable[..., "object"]


def names(log: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in log]


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, dying_os: Install
) -> None:
    recorded = dying_os()
    durable.write_bytes_durably(tmp_path / "file", b"new")
    assert names(recorded.log) == ["open", "write", "fsync", "replace", "open", "fsync"]


def test_a_directory_is_synced_before_it_gets_its_name(tmp_path: Path, dying_os: Install) -> None:
    recorded = dying_os()
    durable.write_directory_durably(tmp_path / "folder", {"a": b"1", "b": b"2"})
    file = ["open", "write", "fsync"]
    assert names(recorded.log) == ["mkdir", *file, *file, "open", "fsync", "rename", "open", "fsync"]


@pytest.mark.parametrize("after", [False, True])
def test_a_file_is_old_or_new_whichever_call_was_the_last(
    tmp_path: Path, dying_os: Install, adapters: type, after: bool
) -> None:
    path = tmp_path / "file"
    for change in range(6):
        path.write_bytes(b"old content")
        dying_os(change, after=after)
        with pytest.raises(adapters.SimulatedDeathError):
            durable.write_bytes_durably(path, b"new")
        assert path.read_bytes() in (b"old content", b"new")


@pytest.mark.parametrize("after", [False, True])
def test_a_directory_is_whole_or_absent_whichever_call_was_the_last(
    tmp_path: Path, dying_os: Install, adapters: type, after: bool
) -> None:
    files = {"a": b"1" * 10, "b": b"2" * 10}
    for change in range(12):
        path = tmp_path / f"folder{change}"
        dying_os(change, after=after)
        with pytest.raises(adapters.SimulatedDeathError):
            durable.write_directory_durably(path, files)
        assert not path.exists() or {p.name: p.read_bytes() for p in path.iterdir()} == files


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full_disk(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        durable.write_bytes_durably(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_write_that_the_kernel_cuts_short_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = durable.os.write
    monkeypatch.setattr(durable.os, "write", lambda fd, data: real_write(fd, bytes(data)[:3]))
    durable.write_bytes_durably(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_nan_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    durable.write_json_durably(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        durable.write_json_durably(path, {"loss": float("nan")})
    assert "1.0" in path.read_text()


def test_a_symlink_is_never_missing_while_it_moves(tmp_path: Path, dying_os: Install, adapters: type) -> None:
    link = tmp_path / "current"
    for change in range(4):
        link.unlink(missing_ok=True)
        link.symlink_to("old")
        dying_os(change)
        with pytest.raises(adapters.SimulatedDeathError):
            durable.replace_symlink_atomically(link, "new")
        assert str(link.readlink()) in ("old", "new")


def test_a_torn_line_is_skipped_by_readers_and_cut_off_by_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "log"
    durable.append_line_durably(path, "one")
    with path.open("ab") as file:
        file.write("tw\u00f6".encode()[:-1])
    assert durable.read_whole_lines(path) == ["one"]
    durable.append_line_durably(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_a_log_that_is_one_long_torn_line_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 200_000)
    durable.append_line_durably(path, "one")
    assert path.read_text() == "one\n"


def test_a_line_with_a_newline_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="newline"):
        durable.append_line_durably(tmp_path / "log", "a\nb")


def test_leftovers_of_a_killed_writer_are_found_and_removed(
    tmp_path: Path, dying_os: Install, adapters: type
) -> None:
    dying_os(3)
    with pytest.raises(adapters.SimulatedDeathError):
        durable.write_bytes_durably(tmp_path / "file", b"new")
    dying_os(4)
    with pytest.raises(adapters.SimulatedDeathError):
        durable.write_directory_durably(tmp_path / "folder", {"a": b"1"})
    dying_os()
    assert len(list(durable.staging_leftovers(tmp_path))) == 2
    durable.remove_staging_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_copied_over_an_empty_folder_but_not_over_a_full_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "weights").write_bytes(b"w")
    empty = tmp_path / "empty"
    empty.mkdir()
    durable.copy_tree_durably(source, empty)
    assert (empty / "sub" / "weights").read_bytes() == b"w"
    with pytest.raises(OSError, match="not empty"):
        durable.copy_tree_durably(source, empty)
    assert list(durable.staging_leftovers(tmp_path)) == []
