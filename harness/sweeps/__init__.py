"""Recordings simulated under many policies, loads and seeds."""
