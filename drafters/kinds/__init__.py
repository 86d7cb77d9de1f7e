"""The kinds of drafters: what all of them offer, and one file for each."""
