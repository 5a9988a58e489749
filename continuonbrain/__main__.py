"""`python -m continuonbrain` is the command `continuonbrain`."""

from continuonbrain.cli.main import run

run()
