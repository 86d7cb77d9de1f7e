"""Training the learned drafters on a frozen target's own answers."""
