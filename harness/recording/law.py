"""Whether responses are a target's own: drawn from its law under their sampling settings, as far as reading them tells."""

from __future__ import annotations

import math
from typing import Final

MAX_OUTSIDE: Final = 0.01
"""Share of tokens that the target may be unable to say: engines round otherwise, in bfloat16 some in a thousand."""
MAX_OUTSIDE_HALF: Final = 0.05
"""The same of a target of a 16-bit numeric type."""
SURPRISED, ROUNDED = 6.0, 0.02
"""Standard errors, and nats a token, by which responses may be off before they are not the target's: rounding moves less."""


def too_many_outside(outside: int, tokens: int, *, least: int = 1, half: bool = False) -> bool:
    """Whether so many tokens that the target cannot say are more than rounding makes of its own.

    Three standard deviations are left to chance; of few tokens, `least` may round otherwise.
    """
    expected = (MAX_OUTSIDE_HALF if half else MAX_OUTSIDE) * tokens
    return outside > max(least, expected + 3 * math.sqrt(expected))


def not_drawn(tokens: int, surprise: float, variance: float) -> str:
    """How responses differ from what is drawn from the target, in words; empty where they do not, or at temperature 0.

    What is drawn from the target is no more and no less surprising to it than its entropy, but for chance and rounding.

    Args:
        tokens: read by the target.
        surprise: Σ (−log p(y) − H(p)) over them, nats.
        variance: of `surprise`, for what is drawn from p.
    """
    if not tokens or variance <= 0:
        return ""
    off, errors = surprise / tokens, surprise / math.sqrt(variance)
    if abs(errors) <= SURPRISED or abs(off) <= ROUNDED:
        return ""
    return (
        "are not drawn from this target's distribution under these sampling settings: a token is "
        f"{abs(off):.2f} nats {'more' if off > 0 else 'less'} surprising than its own are "
        f"({abs(errors):.0f} standard errors)"
    )
