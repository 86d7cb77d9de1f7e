"""The command `harness`: suites, pairs, Ray orchestration, recording."""
