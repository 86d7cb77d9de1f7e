"""The command `harness`, and what it does: recording, sweeps, measuring, validation, what others published."""
