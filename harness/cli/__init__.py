"""The command `harness`, one file for each of its commands, with what it prints."""
