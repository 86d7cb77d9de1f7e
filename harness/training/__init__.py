"""Training a drafter for a target of one's own, from its own answers."""
