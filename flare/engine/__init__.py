"""The simulation engine: everything that decides the bits of a run."""
