"""The layers that drafters are made of, one file for each family of targets."""
