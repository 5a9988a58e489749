"""The robot's memory: episodes recorded, read, imported, exported and examined, without torch or TensorFlow.

Import from the modules (`continuonbrain.rlds.reader`, ...): this file imports nothing, so that a command line
that only prints its help does not pay for numpy and Pillow.
"""
