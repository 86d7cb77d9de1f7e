"""llama.cpp's log at the verbosity that servers have by default: no line says K, and a mean is written to 0.01."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.harness.served.advising import advised

FORMS = ("mean len = {:5.2f}", "mean acceptance length = {:5.2f}, acceptance rate per position = ({})")
"""How its line goes on: the captured one's, and one with shares of positions."""


def log(k: int, alpha: float, *, form: str = FORMS[0], ends_early: bool = False, short: float = 0.0, seed: int = 0) -> str:
    """Forty requests whose drafts have k tokens, each accepted as often after the one before it: the last ones fewer where a
    limit ends them, and any a share of the time (`short`)."""
    rng, lines = np.random.default_rng(seed), list[str]()
    for i in range(40):
        drafts = int(rng.integers(60, 260))
        sizes = np.where(rng.random(drafts) < short, rng.integers(1, k + 1, drafts), k)
        if ends_early:
            sizes[-1] = 1
        right = np.cumprod(rng.random((drafts, k)) < alpha, 1) * (np.arange(k) < sizes[:, None])
        accepted, drafted = int(right.sum()), int(sizes.sum())
        shares = ", ".join(f"{share:.3f}" for share in right.sum(0) / drafts)
        said, each = (
            f"0.{i + 10}.000.000 I slot print_timing: id  0 | task {i} | ",
            "(   10.00 ms per token,   100.00 tokens per second)",
        )
        lines += [
            f"{said}prompt eval time =    1000.00 ms /   100 tokens {each}",
            f"{said}       eval time =    9000.00 ms / {drafts + accepted + 1} tokens {each}",
            f"{said}draft acceptance = {accepted / drafted:.5f} ({accepted:5d} accepted / {drafted:5d} generated), "
            + form.format(1 + accepted / drafts, shares),
        ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("ends_early", [False, True], ids=["whole", "cut by a limit"])
@pytest.mark.parametrize(("k", "alpha"), [(1, 0.44), (2, 0.3), (3, 0.66), (4, 0.37), (5, 0.7), (8, 0.8)])
def test_k_is_that_of_whole_drafts(k: int, alpha: float, ends_early: bool, tmp_path: Path) -> None:
    """A mean leaves some drafts open, and was taken for one token more a draft."""
    told = advised(tmp_path, log(k, alpha, ends_early=ends_early))
    [first, *_] = told["acceptance"]["positions"]  # type: ignore[index]
    assert told["served_tokens"] == k
    low, high = (first[end] for end in ("low", "high"))
    assert low <= alpha <= high
    assert "on average" not in str(told["notes"])


def test_drafts_of_many_lengths_do_not_say_their_most(tmp_path: Path) -> None:
    """One request's were all alike by chance."""
    told = advised(tmp_path, log(8, 0.6, short=0.7))
    assert "no line says how many tokens a draft may have" in str(told["notes"])


def test_shares_of_positions_on_the_line_are_read(tmp_path: Path) -> None:
    told = advised(tmp_path, log(4, 0.7, form=FORMS[1]))
    assert told["served_tokens"] == 4
    shares = [one["value"] for one in told["acceptance"]["positions"]]  # type: ignore[index]
    assert shares == pytest.approx(0.7 ** np.arange(1, 5), abs=0.02)
    assert "only an average" not in str(told["cannot"])
