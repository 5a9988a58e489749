"""Adapters of other shapes than a robot's: higher ranks, all layers, many robots; and the way back to a robot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from continuonbrain.cloud_train.errors import FitRefused, TrainRefused
from continuonbrain.cloud_train.fit import fit, is_of_shape
from continuonbrain.cloud_train.fit_folder import fit_folder
from continuonbrain.cloud_train.objective import Objective, batch_of, open_model, plain_pool
from continuonbrain.cloud_train.pack import pack
from continuonbrain.cloud_train.recipe import recipe_of
from continuonbrain.cloud_train.shape import shape_of
from continuonbrain.config.load import load_preset
from continuonbrain.loops.adapter_import import import_adapter
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.merge import MergeError, merge_adapter
from continuonbrain.model.plain_lora import folded, read_plain
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys
from continuonbrain.trainer.objective import action_loss
from continuonbrain.trainer.states import replay_samples

from .conftest import KEY, export, new_root, public_key
from .driving import BASE, Given, robot_of, trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHAPE = shape_of(load_preset("sim-donkey"), BASE)


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> list[Given]:
    folder = tmp_path_factory.mktemp("robots")
    return [robot_of(folder, "one"), robot_of(folder, "two", first=100, episodes=5)]


@pytest.fixture(scope="module")
def of_two_robots(
    robots: list[Given], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Rank 12 from three bundles of two robots; one of them brings nothing new: a folder with half the pixels."""
    folder = tmp_path_factory.mktemp("two-robots")
    again = export(robots[1].brain, folder / "again", as_zip=False, frames="half").path
    told = trained(
        robots[0],
        folder / "out",
        bundles=(again, robots[0].bundle, robots[1].bundle, robots[0].bundle),
        keys=tuple(public_key(r.brain) for r in robots),
        recipe={"rank": 12, "reflex_steps": 3},
    )
    return folder / "out", told


@pytest.fixture(scope="module")
def of_all_layers(robots: list[Given], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("all") / "out"
    trained(
        robots[0],
        out,
        workers=2,
        recipe={"rank": 4, "layers": "all", "steps": 4, "mixed_precision": "bf16"},
    )
    return out


def test_many_robots_in_one_run(of_two_robots: tuple[Path, dict[str, Any]], robots: list[Given]) -> None:
    out, told = of_two_robots
    assert len(told["bundles"]) == 3  # one was named twice
    assert len(told["robots"]) == 2
    assert len(told["duplicates"]) == 5
    assert len(told["episodes"]) + len(told["held_out"]) == 11
    assert told["calibration_of"] is None
    assert set(told["calibrations"]) == set(told["robots"])
    assert not (out / "adapter" / "calibration.json").exists()
    metrics = json.loads((out / "metrics.json").read_bytes())
    assert set(metrics["held_out_errors"]) == set(told["robots"])
    assert metrics["reflex_steps"] == 3
    with pytest.raises(TrainRefused, match="none of the bundles is of nobody"):
        trained(robots[0], out.parent / "other", robot="nobody")


def test_a_higher_rank_is_projected_and_the_error_told(of_two_robots: tuple[Path, dict[str, Any]]) -> None:
    out, told = of_two_robots
    assert (told["fit"]["how"], told["fit"]["rank_before"], told["fit"]["rank"]) == ("projected", 12, 8)
    full, near = read_plain(out / "full"), read_plain(out / "adapter")
    assert (full.rank, near.rank) == (12, 8)
    lost = sum(
        float(torch.linalg.norm(full.pairs[n][1] @ full.pairs[n][0] - b @ a)) ** 2
        for n, (a, b) in near.pairs.items()
    )
    whole = sum(float(torch.linalg.norm(b @ a)) ** 2 for a, b in full.pairs.values())
    assert told["fit"]["relative_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    worst = folded(full, 8)[1]  # the robot's own consolidation computes it in torch
    assert max(told["fit"]["relative_error_by_module"].values()) == pytest.approx(worst, rel=1e-4)
    assert is_of_shape(out / "adapter", SHAPE)
    assert not is_of_shape(out / "full", SHAPE)
    settings = json.loads((out / "adapter" / "adapter_config.json").read_bytes())
    assert (settings["r"], settings["lora_alpha"]) == (8, 32.0)
    # The head that was taught goes with what was trained, and with what is fitted for another robot.
    head = (out / "adapter" / "reflex.safetensors").read_bytes()
    assert (out / "full" / "reflex.safetensors").read_bytes() == head
    root = new_root(out.parent / "another").layout.root
    found = fit_folder(out, root, out=out.parent / "fitted", base=None, elsewhere="refuse")
    assert found["with"] == ["reflex.safetensors"]
    assert (out.parent / "fitted" / "reflex.safetensors").read_bytes() == head
    card = json.loads((out.parent / "fitted" / "card.json").read_bytes())
    assert not {"refused", "left_out"} & card.keys()  # they name files of this machine


@pytest.mark.parametrize("alpha", [1e30, 1e200])
def test_numbers_too_large_to_reckon_with_are_refused(tmp_path: Path, alpha: float) -> None:
    random = np.random.default_rng(3)
    name = "base_model.model.model.layers.7.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": (random.normal(size=(16, 40)) * 1e18).astype(np.float32),
        f"{name}.lora_B.weight": (random.normal(size=(24, 16)) * 1e18).astype(np.float32),
    }
    (tmp_path / "adapter_model.safetensors").write_bytes(save(tensors))
    settings = {"r": 16, "lora_alpha": alpha, "peft_type": "LORA", "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(FitRefused, match="too large to reckon with"):
        fit(tmp_path, SHAPE)


def test_it_comes_home_as_a_candidate(of_two_robots: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, told = of_two_robots
    home, workshop = new_root(tmp_path / "home"), new_root(tmp_path / "workshop")
    packed = tmp_path / "adapter.bundle"
    assert pack(out, packed, workshop, key_name=KEY).counter == 1
    TrustedKeys(home.layout).trust(public_key(workshop))
    taken = import_adapter(home, packed)
    assert AdapterStore(home.layout).candidate_id() == taken.version.version_id
    assert taken.sha256 == told["adapter_sha256"]
    card = taken.version.card()
    assert card is not None
    assert card["origin"]["card"]["bundles"] == told["bundles"]
    engine = TorchEngine(BASE)
    engine.use_adapter(taken.version.path)
    assert engine.reflex is not None
    assert PrivateKeys(workshop.layout).names() == (KEY,)


def test_all_layers_are_the_whole_models_gradient() -> None:
    """LoRA below the cut: our way through the model (below, then above at the queries) beside transformers' own."""
    recipe = recipe_of(load_preset("sim-donkey"), rank=2, layers="all")
    model, parameters = open_model(BASE, base_sha256(BASE), recipe)
    below = [n for n in parameters if ".layers.0." in n or ".layers.3." in n]
    assert len(below) == 2 * 2 * len(recipe.targets)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in parameters.items():
            if "lora_B" in name:
                p.normal_(std=0.02)
    layout = PromptLayout.from_folder(BASE)
    batch = batch_of(layout, plain_pool(replay_samples(6, seed=3)), np.arange(6))
    Objective(model, frozen_below=False)(batch).backward()
    ours = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
    assert ours.keys() == parameters.keys()
    assert all(float(g.abs().max()) > 0 for g in ours.values())
    for p in parameters.values():
        p.grad = None
    lm, ids = model.causal_lm, batch["ids"]
    embeds, soft = lm.model.embed_tokens(ids), model.connector(batch["frames"])
    start = int((ids[0] == model.image_token).nonzero()[0])
    embeds = torch.cat([embeds[:, :start], soft, embeds[:, start + soft.shape[1] :]], 1)
    logits = lm(
        inputs_embeds=embeds, per_layer_inputs=lm.model.get_per_layer_inputs(ids), use_cache=False
    ).logits
    loss = action_loss(logits[:, -model.queries :], batch["answer.targets"], batch["answer.weights"])
    loss.backward()
    for name, p in parameters.items():
        assert p.grad is not None
        assert torch.allclose(ours[name], p.grad, rtol=1e-3, atol=1e-6), name


def test_layers_that_a_robot_does_not_adapt_are_refused_or_dropped_with_the_error(
    of_all_layers: Path, tmp_path: Path
) -> None:
    told = json.loads((of_all_layers / "training.json").read_bytes())
    assert told["fit"]["how"] == "refused"
    assert f"model merge BASE GROWN --adapter {of_all_layers / 'full'}" in told["fit"]["remedy"]
    assert f"cloud fit {of_all_layers} --for ROBOT" in told["fit"]["remedy"]
    assert str(of_all_layers / "full") in told["fit"]["why"]
    assert "unfinished" not in told["fit"]["why"]
    assert told["adapter"] is None
    with pytest.raises(FitRefused, match="no adapter in a robot's shape") as unpacked:
        pack(of_all_layers, tmp_path / "x.bundle", new_root(tmp_path / "signer"), key_name="k")
    assert "cloud fit" in unpacked.value.remedy
    assert not (of_all_layers / "adapter").exists()
    with pytest.raises(FitRefused, match="none that the robot adapts"):
        fit(of_all_layers / "full", SHAPE)
    root = new_root(tmp_path / "home").layout.root
    command = [sys.executable, "-m", "continuonbrain", "cloud", "fit", str(of_all_layers), "--for", str(root)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 2
    command += ["--elsewhere", "drop", "--out", str(tmp_path / "fitted"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["with"] == []
    full, near = read_plain(of_all_layers / "full"), read_plain(tmp_path / "fitted")
    lower = sum(
        float(torch.linalg.norm(b @ a)) ** 2 for n, (a, b) in full.pairs.items() if n not in near.pairs
    )
    whole = sum(float(torch.linalg.norm(b @ a)) ** 2 for a, b in full.pairs.values())
    assert 0.1 < found["relative_error"] < 1
    assert found["relative_error"] == pytest.approx((lower / whole) ** 0.5, rel=1e-3)
    assert {n for n in full.pairs if n not in near.pairs} == set(found["dropped"])
    assert all(int(n.split("layers.")[1].split(".")[0]) < 4 for n in found["dropped"])
    TorchEngine(BASE).use_adapter(tmp_path / "fitted")


def test_all_layers_can_be_merged_into_a_base_of_their_own(of_all_layers: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    shutil.copytree(of_all_layers / "full", full)
    done = merge_adapter(BASE, full, tmp_path / "grown")
    assert done.modules == len(read_plain(full).pairs) == 72
    assert done.max_logit_diff < 1e-3 < done.moved
    assert done.reflex == "base", "no head was taught beside it"
    settings = json.loads((full / "adapter_config.json").read_bytes())
    other = settings | {"base_model_name_or_path": "continuonbrain:" + "0" * 64}
    (full / "adapter_config.json").write_text(json.dumps(other))
    with pytest.raises(MergeError, match="was trained on"):
        merge_adapter(BASE, full, tmp_path / "again")
    assert not (tmp_path / "again").exists()
