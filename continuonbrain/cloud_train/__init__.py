"""Training on a bigger machine, from bundles that robots wrote, with an engine of others: Accelerate, over torch's own.

Nothing of a robot imports this room: its workers talk to each other over sockets, and the rooms that make bundles know
none. docs/CLOUD_EXPORT.md is its manual.
"""
