"""Faces that are found in pictures do not leave; what was done is told; without the means it is refused."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.check import check_bundle
from continuonbrain.cloud.errors import ExportRefused
from continuonbrain.cloud.export import Exported, export_bundle
from continuonbrain.cloud.faces import MODEL, FaceFinder, face_finder
from continuonbrain.cloud.images import Box, blurred
from continuonbrain.cloud.journal import FORMAT, Journal
from continuonbrain.cloud.manifest import MANIFEST, Blurred
from continuonbrain.rlds.memory import open_memory
from continuonbrain.storage.zip64 import Member

from .conftest import KEY, MakeRoot, Record, files_in, plan_of, public_key, tree
from .test_cli import run

WIDTH, HEIGHT, FACE = 160, 120, 44
PLAIN = (120, 140, 110)


def somebody(left: int) -> NDArray[np.uint8]:
    """A frame with a drawn face in it, which a cascade takes for one."""
    big = 4
    image = Image.new("RGB", (WIDTH * big, HEIGHT * big), PLAIN)
    draw = ImageDraw.Draw(image)
    x, y, w = left * big, 30 * big, FACE * big
    h = int(w * 1.3)

    def at(*parts: float) -> list[tuple[float, float]]:
        return [(x + w * a, y + h * b) for a, b in zip(parts[::2], parts[1::2], strict=True)]

    draw.ellipse(at(0, 0, 1, 1), fill=(215, 175, 150))
    draw.pieslice(at(-0.01, -0.02, 1.01, 0.7), 180, 360, fill=(60, 40, 30))
    draw.ellipse(at(0.06, 0.12, 0.94, 1), fill=(215, 175, 150))
    for s in (0.30, 0.70):
        draw.ellipse(at(s - 0.13, 0.36, s + 0.13, 0.50), fill=(130, 95, 80))
        draw.rectangle(at(s - 0.13, 0.345, s + 0.13, 0.375), fill=(70, 45, 35))
        draw.ellipse(at(s - 0.07, 0.40, s + 0.07, 0.47), fill=(40, 25, 20))
    draw.polygon(at(0.5, 0.42, 0.42, 0.66, 0.58, 0.66), fill=(230, 195, 170))
    draw.rectangle(at(0.42, 0.65, 0.58, 0.68), fill=(150, 110, 95))
    draw.ellipse(at(0.33, 0.74, 0.67, 0.82), fill=(140, 70, 70))
    soft = image.filter(ImageFilter.GaussianBlur(big)).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return np.asarray(soft, dtype=np.uint8)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=92)
    return out.getvalue()


def empty_road() -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), PLAIN, dtype=np.uint8)


@pytest.fixture
def visited(make_root: MakeRoot, record: Record) -> BrainRoot:
    """A robot with one episode of four frames: somebody is in the last two."""
    brain = make_root()
    frames = [empty_road(), empty_road(), somebody(30), somebody(60)]
    record(
        brain,
        "20260101T080000Z-aaaa",
        len(frames),
        size=(HEIGHT, WIDTH),
        change=lambda tick, step: replace(step, frame=None, frame_jpeg=jpeg(frames[tick])),
    )
    return brain


def leave(brain: BrainRoot, out: Path, faces: FaceFinder | None, frames: str = "keep") -> Exported:
    return export_bundle(brain, plan_of(brain, frames=frames), out, as_zip=False, key_name=KEY, faces=faces)


def pictures(bundle: Path, size: str = "160x120") -> list[NDArray[np.uint8]]:
    memory = open_memory(bundle / "rlds" / f"episodes_{size}")
    return [next(iter(memory.frames(0, i).values())) for i in range(4)]


@given(
    box=st.tuples(st.integers(0, 59), st.integers(0, 39), st.integers(1, 60), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_of_a_box_few_colours_are_left_and_nothing_else_changes(box: Box, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    before = pixels.copy()
    out = blurred(pixels, [box])
    assert np.array_equal(pixels, before)
    x, y, w, h = box
    rows, columns = np.mgrid[:40, :60]
    far = (
        (rows < y - h // 4) | (rows >= y + h + h // 4) | (columns < x - w // 4) | (columns >= x + w + w // 4)
    )
    assert np.array_equal(out[far], before[far])
    inside = out[y : y + h, x : x + w].astype(int)
    if min(inside.shape[:2]) > 16:  # noise of single pixels is gone
        assert np.abs(np.diff(inside, axis=1)).mean() < np.abs(np.diff(before.astype(int), axis=1)).mean() / 4


def test_what_is_found_is_blurred_and_the_rest_is_left_pixel_for_pixel(
    visited: BrainRoot, tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    finder = face_finder()
    assert finder.find(empty_road()) == []
    assert len(finder.find(somebody(30))) == 1
    plain, hidden = leave(visited, tmp_path / "a", None), leave(visited, tmp_path / "b", finder)
    before, after = pictures(plain.path), pictures(hidden.path)
    assert [np.array_equal(x, y) for x, y in zip(before, after, strict=True)] == [True, True, False, False]
    for known, seen in zip(before[2:], after[2:], strict=True):
        assert len(finder.find(known)) == 1
        assert finder.find(seen) == []
    (x, y, w, h) = finder.find(before[3])[0]
    eyes = (slice(y + h // 4, y + h // 2), slice(x + w // 4, x + 3 * w // 4))
    assert after[3][eyes].std() < before[3][eyes].std() / 2
    small = leave(visited, tmp_path / "half", finder, frames="half")
    assert all(p.shape == (60, 80, 3) for p in pictures(small.path, "80x60"))


def test_the_bundle_says_so_and_has_the_same_bytes_again(visited: BrainRoot, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    found = []
    for name in ("a", "b"):
        done = leave(visited, tmp_path / name, face_finder())
        found.append({n: d for n, d in files_in(done.path).items() if n.startswith("rlds") or n == MANIFEST})
    assert found[0] == found[1]
    said = json.loads(found[0][MANIFEST])["privacy"]["coarsened"]["faces in images"]
    assert said == f"those that OpenCV {cv2.__version__}, {MODEL} found were blurred; it misses some"
    assert check_bundle(tmp_path / "a", public_key(visited)).contents.faces == said
    plain = leave(visited, tmp_path / "c", None)
    assert "faces" not in json.loads((plain.path / MANIFEST).read_bytes())["privacy"]["coarsened"]
    assert check_bundle(plain.path, public_key(visited)).contents.faces == ""


def test_how_many_were_blurred_is_told_and_signed(
    make_root: MakeRoot, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two datasets, one episode of which goes in parts and breaks off: what is counted is what is in the bundle."""
    monkeypatch.setattr("continuonbrain.cloud.shards.PART_STEPS", 2)
    brain = make_root()
    for name, size in (("20260101T080000Z-aaaa", (24, 32)), ("20260102T080000Z-bbbb", (36, 48))):
        folder = record(brain, name, 5, size=size)
    (blob,) = (folder / "blobs").iterdir()
    data = bytearray(blob.read_bytes())
    data[-30] ^= 1  # the last frame is damaged
    blob.write_bytes(data)
    finder = FaceFinder("a test", lambda pixels: [(2, 2, 8, 8)] * (pixels.shape[0] // 12 - 1))
    done = leave(brain, tmp_path / "a", finder)
    assert done.blurred == Blurred(faces=1 * 5 + 2 * 4, in_pictures=9, of_pictures=9)
    assert done.steps == 9
    assert check_bundle(done.path, public_key(brain)).contents.blurred == done.blurred
    nobody = leave(brain, tmp_path / "b", FaceFinder("a test", lambda _: []))
    assert nobody.blurred == Blurred(0, 0, 9)
    plain = leave(brain, tmp_path / "c", None)
    assert plain.blurred is None
    assert check_bundle(plain.path, public_key(brain)).contents.blurred is None


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("last", ["the first shard", MANIFEST])
def test_what_a_version_that_did_not_count_began_is_begun_anew(
    make_root: MakeRoot, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    brain = make_root()
    for name, size in (("20260101T080000Z-aaaa", (24, 32)), ("20260102T080000Z-bbbb", (36, 48))):
        record(brain, name, 5, size=size)
    finder = FaceFinder("a test", lambda _: [(2, 2, 8, 8)])

    def uncounted(self: Journal, member: Member, facts: dict[str, Any]) -> None:
        add(self, member, {k: v for k, v in facts.items() if k != "blurred"})
        if last in (member.name, "the first shard"):
            raise _Killed

    add = Journal.add
    with monkeypatch.context() as before:
        before.setattr("continuonbrain.cloud.export.FORMAT", 1)
        before.setattr(Journal, "add", uncounted)
        with pytest.raises(_Killed):
            leave(brain, tmp_path / "a", finder)
    done = leave(brain, tmp_path / "a", finder)
    assert done.resumed == 0
    assert done.blurred == Blurred(faces=10, in_pictures=10, of_pictures=10)
    assert check_bundle(done.path, public_key(brain)).contents.blurred == done.blurred


def test_with_every_new_fact_the_journal_has_a_new_format(
    visited: BrainRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[dict[str, Any]] = []
    monkeypatch.setattr(Journal, "add", _noting(Journal.add, noted))
    leave(visited, tmp_path / "a", FaceFinder("a test", lambda _: []))
    facts = ["blurred", "bytes", "contents", "dataset", "doctor", "episodes", "examples"]
    assert (FORMAT, sorted(noted[0])) == (2, facts)


def _noting(add: Callable[..., None], noted: list[dict[str, Any]]) -> Callable[..., None]:
    def both(self: Journal, member: Member, facts: dict[str, Any]) -> None:
        noted.append(facts)
        add(self, member, facts)

    return both


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "cannot be loaded here"),
        (SimpleNamespace(__version__="5.0.0"), f"OpenCV 5.0.0 comes without {MODEL}"),
        (
            SimpleNamespace(
                __version__="4.0", CascadeClassifier=object, data=SimpleNamespace(haarcascades="/no")
            ),
            "comes without",
        ),
    ],
)
def test_without_the_means_it_is_refused(module: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(ExportRefused, match=words) as refused:
        face_finder()
    assert "[blur]" in refused.value.remedy


def test_the_command(visited: BrainRoot, tmp_path: Path) -> None:
    root = visited.layout.root
    both = run("cloud", "export", "--root", root, "--frames", "none", "--blur-faces", code=2)
    assert "no picture leaves" in both.stderr
    pytest.importorskip("cv2")
    before = tree(tmp_path)
    told = json.loads(run("cloud", "export", "--root", root, "--blur-faces", "--dry-run", "--json").stdout)
    assert "OpenCV" in told["privacy"]["coarsened"]["faces in images"]
    assert tree(tmp_path) == before
    said = run("cloud", "export", "--root", root, "--blur-faces", "--out", tmp_path / "o.zip").stdout
    words = "2 faces found and blurred, in 2 of 4 pictures; some may have been missed"
    assert words in said
    key = root / "keys" / "public" / "robot.pub"
    checked = json.loads(run("cloud", "verify", tmp_path / "o.zip", "--key", key, "--json").stdout)
    assert "it misses some" in checked["faces"]
    counts = {"faces": 2, "in_pictures": 2, "of_pictures": 4}
    assert checked["faces_blurred"] == counts
    assert words in run("cloud", "verify", tmp_path / "o.zip", "--key", key).stdout
    again = run("cloud", "export", "--root", root, "--blur-faces", "--out", tmp_path / "p.zip", "--json")
    assert json.loads(again.stdout)["faces_blurred"] == counts
