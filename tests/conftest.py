"""What the rooms above the simulator share: an untrained tiny base, taught episodes, a car without noise.

Everything expensive is made once per session; nothing here is changed by a test.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from continuonbrain.robot.sim.shifts import BASE, World
from continuonbrain.safety.guards import Limits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from continuonbrain.model.driving import DrivingModel
    from continuonbrain.policy.prompt import PromptLayout

# A property that takes long on a busy machine is not broken; pytest-timeout bounds every test.
settings.register_profile("continuonbrain", deadline=None)
settings.load_profile("continuonbrain")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The tiny base's tokenizer, built from the simulator's phrasings."""
    import torch

    from continuonbrain.robot.sim.instructions import INSTRUCTIONS
    from continuonbrain.trainer.tokenizer import build_tokenizer

    torch.set_num_threads(1)  # tests share the cores, and a model this small is not faster on two
    return build_tokenizer(p for i in INSTRUCTIONS for p in i.phrasings)


@pytest.fixture(scope="session")
def prompt_layout(tokenizer: Tokenizer) -> PromptLayout:
    from continuonbrain.policy.prompt import PromptLayout

    return PromptLayout(tokenizer)


@pytest.fixture(scope="session")
def untrained_model(prompt_layout: PromptLayout) -> Callable[..., DrivingModel]:
    """untrained_model(seed=0): a fresh random tiny driving model in eval mode, frozen."""
    import torch

    from continuonbrain.model.driving import new_tiny_model
    from continuonbrain.policy import codec

    made: dict[int, DrivingModel] = {}

    def make(seed: int = 0) -> DrivingModel:
        if seed not in made:
            torch.manual_seed(seed)
            model = new_tiny_model(
                prompt_layout.vocabulary, image_token=prompt_layout.image_token, queries=codec.QUERIES
            )
            made[seed] = model.requires_grad_(False).eval()
        return copy.deepcopy(made[seed])

    return make


@pytest.fixture(scope="session")
def untrained_base(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, prompt_layout: PromptLayout
) -> Path:
    """A base folder on disk as `model build-tiny` leaves it, but with random weights. Do not write to it."""
    import torch

    from continuonbrain.model.base import save_base
    from continuonbrain.model.driving import new_tiny_model
    from continuonbrain.policy import codec

    torch.manual_seed(0)
    model = new_tiny_model(
        prompt_layout.vocabulary, image_token=prompt_layout.image_token, queries=codec.QUERIES
    )
    folder = tmp_path_factory.mktemp("base") / "untrained"
    save_base(model, tokenizer.to_str(), {"name": "untrained"}, folder)
    return folder


@pytest.fixture(scope="session")
def limits() -> Limits:
    """The simulated car's limits: it may brake."""
    return Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)


@pytest.fixture(scope="session")
def noiseless() -> World:
    """A world that does the same every time: no wheel noise, exact odometry."""
    return replace(BASE, wheel_noise_rad=0.0, odometry_error=0.0)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory, limits: Limits) -> Path:
    """A folder of six episodes of 100 steps that the expert drove. Copy before damaging one."""
    from continuonbrain.loops.teach import record_expert

    folder = tmp_path_factory.mktemp("taught")
    record_expert(
        folder,
        BASE,
        instructions=["drive", "keep left", "drive slowly", "drive fast", "keep right", "drive"],
        steps=100,
        seed=5,
        limits=limits,
    )
    return folder
