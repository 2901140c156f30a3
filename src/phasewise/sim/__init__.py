"""Floor 5: the simulator: a virtual clock, an executor that a latency model drives, and the heap that pumps the loops."""
