"""The compiled serving engine, its rules and state, and the same once more, slow and obvious."""
