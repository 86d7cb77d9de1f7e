"""What the report shows, as tables: pure functions of the database's rows, the paper's values joined. Nothing here draws."""

from results.figures.common import PAPER, RESAMPLES
from results.figures.published import PAPER_DATASETS, PAPER_DRAFTERS, PAPER_TARGET
from results.figures.recorded import accepted_length, conditional_acceptance, speed
from results.figures.run import Drafter, Provenance, missing_responses, provenance

__all__ = [
    "PAPER", "PAPER_DATASETS", "PAPER_DRAFTERS", "PAPER_TARGET", "RESAMPLES", "Drafter", "Provenance", "accepted_length",
    "conditional_acceptance", "missing_responses", "provenance", "speed",
]  # fmt: skip
