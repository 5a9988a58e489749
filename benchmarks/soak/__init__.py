"""Days of the whole system in the simulator, with faults; see `__main__`."""
