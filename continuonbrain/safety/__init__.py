"""Guards, limits and reason codes: pure functions and small state machines, no I/O."""
