"""The published formats of drafters, a file each: how one is recognised, and what its files say in our terms."""
