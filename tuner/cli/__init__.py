"""The command `tuner`, one file for each of its commands."""
