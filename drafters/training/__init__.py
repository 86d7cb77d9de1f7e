"""Training: the tiny target, and the four learned drafters against any frozen target."""
