"""continuonbrain: an offline brain for a small robot. See docs/architecture.md for the way through."""

__version__ = "0.1.0"

import os as _os

# These must stand before torch and transformers are first imported, hence here. The Hugging Face libraries never
# ask a network (nothing here ever does), and OpenMP threads do not spin while they wait: training and judging
# share their cores with the control loop.
for _name, _value in (
    ("HF_HUB_OFFLINE", "1"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("OMP_WAIT_POLICY", "passive"),
    ("GOMP_SPINCOUNT", "0"),
):
    _os.environ.setdefault(_name, _value)
