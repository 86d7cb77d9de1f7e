"""Measuring what a step takes on this machine."""
