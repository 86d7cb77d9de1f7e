"""What a plan may ask for by name, known without the libraries that carry it out."""

from __future__ import annotations

from typing import Literal

Objective = Literal["throughput", "tps", "goodput", "pareto"]
SAMPLERS = ("tpe", "gp", "nsga2", "random", "qmc", "grid")
