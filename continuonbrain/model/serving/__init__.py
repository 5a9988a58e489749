"""A driving base as LiteRT graphs: how it is exported (torch, x86-64), opened and run (no torch)."""
