"""A live engine beside its simulation."""
