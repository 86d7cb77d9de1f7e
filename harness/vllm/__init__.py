"""vLLM as the engine: an optional extra. Only this folder imports vLLM, and only once it is asked for."""
