"""Floor 4: the sans-I/O rooms. Events in, actions out; no clock is read, no socket opened, nothing drawn at random."""
