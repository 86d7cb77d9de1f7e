"""Engines that others measured, predicted."""
