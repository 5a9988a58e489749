"""Gemma 3n: loading a base, the image connector, LoRA as PEFT folders, the cached suffix.

Importing this package sets three things that must stand before torch and transformers are imported: the Hugging
Face libraries never ask a network (nothing here ever does), OpenMP threads do not spin while they wait, since
training shares its cores with the control loop, and transformers' notes to its own developers stay unsaid.
"""

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
