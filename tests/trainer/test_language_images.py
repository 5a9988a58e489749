"""Samples with frames: the tower sees each once, and what is trained on is what the whole model computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import Gemma3nAudioConfig, Gemma3nConfig, Gemma3nForConditionalGeneration  # noqa: E402

from benchmarks.e2b_shapes import fill, text_config  # noqa: E402
from benchmarks.lora_exact import SmallVisionConfig  # noqa: E402
from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.model import phases  # noqa: E402
from continuonbrain.model.checkpoint import CheckpointError  # noqa: E402
from continuonbrain.model.phases import Precision  # noqa: E402
from continuonbrain.model.vision import Vision, pixels  # noqa: E402
from continuonbrain.trainer.language_job import train_language  # noqa: E402
from continuonbrain.trainer.language_routes import SuffixRoute, route_for  # noqa: E402
from continuonbrain.trainer.token_samples import LanguageSettings, TokenSample  # noqa: E402

BASE, IMAGE, END, SOUND, TOKENS, SIDE = "ba5e" * 16, 4090, 4088, 4096, 16, 32
SETTINGS = LanguageSettings(rank=4, batch_size=3, max_steps=2, int8=False, frame_px=SIDE)


def frame(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)


def prompt(seed: int, frames: int) -> tuple[int, ...]:
    words = np.random.default_rng(seed).integers(3, 4000, 24).tolist()
    # As Gemma 3n's processor writes it: every image ends with the first id of the vision vocabulary.
    return tuple(words[:3] + ([IMAGE] * TOKENS + [END]) * frames + words[3:])


SAMPLES = [
    TokenSample(prompt(0, 1), 3, (frame(0),)),
    TokenSample(prompt(1, 1), 2, (frame(0),)),  # the same picture under another instruction
    TokenSample(prompt(2, 2), 4, (frame(1), frame(0))),
    TokenSample(prompt(3, 0), 2),
]


@pytest.fixture(scope="module")
def model() -> Any:
    config = Gemma3nConfig(
        # As in Gemma 3n the table of per-layer embeddings ends where the pictures' vocabulary begins.
        text_config=text_config("small", vocab_size_per_layer_input=END).to_dict(),
        vision_config=SmallVisionConfig(hidden_size=32, vocab_size=8, vocab_offset=END),
        audio_config=Gemma3nAudioConfig(
            vocab_size=8,
            vocab_offset=SOUND,
            hidden_size=32,
            conf_num_attention_heads=2,
            conf_num_hidden_layers=1,
        ),
        vision_soft_tokens_per_image=TOKENS,
        image_token_id=IMAGE,
    )
    model = Gemma3nForConditionalGeneration(config)
    fill(model.model.language_model, torch.Generator().manual_seed(0))
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    return model.float().eval()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "has_bf16_arithmetic", lambda: False)
    assert Precision.of_this_machine().compute == torch.float32


def whole_loss(model: Any, sample: TokenSample) -> float:
    """The library's own forward, frames and all."""
    extra = {"pixel_values": pixels(sample.frames, SIDE)} if sample.frames else {}
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sample.ids]), **extra, use_cache=False).logits[0]
    wanted = torch.tensor(sample.ids[-sample.answer :])
    return float(torch.nn.functional.cross_entropy(logits[-sample.answer - 1 : -1], wanted))


@pytest.mark.parametrize("sample", SAMPLES, ids=["one", "again", "two", "none"])
def test_the_loss_of_a_fresh_adapter_is_the_whole_models(
    model: Any, folder: Path, tmp_path: Path, sample: TokenSample
) -> None:
    result = train_language(
        folder, [sample], replace(SETTINGS, max_steps=1), base_sha256=BASE, cache=tmp_path / "cache"
    )
    assert result.losses[0] == pytest.approx(whole_loss(model, sample), rel=1e-4)


def test_frames_change_what_is_predicted(model: Any) -> None:
    shown = replace(SAMPLES[0], frames=(frame(5),))
    assert whole_loss(model, shown) != pytest.approx(whole_loss(model, SAMPLES[0]), rel=1e-3)
    assert shown.key() != SAMPLES[0].key()


def test_the_tower_sees_each_frame_once_and_nothing_is_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    real = Vision.soft_tokens

    def counted(self: Vision, images: Any) -> Any:
        looked.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Vision, "soft_tokens", counted)
    cache = tmp_path / "cache"
    (cache / ".seen-killed").mkdir(parents=True)
    train_language(folder, SAMPLES, SETTINGS, base_sha256=BASE, cache=cache)
    assert sum(looked) == 2
    again = train_language(folder, SAMPLES, SETTINGS, base_sha256=BASE, cache=cache)
    assert sum(looked) == 2
    assert again.recalled == len(SAMPLES)
    assert not list(cache.glob(".seen-*"))


def test_gates_are_asked_before_every_frame(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = Vision.soft_tokens

    def look(self: Vision, images: Any) -> Any:
        order.append("look")
        return real(self, images)

    def asked(_save: Any) -> float:
        order.append("asked")
        return 0.0

    monkeypatch.setattr(Vision, "soft_tokens", look)
    run = {"base_sha256": BASE, "cache": tmp_path / "cache", "wait_until_allowed": asked}
    train_language(folder, SAMPLES, replace(SETTINGS, max_steps=1), **run)
    looks = [i for i, what in enumerate(order) if what == "look"]
    assert len(looks) == 2
    assert all(order[i - 1] == "asked" for i in looks)


def test_what_was_seen_at_another_size_is_seen_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train_language(folder, SAMPLES[:1], SETTINGS, base_sha256=BASE, cache=cache)

    def kept(settings: LanguageSettings) -> bool:
        route = route_for(folder, settings, base_sha256=BASE, cache=cache)
        assert isinstance(route, SuffixRoute)
        return route._store.get(SAMPLES[0].key()) is not None

    assert kept(SETTINGS)
    assert not kept(replace(SETTINGS, frame_px=2 * SIDE))


def test_a_prompt_without_room_for_its_frame_is_named(folder: Path, tmp_path: Path) -> None:
    wrong = TokenSample(prompt(0, 0), 3, (frame(0),))
    with pytest.raises(BrainError, match="image tokens"):
        train_language(folder, [wrong], SETTINGS, base_sha256=BASE, cache=tmp_path / "cache")


def test_frames_for_a_checkpoint_that_sees_nothing_are_refused(tmp_path: Path) -> None:
    from benchmarks.e2b_shapes import write_checkpoint

    blind = tmp_path / "blind"
    write_checkpoint(blind, "small")
    with pytest.raises(CheckpointError, match="vision tower"):
        train_language(blind, SAMPLES[:1], SETTINGS, base_sha256=BASE, cache=tmp_path / "cache")


def test_a_missing_tensor_of_the_tower_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    lame = tmp_path / "lame"
    shutil.copytree(folder, lame)
    file = lame / "model.safetensors"
    tensors = load_file(file)
    missing = next(n for n in tensors if "vision_tower" in n)
    save_file({n: t for n, t in tensors.items() if n != missing}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=missing):
        train_language(lame, SAMPLES[:1], SETTINGS, base_sha256=BASE, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "wrong",
    [
        TokenSample((*prompt(0, 0)[:-3], IMAGE, 5, 6), 2),  # a picture's token and no picture
        TokenSample((*prompt(0, 1)[:-3], SOUND, 5, 6), 2, (frame(0),)),
        TokenSample((*prompt(0, 0)[:-1], 5000), 2),
    ],
    ids=["picture", "sound", "nothing"],
)
def test_tokens_that_the_text_does_not_have_are_named(
    folder: Path, tmp_path: Path, wrong: TokenSample
) -> None:
    with pytest.raises(BrainError, match=f"token id {max(wrong.ids)}"):
        train_language(folder, [wrong], SETTINGS, base_sha256=BASE, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((30, 40), np.uint8),
        np.zeros((30, 40, 4), np.uint8),
        np.zeros((30, 40, 3), np.float32),
        np.zeros((0, 40, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_named(picture: Any) -> None:
    with pytest.raises(BrainError, match="RGB pictures are uint8"):
        TokenSample(prompt(0, 1), 3, (picture,))


def test_the_tower_sees_red_as_red_and_all_of_the_picture() -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20, 0], picture[:, 20:, 2] = 255, 51
    seen = pixels([picture], 8)[0]
    assert seen.shape == (3, 8, 8)
    assert torch.allclose(seen[:, :, 0], torch.tensor([1.0, 0, 0])[:, None].expand(3, 8))
    assert torch.allclose(seen[:, :, -1], torch.tensor([0, 0, 0.2])[:, None].expand(3, 8))
    edge = seen[0, 0]
    assert 0.0 < float(edge[3:5].min()) < float(edge[3:5].max()) < 1.0  # smoothed, not picked


def test_a_gate_that_closes_while_the_tower_looks_ends_the_look_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain.model.vision import Vision

    class Closed(Exception):
        pass

    inside, asked = False, 0
    look = Vision.soft_tokens

    def looking(self: Vision, images: torch.Tensor) -> torch.Tensor:
        nonlocal inside
        inside = True
        return look(self, images)

    def close(_save: Any) -> float:
        nonlocal asked
        asked += inside
        if asked == 2:  # blocks of the tower
            raise Closed
        return 0.0

    monkeypatch.setattr(Vision, "soft_tokens", looking)
    cache = tmp_path / "cache"
    with pytest.raises(Closed):
        train_language(folder, SAMPLES, SETTINGS, base_sha256=BASE, cache=cache, wait_until_allowed=close)
    assert not list(cache.glob(".seen-*"))


@pytest.mark.parametrize("damage", ["nan", "int8"])
def test_a_damaged_tower_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    tensors = load_file(bad / "model.safetensors")
    name = next(n for n in tensors if "vision_tower" in n and n.endswith("weight"))
    tensors[name] = tensors[name].to(torch.int8) if damage == "int8" else tensors[name] * torch.nan
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name):
        train_language(bad, SAMPLES[:1], SETTINGS, base_sha256=BASE, cache=tmp_path / "cache")
