"""Thin renderers: tables of `results.figures` in, sections of the report out. Nothing here computes what is shown."""
