"""What is computed while a person drives is what the trainer would compute, and is found for that frame alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

from continuonbrain.model.base_identity import tiny_base_folder  # noqa: E402
from continuonbrain.model.record_cache import RecordCacheError  # noqa: E402
from continuonbrain.policy import acting_cache  # noqa: E402
from continuonbrain.policy.acting_cache import ActingCache, remembering  # noqa: E402
from continuonbrain.policy.torch_engine import TorchEngine  # noqa: E402
from continuonbrain.robot.sim.fleet import Fleet  # noqa: E402
from continuonbrain.robot.sim.shifts import BASE  # noqa: E402
from continuonbrain.robot.sim.track import TrackSet  # noqa: E402

BIG = 1 << 30


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(tiny_base_folder())


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """Six views of different roads."""
    return Fleet(TrackSet(range(6), BASE), np.arange(6), seed=0).render()


def as_recorded(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=90)
    return np.asarray(Image.open(io.BytesIO(data.getvalue())))


def test_a_kept_decision_is_found_by_its_recorded_frame_and_is_the_pass_that_was_spared(
    engine: TorchEngine, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    cache = ActingCache(tmp_path, engine.base_sha256, max_bytes=BIG)
    decide = remembering(engine, cache)
    for i, frame in enumerate(frames):
        ours = decide(frame, "keep left", 0.8, 1000 + i)
        theirs = engine.decide(frame[None], ["keep left"], [0.8])
        assert np.array_equal(ours.curvature, theirs.curvature)
    later = ActingCache(tmp_path, engine.base_sha256, max_bytes=BIG)
    ids = engine.layout.ids(["keep left"] * 6, [0.8] * 6)
    for i, frame in enumerate(frames):
        found = later.get(1000 + i, ids[i], as_recorded(frame))
        assert found is not None
        with torch.inference_mode():
            again = engine.model.encode(torch.from_numpy(ids[i : i + 1]), torch.from_numpy(frame[None]))
        for name, tensor in again.tensors().items():
            assert np.array_equal(found[name], tensor.numpy()), name


def test_another_moment_prompt_base_or_scene_is_not_found(
    engine: TorchEngine, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    cache = ActingCache(tmp_path, engine.base_sha256, max_bytes=BIG)
    remembering(engine, cache)(frames[0], "keep left", 0.8, 1000)
    ids = engine.layout.ids(["keep left", "keep right"], [0.8, 0.8])
    assert cache.get(1000, ids[0], frames[0]) is not None
    assert cache.get(1001, ids[0], frames[0]) is None
    assert cache.get(1000, ids[1], frames[0]) is None
    assert ActingCache(tmp_path, "another base", max_bytes=BIG).get(1000, ids[0], frames[0]) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acting_cache, "LAYOUT_VERSION", acting_cache.LAYOUT_VERSION + 1)
        other_layout = ActingCache(tmp_path, engine.base_sha256, max_bytes=BIG)
    assert other_layout.get(1000, ids[0], frames[0]) is None
    # The clock began anew with a boot, and by chance it is the same nanosecond: the scene is another.
    assert cache.get(1000, ids[0], np.full_like(frames[0], 30)) is None
    assert all(cache.get(1000, ids[0], 255 - frame) is None for frame in frames)
    darker = (frames[0].astype(int) - 15).clip(0, 255).astype(np.uint8)
    assert cache.get(1000, ids[0], darker) is None


def test_a_cache_that_cannot_be_written_does_not_stop_the_driving(
    engine: TorchEngine, frames: NDArray[np.uint8], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = ActingCache(tmp_path / "file" / "cache", engine.base_sha256, max_bytes=BIG)
    with pytest.raises(RecordCacheError):
        cache.put(
            1, np.zeros(3, np.int64), frames[0], engine.decide_and_show(frames[:1], ["drive"], [None])[2]
        )
    decide = remembering(engine, cache)
    for i in range(3):
        assert np.isfinite(decide(frames[0], "drive", None, i).curvature).all()
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


def test_what_litert_keeps_is_what_torch_would_have_computed(
    engine: TorchEngine, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    from continuonbrain.model.streams import Streams
    from continuonbrain.policy.litert_engine import LiteRTEngine

    base = tiny_base_folder()
    acting = LiteRTEngine(base, base / "serving" / "fp32")
    cache = ActingCache(tmp_path, acting.base_sha256, max_bytes=BIG)
    decide = remembering(acting, cache)
    for i, frame in enumerate(frames):
        decide(frame, "keep left", 0.8, i)
    later = ActingCache(tmp_path, engine.base_sha256, max_bytes=BIG)
    ids = engine.layout.ids(["keep left"], [0.8])
    for i, frame in enumerate(frames):
        found = later.get(i, ids[0], as_recorded(frame))
        assert found is not None
        with torch.inference_mode():
            right = engine.model.encode(torch.from_numpy(ids), torch.from_numpy(frame[None])).tensors()
        kept = Streams.from_tensors({n: torch.from_numpy(a) for n, a in found.items()}).tensors()
        assert kept.keys() == right.keys()
        for name, tensor in right.items():
            assert kept[name].dtype == tensor.dtype, name
            assert torch.allclose(kept[name], tensor, atol=1e-4), name
    with pytest.raises(ValueError, match="one at a time"):
        acting.decide_and_show(frames, ["keep left"] * len(frames), [0.8] * len(frames))
