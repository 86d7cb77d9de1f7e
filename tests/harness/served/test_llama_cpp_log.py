"""llama.cpp's log at the verbosity that servers have by default: no line says K, and a mean is written to 0.01."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.harness.served.advising import advised, run

FORMS = ("mean len = {:5.2f}", "mean acceptance length = {:5.2f}, acceptance rate per position = ({})")
"""How its line goes on: the captured one's, and one with shares of positions."""


def log(
    k: int, alpha: float, *, form: str = FORMS[0], ends_early: bool = False, short: float = 0.0, silent: float = 0.0,
    drafts: tuple[int, int] = (60, 260), seed: int = 0,
) -> str:  # fmt: skip
    """Forty requests whose drafts have k tokens, each accepted as often after the one before it: the last ones fewer where a
    limit ends them, and any a share of the time (`short`). In a share of their steps there is no draft (`silent`)."""
    rng, lines = np.random.default_rng(seed), list[str]()
    for i in range(40):
        number = int(rng.integers(*drafts))
        sizes = np.where(rng.random(number) < short, rng.integers(1, k + 1, number), k)
        tokens = round(number / (1 - silent)) + 1
        if ends_early:
            sizes[-1] = 1
        right = np.cumprod(rng.random((number, k)) < alpha, 1) * (np.arange(k) < sizes[:, None])
        accepted, drafted = int(right.sum()), int(sizes.sum())
        shares = ", ".join(f"{share:.3f}" for share in right.sum(0) / number)
        said, each = (
            f"0.{i + 10}.000.000 I slot print_timing: id  0 | task {i} | ",
            "(   10.00 ms per token,   100.00 tokens per second)",
        )
        lines += [
            f"{said}prompt eval time =    1000.00 ms /   100 tokens {each}",
            f"{said}       eval time =    9000.00 ms / {tokens + accepted} tokens {each}",
            f"{said}draft acceptance = {accepted / drafted:.5f} ({accepted:5d} accepted / {drafted:5d} generated), "
            + form.format(1 + accepted / number, shares),
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


def test_steps_without_a_draft_count(tmp_path: Path) -> None:
    """A tenth and less of them were taken for none."""
    text = log(4, 0.8, silent=0.07)
    told = advised(tmp_path, text)
    length = 1 + sum(0.8**i for i in range(1, 5))
    assert told["acceptance"]["tokens_per_step"]["value"] == pytest.approx(1 + 0.93 * (length - 1), rel=0.015)  # type: ignore[index]
    assert "only 93% of a request's steps have one" in run("advise", tmp_path / "file.log").stdout


def test_requests_of_whole_drafts_that_were_all_rejected_count(tmp_path: Path) -> None:
    """Without them acceptance is of those alone that had some."""
    text = log(4, 0.25, drafts=(2, 8))
    counts = [(int(a), int(b)) for a, b in re.findall(r"(\d+) accepted / +(\d+) generated", text)]
    accepted, drafted = map(sum, zip(*counts, strict=True))
    told = advised(tmp_path, text)
    assert any(own == 0 for own, _ in counts)
    assert "left out" not in str(told["notes"])
    assert told["acceptance"]["tokens_per_draft"]["value"] == pytest.approx(1 + 4 * accepted / drafted)  # type: ignore[index]
