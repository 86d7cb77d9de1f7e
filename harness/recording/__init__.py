"""Recording a suite: prompts, pairs, workers, responses, calibration."""
