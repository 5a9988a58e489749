"""The Dart package by what can be checked without a Dart SDK: a Dart 3 grammar, its imports, and its pins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

tree_sitter = pytest.importorskip("tree_sitter")
dart = pytest.importorskip("tree_sitter_dart_orchard")

FLUTTER = Path(__file__).parents[2] / "flutter"
FILES = sorted(FLUTTER.rglob("*.dart"))


def errors(text: bytes) -> list[str]:
    """What a Dart 3 grammar does not understand, with its place."""

    def found(node: tree_sitter.Node) -> Iterator[str]:
        if node.type == "ERROR" or node.is_missing:
            row, column = node.start_point
            yield f"{row + 1}:{column + 1} {node.type} {node.text[:40]!r}"
        elif node.has_error:
            for child in node.children:
                yield from found(child)

    parser = tree_sitter.Parser(tree_sitter.Language(dart.language()))
    return list(found(parser.parse(text).root_node))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FLUTTER)))
def test_a_dart_file_parses(path: Path) -> None:
    assert errors(path.read_bytes()) == []


@pytest.mark.parametrize(
    "broken", [b"void main() { final x = ; }", b"class A { int get => 1 }", b"void main() {"]
)
def test_the_check_can_fail(broken: bytes) -> None:
    assert errors(broken)


def test_every_import_of_its_own_is_there_and_every_source_is_exported() -> None:
    sources = {p.name for p in (FLUTTER / "lib" / "src").iterdir()}
    exported = re.findall(r"export 'src/(\w+\.dart)';", (FLUTTER / "lib" / "continuonbrain.dart").read_text())
    assert set(exported) == sources
    for path in FILES:
        for name in re.findall(r"^import '([^:']+)';", path.read_text(), re.M):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def test_it_is_pinned_to_the_flutter_gemma_that_it_was_written_for() -> None:
    pubspec = yaml.safe_load((FLUTTER / "pubspec.yaml").read_text())
    assert pubspec["dependencies"]["flutter_gemma"] == ">=1.6.5 <1.7.0"
    assert yaml.safe_load((FLUTTER / "example" / "pubspec.yaml").read_text())["dependencies"][
        "continuonbrain"
    ] == {"path": "../"}


def test_the_dart_tests_read_golden_files_that_exist() -> None:
    tests = "".join(p.read_text() for p in (FLUTTER / "test").glob("*.dart"))
    names = set(re.findall(r"golden(?:Json)?\('([\w.]+)'\)", tests))
    assert {"manifest.json", "events.json", "events.sse", "status.json", "problem.json"} <= names
    for name in names:
        assert (FLUTTER.parent / "tests" / "golden" / name).is_file(), name
