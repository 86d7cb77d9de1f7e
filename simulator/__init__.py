"""Records, traces, policies, hardware profiles, the replay and the serving engine; nothing heavy."""
