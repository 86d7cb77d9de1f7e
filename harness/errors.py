"""Failures of the machinery, as opposed to the user's input."""


class WorkerDied(RuntimeError):
    """Workers died over the same work again and again."""
