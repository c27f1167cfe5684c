"""One run: data, simulation, checkpoint, record."""
