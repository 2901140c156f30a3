"""Floor 2: the run log, which is the product, and its scores. It cannot tell a simulation from a live run."""
