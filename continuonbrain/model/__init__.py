"""Gemma 3n: loading a base, the image connector, LoRA as PEFT folders, the cached suffix."""
