"""Which body a control process drives: `robot.kind` says."""

from __future__ import annotations

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.body import Body
from continuonbrain.loops.donkey_body import DonkeyBody
from continuonbrain.loops.sim_body import SimBody
from continuonbrain.robot.sim.shifts import world


def body_of(
    brain: BrainRoot, *, shift: str, track: int, seed: int, instruction: str, simulated_life: bool
) -> Body:
    """The body, not yet opened. Raises BrainError when it cannot be had."""
    config, layout = brain.config, brain.layout
    if config.robot.kind == "donkey":
        if simulated_life:
            raise BrainError(
                f"{layout.config_path}: robot.kind = 'donkey': only a simulated robot can live by itself",
                remedy="a car is driven by its services: continuonbrain install (docs/install.md)",
            )
        return DonkeyBody(config, config_path=layout.config_path, disk_path=layout.root)
    return SimBody(
        world(shift),
        shift=shift,
        track=track,
        seed=seed,
        instruction=instruction,
        hz=config.robot.control_hz,
        disk_path=layout.root,
    )
