"""The tuner: which drafter, block, policy and request cap to run, on which hardware, at which load."""
