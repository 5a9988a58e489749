"""Gemma 3n: loading a base, the image connector, LoRA as PEFT folders, the cached suffix."""

import warnings

# transformers' notes to its own developers are not for a robot's owner.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
