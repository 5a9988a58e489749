"""The embedded simulator: random closed tracks, a bicycle model, a front camera, an expert, named shifts.

Importing it registers `continuonbrain/DonkeyTrack-v0` with gymnasium. gymnasium 1.x no longer looks for installed
environments by itself; without an import: `gymnasium.make("continuonbrain.robot.sim:continuonbrain/DonkeyTrack-v0")`.
"""

import gymnasium

ENV_ID = "continuonbrain/DonkeyTrack-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="continuonbrain.robot.sim.env:DonkeyTrackEnv")
