"""Parts of training that need no target: texts and batches, rates and sizes, the walk over held-out answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafters.training.held_out import ratio, walk
from drafters.training.muon import orthogonal
from drafters.training.recipe import Design, Recipe, cache_bytes
from drafters.training.texts import Split, Text, batches, default_share, overlap, split
from simulator.errors import InputError
from simulator.numbers import abbreviated
from simulator.records import MAX_GAMMA


def test_prompts_are_held_out_with_their_conversations_and_their_doubles() -> None:
    made = [Text(f"{i}.{t}", "d", (i % 50, *range(t)), (1, 2, 3), str(i)) for i in range(100) for t in range(3)]
    parts = split(made, 0.3)
    sides = [{t.prompt[0] for t in part} for part in parts]
    assert not sides[0] & sides[1]
    assert 0.1 < len(parts.held_out) / len(made) < 0.5
    later = [replace(t, opening=(int(t.conversation) % 50,)) for t in made if not t.name.endswith(".0")]
    assert {t.name for t in split(later, 0.3).held_out} == {t.name for t in parts.held_out} - {t.name for t in made[::3]}
    assert split(made, 0.3) == parts
    with pytest.raises(InputError, match="of 1 different prompts none is held out"):
        split(made[:3], 0.01)


def test_overlap_counts_runs_of_13_tokens_and_no_template() -> None:
    template, rng = (7, 7, 7), np.random.default_rng(0)
    rows = [tuple(int(x) for x in rng.integers(10, 1000, 30)) for _ in range(4)]
    train = [Text(str(i), "d", template + rows[i] + template, rows[i + 1]) for i in range(2)]
    fresh = Text("x", "d", template + rows[3] + template, (1, 2, 3))
    assert overlap(Split(train, [fresh])) == (0, 0)
    known = Text("y", "d", template + rows[0][:20] + rows[3][:10] + template, rows[2])
    of_prompts, of_answers = overlap(Split(train, [known]))
    assert of_prompts == pytest.approx(8 / 18)
    assert of_answers == 1


@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_batches_follow_the_step_alone(count: int, size: int, start: int) -> None:
    some = [Text(str(i), "d", (1,) * (i % 7 + 1), (2,) * 3) for i in range(count)]
    whole, later = batches(some, size, 5), batches(some, size, 5, start)
    drawn = [next(whole) for _ in range(start + 3)]
    assert drawn[start:] == [next(later) for _ in range(3)]
    assert all(len({*batch}) == size for batch in drawn)


def test_an_orthogonal_update_has_singular_values_of_about_one() -> None:
    for shape in ((8, 8), (16, 6), (5, 20)):
        values = torch.linalg.svdvals(
            orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1)), torch.float32)
        )
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_the_longest_draft_is_one_that_records_hold() -> None:
    assert Design(kind="dflash", gamma=MAX_GAMMA - 1).gamma == 253
    with pytest.raises(ValueError, match="--gamma 254"):
        Design(kind="dflash", gamma=MAX_GAMMA)


def test_rates_rise_and_fall() -> None:
    recipe = Recipe(warmup=0.1, decay=0.5)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.2])
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


@pytest.mark.parametrize(("text", "size"), [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("0", 0), ("7B", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert cache_bytes(text) == size


@pytest.mark.parametrize(
    ("make_one", "said"),
    [
        (lambda: Design(kind="ngram"), "KIND ngram"),
        (lambda: Design(kind="eagle3", rank=4), "--rank 4"),
        (lambda: Design(kind="mtp", layers=2), "--layers 2"),
        (lambda: Design(kind="mtp", vocabulary=8), "--vocabulary 8"),
        (lambda: Design(kind="dspark", taps=(1, 1)), "--taps 1,1"),
        (lambda: Recipe(learning_rate=float("nan")), "--learning-rate nan"),
        (lambda: Recipe(accumulate=99), "--accumulate 99"),
        (lambda: cache_bytes("20 goblins"), "--cache 20 goblins"),
    ],
)
def test_what_cannot_be_meant_is_refused(make_one: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_one()


@pytest.mark.parametrize(("prompts", "share"), [(3, 0.2), (40, 0.2), (80, 0.1), (160, 0.05), (10**4, 0.05)])
def test_of_few_prompts_a_larger_share_is_held_out(prompts: int, share: float) -> None:
    """So that about eight are, of a fifth at most; turns of a conversation are one."""
    texts = [Text(f"{i}/{t}", "chat", (i, *[7] * t), (1, 2, 3), str(i)) for i in range(prompts) for t in (0, 1)]
    assert default_share(texts) == pytest.approx(share)


def test_small_numbers_of_parameters_are_told() -> None:
    assert [abbreviated(n) for n in (57_312, 12_400_000, 640)] == ["57.3 k", "12.4 M", "640"]


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_walk_is_the_mean_of_walks(anchors: int, gamma: int, seed: int) -> None:
    """Against every way to walk, counted out one by one."""
    accept = np.random.default_rng(seed).random((anchors, gamma))

    def rounds_from(t: int) -> float:
        if t >= anchors:
            return 0.0
        total, reach, left = 1.0, 1.0, anchors - t
        for a in range(gamma + 1):
            stops = reach * (1 - accept[t, a]) if a < gamma else reach
            total += stops * rounds_from(t + min(a + 1, left))
            reach = reach * accept[t, a] if a < gamma else 0.0
        return total

    tokens, rounds, counts = walk(accept)
    assert tokens == anchors
    assert rounds == pytest.approx(rounds_from(0))
    assert (counts[0] <= counts[1] + 1e-12).all()


def test_acceptance_one_everywhere_commits_whole_blocks() -> None:
    tokens, rounds, counts = walk(np.ones((12, 3)))
    assert tokens / rounds == 4
    assert (counts[0] == counts[1]).all()


@given(st.lists(st.tuples(st.integers(2, 60), st.integers(1, 30)), min_size=2, max_size=12))
@settings(max_examples=50, deadline=None)
def test_the_error_of_an_accepted_length_is_a_ratios(answers: list[tuple[int, int]]) -> None:
    """The variance of the mean of what each unit moves the ratio by; alike units have none, and one says nothing."""
    tokens, rounds = np.array(answers, float).T
    found, error = ratio(tokens, rounds)
    moves = (tokens - found * rounds) / rounds.mean()
    assert found == pytest.approx(tokens.sum() / rounds.sum())
    assert error == pytest.approx(moves.std(ddof=1) / len(moves) ** 0.5, abs=1e-12)
    assert ratio(tokens[:1], rounds[:1])[1] is None
